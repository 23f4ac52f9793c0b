package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestBoundedListener: beyond the bound, connections wait until one ends.
func TestBoundedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := newConnBounds("listen", 2)
	l := &boundedListener{Listener: inner, bounds: b, closed: make(chan struct{})}
	accepted := make(chan net.Conn)
	ended := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	client := dial()
	first, second := <-accepted, <-accepted
	dial()
	select {
	case <-accepted:
		t.Fatal("a third one is let in")
	case <-time.After(100 * time.Millisecond): // nothing tells that nothing happens
	}
	if n := reading(t, b.open); n != 2 {
		t.Errorf("%v connections are open", n)
	}
	first.Close()
	first.Close() // gives no second place
	third := <-accepted
	if half, ok := second.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		t.Error("its side can't be ended first")
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if n := reading(t, b.open); n != 2 {
		t.Errorf("%v connections are open", n)
	}
	go l.Close() // while Accept waits for a place
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	second.Close()
	third.Close()
	if n := reading(t, b.open); n != 0 {
		t.Errorf("%v connections are open", n)
	}
}

// TestIdleConnectionsMakeRoom: where all places are taken by connections on which
// nothing is asked, who comes is let in long before their time is over.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_MAX_CONNECTIONS=3")
	address := strings.TrimPrefix(p.url, "http://")
	for i := range 3 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("connection %d: %v", i+1, err)
		}
	}
	client := http.Client{Timeout: 60 * time.Second} // they may stay idle for two minutes
	resp, err := client.Get(p.url + "/healthz")
	if err != nil {
		t.Fatalf("nobody is let in: %v", err)
	}
	resp.Body.Close()
}

// TestMaxConnections holds the running server to its setting.
func TestMaxConnections(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_MAX_CONNECTIONS=3")
	address := strings.TrimPrefix(p.url, "http://")
	ask := func(c net.Conn, patience time.Duration) error {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return err
	}
	var open []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	for i, c := range open[:3] {
		if err := ask(c, 30*time.Second); err != nil {
			t.Fatalf("connection %d: %v", i+1, err)
		}
	}
	if err := ask(open[3], 300*time.Millisecond); err == nil {
		t.Error("a fourth one is answered")
	}
	open[0].Close()
	_ = open[3].SetDeadline(time.Now().Add(30 * time.Second))
	if resp, err := http.ReadResponse(bufio.NewReader(open[3]), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("after one has ended: %v", err)
	}
}
