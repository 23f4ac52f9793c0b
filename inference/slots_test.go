package inference

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// runner starts runs and remembers in which order they got their turn.
type runner struct {
	t     *testing.T
	slots *slots

	mu    sync.Mutex
	began []string         // guarded by mu
	turns map[string]*turn // guarded by mu
	errs  map[string]error // guarded by mu
	lanes map[string]*lane
}

func newRunner(t *testing.T, s *slots) *runner {
	return &runner{t: t, slots: s, turns: map[string]*turn{}, errs: map[string]error{}, lanes: map[string]*lane{}}
}

// start asks for a turn of a model and returns when the run has begun, failed,
// or waits. Runs are named model and a number, like "a1".
func (r *runner) start(ctx context.Context, name string) {
	r.startFor(ctx, name, terms{})
}

// startFor is start with terms of its own, but for the lane.
func (r *runner) startFor(ctx context.Context, name string, want terms) {
	l := r.lanes[name[:1]]
	if l == nil {
		l = &lane{}
		r.lanes[name[:1]] = l
	}
	want.lane, want.now = l, time.Now()
	go func() {
		t, err := r.slots.acquire(ctx, want, false)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.errs[name] = err; err == nil {
			r.began = append(r.began, name)
			r.turns[name] = t
		}
	}()
	synctest.Wait()
}

func (r *runner) end(name string) {
	r.mu.Lock()
	t := r.turns[name]
	r.mu.Unlock()
	r.slots.release(t)
	synctest.Wait()
}

// err is what a run's start came to.
func (r *runner) err(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errs[name]
}

// expect compares what has begun so far. Turns granted at one moment have no
// order.
func (r *runner) expect(names ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.began)
	slices.Sort(names)
	if !slices.Equal(r.began, names) {
		r.t.Fatalf("began %v, want %v", r.began, names)
	}
}

// pass lets the clock of a synctest bubble go on.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// idle fails unless nothing runs or waits and every slot is free.
func (r *runner) idle() {
	r.t.Helper()
	s := r.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free != s.size*fullWeight || s.lent.n != 0 || s.parked != 0 || s.holders.n != 0 || s.waiting.n != 0 || s.holders.first != nil || s.waiting.last != nil {
		r.t.Errorf("left: %d of %d free, %d lent, %d hold, %d wait", s.free, s.size*fullWeight, s.lent.n, s.holders.n, s.waiting.n)
	}
	for name, l := range r.lanes {
		if l.running != 0 || l.waiting != 0 {
			r.t.Errorf("model %s: %d running, %d waiting", name, l.running, l.waiting)
		}
	}
}

func TestSlotsAreGivenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(2, 3, time.Minute))
		for _, name := range []string{"a1", "b1", "c1", "d1", "e1"} {
			r.start(t.Context(), name)
		}
		r.expect("a1", "b1")
		r.start(t.Context(), "f1")
		if !errors.Is(r.err("f1"), ErrQueueFull) {
			t.Errorf("the queue is full: %v", r.err("f1"))
		}
		r.end("b1")
		r.expect("a1", "b1", "c1")
		r.end("a1")
		r.end("c1")
		r.expect("a1", "b1", "c1", "d1", "e1")
		r.end("d1")
		r.end("e1")
		r.idle()
	})
}

func TestWhoWaitsMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 9, time.Minute))
		ctx, cancel := context.WithCancel(t.Context())
		r.start(t.Context(), "a1")
		r.start(ctx, "b1")
		r.start(t.Context(), "c1")
		cancel()
		synctest.Wait()
		if !errors.Is(r.err("b1"), context.Canceled) {
			t.Errorf("left: %v", r.err("b1"))
		}
		r.end("a1")
		r.expect("a1", "c1")
		r.start(ctx, "d1")
		if !errors.Is(r.err("d1"), context.Canceled) {
			t.Errorf("came when he had left: %v", r.err("d1"))
		}
		r.end("c1")
		r.idle()
	})
}

