package ort

import (
	"sync/atomic"
	"time"
)

// interval is how often the watcher looks.
const interval = 10 * time.Millisecond

// parkAfter is how many looks in a row find nothing before the watcher sleeps
// until the next run.
const parkAfter = 20

// watcher ends runs whose context has ended. It looks at all of them every
// interval, because the way of the context package costs each run 0.2 to 0.4 us
// and three to six allocations (context.AfterFunc), a tenth to a fifth of a
// small run, while this costs it 20 ns. A run is stopped at most one interval
// late, which is less than many a single step of a model takes.
type watcher struct {
	awake atomic.Bool
	wake  chan struct{} // of capacity 1
	quit  chan struct{}
	ended chan struct{}
}

// start begins to watch e's sessions until stop.
func (w *watcher) start(e *Engine) {
	w.wake = make(chan struct{}, 1)
	w.quit = make(chan struct{})
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		for w.sleep() && w.look(e) {
		}
	}()
}

// stop ends the watcher's goroutine. No run may be going on.
func (w *watcher) stop() {
	close(w.quit)
	<-w.ended
}

// notice is called by a run after it made its context known.
func (w *watcher) notice() {
	if !w.awake.Load() && w.awake.CompareAndSwap(false, true) {
		w.wake <- struct{}{}
	}
}

// sleep waits for a run; false: quit.
func (w *watcher) sleep() bool {
	select {
	case <-w.wake:
		return true
	case <-w.quit:
		return false
	}
}

// look ends what is to be ended until nothing runs for a while; false: quit.
func (w *watcher) look(e *Engine) bool {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for idle := 0; ; {
		select {
		case <-ticker.C:
		case <-w.quit:
			return false
		}
		if idle++; e.stopEnded() {
			idle = 0
		}
		if idle < parkAfter {
			continue
		}
		// A run that starts now either sees that nobody is awake, or was
		// there to be seen.
		w.awake.Store(false)
		if !e.stopEnded() || !w.awake.CompareAndSwap(false, true) {
			return true
		}
		idle = 0
	}
}

// stopEnded ends the runs whose context has ended and reports whether any run
// is going on. Lock order: the engine's mu, then a session's; who holds a
// session's mu must not ask for the engine's.
func (e *Engine) stopEnded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	running := false
	for s := range e.sessions {
		running = s.stopEnded() || running
	}
	return running
}
