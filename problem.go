package main

import (
	"strconv"
	"unicode/utf8"
)

// problem is an answer that says what is wrong, in the form of RFC 9457. Its type is always "about:blank",
// which that form lets us leave out, and so its title is the status's own phrase (RFC 9110); what is worth
// reading is in the detail. It is deliberately no error: it is addressed to a client, not to our callers.
type problem struct {
	status int
	title  string
	detail string

	allow      string // for 405: the methods that would do, the value of the Allow header
	retryAfter int    // for 503: seconds, the value of the Retry-After header
}

// problemType is the Content-Type of what appendJSON renders.
const problemType = "application/problem+json"

// appendJSON appends the problem as a JSON object.
func (p *problem) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"title":`...)
	dst = appendJSONString(dst, p.title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.status), 10)
	dst = append(dst, `,"detail":`...)
	dst = appendJSONString(dst, p.detail)
	return append(dst, '}')
}

// appendJSONString appends s as a JSON string. A detail may quote what a client sent: what is not UTF-8 in
// it becomes U+FFFD, so that the answer is JSON whatever came in.
func appendJSONString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// badJSON answers a body that is not JSON at all; the detail says in what way.
func badJSON(detail string) *problem {
	return &problem{status: 400, title: "Bad Request", detail: "the body is not JSON: " + detail}
}

// badField answers a field, of the body or of the query, that is missing or ill-typed.
func badField(name, why string) *problem {
	return &problem{status: 400, title: "Bad Request", detail: name + " " + why}
}

// unprocessable answers a body that is well formed and still can't be paid.
func unprocessable(detail string) *problem {
	return &problem{status: 422, title: "Unprocessable Content", detail: detail}
}

// tooLarge answers a body beyond limit bytes.
func tooLarge(limit int) *problem {
	return &problem{status: 413, title: "Content Too Large",
		detail: "the body is larger than " + strconv.Itoa(limit) + " bytes"}
}

// notFound answers a path that leads nowhere, or an id that nobody knows.
func notFound(detail string) *problem {
	return &problem{status: 404, title: "Not Found", detail: detail}
}

// methodNotAllowed answers a known path with a wrong method; allow is the value of the Allow header.
func methodNotAllowed(allow string) *problem {
	return &problem{status: 405, title: "Method Not Allowed", allow: allow,
		detail: "this path allows only " + allow}
}

// unavailable answers what we could do at another time: retryAfter is in seconds, the value of the
// Retry-After header.
func unavailable(detail string, retryAfter int) *problem {
	return &problem{status: 503, title: "Service Unavailable", detail: detail, retryAfter: retryAfter}
}

// conflict answers an id that is known with another amount.
func conflict(detail string) *problem {
	return &problem{status: 409, title: "Conflict", detail: detail}
}

// forbidden answers what the settings do not allow.
func forbidden(detail string) *problem {
	return &problem{status: 403, title: "Forbidden", detail: detail}
}
