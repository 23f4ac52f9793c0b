//go:build linux && (amd64 || arm64)

package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"modelgate/inference"
	"modelgate/models"
)

// quick is what a run takes at most to be worth waiting for others: see
// session.submit.
const quick = 100 // microseconds

// backlog is what may wait for one thread of the worker before another is
// woken: that long, or four times as long where the runs are so short that
// waking costs more than several of them.
func backlog(micros uint32) uint32 {
	if micros <= quick/4 {
		return 4 * quick
	}
	return quick
}

// session is one loaded model, which is one worker.
type session struct {
	engine *Engine
	*process
	graph models.Graph
	peak  int64 // resident bytes after the load, as the worker says
	room  *inference.Memory
	lost  chan struct{}
	heard chan struct{} // closed when listen has ended

	micros atomic.Uint32 // how long runs take of late
	waking atomic.Bool   // somebody is about to wake the worker

	mu       sync.Mutex
	calls    []*call   // by slot; guarded by mu
	free     []uint32  // slots of calls that nobody uses; guarded by mu
	put      uint32    // submissions so far; guarded by mu
	running  int       // calls in use; guarded by mu
	counted  time.Time // when the worker's threads were; guarded by mu
	most     int       // threads that it may have; guarded by mu
	closed   bool      // guarded by mu
	gone     bool      // no answers will come; guarded by mu
	finished bool      // finish was called; guarded by mu

	heardOf atomic.Uint32 // completions read; written by listen alone
}

// call is one run, made once for a slot and used for many.
type call struct {
	index uint32
	done  chan bool // of capacity 1. true: the worker has answered, or is gone; false: the call is left behind
	held  []*inference.Buffer
	asked []byte
	// The rest is guarded by the session's mu while the call is in flight, and
	// else owned by the run.
	ctx     context.Context
	flying  bool
	number  uint32 // of its submission
	crash   *inference.Crash
	rounds  uint32    // answers so far
	ended   time.Time // when the worker was told to end it
	seen    time.Time // when it was first seen to run
	yields  bool      // its thread was made to give way
	overdue bool      // its worker was killed for it
	left    bool      // its run has ended before the worker took it up
}

func newSession(e *Engine, p *process, loaded *loadedMessage) *session {
	s := &session{engine: e, process: p, graph: models.Graph{Inputs: loaded.Graph.Inputs, Outputs: loaded.Graph.Outputs},
		most: int(maxThreads()), peak: min(max(loaded.Peak, 0), e.cfg.MaxMemory), lost: make(chan struct{}), heard: make(chan struct{})}
	s.room = e.cfg.Memory.Within(p.arena.inputs(), discard, s.unshare)
	p.listened.Store(true)
	select {
	case <-p.exited:
		p.rouseListener()
	default: // who sees it end sees this as well
	}
	go s.listen()
	return s
}

// Graph is what the runtime says of inputs and outputs, in its order.
func (s *session) Graph() models.Graph { return s.graph }

// Room is the memory that the worker reads inputs in.
func (s *session) Room() *inference.Memory { return s.room }

// Lost is closed when the worker has ended by itself, or was killed because it
// did not answer.
func (s *session) Lost() <-chan struct{} { return s.lost }

// Quick reports that waking the worker costs about as much as a run.
func (s *session) Quick() bool { return s.micros.Load() <= quick }

// Memory is what the worker takes of the machine's: its own pages, and those
// that it shares with the server. Where the kernel does not show the former
// (/proc mounted with hidepid), it is what the worker said after its load.
func (s *session) Memory() int64 {
	bytes, ok := resident(s.cmd.Process.Pid)
	if !ok {
		bytes = s.peak
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return bytes
	}
	var info unix.Stat_t
	if err := unix.Fstat(int(s.memory.Fd()), &info); err == nil {
		bytes += info.Blocks * 512
	}
	return bytes
}

// resident is the memory of a process that is no file's.
func resident(pid int) (int64, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	var all, files, size int64
	if err == nil {
		_, err = fmt.Sscan(string(text), &size, &all, &files)
	}
	return (all - files) * int64(os.Getpagesize()), err == nil
}