// Who leaves at the moment he is granted a turn must hand it on.
func TestATurnGrantedToWhoLeavesIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 200 {
			r := newRunner(t, newSlots(1, 9, time.Minute))
			ctx, cancel := context.WithCancel(t.Context())
			r.start(t.Context(), "a1")
			r.start(ctx, "b1")
			go cancel()
			r.end("a1")
			if r.err("b1") == nil { // he was granted it first
				r.end("b1")
			}
			r.start(t.Context(), "c1")
			if r.err("c1") != nil {
				t.Fatal("the slot is lost")
			}
			r.end("c1")
			r.idle()
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 9, 100*time.Millisecond))
		r.start(t.Context(), "a1")
		r.start(t.Context(), "b1")
		pass(99 * time.Millisecond)
		if r.err("b1") != nil {
			t.Errorf("too early: %v", r.err("b1"))
		}
		pass(time.Millisecond)
		if !errors.Is(r.err("b1"), ErrQueueFull) {
			t.Errorf("got %v", r.err("b1"))
		}
		r.end("a1")
		r.idle()
	})
}

func TestALongRunGivesItsSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(2, 9, time.Minute))
		r.start(t.Context(), "a1")
		pass(100 * time.Millisecond)
		r.start(t.Context(), "a2")
		r.start(t.Context(), "b1")
		pass(149 * time.Millisecond)
		r.expect("a1", "a2")
		pass(time.Millisecond) // a1 has run for 250 ms
		r.expect("a1", "a2", "b1")
		r.start(t.Context(), "c1") // a2 and b1 hold the slots
		r.expect("a1", "a2", "b1")
		pass(100 * time.Millisecond)
		r.expect("a1", "a2", "b1", "c1")
		r.end("c1")
		r.end("b1")
		r.end("a1")
		r.end("a2")
		r.idle()
	})
}

// Two slow models must not keep a third one out, and one model can't take what
// its own long runs gave back.
func TestAModelHasACapOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(2, 9, time.Minute))
		for _, name := range []string{"a1", "a2", "a3", "b1", "b2", "b3", "c1"} {
			r.start(t.Context(), name)
		}
		pass(longRun)
		r.expect("a1", "a2", "b1", "b2") // a3 is at the cap and is passed over
		pass(longRun)
		r.expect("a1", "a2", "b1", "b2", "c1")
		r.end("a1") // had no slot, but its end makes room for a3
		r.expect("a1", "a2", "b1", "b2", "c1", "a3")
		r.end("c1")
		r.end("b1")
		r.expect("a1", "a2", "b1", "b2", "c1", "a3", "b3")
		for _, name := range []string{"a2", "a3", "b2", "b3"} {
			r.end(name)
		}
		r.idle()
	})
}

// A run keeps its slot as long as nobody wants it, and lending has a bound.
func TestLendingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 9, time.Hour))
		names := []string{"a1", "b1", "c1", "d1", "e1", "f1"}
		r.start(t.Context(), names[0])
		pass(time.Minute)
		if _, running := r.slots.state(); r.slots.lent.n != 0 || running != 1 {
			t.Error("a slot was given back to nobody")
		}
		for _, name := range names[1:] {
			r.start(t.Context(), name)
			pass(longRun)
		}
		r.expect(slices.Clone(names[:1+lendFactor])...)
		pass(time.Minute)
		r.expect(slices.Clone(names[:1+lendFactor])...)
		r.end("b1") // one that is without a slot: now e1 may be, too
		r.expect(slices.Clone(names)...)
		for _, name := range []string{"a1", "c1", "d1", "e1", "f1"} {
			r.end(name)
		}
		r.idle()
	})
}

