package api

import (
	"bytes"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/ulule/limiter/v3"
)

// header is one line of an answer's head.
type header struct{ name, value string }

// constant headers are on every answer, always alike.
var constant = []header{
	{"X-Content-Type-Options", "nosniff"}, {"X-Frame-Options", "DENY"}, {"X-Xss-Protection", "0"}, {"Referrer-Policy", "no-referrer"},
}

// constantLines are constant as they stand in an answer.
var constantLines = func() (b []byte) {
	for _, h := range constant {
		b = h.append(b)
	}
	return b
}()

func (h header) append(b []byte) []byte {
	b = append(b, h.name...)
	b = append(b, ": "...)
	b = append(b, h.value...)
	return append(b, '\r', '\n')
}

const (
	noContent = "default-src 'none'; frame-ancestors 'none'"
	briefly   = "public, max-age=300"
)

// setHeader gives the answer a header, in place of one of like name. name is
// in canonical form.
func (c *call) setHeader(name, value string) {
	for i := range c.headers {
		if c.headers[i].name == name {
			c.headers[i].value = value
			return
		}
	}
	c.headers = append(c.headers, header{name, value})
}

// standardHeaders sets what every answer has besides the constant headers.
func (c *call) standardHeaders() {
	c.headers = append(c.headers, header{"X-Request-Id", c.id}, header{"Content-Security-Policy", noContent}, header{"Cache-Control", "no-store"})
	if c.s.tls {
		c.headers = append(c.headers, header{"Strict-Transport-Security", "max-age=31536000"})
	}
}

// rateHeaders tells how much of a rate is left. The zero Context tells nothing.
func (c *call) rateHeaders(lc limiter.Context) {
	if lc.Limit == 0 {
		return
	}
	c.setHeader("X-Ratelimit-Limit", c.s.limitText.of(lc.Limit))
	c.setHeader("X-Ratelimit-Remaining", strconv.FormatInt(lc.Remaining, 10))
	c.setHeader("X-Ratelimit-Reset", c.s.resetText.of(lc.Reset))
}

// decimal remembers the last number it wrote: limits and resets are mostly the
// same from one request to the next.
type decimal struct{ last atomic.Pointer[numeral] }

type numeral struct {
	n    int64
	text string
}

func (d *decimal) of(n int64) string {
	if last := d.last.Load(); last != nil && last.n == n {
		return last.text
	}
	text := strconv.FormatInt(n, 10)
	d.last.Store(&numeral{n, text})
	return text
}

// sendHeaders hands the headers to the connection, which puts them behind the
// status line, or to net/http where there is no such connection.
func (c *call) sendHeaders() {
	if conn := connOf(c.gin.Request); conn != nil {
		b := append(conn.head[:0], constantLines...)
		for _, h := range c.headers {
			b = h.append(b)
		}
		// A value with a line end would be two headers. None is made of what a
		// client sent; should one ever be, net/http mends it.
		lines := len(constant) + len(c.headers)
		if bytes.Count(b, []byte{'\n'}) == lines && bytes.Count(b, []byte{'\r'}) == lines {
			conn.head = b
			return
		}
		conn.head = b[:0]
	}
	h := c.gin.Writer.Header()
	all := slices.Concat(constant, c.headers)
	values := make([]string, len(all))
	for i := range all {
		values[i] = all[i].value
		h[all[i].name] = values[i : i+1 : i+1]
	}
}
