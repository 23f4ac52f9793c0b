package main

import (
	"runtime/debug"
	"testing"
)

// TestPace: the collector is set, and the operator's variables come first.
func TestPace(t *testing.T) {
	limit := debug.SetMemoryLimit(-1)
	percent := debug.SetGCPercent(100)
	defer func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}()
	now := func() (int, int64) {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p, debug.SetMemoryLimit(-1)
	}
	cfg := &Config{BodyMemory: 64 << 20}
	t.Setenv("GOGC", "50")
	t.Setenv("GOMEMLIMIT", "1GiB")
	pace(cfg)
	if p, l := now(); p != 100 || l != limit {
		t.Errorf("with variables: %d %%, %d bytes", p, l)
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	pace(cfg)
	if p, l := now(); p != gcPercent || l != 64<<20+goHeap {
		t.Errorf("%d %%, %d bytes", p, l)
	}
}
