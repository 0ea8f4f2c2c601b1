package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// This file holds the sorts of values that settings can have: the types, and how each is read.

// role says who asks the processors for their health while several instances run.
type role uint8

const (
	roleAuto     role = iota // whoever wins the poll key
	roleLeader               // this instance tries at once
	roleFollower             // this instance tries only after a silence
)

// String returns the role as ROLE spells it.
func (r role) String() string {
	switch r {
	case roleAuto:
		return "auto"
	case roleLeader:
		return "leader"
	case roleFollower:
		return "follower"
	}
	return "unknown role"
}

// durability says what an accepted payment survives.
type durability uint8

const (
	durableProcess durability = iota // kill -9 and a container's death
	durableDisk                      // power loss too
)

// String returns the durability as DURABILITY spells it.
func (d durability) String() string {
	switch d {
	case durableProcess:
		return "process"
	case durableDisk:
		return "disk"
	}
	return "unknown durability"
}

// ppm is a part of an amount in integer parts per million: a fee of 5 % is 50,000.
type ppm int

const (
	// ppmPlaces is how many decimals a part has when it is written as a decimal below one.
	ppmPlaces = 6
	// wholePPM is the whole amount.
	wholePPM ppm = 1_000_000
)

// listenAddress is where to listen, in the words of net.Listen: network is "tcp" or "unix". The zero
// address means that nobody listens.
type listenAddress struct {
	network, address string
}

// off says whether nobody is to listen.
func (a listenAddress) off() bool { return a == listenAddress{} }

// String returns the address as LISTEN spells it.
func (a listenAddress) String() string {
	if a.network == "unix" {
		return "unix:" + a.address
	}
	return a.address
}

// secretURL is a URL that may hold a password, or several with commas between. It prints without what may
// be secret. The text is behind a pointer, since fmt prints an unexported field without asking its String,
// and of a pointer in there it prints only the address.
type secretURL struct {
	text *string
}

// reveal returns the URL as it was set, or "". It is for dialling, never for printing.
func (u secretURL) reveal() string {
	if u.text == nil {
		return ""
	}
	return *u.text
}

// String returns the URL without what may be secret.
func (u secretURL) String() string {
	if u.text == nil {
		return ""
	}
	return maskURL(*u.text)
}

// LogValue lets slog print no more than String does.
func (u secretURL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// maskURL returns what of a URL, or of a list of them, is certainly no secret. A text that is neither a URL
// with a host nor a bare host nor a socket may hold a password anywhere (a slash in one is enough to tear a URL
// apart), and is masked whole.
func maskURL(text string) string {
	const masked = "***"
	if strings.HasPrefix(text, socketScheme) && !strings.Contains(text, "@") {
		return text
	}
	parts := strings.Split(text, ",")
	for i, part := range parts {
		if validHostPort(part) {
			continue
		}
		u, err := url.Parse(part)
		if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") {
			return masked
		}
		user, query := "", ""
		if u.User != nil {
			user = masked + "@"
		}
		if u.RawQuery != "" || u.Fragment != "" {
			query = "?" + masked
		}
		parts[i] = u.Scheme + "://" + user + u.Host + u.EscapedPath() + query
	}
	return strings.Join(parts, ",")
}

// aDuration allows what time.ParseDuration reads, from least to most.
func aDuration(least, most time.Duration, field func(*config) *time.Duration) valueKind {
	return valueKind{
		allowed: "a duration from " + shortDuration(least) + " to " + shortDuration(most),
		set: func(c *config, value string) bool {
			d, err := time.ParseDuration(value)
			*field(c) = d
			return err == nil && d >= least && d <= most
		},
	}
}

// shortDuration writes 1h0m0s as 1h.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// aNumber allows a whole number from least to most.
func aNumber(least, most int, field func(*config) *int) valueKind {
	return valueKind{
		allowed: fmt.Sprintf("a whole number from %d to %d", least, most),
		set: func(c *config, value string) bool {
			n, err := strconv.Atoi(value)
			*field(c) = n
			return err == nil && n >= least && n <= most
		},
	}
}

// trueOrFalse allows these two words and nothing else: a purge should not be allowed by a "T".
func trueOrFalse(field func(*config) *bool) valueKind {
	return valueKind{
		allowed: "true or false",
		set: func(c *config, value string) bool {
			*field(c) = value == "true"
			return value == "true" || value == "false"
		},
	}
}

// oneOf allows the names of the given states.
func oneOf[T fmt.Stringer](field func(*config) *T, states ...T) valueKind {
	names := make([]string, len(states))
	for i, state := range states {
		names[i] = state.String()
	}
	return valueKind{
		allowed: "one of " + strings.Join(names, ", "),
		set: func(c *config, value string) bool {
			for i, name := range names {
				if name == value {
					*field(c) = states[i]
					return true
				}
			}
			return false
		},
	}
}

// aLogLevel allows the names of slog's levels, in lower case.
func aLogLevel(field func(*config) *slog.Level) valueKind {
	return valueKind{
		allowed: "one of debug, info, warn, error",
		set: func(c *config, value string) bool {
			switch value {
			case "debug":
				*field(c) = slog.LevelDebug
			case "info":
				*field(c) = slog.LevelInfo
			case "warn":
				*field(c) = slog.LevelWarn
			case "error":
				*field(c) = slog.LevelError
			default:
				return false
			}
			return true
		},
	}
}

// aFee allows a decimal from 0 to below 1 that is a whole number of parts per million.
func aFee(field func(*config) *ppm) valueKind {
	return valueKind{
		allowed: "a decimal from 0 to below 1 with at most six decimals",
		set: func(c *config, value string) bool {
			if !plainDecimal(value) {
				return false
			}
			units, fit := parseScaled([]byte(value), ppmPlaces)
			*field(c) = ppm(units)
			return fit == wholeUnits && ppm(units) < wholePPM
		},
	}
}

