package api

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
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

// client is one connection that sends the same request again and again, and
// allocates nothing.
type client struct {
	t       testing.TB
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

// client asks for predictions with this body, by the way of a program that
// serves over plain HTTP.
func (w *world) client(body string) *client {
	return w.clientOf("/predict", "Content-Type: application/json\r\n", body)
}

func (w *world) clientOf(path, headers, body string) *client {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &client{w.t, conn, bufio.NewReader(conn), fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"%sContent-Length: %d\r\n\r\n%s", path, w.admin, headers, len(body), body)}
}

// predict is one request and its answer.
func (c *client) predict() {
	if _, err := c.conn.Write(c.request); err != nil {
		c.t.Fatal(err)
	}
	length := -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		if first && string(line) != "HTTP/1.1 200 OK\r\n" {
			c.t.Fatalf("%s", line)
		}
		if string(line) == "\r\n" {
			break
		}
		if rest, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length = 0
			for _, digit := range bytes.TrimSpace(rest) {
				length = 10*length + int(digit-'0')
			}
		}
	}
	if _, err := c.r.Discard(length); err != nil {
		c.t.Fatal(err)
	}
}

// Bodies of tiny predictions: one output that is a tensor, and two of which one
// is a map.
const (
	tensorRow = `{"model":"rowmix","inputs":{"x":[[5.1,3.5,1.4,0.2]]}}`
	mapRow    = `{"model":"iris","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`
)

func (w *world) tiny() {
	w.t.Helper()
	for _, name := range []string{"rowmix", "iris"} {
		w.upload(w.admin, name, name+".onnx", `{"roles":["user"]}`).is(201)
	}
}

// TestAllocations bounds what a tiny prediction allocates, from the socket to
// the socket and with the runtime: net/http's part included, on which it
// stands. gin's hello world makes some 20.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	w := newWorldOn(t, true, noLimits)
	w.tiny()
	c := w.client(tensorRow)
	c.predict()
	if n := testing.AllocsPerRun(2000, c.predict); n > 29 {
		t.Errorf("%.1f allocations for a tiny prediction, which are more than 29", n)
	} else {
		t.Logf("%.1f allocations", n)
	}
}

// BenchmarkServed is one tiny prediction by one client over loopback.
func BenchmarkServed(b *testing.B) {
	w := newWorldOn(b, true, noLimits)
	w.tiny()
	const infer = `{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}`
	for name, c := range map[string]*client{
		"tensor": w.client(tensorRow), "map": w.client(mapRow),
		"binary": w.clientOf("/v2/models/rowmix/infer", fmt.Sprintf("Inference-Header-Content-Length: %d\r\n", len(infer)), infer+strings.Repeat("\x00", 16)),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.predict()
			}
		})
	}
}
