package main

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestConnectionsOfOneAddress: an address has no more connections than it may,
// though there are places; others come in, and so does it once one of its own
// is idle. A trusted proxy has no such bound.
func TestConnectionsOfOneAddress(t *testing.T) {
	const here, there, proxy = "127.0.0.1", "127.0.0.2", "127.0.0.3" // all are this machine
	p := start(t, t.TempDir(), "MODELGATE_MAX_CONNECTIONS=7", "MODELGATE_MAX_CONNECTIONS_PER_ADDRESS=2", "MODELGATE_TRUSTED_PROXIES="+proxy)
	address := strings.TrimPrefix(p.url, "http://")
	p.metric("modelgate_connections{port=\"listen\"}") // signs in while it may
	time.Sleep(2 * restGrace)                          // from then on the connection counts as idle
	var busy []asking
	for range 2 {
		c := dialFrom(t, address, here)
		c.keepBusy()
		busy = append(busy, c)
	}
	if err := dialFrom(t, address, here).get(60 * time.Second); err == nil {
		t.Error("an address has more connections than it may")
	}
	idle := dialFrom(t, address, there)
	if err := idle.get(60 * time.Second); err != nil {
		t.Errorf("another address: %v", err)
	}
	dialFrom(t, address, there).keepBusy()
	time.Sleep(2 * restGrace)
	if err := dialFrom(t, address, there).get(60 * time.Second); err != nil {
		t.Errorf("an address with an idle connection: %v", err)
	}
	if err := idle.get(60 * time.Second); err == nil {
		t.Error("the idle connection of that address is still open")
	}
	for range 3 {
		dialFrom(t, address, proxy).keepBusy()
	}
	for _, c := range busy {
		c.Close()
	}
	within(t, time.Minute, "an address has places again", func() bool { return dialFrom(t, address, here).get(60*time.Second) == nil })
	for _, reason := range []string{"address", "idle"} {
		if p.metric(`modelgate_connections_cut_total{port="listen",reason="`+reason+`"}`) < 1 {
			t.Errorf("no connection was counted as cut for the reason %s", reason)
		}
	}
}

// TestConnectionsByDefault: unless somebody says, a port takes as many as files
// may be open, within reason, and a client on this machine may have them all.
func TestConnectionsByDefault(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	limit := func(n uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: files.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(files.Cur)
	for _, c := range []struct {
		files     uint64
		grpc      string
		most, one int
	}{
		{4096, "", 3072, 1536},
		{4096, "127.0.0.1:0", 1536, 768},
		{256, "", 128, 64},
		{files.Cur, "", int(min(12000, files.Cur-1024)), int(min(12000, files.Cur-1024)+1) / 2},
	} {
		limit(c.files)
		cfg := Config{GRPCListen: c.grpc}
		if most, one := cfg.connections(), cfg.connectionsOfOne(); most != c.most || one != c.one {
			t.Errorf("%d files, gRPC %q: %d connections, %d of one address; want %d and %d", c.files, c.grpc, most, one, c.most, c.one)
		}
	}
	limit(files.Cur)
	p := start(t, t.TempDir(), "MODELGATE_MAX_CONNECTIONS=8")
	for range 6 {
		dialFrom(t, strings.TrimPrefix(p.url, "http://"), "127.0.0.1").keepBusy()
	}
	if err := dialFrom(t, strings.TrimPrefix(p.url, "http://"), "127.0.0.1").get(60 * time.Second); err != nil {
		t.Errorf("a client on this machine is held to half of the places: %v", err)
	}
}

// TestFullAddressIsLookedAtSeldom: who floods a server from one address does not
// have all his connections looked at for each that is refused; one that is idle
// is found all the same, by the next look.
func TestFullAddressIsLookedAtSeldom(t *testing.T) {
	b := newConnBounds("listen", 10, 2, func(netip.Addr) bool { return false })
	conn := func() *boundedConn {
		return b.conn(from{address: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:1"))})
	}
	for range 2 {
		if _, err := b.admit(conn()); err != nil {
			t.Fatal(err)
		}
	}
	if victim, err := b.admit(conn()); victim != nil || !errors.Is(err, errAddressFull) {
		t.Fatalf("%v, %v", victim, err)
	}
	looked := elapsed()
	for c := range b.conns {
		c.idleFrom.Store(0)
	}
	if victim, _ := b.admit(conn()); victim != nil && elapsed()-looked < int64(restGrace)/2 {
		t.Error("all of them are looked at again at once")
	}
	within(t, time.Minute, "an idle connection is found", func() bool {
		victim, err := b.admit(conn())
		return victim != nil && errors.Is(err, errAddressFull)
	})
}
