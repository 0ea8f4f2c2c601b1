package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// environment stands in for os.LookupEnv. The name of the instance is given, so that a test does not depend
// on its host's.
func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		if name == "INSTANCE" {
			return "galo-1", true
		}
		return "", false
	}
}

func TestDefaultsAreTheContracts(t *testing.T) {
	want := config{
		listen:       listenAddress{"tcp", ":9999"},
		adminListen:  listenAddress{"tcp", "127.0.0.1:9990"},
		processorURL: [processors]string{"http://payment-processor-default:8080", "http://payment-processor-fallback:8080"},
		processorFee: [processors]ppm{50_000, 150_000},
		role:         roleAuto,
		instance:     "galo-1",
		dataDir:      "./data",
		durability:   durableProcess,
		retention:    24 * time.Hour,
		workers:      4,
		maxPending:   131_072,
		patience:     10 * time.Second,
		logLevel:     slog.LevelInfo,
		sendTimeout:  10 * time.Second,
		maxInFlight:  800,
		linger:       5 * time.Millisecond,
		stopTimeout:  20 * time.Second,
	}
	if got, err := readConfig(environment()); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	// A compose file writes a variable that is not set as an empty one.
	empty := []string{}
	for _, s := range settings() {
		if s.name != "ADMIN_LISTEN" && s.name != "INSTANCE" {
			empty = append(empty, s.name, "")
		}
	}
	if got, err := readConfig(environment(empty...)); err != nil || got != want {
		t.Errorf("with empty values: got %+v, %v, want %+v", got, err, want)
	}
}

func TestEmptyAdminListenIsOff(t *testing.T) {
	c, err := readConfig(environment("ADMIN_LISTEN", ""))
	if err != nil || !c.adminListen.off() || c.listen.off() {
		t.Errorf("got %v and %v, %v", c.adminListen, c.listen, err)
	}
}

func TestInstanceIsNamedAfterItsHost(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := readConfig(environment("INSTANCE", "")); err != nil || c.instance != host {
		t.Errorf("got %q, %v, want %q", c.instance, err, host)
	}
}

