package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"modelgate/api/oipgrpc/pb"
)

// What a hostile client can do with HTTP/2 itself, over TLS and to the port of
// gRPC: each attack ends with its own connection, in bounded memory, and others
// are answered meanwhile.

// hostile is one connection of HTTP/2, frame by frame.
type hostile struct {
	t     *testing.T
	conn  net.Conn
	frame *http2.Framer
	head  bytes.Buffer // of enc
	enc   *hpack.Encoder
	path  string // of a route that takes a body, without a credential
}

// arena is a server under attack.
type arena struct {
	t       *testing.T
	dial    func() net.Conn
	healthy func() // another client is answered
	path    string
	streams int
	closed  atomic.Int64 // connections that the server has closed
}

func (a *arena) attack() *hostile {
	a.t.Helper()
	h := &hostile{t: a.t, conn: a.dial(), path: a.path}
	a.t.Cleanup(func() { h.conn.Close() })
	_ = h.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(h.conn, http2.ClientPreface); err != nil {
		a.t.Fatal(err)
	}
	h.frame = http2.NewFramer(h.conn, h.conn)
	h.frame.AllowIllegalWrites = true
	h.frame.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.enc = hpack.NewEncoder(&h.head)
	if err := h.frame.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		a.t.Fatal(err)
	}
	// Acknowledged here, since an attack writes on while another goroutine reads.
	if err := h.frames(func(f http2.Frame) bool { s, ok := f.(*http2.SettingsFrame); return ok && !s.IsAck() }); err != nil {
		a.t.Fatal(err)
	}
	if err := h.frame.WriteSettingsAck(); err != nil {
		a.t.Fatal(err)
	}
	return h
}

// request is the block of a request's head.
func (h *hostile) request(method, path string, more ...string) []byte {
	h.head.Reset()
	for i := 0; i < len(more)+8; i += 2 {
		f := append([]string{":method", method, ":scheme", "https", ":authority", "x", ":path", path}, more...)
		if err := h.enc.WriteField(hpack.HeaderField{Name: f[i], Value: f[i+1]}); err != nil {
			h.t.Fatal(err)
		}
	}
	return bytes.Clone(h.head.Bytes())
}

func (h *hostile) open(stream uint32, block []byte, end bool) error {
	return h.frame.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block, EndHeaders: true, EndStream: end})
}

// frames reads what the server says until the connection ends or look is
// satisfied.
func (h *hostile) frames(look func(http2.Frame) (enough bool)) error {
	for {
		f, err := h.frame.ReadFrame()
		if err != nil {
			return err
		}
		if look(f) {
			return nil
		}
	}
}

// discard reads in the background, as a client that keeps the connection alive.
func (h *hostile) discard() { go func() { _ = h.frames(func(http2.Frame) bool { return false }) }() }

func webArena(t *testing.T, change func(*http.Server)) *arena {
	w := newWorld(t, noLimits, withGrace)
	server := httptest.NewUnstartedServer(nil)
	server.Config = w.api.HTTPServer()
	a := &arena{t: t, path: "/login", streams: webStreams}
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			a.closed.Add(1)
		}
	}
	if change != nil {
		change(server.Config)
	}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	a.dial = func() net.Conn {
		t.Helper()
		return tls.Client(dial(t, server.Listener.Addr().String()), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	a.healthy = func() {
		t.Helper()
		other := server.Client()
		other.Timeout = 30 * time.Second
		resp, err := other.Get(server.URL + "/healthz")
		if err != nil {
			t.Fatalf("others are not answered: %v", err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Fatalf("others are answered %s over %s", resp.Status, resp.Proto)
		}
	}
	return a
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rpcArena(t *testing.T) *arena {
	w := newRPCWorld(t, false, noLimits, withGrace)
	w.server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	a := &arena{t: t, path: method("ServerLive"), streams: rpcStreams}
	a.dial = func() net.Conn { return dial(t, w.target) }
	a.healthy = func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(as(""), 30*time.Second)
		defer cancel()
		if err := w.conn.Invoke(ctx, method("ServerLive"), new(pb.ServerLiveRequest), new(pb.ServerLiveResponse)); err != nil {
			t.Fatalf("others are not answered: %v", err)
		}
	}
	return a
}

// bounded runs an attack and fails when the process took much memory or many
// goroutines meanwhile. The client's own are among them.
func (a *arena) bounded(attack func()) {
	a.t.Helper()
	runtime.GC()
	before, goroutines := heap(), runtime.NumGoroutine()
	stop, watched := make(chan struct{}), make(chan [2]uint64)
	go func() {
		var peak, most uint64
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak, most = max(peak, heap()), max(most, uint64(runtime.NumGoroutine()))
			case <-stop:
				watched <- [2]uint64{peak, most}
				return
			}
		}
	}()
	attack()
	a.healthy()
	close(stop)
	seen := <-watched
	if grown := int64(seen[0]) - int64(before); grown > 96<<20 {
		a.t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if most := int(seen[1]); most > goroutines+10*a.streams+100 {
		a.t.Errorf("%d goroutines, %d before", most, goroutines)
	}
}

// heap is what objects take, garbage included.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func onBoth(t *testing.T, attack func(t *testing.T, a *arena)) {
	t.Run("HTTP", func(t *testing.T) { attack(t, webArena(t, nil)) })
	t.Run("gRPC", func(t *testing.T) { attack(t, rpcArena(t)) })
}

