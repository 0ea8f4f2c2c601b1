package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// composeFile is what is checked of a compose file.
type composeFile struct {
	Services map[string]composeService
	Networks map[string]struct {
		Driver   string
		External bool
	}
}

type composeService struct {
	Image       string
	Hostname    string
	Build       any
	User        string
	Restart     string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	Networks    []string
	NetworkMode string `yaml:"network_mode"`
	Entrypoint  []string
	Ports       []string
	Volumes     []string
	Tmpfs       []string
	Environment map[string]*string
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck struct{ Test []string }
	StopGrace   time.Duration `yaml:"stop_grace_period"`
	Ulimits     struct{ Nofile int }
	Logging     struct{ Options map[string]string }
	Deploy      struct {
		Resources struct {
			Limits struct {
				CPUs   string `yaml:"cpus"`
				Memory string
				Pids   int
			}
		}
	}
}

func readCompose(t *testing.T, path string) composeFile {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f composeFile
	if err := yaml.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Services) == 0 {
		t.Fatalf("%s has no services", path)
	}
	return f
}

const stackFile = "../docker-compose.yml"

func TestStackStaysWithinTheContestsLimits(t *testing.T) {
	const mostMilliCPUs, mostMegabytes = 1500, 350
	var milliCPUs, megabytes int
	for name, s := range readCompose(t, stackFile).Services {
		limits := s.Deploy.Resources.Limits
		cpus, err := strconv.ParseFloat(limits.CPUs, 64)
		if err != nil || cpus <= 0 {
			t.Errorf("%s: no limit of CPUs: %q", name, limits.CPUs)
		}
		memory, isMegabytes := strings.CutSuffix(limits.Memory, "M")
		n, err := strconv.Atoi(memory)
		if !isMegabytes || err != nil || n <= 0 {
			t.Errorf("%s: no limit of memory in M: %q", name, limits.Memory)
		}
		milliCPUs += int(cpus*1000 + 0.5)
		megabytes += n
	}
	if milliCPUs > mostMilliCPUs || megabytes > mostMegabytes {
		t.Errorf("together %d thousandths of a CPU and %d MB, allowed are %d and %d", milliCPUs, megabytes, mostMilliCPUs, mostMegabytes)
	}
}

func TestEveryServiceIsConfinedWatchedAndRestarted(t *testing.T) {
	for name, s := range readCompose(t, stackFile).Services {
		must := func(ok bool, what string) {
			t.Helper()
			if !ok {
				t.Errorf("%s: %s", name, what)
			}
		}
		must(s.ReadOnly, "the root file system can be written to")
		must(slices.Equal(s.CapDrop, []string{"ALL"}), "not all capabilities are dropped")
		must(slices.Contains(s.SecurityOpt, "no-new-privileges:true"), "it may gain privileges")
		must(s.Restart == "unless-stopped", "it is not restarted")
		must(len(s.Healthcheck.Test) > 1, "it has no health check")
		must(s.Logging.Options["max-size"] != "" && s.Logging.Options["max-file"] != "", "its log grows without bound")
		must(s.Deploy.Resources.Limits.Pids > 0, "it may start processes without bound")
		must(s.Ulimits.Nofile > 0 && s.Ulimits.Nofile <= 20_000, "its limit of open files is missing, or above what some hosts allow")
		must(s.Build != nil || regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(s.User), "an image of others runs as root")
		must((len(s.Ports) > 0) == (name == "nginx"), "only nginx is to be reached from outside")
		must(slices.Contains(s.Networks, "payment-processor") == strings.HasPrefix(name, galoPrefix), "only galo is to reach the processors")
	}
}

func TestStackIsWhatTheContestAsksFor(t *testing.T) {
	f := readCompose(t, stackFile)
	if ports := f.Services["nginx"].Ports; !slices.Equal(ports, []string{"9999:9999"}) {
		t.Errorf("nginx is at %v", ports)
	}
	if n := f.Networks["payment-processor"]; !n.External {
		t.Error("the processors' network is not external")
	}
	if n := f.Networks["stack"]; n.Driver != "bridge" {
		t.Errorf("the stack's network is %q", n.Driver)
	}
	instances := 0
	for name := range f.Services {
		if strings.HasPrefix(name, galoPrefix) {
			instances++
		}
	}
	if instances < 2 {
		t.Errorf("%d instances, at least 2 are asked for", instances)
	}
}

func TestServicesWaitForThoseTheyNeed(t *testing.T) {
	services := readCompose(t, stackFile).Services
	f := func(name string, needs ...string) {
		t.Helper()
		for _, n := range needs {
			if got := services[name].DependsOn[n].Condition; got != "service_healthy" {
				t.Errorf("%s waits for %s to be %q", name, n, got)
			}
		}
	}
	f("nginx", "galo1", "galo2")
	f("galo1", "redis", "nats")
	f("galo2", "redis", "nats")
}