func TestSettingsThatAreTaken(t *testing.T) {
	f := func(name, value string, want any, get func(c config) any) {
		t.Helper()
		// A shared store is set throughout, since NATS_URL needs one.
		c, err := readConfig(environment(name, value, "REDIS_URL", "redis://redis"))
		if err != nil {
			t.Error(err)
		} else if got := get(c); got != want {
			t.Errorf("%s=%q: got %v, want %v", name, value, got, want)
		}
	}
	listen := func(c config) any { return c.listen }
	f("LISTEN", ":0", listenAddress{"tcp", ":0"}, listen)
	f("LISTEN", "127.0.0.1:65535", listenAddress{"tcp", "127.0.0.1:65535"}, listen)
	f("LISTEN", "galo_1.local:80", listenAddress{"tcp", "galo_1.local:80"}, listen)
	f("LISTEN", "[::1]:9999", listenAddress{"tcp", "[::1]:9999"}, listen)
	f("LISTEN", "unix:/run/galo.sock", listenAddress{"unix", "/run/galo.sock"}, listen)
	f("ADMIN_LISTEN", "unix:/run/a", listenAddress{"unix", "/run/a"}, func(c config) any { return c.adminListen })

	url := func(c config) any { return c.processorURL[onDefault] }
	f("PROCESSOR_DEFAULT_URL", "http://127.0.0.1:8001", "http://127.0.0.1:8001", url)
	f("PROCESSOR_DEFAULT_URL", "https://pay.example/base/", "https://pay.example/base", url)
	f("PROCESSOR_DEFAULT_URL", "http://[::1]:80/", "http://[::1]:80", url)
	f("PROCESSOR_FALLBACK_URL", "http://b", "http://b", func(c config) any { return c.processorURL[onFallback] })

	rate := func(c config) any { return c.processorFee[onDefault] }
	f("PROCESSOR_DEFAULT_FEE", "0", ppm(0), rate)
	f("PROCESSOR_DEFAULT_FEE", "0.0", ppm(0), rate)
	f("PROCESSOR_DEFAULT_FEE", "0.1", ppm(100_000), rate)
	f("PROCESSOR_DEFAULT_FEE", "0.000001", ppm(1), rate)
	f("PROCESSOR_DEFAULT_FEE", "0.0500000000", ppm(50_000), rate)
	f("PROCESSOR_DEFAULT_FEE", "0.999999", ppm(999_999), rate)
	f("PROCESSOR_FALLBACK_FEE", "0.2", ppm(200_000), func(c config) any { return c.processorFee[onFallback] })

	redis := func(c config) any { return c.redisURL.reveal() }
	for _, value := range []string{"redis://redis", "redis://:pass@redis:6379/0", "rediss://user:p%40ss@10.0.0.1:6380/", "redis://[::1]/3", "unix:/run/redis.sock"} {
		f("REDIS_URL", value, value, redis)
	}
	nats := func(c config) any { return c.natsURL.reveal() }
	for _, value := range []string{"nats://nats:4222", "tls://u:p@nats", "nats://a,nats://u:p@b:4222,tls://[::1]:1"} {
		f("NATS_URL", value, value, nats)
	}
	f("ROLE", "leader", roleLeader, func(c config) any { return c.role })
	f("ROLE", "follower", roleFollower, func(c config) any { return c.role })
	f("INSTANCE", "A.b_c-9", "A.b_c-9", func(c config) any { return c.instance })
	f("INSTANCE", strings.Repeat("x", 64), strings.Repeat("x", 64), func(c config) any { return c.instance })
	f("DATA_DIR", "/var/lib/galo data", "/var/lib/galo data", func(c config) any { return c.dataDir })
	f("DURABILITY", "disk", durableDisk, func(c config) any { return c.durability })
	f("RETENTION", "1m", time.Minute, func(c config) any { return c.retention })
	f("RETENTION", "8760h", 8760*time.Hour, func(c config) any { return c.retention })
	size := func(c config) any { return c.journalMax }
	f("JOURNAL_MAX_SIZE", "0", int64(0), size)
	f("JOURNAL_MAX_SIZE", "16777216", int64(16<<20), size)
	f("JOURNAL_MAX_SIZE", "16384KiB", int64(16<<20), size)
	f("JOURNAL_MAX_SIZE", "512MiB", int64(512<<20), size)
	f("JOURNAL_MAX_SIZE", "10GiB", int64(10<<30), size)
	f("JOURNAL_MAX_SIZE", "1024TiB", int64(1<<50), size)
	f("WORKERS", "1", 1, func(c config) any { return c.workers })
	f("WORKERS", "63", 63, func(c config) any { return c.workers })
	f("MAX_PENDING", "1", 1, func(c config) any { return c.maxPending })
	f("MAX_PENDING", "4194304", 4_194_304, func(c config) any { return c.maxPending })
	f("PATIENCE", "0s", time.Duration(0), func(c config) any { return c.patience })
	f("PATIENCE", "1h", time.Hour, func(c config) any { return c.patience })
	f("ALLOW_PURGE", "true", true, func(c config) any { return c.allowPurge })
	f("ALLOW_PURGE", "false", false, func(c config) any { return c.allowPurge })
	f("LOG_LEVEL", "debug", slog.LevelDebug, func(c config) any { return c.logLevel })
	f("LOG_LEVEL", "warn", slog.LevelWarn, func(c config) any { return c.logLevel })
	f("LOG_LEVEL", "error", slog.LevelError, func(c config) any { return c.logLevel })
	f("SEND_TIMEOUT", "100ms", 100*time.Millisecond, func(c config) any { return c.sendTimeout })
	f("SEND_TIMEOUT", "60s", time.Minute, func(c config) any { return c.sendTimeout })
	f("MAX_IN_FLIGHT", "1", 1, func(c config) any { return c.maxInFlight })
	f("MAX_IN_FLIGHT", "1200", 1200, func(c config) any { return c.maxInFlight })
	f("LINGER", "0s", time.Duration(0), func(c config) any { return c.linger })
	f("LINGER", "100ms", 100*time.Millisecond, func(c config) any { return c.linger })
	f("STOP_TIMEOUT", "1s", time.Second, func(c config) any { return c.stopTimeout })
	f("STOP_TIMEOUT", "10m", 10*time.Minute, func(c config) any { return c.stopTimeout })
}