// One caller's endless runs, of however many models, leave slots to others.
func TestACallerHasAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 20, time.Hour))
		for _, name := range []string{"a1", "b1", "c1", "d1", "e1", "f1"} {
			r.startFor(t.Context(), name, terms{caller: "eve"})
			pass(longRun)
		}
		r.expect("a1", "b1")
		r.startFor(t.Context(), "g1", terms{caller: "ann"})
		pass(longRun)
		r.expect("a1", "b1", "g1")
		r.startFor(t.Context(), "h1", terms{caller: "bob"})
		pass(longRun)
		r.expect("a1", "b1", "g1", "h1")
		r.end("a1") // eve's next comes, when there is a slot
		pass(longRun)
		r.expect("a1", "b1", "g1", "h1", "c1")
		for _, name := range []string{"b1", "g1", "h1", "c1", "d1", "e1", "f1"} {
			r.end(name)
		}
		r.idle()
	})
}

// A model may have fewer runs at once than there are slots, and a shorter
// queue, and is told apart from the others by what is full.
func TestAModelHasTermsOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(2, 3, time.Hour))
		narrow := terms{most: 1, queue: 1}
		for _, name := range []string{"a1", "a2", "a3"} {
			r.startFor(t.Context(), name, narrow)
		}
		r.expect("a1")
		if r.err("a2") != nil || !errors.Is(r.err("a3"), ErrQueueFull) || r.err("a3").Error() == ErrQueueFull.Error() {
			t.Errorf("a2: %v, a3: %v", r.err("a2"), r.err("a3"))
		}
		r.start(t.Context(), "b1") // there is a slot
		r.expect("a1", "b1")
		r.end("a1")
		r.expect("a1", "a2", "b1")
		r.end("a2")
		r.end("b1")
		r.idle()
	})
}

func BenchmarkSlots(b *testing.B) {
	s := newSlots(2, 10, time.Minute)
	l := &lane{}
	b.ReportAllocs()
	for b.Loop() {
		t, err := s.acquire(b.Context(), terms{lane: l, now: time.Now()}, false)
		if err != nil {
			b.Fatal(err)
		}
		s.release(t)
	}
}

// Many quick runs go on for one slot, but no more than its weight; nobody
// overtakes a run that waits for a whole slot.
func TestQuickRunsShareASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 99, time.Minute))
		quick := terms{quick: true}
		var running []string
		for i := range fullWeight {
			name := fmt.Sprintf("a%d", i)
			r.startFor(t.Context(), name, quick)
			running = append(running, name)
		}
		r.expect(running...)
		r.startFor(t.Context(), "aX", quick)
		r.expect(running...)
		r.end("a0")
		r.expect(append(running, "aX")...)
		// A whole slot is wanted: those who come later wait behind it.
		r.start(t.Context(), "b1")
		r.startFor(t.Context(), "aY", quick)
		for _, name := range running[2:] {
			r.end(name)
		}
		r.expect(append(running, "aX")...)
		r.end("a1")
		r.end("aX")
		r.expect(append(running, "aX", "b1")...)
		r.end("b1")
		r.expect(append(running, "aX", "b1", "aY")...)
		r.end("aY")
		r.idle()
	})
}

// When the run that wants a whole slot leaves, those behind it go on.
func TestAStarvedRunMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 99, time.Minute))
		quick := terms{quick: true}
		r.startFor(t.Context(), "a1", quick)
		ctx, cancel := context.WithCancel(t.Context())
		r.start(ctx, "b1")
		r.startFor(t.Context(), "a2", quick)
		r.expect("a1")
		cancel()
		synctest.Wait()
		r.expect("a1", "a2")
		r.end("a1")
		r.end("a2")
		r.idle()
	})
}

// Quick runs that turn out long lend their slot like others.
func TestQuickRunsThatAreLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(t, newSlots(1, 99, time.Minute))
		var running []string
		for i := range fullWeight {
			name := fmt.Sprintf("a%d", i)
			r.startFor(t.Context(), name, terms{quick: true})
			running = append(running, name)
		}
		r.start(t.Context(), "b1")
		r.expect(running...)
		pass(longRun + time.Millisecond)
		r.expect(append(running, "b1")...)
		for _, name := range append(running, "b1") {
			r.end(name)
		}
		r.idle()
	})
}