func TestInstancesDifferOnlyInNameRoleAndSocket(t *testing.T) {
	services := readCompose(t, stackFile).Services
	one, two := services["galo1"], services["galo2"]
	for name, value := range one.Environment {
		other, there := two.Environment[name]
		same := there && (value == nil) == (other == nil) && (value == nil || *value == *other)
		mine := slices.Contains([]string{"INSTANCE", "ROLE", "LISTEN"}, name)
		if same == mine {
			t.Errorf("%s: the same in both: %t", name, same)
		}
	}
	if len(one.Environment) != len(two.Environment) {
		t.Error("one has settings that the other has not")
	}
	if !slices.Equal(one.Volumes, two.Volumes) || !slices.Contains(one.Volumes, "journals:/data") {
		t.Errorf("journals are not shared: %v and %v", one.Volumes, two.Volumes)
	}
}

// A name without a value comes from the shell, and is galo's default where the shell has none.
func TestSettingsPassThroughFromTheShell(t *testing.T) {
	env := readCompose(t, stackFile).Services["galo1"].Environment
	for _, name := range []string{
		"PATIENCE", "RETENTION", "JOURNAL_MAX_SIZE", "DURABILITY", "WORKERS", "MAX_PENDING", "MAX_IN_FLIGHT", "SEND_TIMEOUT",
		"PROCESSOR_DEFAULT_URL", "PROCESSOR_DEFAULT_FEE", "PROCESSOR_FALLBACK_URL", "PROCESSOR_FALLBACK_FEE", "ALLOW_PURGE", "LOG_LEVEL",
	} {
		if value, there := env[name]; !there || value != nil {
			t.Errorf("%s does not pass through", name)
		}
	}
	// These differ from galo's defaults here, and may be others still.
	for name, want := range map[string]string{"LINGER": "${LINGER:-60ms}", "GODEBUG": "${GALO_GODEBUG-schedtrace=1000000000}"} {
		if value := env[name]; value == nil || *value != want {
			t.Errorf("%s is not %s", name, want)
		}
	}
}

func TestInstancesHaveTimeToStop(t *testing.T) {
	const stopTimeout = 20 * time.Second // STOP_TIMEOUT, where nobody sets it
	for name, s := range readCompose(t, stackFile).Services {
		if strings.HasPrefix(name, galoPrefix) && s.StopGrace <= stopTimeout {
			t.Errorf("%s is killed after %v, and may take %v", name, s.StopGrace, stopTimeout)
		}
	}
}

func TestNginxReachesTheSocketsThatTheInstancesListenOn(t *testing.T) {
	conf, err := os.ReadFile("../nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range readCompose(t, stackFile).Services {
		if !strings.HasPrefix(name, galoPrefix) {
			continue
		}
		listen := s.Environment["LISTEN"]
		if listen == nil || !strings.Contains(string(conf), "server "+*listen+" ") {
			t.Errorf("nginx knows no server for %s", name)
		} else if !strings.Contains(string(conf), "server "+*listen+" max_fails=0 backup;") {
			t.Errorf("nginx has nobody to ask when all servers rest: %s is no backup", name)
		}
	}
}

func TestOnlyInstancesReachRedis(t *testing.T) {
	services := readCompose(t, stackFile).Services
	redis := services["redis"]
	const volume, socket = "store:/run/redis", "/run/redis/redis.sock"
	if redis.NetworkMode != "none" || len(redis.Networks)+len(redis.Ports) != 0 {
		t.Errorf("it is on a network: %q, %v, %v", redis.NetworkMode, redis.Networks, redis.Ports)
	}
	for _, option := range []string{"--port 0", "--unixsocket " + socket} {
		if !slices.Contains(redis.Entrypoint, option) {
			t.Errorf("it is not started with %s", option)
		}
	}
	for name, s := range services {
		isGalo := strings.HasPrefix(name, galoPrefix)
		if has := slices.Contains(s.Volumes, volume); has != (isGalo || name == "redis") {
			t.Errorf("%s has the folder of the socket: %t", name, has)
		}
		if url := s.Environment["REDIS_URL"]; isGalo && (url == nil || *url != "unix:"+socket) {
			t.Errorf("%s does not use the socket", name)
		}
	}
}

func TestImagesRunAsNobodyAndHoldOneProgram(t *testing.T) {
	for _, path := range []string{"../Dockerfile", "Dockerfile"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"FROM golang:1.26-alpine AS build", "FROM scratch", "USER 65532:65532", "STOPSIGNAL SIGTERM"} {
			if !strings.Contains(string(text), "\n"+line+"\n") {
				t.Errorf("%s does not say %s", path, line)
			}
		}
	}
}

func TestUseIsCountedAcrossTheDeathOfAContainer(t *testing.T) {
	c := meteredContainer{last: reading{cpu: time.Second, periods: 10, throttled: 1, memory: 5}}
	for _, now := range []reading{
		{cpu: 3 * time.Second, periods: 30, throttled: 3, throttledTime: time.Second, memory: 9},
		{}, // it is down
		{cpu: time.Second, periods: 4, throttled: 2, throttledTime: time.Second, memory: 7},
		{cpu: 2 * time.Second, periods: 8, throttled: 2, throttledTime: time.Second, memory: 8},
	} {
		c.add(now)
	}
	want := containerUse{CPUSeconds: 4, Periods: 28, ThrottledPeriods: 4, ThrottledSeconds: 2, MemoryPeak: 9}
	if c.use != want {
		t.Errorf("counted %+v, used %+v", c.use, want)
	}
}

