package ort

/*
#cgo noescape mg_run_do
#cgo nocallback mg_run_do
#cgo noescape mg_run_done
#cgo nocallback mg_run_done
#include <stdlib.h>
#include "ortshim.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"modelgate/inference"
	"modelgate/models"
)

// session is one loaded model.
type session struct {
	engine *Engine
	handle *C.OrtSession
	graph  models.Graph
	names  **C.char // of inputs, then outputs; C memory
	named  int      // how many
	size   int64    // estimate of resident bytes

	mu     sync.Mutex
	runs   []*run // all there are; guarded by mu
	idle   []*run // those of runs that nobody uses; guarded by mu
	closed bool   // guarded by mu
}

// run is a run of the runtime and who waits for it. It is made once and used
// for many.
type run struct {
	c    *C.mg_run
	in   []C.mg_input  // C memory, one per input of the graph
	out  []C.mg_output // C memory, one per output of the graph
	want []*C.char     // C memory, as long as out
	// ctx of the run that goes on; nil while the run is idle. Guarded by the
	// session's mu.
	ctx   context.Context
	ended bool // it was told to end; guarded by the session's mu
}

// newSession loads model and reads what it takes and gives.
func newSession(e *Engine, model []byte, options *C.OrtSessionOptions) (*session, error) {
	before := int64(C.mg_arena())
	handle, err := create(model, options)
	if err != nil {
		return nil, inference.ErrLoad.Because(ofMemory(err))
	}
	s := &session{engine: e, handle: handle, size: footprint(int64(len(model)), int64(C.mg_arena())-before)}
	if err := s.describe(); err != nil {
		s.free()
		return nil, err
	}
	return s, nil
}

// footprint estimates the resident bytes of a session from the size of its
// file and what the arena grew by meanwhile: the weights, which may be larger
// than in the file (float16 is computed as float32), and 70 to 200 KB for what
// surrounds them, as measured on networks of 0.3 KB to 12 MB. Others may use
// the arena at the same time, hence the bound. What runs need for a while is
// shared by all sessions and not counted.
func footprint(file, arena int64) int64 {
	return max(file, min(arena, 4*file+64<<20)) + 192<<10
}

// Graph is what the runtime says of inputs and outputs, in its order.
func (s *session) Graph() models.Graph { return s.graph }

// Room is the engine's memory.
func (s *session) Room() *inference.Memory { return s.engine.cfg.Memory }

// Lost is nil: a session in this process ends with it.
func (s *session) Lost() <-chan struct{} { return nil }

// Quick is false: a run takes the thread of its caller.
func (s *session) Quick() bool { return false }

// Memory estimates resident bytes, weights included.
func (s *session) Memory() int64 { return s.size }

// Close frees the session. While runs go on, which the contract forbids, it
// fails: no further run starts, and the last one frees the session.
func (s *session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	running := len(s.runs) - len(s.idle)
	s.mu.Unlock()
	if running > 0 {
		return fmt.Errorf("ort: session closed under %d runs", running)
	}
	s.retire()
	return nil
}

// retire forgets and frees the session, of which nobody runs any more.
func (s *session) retire() {
	s.engine.remove(s)
	s.free()
}

// free gives the C memory back.
func (s *session) free() {
	for _, r := range s.runs {
		C.mg_run_free(r.c)
	}
	s.runs, s.idle = nil, nil
	for _, name := range s.allNames() {
		C.free(unsafe.Pointer(name))
	}
	C.free(unsafe.Pointer(s.names))
	s.names, s.named = nil, 0
	C.mg_session_free(s.handle)
	s.handle = nil
}

// allNames are the graph's names as C strings: inputs, then outputs.
func (s *session) allNames() []*C.char {
	return unsafe.Slice(s.names, s.named)
}

// Run: see inference.Session. A run ends between two steps (nodes) of the
// model after ctx has; a single step can't be ended.
func (s *session) Run(ctx context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := inference.CheckRun(&s.graph, in, want); err != nil {
		return nil, inference.ErrRun.Because(err)
	}
	if len(want) == 0 {
		return nil, nil
	}
	r, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer s.release(r)
	s.engine.watch.Notice()
	return s.do(ctx, r, in, want)
}

// do runs. What the inputs lie in is kept until the runtime is done with it.
func (s *session) do(ctx context.Context, r *run, in []inference.Tensor, want []int) ([]inference.Value, error) {
	var held buffers
	defer func() { held.release() }()
	for i := range in {
		if err := s.fill(&held, &r.in[i], &in[i]); err != nil {
			return nil, err
		}
	}
	names := s.allNames()
	for i, output := range want {
		r.want[i] = names[len(s.graph.Inputs)+output]
	}
	r.c.outputs = C.size_t(len(want))
	status := C.mg_run_do(s.handle, r.c, s.names)
	defer C.mg_run_done(r.c)
	if status != nil {
		err := statusError(status)
		if ended := ctx.Err(); ended != nil {
			return nil, ended
		}
		return nil, inference.ErrRun.Because(ofMemory(err))
	}
	return s.values(r.out[:len(want)], want)
}

// ofMemory reads in the runtime's words whether it lacked memory, and puts
// ErrNoMemory in between: it has no code for that.
func ofMemory(err error) error {
	text := err.Error()
	for _, said := range []string{"Failed to allocate memory", "bad allocation", "std::bad_alloc", "Available memory of"} {
		if strings.Contains(text, said) {
			return inference.ErrNoMemory.Because(err)
		}
	}
	return err
}

// acquire takes an idle run, or makes one, for ctx.
func (s *session) acquire(ctx context.Context) (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, inference.ErrUnavailable.Because(errors.New("the session is closed"))
	}
	if len(s.idle) == 0 {
		r, err := s.newRun()
		if err != nil {
			return nil, inference.ErrUnavailable.Because(err)
		}
		s.runs = append(s.runs, r)
		s.idle = append(s.idle, r)
	}
	last := len(s.idle) - 1
	r := s.idle[last]
	s.idle = s.idle[:last]
	r.ctx = ctx
	return r, nil
}

// release makes r idle, and frees the session when it was closed meanwhile.
func (s *session) release(r *run) {
	s.mu.Lock()
	r.ctx = nil
	if r.ended {
		r.ended = statusError(C.mg_run_resume(r.c)) != nil
	}
	s.idle = append(s.idle, r)
	last := s.closed && len(s.idle) == len(s.runs)
	s.mu.Unlock()
	if last {
		s.retire()
	}
}

// stopEnded ends the runs whose context has ended and reports whether any run
// is going on.
func (s *session) stopEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) == len(s.runs) {
		return false
	}
	for _, r := range s.runs {
		if r.ctx != nil && !r.ended && r.ctx.Err() != nil {
			r.ended = statusError(C.mg_run_terminate(r.c)) == nil
		}
	}
	return true
}

func (s *session) newRun() (*run, error) {
	ranks := make([]C.size_t, len(s.graph.Inputs)+1)
	for i := range s.graph.Inputs {
		ranks[i] = C.size_t(len(s.graph.Inputs[i].Shape))
	}
	r := &run{}
	outputs := len(s.graph.Outputs)
	if err := statusError(C.mg_run_new(C.size_t(len(s.graph.Inputs)), &ranks[0], C.size_t(outputs), &r.c)); err != nil {
		return nil, err
	}
	r.in = unsafe.Slice(r.c.in, len(s.graph.Inputs))
	r.out = unsafe.Slice(r.c.out, outputs)
	r.want = unsafe.Slice(r.c.out_names, outputs)
	return r, nil
}