// plainDecimal says whether text is digits, or digits with a point and digits after it.
func plainDecimal(text string) bool {
	whole, decimals, point := strings.Cut(text, ".")
	return onlyOf(whole, "0123456789") && (!point || onlyOf(decimals, "0123456789"))
}

// onlyOf says whether text has at least one byte, and none that is not in set.
func onlyOf(text, set string) bool {
	return text != "" && strings.Trim(text, set) == ""
}

const (
	lettersAndDigits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	// maxInstance is the length of an instance's name: as long as Linux lets a host's name be.
	maxInstance = 64
	// maxSocketPath is what fits in a Unix socket's address (108 bytes, and the last one is a zero).
	maxSocketPath = 107
)

// anInstance allows what is the same in a file's name, a log line and a key. The two names that a folder
// has for itself and for the one above it are not allowed.
func anInstance(field func(*config) *string) valueKind {
	return valueKind{
		allowed: "1 to 64 of A-Z, a-z, 0-9, dot, underscore and hyphen, other than . and ..",
		set: func(c *config, value string) bool {
			*field(c) = value
			return len(value) <= maxInstance && onlyOf(value, lettersAndDigits+"._-") &&
				value != "." && value != ".."
		},
	}
}

// aPath allows every path that the system can take.
func aPath(field func(*config) *string) valueKind {
	return valueKind{
		allowed: "a path without a zero byte",
		set: func(c *config, value string) bool {
			*field(c) = value
			return !strings.Contains(value, "\x00")
		},
	}
}

// anAddress allows what net.Listen takes, with a port in digits. Port 0 is any free one.
func anAddress(field func(*config) *listenAddress) valueKind {
	return valueKind{
		allowed: "an address such as :9999, host:9999, [::1]:9999 or unix:/path.sock",
		set: func(c *config, value string) bool {
			if file, ok := strings.CutPrefix(value, socketScheme); ok {
				*field(c) = listenAddress{network: "unix", address: file}
				return validSocketPath(file)
			}
			*field(c) = listenAddress{network: "tcp", address: value}
			return validListenHostPort(value)
		},
	}
}

// socketScheme stands before the path of a unix socket.
const socketScheme = "unix:"

// validSocketPath allows an absolute path that fits in the kernel's address of a socket.
func validSocketPath(file string) bool {
	return strings.HasPrefix(file, "/") && len(file) > 1 && len(file) <= maxSocketPath && !strings.Contains(file, "\x00")
}

// validListenHostPort is like validHostPort, but the host may be missing and the port may not.
func validListenHostPort(value string) bool {
	if port, ok := strings.CutPrefix(value, ":"); ok {
		return validPort(port)
	}
	colon := strings.LastIndexByte(value, ':')
	return colon > strings.LastIndexByte(value, ']') && validHostPort(value)
}

// validHostPort allows a host's name, an IPv4 address, or an IPv6 address in brackets, with or without a port.
func validHostPort(value string) bool {
	host, port, hasPort := value, "", false
	if colon := strings.LastIndexByte(value, ':'); colon > strings.LastIndexByte(value, ']') {
		host, port, hasPort = value[:colon], value[colon+1:], true
	}
	if hasPort && !validPort(port) {
		return false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return closed && err == nil && ip.Is6()
	}
	return onlyOf(host, lettersAndDigits+".-_")
}

// validPort allows the digits of a port.
func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// anHTTPURL allows the root that a processor's paths are put after. It has no user: we have no way to send one.
func anHTTPURL(field func(*config) *string) valueKind {
	return valueKind{
		allowed: "an http or https URL with a host, and without user, query and fragment",
		set: func(c *config, value string) bool {
			u, ok := parseURL(value, "http", "https")
			*field(c) = strings.TrimRight(value, "/")
			return ok && u.User == nil
		},
	}
}

// aRedisURL allows what the client can dial: one server and a number for the database, or a socket in the form that LISTEN has.
func aRedisURL(field func(*config) *secretURL) valueKind {
	return valueKind{
		allowed: "a URL such as redis://:password@host:6379/0 or rediss://host, or unix:/path.sock",
		set: func(c *config, value string) bool {
			*field(c) = secretURL{text: &value}
			if file, ok := strings.CutPrefix(value, socketScheme); ok {
				return validSocketPath(file) && !strings.Contains(file, "@") // there is no place for a password
			}
			u, ok := parseURL(value, "redis", "rediss")
			return ok && (u.Path == "" || u.Path == "/" || validDatabase(u.Path[1:]))
		},
	}
}

// validDatabase allows the number of one of Redis's databases.
func validDatabase(number string) bool {
	_, err := strconv.ParseUint(number, 10, 31)
	return err == nil
}

// aNATSURL allows one server of a cluster or several.
func aNATSURL(field func(*config) *secretURL) valueKind {
	return valueKind{
		allowed: "a URL such as nats://user:password@host:4222 or tls://host, or several with commas between",
		set: func(c *config, value string) bool {
			*field(c) = secretURL{text: &value}
			for server := range strings.SplitSeq(value, ",") {
				u, ok := parseURL(server, "nats", "tls")
				if !ok || (u.Path != "" && u.Path != "/") {
					return false
				}
			}
			return true
		},
	}
}

// parseURL reads a URL with one of the schemes, a host, and neither query nor fragment.
func parseURL(value string, schemes ...string) (*url.URL, bool) {
	u, err := url.Parse(value)
	if err != nil || !validHostPort(u.Host) || u.Port() != "" && strings.Trim(u.Port(), "0") == "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(value, "#") {
		return nil, false
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			return u, true
		}
	}
	return nil, false
}