func TestEngineTellsWhatContainersUse(t *testing.T) {
	answers := map[string]string{
		"GET /v1.41/version":         `{}`,
		"GET /v1.41/containers/json": `[{"Id":"abc","Labels":{"com.docker.compose.service":"galo1"}}]`,
		"GET /v1.41/containers/abc/json": `{"RestartCount":2,"State":{"Running":true,"OOMKilled":true,"ExitCode":3},
			"HostConfig":{"NanoCpus":400000000,"Memory":94371840}}`,
		"GET /v1.41/containers/abc/stats": `{"read":"2026-11-27T17:50:00.5Z","cpu_stats":{"cpu_usage":{"total_usage":1500000000},
			"throttling_data":{"periods":7,"throttled_periods":3,"throttled_time":250000000}},"memory_stats":{"usage":10,"max_usage":20}}`,
		"GET /v1.41/networks": `[{"Name":"payment-processor-2","Labels":{}},{"Name":"payment-processor","Labels":{"com.docker.compose.project":"p"}}]`,
	}
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, there := answers[r.Method+" "+r.URL.Path]
		if !there {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(answer)) // a client that is gone has failed the test already
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	defer func() { _ = server.Close() }()
	t.Setenv("DOCKER_HOST", "unix://"+socket)

	e, err := newEngine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := e.containers(t.Context(), "any")
	if err != nil || len(all) != 1 || all[0] != (container{id: "abc", service: "galo1"}) {
		t.Fatalf("containers: %v, %v", all, err)
	}
	state, err := e.state(t.Context(), all[0])
	if err != nil || state.RestartCount != 2 || !state.State.OOMKilled || state.State.ExitCode != 3 || state.HostConfig.NanoCpus != 400_000_000 {
		t.Errorf("state: %+v, %v", state, err)
	}
	use, err := e.read(t.Context(), all[0])
	want := reading{at: time.Date(2026, 11, 27, 17, 50, 0, 5e8, time.UTC), cpu: 1500 * time.Millisecond, periods: 7, throttled: 3, throttledTime: 250 * time.Millisecond, memory: 20}
	if err != nil || use != want {
		t.Errorf("use: %+v, %v", use, err)
	}
	if owner, there, err := e.networkOwner(t.Context(), "payment-processor"); err != nil || !there || owner != "p" {
		t.Errorf("network: %q, %t, %v", owner, there, err)
	}
	if _, there, err := e.networkOwner(t.Context(), "payment"); err != nil || there {
		t.Errorf("a network that is not there: %t, %v", there, err)
	}
	if err := e.kill(t.Context(), all[0]); err == nil {
		t.Error("Docker refused to kill, and nobody heard of it")
	}
}

func TestServerThatDoesNothingAnswersOverTheSocketADeadOneLeft(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "1.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runNothing(ctx, []string{"-listen", "unix:" + socket}, t.Output()) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	var resp *http.Response
	for resp == nil { // until it listens; the test's own time-out bounds it
		select {
		case err := <-ended:
			t.Fatalf("ended before it answered: %v", err)
		default:
			resp, _ = client.Post("http://nothing/payments", "application/json", strings.NewReader("{}"))
		}
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("a payment was answered with %s", resp.Status)
	}
	resp, err = client.Get("http://nothing/payments-summary")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("a summary was answered with %s", resp.Status)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != nothingSocket {
		t.Errorf("others can't connect: %v, %v", info.Mode(), err)
	}
	client.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("it did not stop cleanly: %v", err)
	}
}

func TestStackVerdictIsOneFlatJSONObject(t *testing.T) {
	path := filepath.Join(t.TempDir(), "verdict.json")
	v := stackVerdict{verdict: verdict{Storm: "preview", Seconds: 60}, Over: 75, Containers: []containerUse{{Service: "redis", CPUSeconds: 1.5}}}
	if err := writeVerdict(path, v); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got["storm"] != "preview" || got["seconds"] != 60.0 || got["measuredSeconds"] != 75.0 || len(got["containers"].([]any)) != 1 {
		t.Errorf("the file says %s", text)
	}
}

// TestImagesAreBuiltWithWhatTheBenchEmbeds: .dockerignore lets through what the build needs, and that is more than Go files.
func TestImagesAreBuiltWithWhatTheBenchEmbeds(t *testing.T) {
	embedded, err := exec.Command("go", "list", "-f", `{{join .EmbedFiles "\n"}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	for file := range strings.FieldsSeq(string(embedded)) {
		if !strings.Contains(string(ignored), "\n!bench/"+file+"\n") {
			t.Errorf("%s is not let through", file)
		}
	}
}