func TestSettingThatCannotBeRightIsNamedInOneLine(t *testing.T) {
	f := func(allowed, name string, values ...string) {
		t.Helper()
		for _, value := range values {
			c, err := readConfig(environment(name, value))
			want := fmt.Sprintf("%s=%q is not %s", name, value, allowed)
			if err == nil || err.Error() != want || strings.Contains(err.Error(), "\n") || c != (config{}) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	f("a duration from 0s to 1h", "PATIENCE", "soon", "-1ns", "1h1ns", "10", "1d", " 1s", "1s\n2s", "9999999999h")
	f("a duration from 1m to 8760h", "RETENTION", "0", "59s", "8761h")
	f("a duration from 100ms to 1m", "SEND_TIMEOUT", "99ms", "61s")
	f("a duration from 0s to 100ms", "LINGER", "-1ms", "101ms")
	f("a duration from 1s to 10m", "STOP_TIMEOUT", "0s", "11m")
	f("a whole number from 1 to 63", "WORKERS", "0", "64", "-1", "four", "1.0", "1e1", "99999999999999999999")
	f("a whole number from 1 to 4194304", "MAX_PENDING", "0", "4194305")
	f("0, or bytes from 16777216 to 1125899906842624, such as 67108864, 512MiB or 10GiB (KiB, MiB, GiB, TiB)", "JOURNAL_MAX_SIZE",
		"1", "15MiB", "1025TiB", "-1", "+16777216", "10GB", "10 GiB", "GiB", "1.5GiB", "9223372036854775807GiB", "16777217TiB")
	f("a whole number from 1 to 1200", "MAX_IN_FLIGHT", "0", "1201")
	f("true or false", "ALLOW_PURGE", "1", "True", "yes", "t")
	f("one of auto, leader, follower", "ROLE", "Leader", "both", "unknown role")
	f("one of process, disk", "DURABILITY", "memory", "PROCESS")
	f("one of debug, info, warn, error", "LOG_LEVEL", "INFO", "trace", "info+1")
	f("a decimal from 0 to below 1 with at most six decimals", "PROCESSOR_DEFAULT_FEE",
		"1", "1.0", "5", "-0.05", "0.0000001", "0.9999999", "5%", "1e-2", ".5", "0.", "0,05", "NaN", "99999999999999999999", "0.1.2", "-0")
	f("a decimal from 0 to below 1 with at most six decimals", "PROCESSOR_FALLBACK_FEE", "x")
	f("1 to 64 of A-Z, a-z, 0-9, dot, underscore and hyphen, other than . and ..", "INSTANCE",
		".", "..", "a/b", "a b", "é", strings.Repeat("x", 65), "a\n")
	f("a path without a zero byte", "DATA_DIR", "a\x00b")
	const address = "an address such as :9999, host:9999, [::1]:9999 or unix:/path.sock"
	f(address, "LISTEN", "9999", "localhost", ":", ":http", ":65536", ":-1", "a b:1", "::1:9999", "[::1]", "[::1:9999",
		"::1]:9999", "[localhost]:1", "[1.2.3.4]:1", "http://x:1", "unix:", "unix:/", "unix:galo.sock", "unix:/"+strings.Repeat("x", 107))
	f(address, "ADMIN_LISTEN", "off")
	const httpOnly = "an http or https URL with a host, and without user, query and fragment"
	f(httpOnly, "PROCESSOR_DEFAULT_URL", "nonsense", "localhost:8001", "ftp://a", "http://", "http:///x", "http://:80", "http:a",
		"http://a?b", "http://a?", "http://a#b", "http://a#", "http://a:x", "http://a:99999", "http://a:0", "http://a b", "http://a\n", "//a", "%")
	f(httpOnly, "PROCESSOR_FALLBACK_URL", "x")
	const redis = "a URL such as redis://:password@host:6379/0 or rediss://host, or unix:/path.sock"
	f(redis, "REDIS_URL", "localhost", "localhost:6379", "http://redis", "redis://redis/db", "redis://redis/0/1", "redis://redis:0", "redis://redis/99999999999999999999",
		"unix:", "unix:/", "unix:redis.sock", "unix:/"+strings.Repeat("x", 107))
	const nats = "a URL such as nats://user:password@host:4222 or tls://host, or several with commas between"
	f(nats, "NATS_URL", "localhost:4222", "http://nats", "nats://nats/x", "nats://a,http://b", "nats://a,b", "nats://a:00")
}

// passwordSpellings are values that hold the word "hunter2" in every place where a password has been seen.
func passwordSpellings() []string {
	return []string{
		"http://:hunter2@host", "http://user:hunter2@host", "http://hunter2@host", "redis://:hunter2", "redis:hunter2",
		"redis://:hunter2@", "redis://:hunter2@:6379", ":hunter2@host", "user:hunter2@host:6379", "redis://:hunter2%zz@host",
		"redis://:hunter2%40host", "redis://:1/hunter2@host", "redis://:hunter2/1@host", "redis://user:1/hunter2@host",
		"redis://:1?hunter2@host", "redis://user:1#hunter2@host", "redis://host?password=hunter2", "redis://host#hunter2",
		"nats://u:pa,hunter2@host", "nats://u:1,hunter2@host", "nats://u:hunter2,x@host", "nats://a,nats://u:hunter2@b/x",
		"nats://u:hunter2@a,http://b", "nats://u:hunter2@a:x", "http://user:hunter2@a?b", "redis://:hunter2@host/db\n",
		"ftp://:hunter2@@host", "redis://:@hunter2@host/x/y", "redis://:%68unter2hunter2@h/x", "unix://:hunter2@/run/redis.sock", "unix:/hunter2@x",
	}
}

func TestSeveralInstancesNeedOneStore(t *testing.T) {
	_, err := readConfig(environment("NATS_URL", "nats://u:hunter2@nats"))
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), `NATS_URL="nats://***@nats" is not allowed`) {
		t.Errorf("got %v", err)
	}
}