// Run: see inference.Session. A run ends between two steps (nodes) of the model
// after ctx has, or at once when the worker has not begun it. When a single step
// goes on for Config.Grace after that, the worker is killed.
func (s *session) Run(ctx context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := inference.CheckRun(&s.graph, in, want); err != nil {
		// A lost session says so to whatever it is asked.
		return nil, cmp.Or(s.live(), error(inference.ErrRun.Because(err)))
	}
	if len(want) == 0 {
		return nil, nil
	}
	c, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.ask(c, in, want); err != nil {
		s.end(c)
		return nil, err
	}
	if err := s.submit(c); err != nil {
		s.end(c)
		return nil, err
	}
	s.engine.watch.Notice()
	if !<-c.done {
		s.leave()
		return nil, ctx.Err()
	}
	defer s.end(c)
	if c.crash != nil {
		if c.overdue {
			return nil, ctx.Err()
		}
		return nil, inference.ErrUnavailable.Because(c.crash)
	}
	return s.answer(ctx, c, want)
}

// live fails when no run can begin.
func (s *session) live() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayRun()
}

// mayRun is live for who holds mu.
func (s *session) mayRun() error {
	switch {
	case s.closed:
		return inference.ErrUnavailable.Because(errors.New("the session is closed"))
	case s.gone:
		return inference.ErrUnavailable.Because(s.process.crash(false))
	}
	return nil
}

// begin takes a slot.
func (s *session) begin(ctx context.Context) (*call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayRun(); err != nil {
		return nil, err
	}
	switch {
	case len(s.free) == 0 && len(s.calls) == slots:
		return nil, inference.ErrQueueFull
	case len(s.free) == 0:
		index := uint32(len(s.calls))
		s.calls = append(s.calls, &call{index: index, done: make(chan bool, 1)})
		s.free = append(s.free, index)
	}
	last := len(s.free) - 1
	c := s.calls[s.free[last]]
	s.free = s.free[:last]
	s.running++
	c.ctx, c.crash, c.ended, c.seen, c.yields, c.overdue = ctx, nil, time.Time{}, time.Time{}, false, false
	slot := &s.arena.slots[c.index]
	slot.cancel.Store(0)
	slot.began.Store(0)
	return c, nil
}

// end gives the slot back.
func (s *session) end(c *call) {
	c.release()
	s.mu.Lock()
	s.recycle(c)
	last := s.left()
	s.mu.Unlock()
	if last {
		s.finish()
	}
}

// leave ends a run, but for its slot.
func (s *session) leave() {
	s.mu.Lock()
	last := s.left()
	s.mu.Unlock()
	if last {
		s.finish()
	}
}

// left counts a run that has ended, and reports that it was the last one of a
// closed session. The caller holds mu.
func (s *session) left() bool {
	s.running--
	return s.running == 0 && s.closed
}

// recycle makes the slot free for others. The caller holds mu.
func (s *session) recycle(c *call) {
	c.ctx, c.left = nil, false
	s.free = append(s.free, c.index)
}

// release frees the memory that the call holds.
func (c *call) release() {
	for i, b := range c.held {
		b.Release()
		c.held[i] = nil
	}
	c.held = c.held[:0]
}

// get borrows n bytes of the room until the call ends.
func (s *session) get(c *call, n int) ([]byte, error) {
	b, err := s.room.Get(context.Background(), n)
	if err != nil {
		return nil, err
	}
	c.held = append(c.held, b)
	return b.Bytes(), nil
}

// ask writes the request. What does not lie in the room is copied there.
func (s *session) ask(c *call, in []inference.Tensor, want []int) error {
	b := append(c.asked[:0], byte(len(in)), byte(len(in)>>8))
	for i := range in {
		t := &in[i]
		data := t.Data
		at, ok := s.arena.find(data)
		if t.Type == models.String || !ok {
			n := len(data)
			if t.Type == models.String {
				n = packedSize(t.Strings)
			}
			var err error
			if data, err = s.get(c, n); err != nil {
				return err
			}
			if t.Type == models.String {
				pack(data, t.Strings)
			} else {
				copy(data, t.Data)
			}
			at, _ = s.arena.find(data)
		}
		b = appendTensor(b, t, at, len(data))
	}
	b = append(b, byte(len(want)), byte(len(want)>>8))
	for _, k := range want {
		b = append(b, byte(k), byte(k>>8))
	}
	c.asked = b
	slot := &s.arena.slots[c.index]
	slot.asked = place{0, uint64(len(b))}
	if len(b) <= slotWords {
		copy(slot.inline[:], b)
		return nil
	}
	data, err := s.get(c, len(b))
	if err != nil {
		return err
	}
	copy(data, b)
	slot.asked.At, _ = s.arena.find(data)
	return nil
}

