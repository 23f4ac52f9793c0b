package inference

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A watcher sleeps when nothing runs, and wakes for the next run.
func TestWatcherParks(t *testing.T) {
	var w Watcher
	var running atomic.Bool
	var looks atomic.Int64
	w.Start(func() bool { looks.Add(1); return running.Load() })
	defer w.Stop()
	until := func(what string, is func() bool) {
		t.Helper()
		for limit := time.Now().Add(10 * time.Second); !is(); runtime.Gosched() {
			if time.Now().After(limit) {
				t.Fatal(what)
			}
		}
	}
	for range 2 {
		running.Store(true)
		before := looks.Load()
		w.Notice()
		if !w.awake.Load() {
			t.Error("nobody watches a run")
		}
		until("nobody looks at a run for as long as it goes on", func() bool { return looks.Load() > before+parkAfter+2 })
		running.Store(false)
		until("the watcher does not park", func() bool { return !w.awake.Load() })
	}
}