func TestPasswordIsNotInTheError(t *testing.T) {
	for _, name := range []string{"REDIS_URL", "NATS_URL"} {
		for _, value := range passwordSpellings() {
			_, err := readConfig(environment(name, value))
			if err == nil {
				t.Errorf("%s=%q was taken", name, value)
			} else if strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), name+`="`) {
				t.Errorf("%s=%q: %v", name, value, err)
			}
		}
	}
	_, err := readConfig(environment("PROCESSOR_DEFAULT_URL", "http://user:hunter2@host:80/x"))
	if err == nil || !strings.HasPrefix(err.Error(), `PROCESSOR_DEFAULT_URL="http://***@host:80/x" is not `) {
		t.Errorf("got %v", err)
	}
}

func TestPasswordIsNotInTheLog(t *testing.T) {
	c, err := readConfig(environment("REDIS_URL", "redis://user:hunter2@redis:6379/1", "NATS_URL", "nats://a,nats://hunter2@b"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.redisURL.String(), "redis://***@redis:6379/1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := c.natsURL.String(), "nats://a,nats://***@b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if socket := "unix:/run/redis.sock"; maskURL(socket) != socket {
		t.Errorf("a socket prints as %s", maskURL(socket))
	}
	if empty := (secretURL{}); empty.String() != "" || empty.reveal() != "" {
		t.Errorf("no URL prints as %q", empty)
	}
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("settings", "config", c, "pointer", &c, "redis", c.redisURL, "nats", &c.natsURL)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&log, verb+verb+verb+verb, c, &c, c.redisURL, &c.natsURL)
	}
	if strings.Contains(log.String(), "hunter2") || strings.Contains(log.String(), fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("the password is in the log: %s", &log)
	}
}

func TestEverySettingIsPrinted(t *testing.T) {
	var out bytes.Buffer
	printSettings(&out)
	for _, s := range settings() {
		want := s.standard
		if want == "" {
			want = map[string]string{"REDIS_URL": "(empty)", "NATS_URL": "(empty)", "INSTANCE": "the host's name"}[s.name]
		}
		line := ""
		for l := range strings.Lines(out.String()) {
			if strings.HasPrefix(l, s.name+" ") {
				line = l
			}
		}
		if want == "" || !strings.Contains(line, " "+want+" ") || !strings.Contains(line, s.meaning) || !strings.Contains(out.String(), s.allowed) {
			t.Errorf("%s is printed as %q", s.name, line)
		}
	}
}

// The names are what scripts rely on.
func TestTheContractsNamesAreAllThere(t *testing.T) {
	have := map[string]int{}
	for _, s := range settings() {
		have[s.name]++
	}
	for _, name := range strings.Fields(`LISTEN ADMIN_LISTEN PROCESSOR_DEFAULT_URL PROCESSOR_FALLBACK_URL PROCESSOR_DEFAULT_FEE
		PROCESSOR_FALLBACK_FEE REDIS_URL NATS_URL ROLE INSTANCE DATA_DIR DURABILITY RETENTION JOURNAL_MAX_SIZE WORKERS MAX_PENDING PATIENCE
		ALLOW_PURGE LOG_LEVEL SEND_TIMEOUT MAX_IN_FLIGHT LINGER STOP_TIMEOUT`) {
		if have[name] != 1 {
			t.Errorf("%s is there %d times", name, have[name])
		}
		delete(have, name)
	}
	if len(have) > 0 {
		t.Errorf("nobody asked for %v", have)
	}
}

func TestFeesAreTheirDecimals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.IntRange(0, int(wholePPM)-1).Draw(t, "parts")
		c, err := readConfig(environment("PROCESSOR_DEFAULT_FEE", fmt.Sprintf("0.%06d", want)))
		if err != nil || int(c.processorFee[onDefault]) != want {
			t.Fatalf("got %d, %v, want %d", c.processorFee[onDefault], err, want)
		}
	})
}

// TestAddressInUseNamesItsSetting: there are two, and an operator has to know which one to change.
func TestAddressInUseNamesItsSetting(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken, free := listenAddress{network: "tcp", address: ln.Addr().String()}, listenAddress{network: "tcp", address: "127.0.0.1:0"}
	for want, c := range map[string]config{
		"LISTEN: ":       {listen: taken, adminListen: free},
		"ADMIN_LISTEN: ": {listen: free, adminListen: taken},
	} {
		g := &galo{log: quietLog()}
		if err := g.listen(c); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want it to begin with %q", err, want)
		}
	}
}