// TestHTTP2RapidReset opens requests and takes them back at once
// (CVE-2023-44487).
func TestHTTP2RapidReset(t *testing.T) {
	onBoth(t, func(t *testing.T, a *arena) {
		a.bounded(func() {
			h := a.attack()
			h.discard()
			sent := 0
			for ; sent < 20_000; sent++ {
				stream := uint32(2*sent + 1)
				if h.open(stream, h.request("POST", a.path, "content-type", "application/json"), false) != nil || h.frame.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
					break // the server had enough
				}
				if sent == 10_000 {
					a.healthy()
				}
			}
			t.Logf("%d requests were taken back", sent)
		})
	})
}

// TestHTTP2Continuation sends a head without end (CVE-2023-45288).
func TestHTTP2Continuation(t *testing.T) {
	onBoth(t, func(t *testing.T, a *arena) {
		a.bounded(func() {
			h := a.attack()
			h.discard()
			block := h.request("POST", a.path, "x-filler", strings.Repeat("a", 8<<10))
			err := h.frame.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
			sent := 0
			for ; err == nil && sent < 64<<20; sent += len(block) {
				err = h.frame.WriteContinuation(1, false, block)
			}
			if err == nil {
				t.Errorf("%d MiB of a head were taken", sent>>20)
			}
		})
	})
}

// TestHTTP2Floods sends frames that each want an answer, and reads none
// (CVE-2019-9512, CVE-2019-9514, CVE-2019-9515).
func TestHTTP2Floods(t *testing.T) {
	for _, flood := range []struct {
		name  string
		frame func(h *hostile, i int) error
		cut   bool // after too many answers wait
	}{
		{"ping", func(h *hostile, i int) error { return h.frame.WritePing(false, [8]byte{byte(i)}) }, true},
		{"reset", func(h *hostile, i int) error { return h.open(uint32(2*i+1), []byte{0x82}, false) }, true}, // no request: it lacks a path
		{"settings", func(h *hostile, _ int) error { return h.frame.WriteSettings() }, false},                // one answer for all that came
		{"window", func(h *hostile, _ int) error { return h.frame.WriteWindowUpdate(0, 1) }, false},          // no answer
		{"priority", func(h *hostile, i int) error { return h.frame.WritePriority(uint32(2*i+1), http2.PriorityParam{}) }, false},
	} {
		t.Run(flood.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, a *arena) {
				a.bounded(func() {
					h := a.attack()
					var err error
					sent := 0
					for ; err == nil && (flood.cut || sent < 100_000); sent++ {
						err = flood.frame(h, sent)
					}
					t.Logf("%d frames: %v", sent, err)
					if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
						t.Errorf("the connection is kept")
					}
				})
			})
		})
	}
}

// TestHTTP2Streams opens more streams at once than there may be, and leaves all
// of them waiting for their bodies.
func TestHTTP2Streams(t *testing.T) {
	onBoth(t, func(t *testing.T, a *arena) {
		const tried = 1000
		a.bounded(func() {
			h := a.attack()
			refused := map[uint32]bool{}
			said := make(chan error, 1)
			go func() {
				said <- h.frames(func(f http2.Frame) bool {
					if r, ok := f.(*http2.RSTStreamFrame); ok && (r.ErrCode == http2.ErrCodeRefusedStream || r.ErrCode == http2.ErrCodeProtocol) {
						refused[r.StreamID] = true
					}
					return len(refused) == tried-a.streams
				})
			}()
			for i := range uint32(tried) {
				if err := h.open(2*i+1, h.request("POST", a.path, "content-type", "application/json"), false); err != nil {
					break // the server had enough
				}
			}
			a.healthy()
			if err := <-said; err != nil && len(refused) == 0 {
				t.Errorf("no stream was refused: %v", err)
			}
		})
	})
}

