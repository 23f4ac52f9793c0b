package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// pair is both ends of a TCP connection: ours, and a client's.
func pair(t *testing.T) (*conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err := Listener(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server.(*conn), client
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// TestReadDeadlines holds a read to the deadline that was asked for last.
func TestReadDeadlines(t *testing.T) {
	server, client := pair(t)
	const soon, late = 30 * time.Millisecond, time.Hour
	one := make([]byte, 1)
	read := func() error { _, err := server.Read(one); return err }
	timed := func(what string, least time.Duration) {
		t.Helper()
		start := time.Now()
		if err := read(); !isTimeout(err) {
			t.Fatalf("%s: %v", what, err)
		}
		if d := time.Since(start); d < least || d > 10*time.Second {
			t.Errorf("%s after %v", what, d)
		}
	}
	heard := func(what string) {
		t.Helper()
		if _, err := client.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := read(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_ = server.SetReadDeadline(time.Now().Add(soon))
	timed("a first deadline", soon/2)
	timed("a deadline that has passed", 0)
	_ = server.SetReadDeadline(time.Time{})
	heard("no deadline after one that has passed")
	_ = server.SetReadDeadline(time.Now().Add(late))
	heard("a late deadline")
	_ = server.SetReadDeadline(time.Now().Add(soon))
	timed("a nearer deadline", soon/2)
	_ = server.SetReadDeadline(time.Now().Add(soon))
	heard("before the deadline")
	_ = server.SetReadDeadline(time.Now().Add(4 * soon)) // the nearer one is still set
	timed("a deadline moved away", 3*soon)

	// As net/http ends a read that waits for the client to hang up.
	_ = server.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() { done <- read() }()
	_ = server.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !isTimeout(err) {
		t.Fatalf("an ended read gave %v", err)
	}
	_ = server.SetReadDeadline(time.Time{})
	heard("after an ended read")

	// Moved away under a reader that had begun to wait.
	_ = server.SetReadDeadline(time.Now().Add(soon))
	go func() { done <- read() }()
	_ = server.SetReadDeadline(time.Now().Add(late))
	select {
	case err := <-done:
		t.Fatalf("the reader woke with %v", err)
	case <-time.After(3 * soon): // the earlier deadline has passed
	}
	_, _ = client.Write([]byte{1})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestWriteDeadlines: who does not read is cut, and an earlier deadline that
// passes while the right one is due loses nothing.
func TestWriteDeadlines(t *testing.T) {
	server, client := pair(t)
	const soon = 50 * time.Millisecond
	_ = server.SetWriteDeadline(time.Now().Add(soon))
	if _, err := server.Write([]byte("x")); err != nil { // sets it
		t.Fatal(err)
	}
	_ = server.SetWriteDeadline(time.Now().Add(time.Hour))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than sockets hold
	got := make(chan []byte)
	go func() {
		<-time.After(3 * soon) // the earlier deadline passes while the writer waits
		b, _ := io.ReadAll(client)
		got <- b
	}()
	n, err := server.Write(sent)
	if err != nil || n != len(sent) {
		t.Fatalf("%d of %d bytes, %v", n, len(sent), err)
	}
	_ = server.CloseWrite()
	if b := <-got; len(b) != len(sent)+1 || !bytes.Equal(b[1:], sent) {
		t.Errorf("%d bytes came, not the %d that were sent", len(b), len(sent)+1)
	}

	stalled, _ := pair(t)
	_ = stalled.SetWriteDeadline(time.Now().Add(soon))
	if _, err := stalled.Write(sent); !isTimeout(err) {
		t.Errorf("a client that does not read was given up with %v", err)
	}
}

// exchange sends text over a connection of its own and returns n answers to it.
func (w *world) exchange(address, text string, n int) []*http.Response {
	w.t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	var list []*http.Response
	for range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		if resp.StatusCode == http.StatusContinue {
			if resp, err = http.ReadResponse(r, nil); err != nil {
				w.t.Fatal(err)
			}
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		list = append(list, resp)
	}
	return list
}

// TestHeadersBothWays: an answer has the same head whether the connection
// writes the headers or net/http does.
func TestHeadersBothWays(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	plain := httptest.NewServer(w.api.Handler())
	t.Cleanup(plain.Close)
	own := w.http.Listener.Addr().String()
	post := func(path, body, more string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
			path, w.admin, more, len(body), body)
	}
	large := `{"model":"iris","inputs":[` + strings.Repeat("[5.1,3.5,1.4,0.2],", 500) + `[5.1,3.5,1.4,0.2]]}`
	for name, request := range map[string]struct {
		text    string
		answers int
	}{
		"predict":       {post("/predict", irisRow, ""), 1},
		"large answer":  {post("/predict", large, ""), 1},
		"100-continue":  {post("/predict", irisRow, "Expect: 100-continue\r\n"), 1},
		"close":         {post("/predict", irisRow, "Connection: close\r\n"), 1},
		"pipelined":     {strings.Repeat(post("/predict", irisRow, ""), 3), 3},
		"mixed":         {post("/predict", irisRow, "") + post("/predict", "{", "") + post("/predict", irisRow, ""), 3},
		"infer":         {post("/v2/models/iris/infer", `{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}`, "Accept-Encoding: gzip\r\n"), 1},
		"no such route": {post("/nothing", "{}", ""), 1},
		"wrong method":  {"DELETE /predict HTTP/1.1\r\nHost: x\r\n\r\n", 1},
		"no credential": {"GET /models HTTP/1.1\r\nHost: x\r\n\r\n", 1},
		"page":          {"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n", 1},
		"no content":    {"POST /revoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\ntoken=x", 1},
		"HTTP/1.0":      {"GET /healthz HTTP/1.0\r\n\r\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			ours := w.exchange(own, request.text, request.answers)
			theirs := w.exchange(plain.Listener.Addr().String(), request.text, request.answers)
			for i := range ours {
				a, b := ours[i], theirs[i]
				if a.StatusCode != b.StatusCode {
					t.Errorf("status %d and %d", a.StatusCode, b.StatusCode)
				}
				for _, h := range []http.Header{a.Header, b.Header} {
					if len(h.Get("X-Request-Id")) != 32 {
						t.Errorf("X-Request-Id is %q", h["X-Request-Id"])
					}
					for _, changing := range []string{"X-Request-Id", "Date", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"} {
						if len(h[changing]) > 1 {
							t.Errorf("%s is given %d times", changing, len(h[changing]))
						}
						h.Del(changing)
					}
				}
				if got, want := fmt.Sprint(a.Header), fmt.Sprint(b.Header); got != want {
					t.Errorf("the heads differ:\n%s\n%s", got, want)
				}
				if a.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("the head is %v", a.Header)
				}
			}
		})
	}
}

// TestNoHeaderInjection: a value with a line end makes no second header.
func TestNoHeaderInjection(t *testing.T) {
	w := newWorld(t, noLimits)
	for _, rt := range w.api.routes {
		if rt.Path == "/healthz" {
			rt.handle = func(c *call) error {
				c.setHeader("X-Odd", "a\r\nX-Injected: b")
				c.write(200, typeJSON, []byte(`{"status":"ok"}`))
				return nil
			}
		}
	}
	got := w.get("/healthz", "")
	if got.Header.Get("X-Injected") != "" || !strings.HasPrefix(got.Header.Get("X-Odd"), "a") || got.Header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("the head is %v", got.Header)
	}
}
