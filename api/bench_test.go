package api

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// sink is a ResponseWriter that costs what net/http's does at least: a header
// map, cloned when the status is written.
type sink struct {
	header http.Header
	status int
	bytes  int
}

func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(status int) {
	s.status = status
	s.header = s.header.Clone()
}
func (s *sink) Write(p []byte) (int, error)      { s.bytes += len(p); return len(p), nil }
func (s *sink) SetReadDeadline(time.Time) error  { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkPredict is the way of one tiny prediction without the network and
// the model: routing, identity, limit, body, scan, decode, gate, encoding.
func BenchmarkPredict(b *testing.B) {
	w := newWorld(b, noLimits, func(_ *auth.Config, c *Config) { c.AccessLog = nil })
	w.iris()
	h := w.api.Handler()
	body := strings.NewReader(irisRow)
	req, err := http.NewRequest("POST", "/predict", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.RemoteAddr = "127.0.0.1:4711"
	req.Header.Set("Authorization", "Bearer "+w.admin)
	req.Header.Set("Content-Type", "application/json")
	req.Body = io.NopCloser(body)
	req.ContentLength = int64(len(irisRow))
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(irisRow)
		s := sink{header: make(http.Header)}
		h.ServeHTTP(&s, req)
		if s.status != 200 {
			b.Fatal(s.status)
		}
	}
}

// BenchmarkHealth is the floor of any route.
func BenchmarkHealth(b *testing.B) {
	w := newWorld(b, noLimits, func(_ *auth.Config, c *Config) { c.AccessLog = nil })
	h := w.api.Handler()
	req, err := http.NewRequest("GET", "/healthz", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.RemoteAddr = "127.0.0.1:4711"
	b.ReportAllocs()
	for b.Loop() {
		s := sink{header: make(http.Header)}
		h.ServeHTTP(&s, req)
	}
}
