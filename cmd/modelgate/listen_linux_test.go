package main

import (
	"strings"
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
