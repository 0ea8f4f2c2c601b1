package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// variantFile is all that a file of bench/variants may say.
type variantFile struct {
	Services map[string]struct {
		Entrypoint, Command []string
		Environment         map[string]string
		Deploy              struct {
			Resources struct{ Limits struct{ CPUs string } }
		}
	}
}

func readVariants(t *testing.T) map[string]variantFile {
	t.Helper()
	paths, err := filepath.Glob("variants/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no variants: %v", err)
	}
	all := make(map[string]variantFile)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f variantFile
		decoder := yaml.NewDecoder(bytes.NewReader(text))
		decoder.KnownFields(true)
		if err := decoder.Decode(&f); err != nil || len(f.Services) == 0 {
			t.Fatalf("%s has %d services: %v", path, len(f.Services), err)
		}
		all[path] = f
	}
	return all
}

// TestVariantsChangeWhatTheStackHas: a service or a setting with another name would be a new one, and the variant the stack as it is.
func TestVariantsChangeWhatTheStackHas(t *testing.T) {
	stack := readCompose(t, stackFile).Services
	for path, f := range readVariants(t) {
		for name, s := range f.Services {
			own, there := stack[name]
			if !there {
				t.Errorf("%s: the stack has no service %s", path, name)
			}
			limit := s.Deploy.Resources.Limits.CPUs
			if len(s.Entrypoint)+len(s.Command)+len(s.Environment)+len(limit) == 0 || limit == own.Deploy.Resources.Limits.CPUs {
				t.Errorf("%s: nothing is another one in %s", path, name)
			}
			for setting, value := range s.Environment {
				if old := own.Environment[setting]; old == nil || *old == value {
					t.Errorf("%s: %s of %s is not set to anything else in the stack", path, setting, name)
				}
			}
		}
	}
}

// TestVariantsOfNginxMatchItsConfiguration: an expression that matches nothing leaves it as it is, and nobody would hear of that.
func TestVariantsOfNginxMatchItsConfiguration(t *testing.T) {
	conf, err := os.ReadFile("../nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	expression := regexp.MustCompile(`-e '([^']*)'`)
	for path, f := range readVariants(t) {
		s := f.Services["nginx"]
		if len(s.Entrypoint) == 0 {
			continue
		}
		script := strings.Join(s.Entrypoint, " ")
		if strings.Contains(script, "$") {
			t.Errorf("%s: compose takes a $ for a variable", path)
		}
		found := expression.FindAllStringSubmatch(script, -1)
		if len(found) == 0 {
			t.Errorf("%s changes nothing in nginx.conf", path)
		}
		for _, e := range found {
			changed, err := exec.Command("sed", "-e", e[1], "../nginx.conf").Output()
			if err != nil || bytes.Equal(changed, conf) {
				t.Errorf("%s: %s changes nothing: %v", path, e[1], err)
			}
		}
	}
}

func TestBaselineTakesSettingsAndComposeFiles(t *testing.T) {
	const file = "variants/nginx-reuseport.yml"
	s, err := parseSettings([]string{"-stack", "-pairs", "1", "-against", "LINGER=5ms," + file + ",WORKERS=1"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p := stackProject("root", s); len(p.files) != 1 || slices.Contains(p.env, "LINGER=5ms") {
		t.Errorf("the stack as it is has the baseline's settings: %+v", p)
	}
	if s, err = s.varied(); err != nil {
		t.Fatal(err)
	}
	p := stackProject("root", s)
	if len(p.files) != 2 || !filepath.IsAbs(p.files[1]) || !strings.HasSuffix(p.files[1], file) {
		t.Errorf("the baseline's files are %q", p.files)
	}
	if !slices.Contains(p.env, "LINGER=5ms") || !slices.Contains(p.env, "WORKERS=1") {
		t.Errorf("the baseline's environment is %q", p.env)
	}
}