// submit hands the call to the worker, and wakes it when it has to.
//
// A wake-up costs as much as several small runs. So where runs are quick, who
// finds the worker asleep lets those go first that wait for a processor, and
// then wakes it for all; this is no timer, and who is alone waits for nobody.
func (s *session) submit(c *call) error {
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return inference.ErrUnavailable.Because(s.process.crash(false))
	}
	c.flying, c.number = true, s.put
	s.post(c.index)
	s.mu.Unlock()
	if s.micros.Load() > quick {
		s.rouse()
		return nil
	}
	if s.awake() || !s.waking.CompareAndSwap(false, true) {
		return nil
	}
	runtime.Gosched()
	s.waking.Store(false)
	if !s.awake() {
		s.rouse()
	}
	return nil
}

// post adds an entry to the submissions. The caller holds mu.
func (s *session) post(entry uint32) {
	s.arena.submissions[s.put%ringSize].Store(entry)
	s.put++
	s.arena.submitted.Store(s.put)
}

// awake reports whether a thread of the worker will soon see what is
// submitted, so that no more of them are needed. A thread that is held up by a
// run which is longer than usual is found by stopEnded.
func (s *session) awake() bool {
	if int(s.arena.sleepers.Load()) >= s.engine.cfg.Threads {
		return false
	}
	waiting := s.arena.submitted.Load() - s.arena.taken.Load()
	micros := max(s.micros.Load(), 1)
	return waiting*micros <= backlog(micros)
}

// rouse wakes a thread of the worker, if one sleeps.
func (s *session) rouse() {
	if takeOne(&s.arena.sleepers) {
		s.arena.wake.Add(1)
		wakeOne(&s.arena.wake)
	}
}

// answer reads what the worker said of a call. All of it is hostile until it
// was looked at, in a copy.
func (s *session) answer(ctx context.Context, c *call, want []int) ([]inference.Value, error) {
	slot := &s.arena.slots[c.index]
	said := slot.answer
	s.learn(said.micros)
	d := decoder{session: s}
	text, err := d.text(c, slot, said.place)
	if err != nil {
		return nil, s.refuse(err)
	}
	if said.status != statusDone {
		if ended := ctx.Err(); ended != nil {
			return nil, ended
		}
		return nil, runError(said.status, text)
	}
	values, err := d.values(text, want, &s.graph)
	c.held = append(c.held, d.held...)
	if said.outputs > maxKept {
		s.giveBack(c)
	}
	if err == nil {
		return values, nil
	}
	release(values)
	return nil, s.refuse(err)
}

// maxKept is how many bytes of outputs a slot keeps until it is used again.
const maxKept = 64 << 10

// postReturn lets the worker free the outputs of a call. The caller holds mu.
func (s *session) postReturn(c *call) {
	s.post(returned | c.rounds&roundMask<<slotBits | c.index)
}

// giveBack does the same, and wakes the worker at need.
func (s *session) giveBack(c *call) {
	s.mu.Lock()
	s.postReturn(c)
	s.mu.Unlock()
	if !s.awake() {
		s.rouse()
	}
}

// learn keeps how long runs take of late. The worker says it; if it lies, it
// is woken too often or too seldom.
func (s *session) learn(micros uint32) {
	old := s.micros.Load()
	if next := old - old/8 + min(micros, 1<<28)/8; next != old {
		s.micros.Store(next)
	}
}

// refuse ends a worker that said what can't be. That the server has no memory
// for an answer is no fault of the worker.
func (s *session) refuse(err error) error {
	if own := (*inference.Error)(nil); errors.As(err, &own) {
		return own
	}
	s.kill("liar: it gave an answer that can't be: " + err.Error())
	return inference.ErrUnavailable.Because(&inference.Crash{Reason: s.why(), Inside: true})
}

func runError(status uint32, text []byte) error {
	cause := errors.New(strings.ToValidUTF8(string(text), "?"))
	switch status {
	case statusTooLarge:
		return inference.ErrTooLarge.Because(cause)
	case statusNoMemory:
		return inference.ErrNoMemory.Because(cause)
	case statusUnavailable:
		return inference.ErrUnavailable.Because(cause)
	}
	return inference.ErrRun.Because(cause)
}

// Close ends the worker. While runs go on, which the contract forbids, it
// fails: no further run starts, and the last one ends the worker.
func (s *session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	running := s.running
	s.mu.Unlock()
	if running > 0 {
		return fmt.Errorf("worker: session closed under %d runs", running)
	}
	s.finish()
	return nil
}

// finish ends the worker of a closed session without runs, and frees what they
// shared as soon as nobody uses it.
func (s *session) finish() {
	s.mu.Lock()
	s.finished = true
	s.mu.Unlock()
	s.kill("exit: it was closed")
	<-s.heard
	s.engine.remove(s)
	s.control.Close()
	s.room.Retire()
}