// TestHTTP2Heads holds heads to the same cap as over HTTP/1, however they are
// packed.
func TestHTTP2Heads(t *testing.T) {
	a := webArena(t, nil)
	status := func(h *hostile, block []byte) (status string) {
		rest := block
		first := true
		for len(rest) > 0 {
			part := rest[:min(len(rest), 16<<10)]
			rest = rest[len(part):]
			var err error
			if first {
				err = h.frame.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part, EndHeaders: len(rest) == 0, EndStream: true})
			} else {
				err = h.frame.WriteContinuation(1, len(rest) == 0, part)
			}
			if first = false; err != nil {
				return "cut"
			}
		}
		err := h.frames(func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				status = f.PseudoValue("status")
			case *http2.RSTStreamFrame:
				status = "reset"
			case *http2.GoAwayFrame:
				status = "cut"
			}
			return status != ""
		})
		if err != nil {
			return "cut"
		}
		return status
	}
	h := a.attack()
	if got := status(h, h.request("GET", "/healthz", "x-filler", strings.Repeat("a", 24<<10))); got != "200" {
		t.Errorf("a head of 24 KiB: %s", got)
	}
	h = a.attack()
	var lines []string
	for range 12 {
		lines = append(lines, "x-filler", strings.Repeat("a", 4<<10))
	}
	if got := status(h, h.request("GET", "/healthz", lines...)); got != "431" {
		t.Errorf("a head of 48 KiB: %s", got)
	}
	h = a.attack()
	if got := status(h, h.request("GET", "/healthz", "x-filler", strings.Repeat("a", 48<<10))); got != "cut" {
		t.Errorf("one line of 48 KiB: %s", got)
	}
	a.bounded(func() { // 4 KB that stand once in the table, and are named 10,000 times
		h := a.attack()
		block := h.request("GET", "/healthz", "x-filler", strings.Repeat("a", 3<<10))
		block = append(block, bytes.Repeat([]byte{0x80 | 62}, 10_000)...)
		if got := status(h, block); got == "200" {
			t.Errorf("a packed head of 30 MB: %s", got)
		}
	})
}

// TestHTTP2SlowClients is row H1 over HTTP/2.
func TestHTTP2SlowClients(t *testing.T) {
	a := webArena(t, nil)
	ended := func(what string, h *hostile, want string) {
		t.Helper()
		got := ""
		err := h.frames(func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				got = f.PseudoValue("status")
			case *http2.RSTStreamFrame:
				got += " reset"
			case *http2.DataFrame:
				return false
			}
			return got == want
		})
		if err != nil {
			t.Errorf("%s: %q, want %q: %v", what, got, want, err)
		}
	}
	// Nothing of the answer is taken: its window is 0.
	h := a.attack()
	if err := h.open(1, h.request("GET", "/openapi.json"), true); err != nil {
		t.Fatal(err)
	}
	ended("a reader who takes nothing", h, "200 reset")

	// A body of frames with nothing in them (CVE-2019-9518).
	h = a.attack()
	if err := h.open(1, h.request("POST", "/login", "content-type", "application/json"), false); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for h.frame.WriteData(1, false, nil) == nil {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	ended("an empty body without end", h, "408")
	a.healthy()
}

// TestHTTP2DeadClients: a client that is gone, or takes no byte more, does not
// keep its connection.
func TestHTTP2DeadClients(t *testing.T) {
	for _, bounds := range []*http.HTTP2Config{newWorld(t).api.HTTPServer().HTTP2, newWorld(t).api.RPCServer().HTTP2} {
		if bounds.SendPingTimeout <= 0 || bounds.PingTimeout <= 0 || bounds.WriteByteTimeout <= 0 {
			t.Errorf("%+v", bounds)
		}
	}
	a := webArena(t, func(s *http.Server) {
		s.HTTP2.SendPingTimeout, s.HTTP2.PingTimeout = 200*time.Millisecond, 200*time.Millisecond
	})
	gone := func(what string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); a.closed.Load() == 0; time.Sleep(5 * time.Millisecond) { // read in no goroutine: nothing tells
			if time.Now().After(end) {
				t.Fatalf("%s: the connection is kept", what)
			}
		}
		a.closed.Store(0)
	}
	a.attack()
	gone("silence")
	h := a.attack() // half a head, and silence
	if err := h.frame.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.request("GET", "/healthz")}); err != nil {
		t.Fatal(err)
	}
	gone("half a head")

	a = webArena(t, nil)
	h = a.attack()
	if err := h.frame.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if err := h.frame.WriteWindowUpdate(0, 1<<30); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(90) { // more than the buffers between hold
		if err := h.open(2*i+1, h.request("GET", "/openapi.json"), true); err != nil {
			break
		}
	}
	gone("a client that reads no byte")
}
