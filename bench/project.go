package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A project is one compose project. Those of the bench have names of their own, so that taking one down with its
// volumes never touches a galo that somebody runs from the same files.
type project struct {
	name  string
	root  string // the module's folder, where the compose files begin
	files []string
	env   []string // besides this process's own
}

// Generous, since the machine may be busy: how fast a stack comes and goes is no part of the verdict.
const (
	downWithin = 5 * time.Minute
	upWithin   = 5 * time.Minute
)

func stackProject(root string, s settings) project {
	p := project{name: "galo-bench", root: root, files: append([]string{stackCompose}, s.overrides...), env: append([]string{"ALLOW_PURGE=true"}, s.environment...)}
	if s.patience != "" {
		p.env = append(p.env, "PATIENCE="+s.patience)
	}
	return p
}

func nothingProject(root string) project {
	return project{name: "galo-nothing", root: root, files: []string{stackCompose, "bench/nothing.compose.yml"}}
}

// compose runs one command of docker compose; its output is in the error if it fails.
func (p project) compose(ctx context.Context, args ...string) error {
	full := []string{"compose", "--project-name", p.name}
	for _, f := range p.files {
		full = append(full, "--file", f)
	}
	cmd := exec.CommandContext(ctx, "docker", append(full, args...)...)
	cmd.Dir, cmd.Env = p.root, append(os.Environ(), p.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot run docker compose %s for %s: %w\n%s", strings.Join(args, " "), p.name, err, out)
	}
	return nil
}

// up starts a project from nothing: what an earlier run may have left is removed first, with its data.
func (p project) up(ctx context.Context) error {
	if err := p.down(ctx); err != nil {
		return err
	}
	if err := p.compose(ctx, "build"); err != nil {
		return err
	}
	return p.compose(ctx, "up", "--detach", "--no-build")
}

// down removes everything the project has made, volumes included, also when ctx is done.
func (p project) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downWithin)
	defer cancel()
	return p.compose(ctx, "down", "--volumes", "--remove-orphans")
}

// moduleRoot is the folder of galo's module, wherever inside it the bench is run.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("cannot find the module of galo (run this inside its folder): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
