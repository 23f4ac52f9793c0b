// Package inferencetest holds the contract of inference.Engine as a suite that
// every engine passes (RunTests), and Fake, a small engine in Go for tests that
// need no runtime, or one that waits to be told.
//
// It is for tests alone and must not be linked into the program.
package inferencetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"modelgate/inference"
	"modelgate/models"
)

// maxStrays is how many loads that ran out of time a Fake lets go on.
const maxStrays = 2

// Fake is an inference.Engine that reads the ONNX files of testdata: it knows
// models by the operators in them, and computes those of one or two lines
// exactly (programs in compute.go). What it does not know it loads all the
// same, and answers with zeros or empty strings of the declared shapes, whose
// open dimensions are the first input's leading one. Safe for concurrent use.
type Fake struct {
	mem *inference.Memory

	mu       sync.Mutex
	closed   bool                      // guarded by mu
	sessions map[*fakeSession]struct{} // open; guarded by mu
	strays   int                       // guarded by mu
	runs     *Gate                     // guarded by mu
	loads    *Gate                     // guarded by mu
	runErr   error                     // guarded by mu
	loadErr  error                     // guarded by mu
	crashes  int                       // runs that will end their process; guarded by mu
	reason   string                    // why; guarded by mu
	stats    Stats                     // guarded by mu
}

// Stats count what was done with a Fake.
type Stats struct {
	Loads   int // that succeeded
	Open    int // sessions
	Runs    int // that began
	Running int
	Misused int // sessions closed under a run
}

// NewFake returns an engine whose outputs come from mem.
func NewFake(mem *inference.Memory) *Fake {
	return &Fake{mem: mem, sessions: map[*fakeSession]struct{}{}}
}

// HoldRuns makes every run from now on wait at the gate before it computes;
// its context still ends it.
func (f *Fake) HoldRuns() *Gate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs = newGate()
	return f.runs
}

// HoldLoads makes every load from now on wait at the gate. One whose time ends
// there goes on waiting as a stray.
func (f *Fake) HoldLoads() *Gate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads = newGate()
	return f.loads
}

// FailRuns makes every run from now on fail with err; nil: no longer.
func (f *Fake) FailRuns(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runErr = err
}

// FailLoads makes every load from now on fail with err; nil: no longer.
func (f *Fake) FailLoads(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loadErr = err
}

// Crash loses all open sessions for that reason; see inference.Crash. Runs in
// them end at once, as do those that wait at a gate.
func (f *Fake) Crash(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.sessions {
		s.lose(reason)
	}
}

// CrashRuns makes the next n runs that compute, behind the gate if there is
// one, lose their session for that reason, with all that is inside.
func (f *Fake) CrashRuns(n int, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashes, f.reason = n, reason
}

// Stats returns the counts so far.
func (f *Fake) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Open = len(f.sessions)
	return s
}

// Load: see inference.Engine. What models.Verify refuses can't be loaded.
func (f *Fake) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, inference.ErrLoadTimeout.Because(err)
	}
	f.mu.Lock()
	gate, fail, closed, strays := f.loads, f.loadErr, f.closed, f.strays
	f.mu.Unlock()
	switch {
	case closed:
		return nil, inference.ErrUnavailable.Because(errors.New("the engine is closed"))
	case strays >= maxStrays:
		return nil, inference.ErrUnavailable.Because(errors.New("too many loads stray"))
	case fail != nil:
		return nil, fail
	}
	graph, facts, err := models.Verify(model, models.Limits{})
	if err != nil {
		return nil, inference.ErrLoad.Because(err)
	}
	operators := strings.Join(facts.Operators, " ")
	if operators == constantBomb {
		gate = newGate() // nobody opens it
	}
	if opts.LoadTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opts.LoadTimeout)
		defer cancel()
	}
	if err := gate.wait(ctx, nil); err != nil {
		if operators != constantBomb {
			f.stray(gate)
		}
		return nil, inference.ErrLoadTimeout.Because(err)
	}
	s := &fakeSession{engine: f, graph: graph, program: programs[operators], size: int64(len(model)), lost: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, inference.ErrUnavailable.Because(errors.New("the engine is closed"))
	}
	f.sessions[s] = struct{}{}
	f.stats.Loads++
	return s, nil
}

// stray counts a load that nobody waits for until its gate opens.
func (f *Fake) stray(gate *Gate) {
	f.mu.Lock()
	f.strays++
	f.mu.Unlock()
	go func() {
		<-gate.opened
		f.mu.Lock()
		defer f.mu.Unlock()
		f.strays--
	}()
}

// Close: see inference.Engine.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.sessions) > 0 {
		return fmt.Errorf("%d sessions are open", len(f.sessions))
	}
	f.closed = true
	return nil
}

// fakeSession is one loaded model of a Fake.
type fakeSession struct {
	engine  *Fake
	graph   models.Graph
	program program // nil: zeros
	size    int64
	lost    chan struct{}
	reason  string // written before lost is closed; guarded by engine.mu
	running int    // guarded by engine.mu
	closed  bool   // guarded by engine.mu
}

