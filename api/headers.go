package api

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/ulule/limiter/v3"
)

// header is one line of an answer's head. Its value is a number when there is
// no text.
type header struct {
	name, text string
	number     int64
}

// constant headers are on every answer, always alike.
var constant = []header{
	{name: "X-Content-Type-Options", text: "nosniff"}, {name: "X-Frame-Options", text: "DENY"},
	{name: "X-Xss-Protection", text: "0"}, {name: "Referrer-Policy", text: "no-referrer"},
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
	if h.text == "" {
		b = strconv.AppendInt(b, h.number, 10)
	}
	b = append(b, h.text...)
	return append(b, '\r', '\n')
}

const (
	noContent = "default-src 'none'; frame-ancestors 'none'"
	briefly   = "public, max-age=300"
)

// setHeader gives the answer a header, in place of one of like name. The name
// is in canonical form, the text is not empty.
func (c *call) setHeader(name, text string) { c.put(header{name: name, text: text}) }

// setNumber is setHeader for a whole number.
func (c *call) setNumber(name string, n int64) { c.put(header{name: name, number: n}) }

func (c *call) put(h header) {
	for i := range c.headers {
		if c.headers[i].name == h.name {
			c.headers[i] = h
			return
		}
	}
	c.headers = append(c.headers, h)
}

// setCookie adds a cookie to the answer, which may have several.
func (c *call) setCookie(text string) {
	c.headers = append(c.headers, header{name: setCookie, text: text})
}

const setCookie = "Set-Cookie"

// standardHeaders sets what every answer has besides the constant headers.
func (c *call) standardHeaders() {
	c.headers = append(c.headers, header{name: "X-Request-Id", text: c.id},
		header{name: "Content-Security-Policy", text: noContent}, header{name: "Cache-Control", text: "no-store"})
	if c.s.tls {
		c.headers = append(c.headers, header{name: "Strict-Transport-Security", text: "max-age=31536000"})
	}
}

// rateHeaders tells how much of a rate is left. The zero Context tells nothing.
func (c *call) rateHeaders(lc limiter.Context) {
	if lc.Limit == 0 {
		return
	}
	c.setNumber("X-Ratelimit-Limit", lc.Limit)
	c.setNumber("X-Ratelimit-Remaining", lc.Remaining)
	c.setNumber("X-Ratelimit-Reset", lc.Reset)
}

// sendHeaders hands the headers to the connection, which puts them behind the
// status line, or to net/http where there is no such connection.
func (c *call) sendHeaders() {
	if conn := c.conn; conn != nil {
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
		if values[i] = all[i].text; values[i] == "" {
			values[i] = strconv.FormatInt(all[i].number, 10)
		}
		if all[i].name == setCookie {
			h[setCookie] = append(h[setCookie], values[i])
			continue
		}
		h[all[i].name] = values[i : i+1 : i+1]
	}
}
