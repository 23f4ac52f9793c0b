package api

import (
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/auth"
)

// eventually polls a condition of the server, which goes on by itself.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatal(what)
		}
		w.get("/healthz", "").is(200)
	}
}

// gauge is a metric of one value.
func (w *world) gauge(name string) float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatal("no metric " + name)
	return 0
}

// waiting is how many predictions wait for a slot.
func (w *world) waiting() int { return int(w.gauge("modelgate_inference_queued")) }

// idle reports whether nothing of a request is left.
func (w *world) idle() bool {
	w.api.shares.mu.Lock()
	shares := len(w.api.shares.held)
	w.api.shares.mu.Unlock()
	return w.api.bodies.InUse()+w.api.reserve.InUse() == 0 && shares == 0 && w.gauge("modelgate_inference_tensor_bytes") == 0
}

// sloths are requests of slow clients, by the part of them that they get to.
func sloths(token string) map[string]string {
	head := func(path, more string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nContent-Type: application/json\r\n" + more
	}
	infer := `{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}`
	return map[string]string{
		"request line":         "POST /pre",
		"headers":              head("/predict", ""),
		"body":                 head("/predict", "Content-Length: 500\r\n\r\n") + `{"model":"iris","inp`,
		"chunked body":         head("/predict", "Transfer-Encoding: chunked\r\n\r\n") + "10\r\n{",
		"large body":           head("/predict", "Content-Length: 1000000\r\n\r\n") + `{"model":"iris","inp`,
		"binary body":          head("/v2/models/iris/infer", fmt.Sprintf("Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n", len(infer), len(infer)+16)) + infer + "abc",
		"compressed body":      head("/v2/models/iris/infer", "Content-Encoding: gzip\r\nContent-Length: 200\r\n\r\n") + "\x1f\x8b\x08",
		"body without anybody": "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{",
		"waits for 100":        head("/predict", "Expect: 100-continue\r\nContent-Length: 60\r\n\r\n"),
	}
}

// TestThousandSlowClients: clients that stop in the middle of what they send
// keep nobody from being served, and leave nothing behind.
func TestThousandSlowClients(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	kinds := sloths(w.admin)
	for len(held) < 1000 {
		for _, text := range kinds {
			c, err := net.Dial("tcp", w.http.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.eventually("the slow bodies are not being read", func() bool { return w.api.bodies.InUse() > 0 })
	_, ada := w.user("ada")
	for range 200 {
		start := time.Now()
		w.post("/predict", ada, irisRow).is(200)
		if took := time.Since(start); took > 5*time.Second {
			t.Fatalf("a prediction beside %d slow clients took %v", len(held), took)
		}
	}
	w.post("/login", "", map[string]string{"username": "admin", "password": adminPassword}).is(200)
	// What came of them holds the buffers that the first bytes need, no more.
	if most := int64(len(held) * firstRead); w.api.bodies.InUse() > most {
		t.Errorf("%v bytes are held for %d slow clients", w.api.bodies.InUse(), len(held))
	}
	for _, c := range held {
		c.Close()
	}
	w.eventually("slow clients that left still hold memory", w.idle)
}

// TestDisconnects: a client that leaves in any phase leaves nothing behind, and
// the next one is served.
func TestDisconnects(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	dial := func(text string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", w.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	// cut closes with a reset: nothing that was sent is answered in peace.
	cut := func(c net.Conn) {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	whole := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			path, w.admin, len(body), body)
	}
	requests := map[string]string{
		"predict": whole("/predict", irisRow),
		"infer":   whole("/v2/models/iris/infer", `{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}`),
	}
	for name, text := range sloths(w.admin) {
		t.Run("sending the "+name, func(t *testing.T) {
			cut(dial(text))
			c := dial(text)
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(io.Discard, c)
			c.Close()
			w.in(t).eventually("a request that was broken off holds memory", w.idle)
		})
	}
	for name, text := range requests {
		t.Run(name+" running and queued", func(t *testing.T) {
			w := w.in(t)
			gate := w.fake.HoldRuns()
			defer gate.Open()
			running := []net.Conn{dial(text), dial(text)} // as many as there are slots
			gate.Await(t, 2)
			var queued []net.Conn
			for range 2 {
				queued = append(queued, dial(text))
			}
			w.eventually("nobody waits", func() bool { return w.waiting() == 2 })
			for _, c := range append(queued, running...) {
				cut(c)
			}
			w.eventually("those who left still wait", func() bool { return w.waiting() == 0 && w.idle() })
			gate.Open()
			w.post("/predict", w.admin, irisRow).is(200)
		})
	}
	t.Run("reading the answer", func(t *testing.T) {
		w := w.in(t)
		large := whole("/predict", `{"model":"iris","inputs":[`+strings.Repeat("[5.1,3.5,1.4,0.2],", 20000)+`[5.1,3.5,1.4,0.2]]}`)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				c := dial(large)
				_, _ = io.ReadFull(c, make([]byte, 100))
				cut(c)
			})
		}
		wg.Wait()
		w.eventually("answers that nobody read hold memory", w.idle)
		w.post("/predict", w.admin, irisRow).is(200)
	})
}

// narrowListener makes sockets that hold little of what is written.
type narrowListener struct{ net.Listener }

func (l narrowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(8 << 10)
	}
	return c, err
}

// TestUnreadAnswers: answers that nobody reads count as memory of him who asked
// for them, and leave room for others.
func TestUnreadAnswers(t *testing.T) {
	w := newWorld(t, noLimits, func(_ *auth.Config, c *Config) { c.MaxBody, c.BodyBudget = 512<<10, 4<<20 })
	w.iris()
	_, greedy := w.user("greedy")
	_, ada := w.user("ada")
	body := `{"model":"iris","inputs":[` + strings.Repeat("[1,2,3,4],", 40000) + `[1,2,3,4]]}`
	whole := fmt.Sprintf("POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		greedy, len(body), body)
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	busy := func() bool {
		got := w.do(request{method: "POST", path: "/predict", token: greedy, json: body})
		return got.Status == 503 && strings.Contains(string(got.Body), " you") // too many of yours, or those you asked for
	}
	// A way in whose sockets hold little of an answer.
	narrow := httptest.NewUnstartedServer(w.api.Handler())
	narrow.Listener, narrow.Config.ConnContext = Listener(narrowListener{narrow.Listener}), Connected
	narrow.Start()
	defer narrow.Close()
	for !busy() {
		if len(silent) == 100 {
			t.Fatal("100 answers that nobody reads are held, and still he gets more")
		}
		c, err := net.Dial("tcp", narrow.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		silent = append(silent, c)
		if _, err := io.WriteString(c, whole); err != nil {
			t.Fatal(err)
		}
	}
	if held, most := w.api.bodies.InUse(), w.api.shares.most; held > most {
		t.Errorf("%d bytes are held, his share is %d", held, most)
	}
	// She may meet those of his that still wait for a slot.
	w.eventually("another user finds no room", func() bool {
		return w.do(request{method: "POST", path: "/predict", token: ada, json: body}).Status == 200
	})
	for _, c := range silent {
		c.Close()
	}
	w.eventually("answers to clients that left are still held", w.idle)
}