func (s *fakeSession) Graph() models.Graph { return s.graph }

// Room is the memory that the engine was given.
func (s *fakeSession) Room() *inference.Memory { return s.engine.mem }

// Lost is closed by Crash and CrashRuns.
func (s *fakeSession) Lost() <-chan struct{} { return s.lost }

// lose ends the session's pretended process. The caller holds engine.mu.
func (s *fakeSession) lose(reason string) {
	if s.reason == "" {
		s.reason = reason
		close(s.lost)
	}
}

// crash is the error of a run of a session that was lost.
func (s *fakeSession) crash(inside bool) error {
	return inference.ErrUnavailable.Because(&inference.Crash{Reason: s.reason, Inside: inside})
}

// Quick is false.
func (s *fakeSession) Quick() bool { return false }

// Memory is the size of the file, so that tests can foresee it.
func (s *fakeSession) Memory() int64 { return s.size }

func (s *fakeSession) Close() error {
	f := s.engine
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.running > 0 {
		f.stats.Misused++
		return fmt.Errorf("session closed under %d runs", s.running)
	}
	delete(f.sessions, s)
	return nil
}

func (s *fakeSession) Run(ctx context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	gate, fail, err := s.begin(in, want)
	if err != nil {
		return nil, err
	}
	defer s.end()
	inside := life{ctx, s.lost}
	if err := gate.wait(inside, s.lost); err != nil && !inside.over() {
		return nil, err
	}
	s.crashIfTold()
	if fail != nil && !inside.over() {
		return nil, fail
	}
	values, err := s.compute(inside, in, want)
	if !inside.over() {
		return values, err
	}
	for i := range values {
		values[i].Release()
	}
	return nil, s.crash(true)
}

// life is the context of a run, which its session's loss ends too for who asks
// Err.
type life struct {
	context.Context
	lost <-chan struct{}
}

func (l life) over() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

func (l life) Err() error {
	if l.over() {
		return errLost
	}
	return l.Context.Err()
}

var errLost = errors.New("the session was lost")

// crashIfTold does what CrashRuns announced.
func (s *fakeSession) crashIfTold() {
	f := s.engine
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashes > 0 {
		f.crashes--
		s.lose(f.reason)
	}
}

func (s *fakeSession) begin(in []inference.Tensor, want []int) (*Gate, error, error) {
	f := s.engine
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.closed {
		return nil, nil, inference.ErrUnavailable.Because(errors.New("the session is closed"))
	}
	if s.reason != "" {
		return nil, nil, s.crash(false)
	}
	if err := s.check(in, want); err != nil {
		return nil, nil, inference.ErrRun.Because(err)
	}
	s.running++
	f.stats.Runs++
	f.stats.Running++
	return f.runs, f.runErr, nil
}

func (s *fakeSession) end() {
	f := s.engine
	f.mu.Lock()
	defer f.mu.Unlock()
	s.running--
	f.stats.Running--
	if s.closed && s.running == 0 {
		delete(f.sessions, s)
	}
}

// check compares with the graph, as a runtime does.
func (s *fakeSession) check(in []inference.Tensor, want []int) error {
	if len(in) != len(s.graph.Inputs) {
		return fmt.Errorf("%d tensors for %d inputs", len(in), len(s.graph.Inputs))
	}
	for i := range in {
		g := &s.graph.Inputs[i]
		n, ok := inference.Elements(in[i].Shape)
		if in[i].Type != g.Type || len(in[i].Shape) != len(g.Shape) || !ok || int64(in[i].Len()) != n ||
			len(in[i].Data) != in[i].Len()*in[i].Type.Size() {
			return fmt.Errorf("input %d does not fit", i)
		}
		for k, d := range g.Shape {
			if d >= 0 && in[i].Shape[k] != d {
				return fmt.Errorf("dimension %d of input %d is not %d", k, i, d)
			}
		}
	}
	for i, output := range want {
		if output < 0 || output >= len(s.graph.Outputs) || slices.Contains(want[:i], output) {
			return fmt.Errorf("there is no output %d, or it is wanted twice", output)
		}
	}
	return nil
}

// compute runs the program and keeps what is wanted.
func (s *fakeSession) compute(ctx context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	m := &machine{ctx: ctx, mem: s.engine.mem, graph: &s.graph, in: in, out: make([]inference.Value, len(s.graph.Outputs))}
	for i := range m.out {
		m.out[i].Kind = s.graph.Outputs[i].Kind
	}
	run := s.program
	if run == nil {
		run = zeros
	}
	run(m)
	var list []inference.Value
	if m.err == nil {
		list = make([]inference.Value, len(want))
		for i, output := range want {
			list[i], m.out[output] = m.out[output], inference.Value{}
		}
	}
	for i := range m.out {
		m.out[i].Release()
	}
	return list, m.err
}
