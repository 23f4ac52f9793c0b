package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestBoundedListener: beyond the bound, connections wait until one ends.
func TestBoundedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := newConnBounds("listen", 2, 2, func(netip.Addr) bool { return false })
	l := newBoundedListener(inner, b)
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
	dial()
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

// TestHostsOfIPv6: addresses of one network of 64 bits are one host's.
func TestHostsOfIPv6(t *testing.T) {
	b := newConnBounds("listen", 10, 2, func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.1") })
	enter := func(address string) error {
		c := b.conn(from{address: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 1))})
		return b.enter(c, nil)
	}
	for _, address := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "10.0.0.2", "::ffff:10.0.0.2",
		"10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"} {
		if err := enter(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"2001:db8::3", "10.0.0.2"} {
		if err := enter(address); !errors.Is(err, errAddressFull) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// from is a connection of which nothing is asked but where it comes from.
type from struct {
	net.Conn
	address net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.address }

// asking is a client's connection to a server.
type asking struct {
	t *testing.T
	net.Conn
}

// dialFrom dials from an address, "" for any.
func dialFrom(t *testing.T, address, from string) asking {
	t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return asking{t, c}
}

// get sends a request and reads its answer.
func (c asking) get(patience time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	return c.answered()
}

// answered reads an answer.
func (c asking) answered() error {
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// keepBusy sends a request of which the body does not come, and returns once the
// server waits for it.
func (c asking) keepBusy() {
	c.t.Helper()
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := io.WriteString(c, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 50\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusContinue {
		c.t.Fatalf("the server does not wait for the body: %v, %v", resp, err)
	}
}

// TestIdleConnectionsMakeRoom: where all places are taken by connections on which
// nothing is asked, who comes is let in long before their time is over; over TLS
// and HTTP/2 too. The one that was idle longest goes, and one that is busy stays.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	cert, key, roots := certificate(t)
	secure := []string{"MODELGATE_TLS_CERT=" + cert, "MODELGATE_TLS_KEY=" + key}
	for _, way := range []struct {
		name  string
		env   []string
		http2 bool
	}{
		{"HTTP/1", nil, false}, {"HTTP/1 over TLS", secure, false}, {"HTTP/2", secure, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := start(t, t.TempDir(), append(way.env, "MODELGATE_MAX_CONNECTIONS=3", "MODELGATE_MAX_CONNECTIONS_PER_ADDRESS=3")...)
			var dials atomic.Int32
			browser := func() *http.Client {
				config := &tls.Config{RootCAs: roots}
				transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: way.http2, ExpectContinueTimeout: time.Minute}
				transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					dials.Add(1)
					return new(net.Dialer).DialContext(ctx, network, address)
				}
				if !way.http2 {
					config.NextProtos = []string{"http/1.1"}
				}
				t.Cleanup(transport.CloseIdleConnections)
				return &http.Client{Transport: transport, Timeout: 60 * time.Second} // idle ones may stay for two minutes
			}
			get := func(c *http.Client) {
				t.Helper()
				resp, err := c.Get(p.url + "/healthz")
				if err != nil {
					t.Fatalf("not let in: %v", err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if want := map[bool]int{false: 1, true: 2}[way.http2]; resp.ProtoMajor != want {
					t.Fatalf("spoken is %s", resp.Proto)
				}
			}
			busy := func(c *http.Client) (end func() error) {
				t.Helper()
				in, out := io.Pipe()
				waits, answered := make(chan struct{}), make(chan error, 1)
				r, err := http.NewRequest("POST", p.url+"/login", in)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Expect", "100-continue")
				r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(waits) }}))
				go func() {
					resp, err := c.Do(r)
					if err == nil {
						resp.Body.Close()
					}
					answered <- err
				}()
				select {
				case <-waits:
				case <-time.After(60 * time.Second):
					t.Fatal("the server does not wait for the body")
				}
				return func() error { out.Close(); return <-answered }
			}
			first, second, third, fourth := browser(), browser(), browser(), browser()
			end := busy(first)
			get(second)
			time.Sleep(5 * restGrace) // the server notes that it is idle some time after the answer
			get(third)
			get(fourth)
			if n := dials.Load(); n != 4 {
				t.Fatalf("%d connections", n)
			}
			get(third) // is still there
			if n := dials.Load(); n != 4 {
				t.Errorf("not the one that was idle longest was closed: %d", n)
			}
			get(second) // comes again
			if n := dials.Load(); n != 5 {
				t.Errorf("nothing was closed: %d", n)
			}
			if err := end(); err != nil {
				t.Errorf("a connection on which something was asked was closed: %v", err)
			}
		})
	}
}

// TestMaxConnections holds the running server to its setting: while something is
// asked on every connection, who comes waits.
func TestMaxConnections(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_MAX_CONNECTIONS=3", "MODELGATE_MAX_CONNECTIONS_PER_ADDRESS=3")
	address := strings.TrimPrefix(p.url, "http://")
	var open []asking
	for range 3 {
		c := dialFrom(t, address, "")
		c.keepBusy()
		open = append(open, c)
	}
	fourth := dialFrom(t, address, "")
	if err := fourth.get(300 * time.Millisecond); err == nil {
		t.Error("a fourth one is answered")
	}
	open[0].Close()
	_ = fourth.SetDeadline(time.Now().Add(30 * time.Second))
	if err := fourth.answered(); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}
