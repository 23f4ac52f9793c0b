package ort

/*
#include "ortshim.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"modelgate/inference"
)

// Config of an Engine.
type Config struct {
	// Memory gives the outputs their room. Needed.
	Memory *inference.Memory
	// MaxMemory bounds the bytes that all models together take for weights and
	// while they compute; a load or run that needs more fails. 0: no bound. It
	// does not count what a file takes while it is parsed.
	MaxMemory int64
	// StrayLoads is how many loads that outlasted their time may still go on;
	// at that number Load fails with ErrUnavailable. 0: 2.
	StrayLoads int
	// Loading is called first on the goroutine of each load, which ends with
	// the load; nil: nothing is.
	Loading func()
}

// Engine runs models in this process. Safe for concurrent use.
type Engine struct {
	cfg     Config
	version string

	mu       sync.Mutex
	closed   bool                  // guarded by mu
	strays   map[*load]struct{}    // loads that nobody waits for; guarded by mu
	sessions map[*session]struct{} // open ones; guarded by mu

	watch inference.Watcher
}

// Open loads the library at path (see FindLibrary) and sets it up. Telemetry
// is off before the library sees the light of day. Several engines in one
// process must agree on path and MaxMemory. The error tells the operator what
// to do.
func Open(path string, cfg Config) (*Engine, error) {
	if cfg.Memory == nil {
		return nil, errors.New("ort: Config.Memory is needed")
	}
	if cfg.StrayLoads == 0 {
		cfg.StrayLoads = 2
	}
	version, err := openLibrary(path, max(cfg.MaxMemory, 0))
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, version: version, strays: map[*load]struct{}{}, sessions: map[*session]struct{}{}}
	e.watch.Start(e.stopEnded)
	return e, nil
}

// Version of the runtime, such as "1.30.0".
func (e *Engine) Version() string { return e.version }

// Close frees the engine. It fails, and frees nothing, while sessions are
// open. What stray loads need is freed when they end.
func (e *Engine) Close() error {
	e.mu.Lock()
	if open := len(e.sessions); e.closed || open > 0 {
		e.mu.Unlock()
		if open > 0 {
			return fmt.Errorf("ort: %d sessions are still open", open)
		}
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.watch.Stop()
	return closeLibrary()
}

// Load builds a session, in a goroutine of its own, since nothing can end it:
// when ctx or the time limit ends first, the runtime is asked to give up, which
// it does between two steps of its optimisation, and what it may still build
// is thrown away. The bytes of model must not change even after a Load that
// ran out of time.
//
// Errors: ErrLoad, ErrLoadTimeout (also when ctx ended; Cause is its error),
// and ErrUnavailable when too many loads stray or the engine is closed.
func (e *Engine) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, inference.ErrLoadTimeout.Because(err)
	}
	if len(model) == 0 {
		return nil, inference.ErrLoad.Because(errors.New("the file is empty"))
	}
	l, err := e.beginLoad(model)
	if err != nil {
		return nil, err
	}
	if opts.LoadTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opts.LoadTimeout)
		defer cancel()
	}
	go l.run()
	select {
	case <-l.done:
		return l.result()
	case <-ctx.Done():
		l.abandon()
		return nil, inference.ErrLoadTimeout.Because(ctx.Err())
	}
}

// load is one load that goes on. It owns its options and, until it is taken,
// the session it builds.
type load struct {
	engine  *Engine
	model   []byte
	options *C.OrtSessionOptions
	done    chan struct{}

	mu        sync.Mutex
	finished  bool     // guarded by mu
	abandoned bool     // guarded by mu
	session   *session // guarded by mu
	err       error    // guarded by mu
}

func (e *Engine) beginLoad(model []byte) (*load, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil, inference.ErrUnavailable.Because(errors.New("the engine is closed"))
	case len(e.strays) >= e.cfg.StrayLoads:
		return nil, inference.ErrUnavailable.Because(fmt.Errorf("%d loads that ran out of time are still going on", len(e.strays)))
	}
	l := &load{engine: e, model: model, done: make(chan struct{})}
	if err := statusError(C.mg_options_new(&l.options)); err != nil {
		return nil, inference.ErrLoad.Because(err)
	}
	keepLibrary()
	return l, nil
}

// run loads and hands over, or cleans up when nobody waits any more.
func (l *load) run() {
	if l.engine.cfg.Loading != nil {
		l.engine.cfg.Loading()
	}
	s, err := newSession(l.engine, l.model, l.options)
	l.mu.Lock()
	C.mg_options_free(l.options)
	l.finished = true
	if err == nil && !l.abandoned {
		err = l.engine.add(s)
	}
	if s != nil && (err != nil || l.abandoned) {
		s.free()
		s = nil
	}
	l.session, l.err = s, err
	l.mu.Unlock()
	_ = closeLibrary() // frees it only if the engine was closed meanwhile
	l.engine.forget(l)
	close(l.done)
}

// abandon leaves the load to itself; a session that it had just built is
// closed.
func (l *load) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.finished {
		if l.session != nil {
			_ = l.session.Close() // no run ever saw it
		}
		return
	}
	l.abandoned = true
	l.engine.stray(l)
	_ = statusError(C.mg_options_cancel(l.options)) // if it can't be told, it goes on
}

func (l *load) result() (inference.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	return l.session, nil
}

// stray counts l among the loads that nobody waits for, forget no longer.
func (e *Engine) stray(l *load) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.strays[l] = struct{}{}
}

func (e *Engine) forget(l *load) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.strays, l)
}

// add makes s known to the engine.
func (e *Engine) add(s *session) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return inference.ErrUnavailable.Because(errors.New("the engine is closed"))
	}
	e.sessions[s] = struct{}{}
	return nil
}

func (e *Engine) remove(s *session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sessions, s)
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

// create builds the runtime's session. The bytes are Go memory, which C may
// read for the length of the call.
func create(model []byte, options *C.OrtSessionOptions) (*C.OrtSession, error) {
	var s *C.OrtSession
	err := statusError(C.mg_session_new(unsafe.Pointer(unsafe.SliceData(model)), C.size_t(len(model)), options, &s))
	runtime.KeepAlive(model)
	return s, err
}
