package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

// An engine is the Docker daemon, asked through its own API: it tells what containers use in the same words on every
// kind of host, and costs less than a docker command for each question.
type engine struct {
	http *http.Client
	base string
}

const (
	// engineVersion is what Docker Engine 20.10 speaks; newer ones understand it.
	engineVersion = "v1.41"
	engineTimeout = 2 * time.Minute
)

// newEngine finds the daemon that the docker command uses.
func newEngine(ctx context.Context) (*engine, error) {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		out, err := exec.CommandContext(ctx, "docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").Output()
		if err != nil {
			return nil, fmt.Errorf("cannot find Docker (-stack needs it, with the compose plugin): %w", err)
		}
		host = strings.TrimSpace(string(out))
	}
	scheme, address, _ := strings.Cut(host, "://")
	network := scheme
	if scheme != "unix" && scheme != "tcp" {
		return nil, fmt.Errorf("cannot reach Docker at %q: only unix:// and tcp:// are possible", host)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	e := &engine{
		http: &http.Client{Timeout: engineTimeout, Transport: &http.Transport{DialContext: dial}},
		base: "http://docker/" + engineVersion,
	}
	return e, e.call(ctx, http.MethodGet, "/version", nil)
}

// call makes one request and reads its JSON answer into what is given, if it is.
func (e *engine) call(ctx context.Context, method, path string, into any) error {
	return e.send(ctx, method, path, nil, into)
}

// send is the same with a body in JSON, unless it is nil.
func (e *engine) send(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, e.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("cannot ask Docker: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask Docker: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("cannot ask Docker: %w", err)
	}
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified { // it is so already
		return fmt.Errorf("cannot ask Docker: %s %s answered %s: %w", method, path, resp.Status, errors.New(strings.TrimSpace(string(answer))))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("cannot read answer of Docker to %s: %w", path, err)
	}
	return nil
}

// A container belongs to one service of a compose project.
type container struct {
	id      string
	service string
}

// containers are all of a compose project, running or not.
func (e *engine) containers(ctx context.Context, project string) ([]container, error) {
	label, err := json.Marshal(map[string][]string{"label": {"com.docker.compose.project=" + project}})
	if err != nil {
		return nil, fmt.Errorf("cannot ask Docker: %w", err)
	}
	var listed []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	if err := e.call(ctx, http.MethodGet, "/containers/json?all=1&filters="+url.QueryEscape(string(label)), &listed); err != nil {
		return nil, err
	}
	var all []container
	for _, l := range listed {
		all = append(all, container{id: l.ID, service: l.Labels["com.docker.compose.service"]})
	}
	return all, nil
}

// containerState is what Docker knows about a container besides what it uses.
type containerState struct {
	RestartCount int
	State        struct {
		Running   bool
		OOMKilled bool
		ExitCode  int
		Pid       int // of its first process, as the host numbers it
		Health    struct{ Status string }
	}
	HostConfig struct {
		NanoCpus int64
		Memory   int64
	}
}

func (e *engine) state(ctx context.Context, c container) (containerState, error) {
	var s containerState
	return s, e.call(ctx, http.MethodGet, "/containers/"+c.id+"/json", &s)
}

// kill ends a container's process with -9, which leaves it no time for anything.
func (e *engine) kill(ctx context.Context, c container) error {
	return e.call(ctx, http.MethodPost, "/containers/"+c.id+"/kill?signal=KILL", nil)
}

func (e *engine) start(ctx context.Context, c container) error {
	return e.call(ctx, http.MethodPost, "/containers/"+c.id+"/start", nil)
}

// limitCPU gives a running container another limit.
func (e *engine) limitCPU(ctx context.Context, c container, cpus float64) error {
	body, err := json.Marshal(map[string]int64{"NanoCpus": int64(math.Round(cpus * 1e9))})
	if err != nil {
		return fmt.Errorf("cannot ask Docker: %w", err)
	}
	return e.send(ctx, http.MethodPost, "/containers/"+c.id+"/update", body, nil)
}

// awaitEnd waits until the container's process is gone.
func (e *engine) awaitEnd(ctx context.Context, c container) error {
	return e.call(ctx, http.MethodPost, "/containers/"+c.id+"/wait", nil)
}

// networkOwner is the compose project that made a network, which may be none; there says whether it exists.
func (e *engine) networkOwner(ctx context.Context, name string) (owner string, there bool, err error) {
	filter, err := json.Marshal(map[string][]string{"name": {name}}) // matches parts of names, too
	if err != nil {
		return "", false, fmt.Errorf("cannot ask Docker: %w", err)
	}
	var listed []struct {
		Name   string
		Labels map[string]string
	}
	if err := e.call(ctx, http.MethodGet, "/networks?filters="+url.QueryEscape(string(filter)), &listed); err != nil {
		return "", false, err
	}
	for _, l := range listed {
		if l.Name == name {
			return l.Labels["com.docker.compose.project"], true, nil
		}
	}
	return "", false, nil
}

// reading is what a container has used since its process began.
type reading struct {
	at            time.Time // when the kernel was asked
	cpu           time.Duration
	periods       int64 // of the CPU quota
	throttled     int64 // of these, how many the container had to sit out in part
	throttledTime time.Duration
	memory        int64 // bytes, page cache included, as the limit counts them; the highest where the kernel keeps it
}

func (e *engine) read(ctx context.Context, c container) (reading, error) {
	var s struct {
		Read time.Time `json:"read"`
		CPU  struct {
			Usage struct {
				Total int64 `json:"total_usage"`
			} `json:"cpu_usage"`
			Throttling struct {
				Periods   int64 `json:"periods"`
				Throttled int64 `json:"throttled_periods"`
				Time      int64 `json:"throttled_time"`
			} `json:"throttling_data"`
		} `json:"cpu_stats"`
		Memory struct {
			Usage    int64 `json:"usage"`
			MaxUsage int64 `json:"max_usage"` // with cgroup v1 only
		} `json:"memory_stats"`
	}
	if err := e.call(ctx, http.MethodGet, "/containers/"+c.id+"/stats?stream=false&one-shot=true", &s); err != nil {
		return reading{}, err
	}
	return reading{
		at: s.Read, cpu: time.Duration(s.CPU.Usage.Total), periods: s.CPU.Throttling.Periods, throttled: s.CPU.Throttling.Throttled,
		throttledTime: time.Duration(s.CPU.Throttling.Time), memory: max(s.Memory.Usage, s.Memory.MaxUsage),
	}, nil
}
