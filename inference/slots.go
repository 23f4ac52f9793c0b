package inference

import (
	"context"
	"sync"
	"time"
)

// longRun is how long a run may keep its slot to itself.
const longRun = 250 * time.Millisecond

// lendFactor times the number of slots is how many runs may be without one.
const lendFactor = 4

// callerShare times the number of slots is how many runs one caller may have at
// once, with and without a slot. It is less than lendFactor, so that all of
// them, should they be endless, end up without a slot and leave room there.
const callerShare = 2

// fullWeight is the weight of a run in a slot of its own. A quick run of a session
// that computes elsewhere (Session.Quick) weighs 1: so many of them may be on
// their way for one slot, since what they wait for is each other's wake-up, not
// the processor.
const fullWeight = 32

// slots bounds how many runs compute at once, in the order they came.
//
// A run that outlasts longRun while others wait gives its slot back and goes on
// without one, so that a slow model does not hold up quick ones. Two things
// keep that from becoming a flood: a model has at most as many runs at once as
// there are slots, or fewer if it says so, and at most lendFactor times as many
// runs in all are without a slot. callerShare keeps one caller from taking all
// of these with several models.
type slots struct {
	size     int
	queue    int           // runs that may wait
	patience time.Duration // how long a run waits at most

	mu      sync.Mutex
	free    int         // weight that is left; guarded by mu
	starved bool        // the first that may run waits for more than free; guarded by mu
	lent    turns       // runs without a slot; guarded by mu
	holders turns       // runs with a slot, in order of their start; guarded by mu
	waiting turns       // in order of arrival; guarded by mu
	parked  int         // predictions that wait for a turn of another; guarded by mu
	alarm   *time.Timer // calls reclaim; guarded by mu
	armed   bool        // alarm is set; guarded by mu
}

// lane counts the runs of one model.
type lane struct {
	running int // their weight; guarded by slots.mu
	waiting int // turns and parked predictions; guarded by slots.mu
}

// terms are what a run asks for.
type terms struct {
	lane   *lane
	caller string    // whose run it is; "": the server's own, or that of several
	most   int       // runs of the lane at once; 0, or more than there are: the slots
	queue  int       // predictions of the lane that may wait; 0: as many as of all lanes
	quick  bool      // it weighs 1, not fullWeight
	now    time.Time // at which it asks
}

// turn is one run's place, from acquire to release.
type turn struct {
	terms
	started time.Time     // set when granted
	bounded limited       // the run's context, for who holds the turn
	granted chan struct{} // closed when granted; nil when it did not wait

	in         *turns // which list it is in; guarded by slots.mu
	prev, next *turn  // guarded by slots.mu
}

func (t *terms) weight() int {
	if t.quick {
		return 1
	}
	return fullWeight
}

// turns is a list of turns that allocates nothing.
type turns struct {
	first, last *turn
	n, weight   int
}

func (l *turns) push(t *turn) {
	t.in, t.prev, t.next = l, l.last, nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
	l.n++
	l.weight += t.weight()
}

func (l *turns) remove(t *turn) {
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.in, t.prev, t.next = nil, nil, nil
	l.n--
	l.weight -= t.weight()
}

func newSlots(size, queue int, patience time.Duration) *slots {
	return &slots{size: size, queue: queue, patience: patience, free: fullWeight * size}
}

// errModelQueueFull is ErrQueueFull for a model whose own queue is full.
var errModelQueueFull = ErrQueueFull.With("too many predictions wait for this model; try again in a moment")

// acquire waits for a run's turn, which must be released. It fails with
// ErrQueueFull, at once when too many wait (unless it was admitted, see enter)
// and otherwise when patience ends, and with ctx's error.
func (s *slots) acquire(ctx context.Context, want terms, admitted bool) (*turn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := s.enter(want, admitted)
	if err != nil {
		return nil, err
	}
	if err := s.wait(ctx, t, s.patience); err != nil {
		s.abandon(t)
		return nil, err
	}
	return t, nil
}

// enter begins a turn, or lets it wait. A prediction that was admitted before,
// by park or another turn, is not turned away by a full queue.
func (s *slots) enter(want terms, admitted bool) (*turn, error) {
	t := &turn{terms: want}
	s.mu.Lock()
	defer s.mu.Unlock()
	// When there is room and nobody starves, all who wait are at a cap: see grant.
	if !s.starved && t.weight() <= s.free && s.may(t) {
		s.start(t, want.now)
		return t, nil
	}
	if !admitted {
		if err := s.full(want); err != nil {
			return nil, err
		}
	}
	s.starved = s.starved || s.may(t) // all it lacks is room
	t.granted = make(chan struct{})
	t.lane.waiting++
	s.waiting.push(t)
	s.arm(want.now)
	return t, nil
}

// full fails when no more may wait. The caller holds mu.
func (s *slots) full(want terms) error {
	switch {
	case s.waiting.n+s.parked >= s.queue:
		return ErrQueueFull
	case want.queue > 0 && want.lane.waiting >= want.queue:
		return errModelQueueFull
	}
	return nil
}

// park counts a prediction that waits for the turn of another; unpark ends it.
func (s *slots) park(want terms) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.full(want); err != nil {
		return err
	}
	s.parked++
	want.lane.waiting++
	return nil
}

func (s *slots) unpark(l *lane, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked -= n
	l.waiting -= n
}

// disown makes t a turn of no caller, which his share of runs does not hold up.
func (s *slots) disown(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.caller = ""; t.in == &s.waiting {
		now := time.Now()
		s.grant(now)
		s.arm(now)
	}
}

// may reports whether t may run now, if there is a slot. The caller holds mu.
func (s *slots) may(t *turn) bool {
	most, share := s.size, callerShare*s.size
	if t.most > 0 {
		most = min(most, t.most)
	}
	weight := t.weight()
	if t.lane.running+weight > most*fullWeight {
		return false
	}
	if t.caller == "" || s.holders.weight+s.lent.weight+weight <= share*fullWeight {
		return true
	}
	for _, list := range [...]*turns{&s.holders, &s.lent} {
		for o := list.first; o != nil; o = o.next {
			if o.caller == t.caller {
				weight += o.weight()
			}
		}
	}
	return weight <= share*fullWeight
}

// wait returns when t was granted, with ctx's error, or with ErrQueueFull when
// patience ends. Then t is still to be waited for by another, or abandoned.
func (s *slots) wait(ctx context.Context, t *turn, patience time.Duration) error {
	if t.granted == nil {
		return nil
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return ErrQueueFull
	}
}

// abandon gives up a turn for which nobody waits any more.
func (s *slots) abandon(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-t.granted: // at the same moment: hand it on
		s.finish(t)
	default:
		s.waiting.remove(t)
		t.lane.waiting--
		if s.starved { // perhaps it was this one
			s.grant(time.Now())
		}
	}
}

// release ends a turn.
func (s *slots) release(t *turn) {
	s.mu.Lock()
	s.finish(t)
	s.mu.Unlock()
}

// start gives t a slot. The caller holds mu.
func (s *slots) start(t *turn, now time.Time) {
	s.free -= t.weight()
	t.lane.running += t.weight()
	t.started = now
	s.holders.push(t)
}

// finish ends a turn that was granted. The caller holds mu.
func (s *slots) finish(t *turn) {
	if t.in == &s.holders {
		s.free += t.weight()
	}
	t.in.remove(t)
	t.lane.running -= t.weight()
	if s.waiting.n > 0 {
		now := time.Now()
		s.grant(now)
		s.arm(now)
	}
}

// grant starts those who wait, in order, but for models and callers at their
// cap. Nobody overtakes one for whom only there is too little room: quick runs
// would do so for ever. It is called whenever there is more room, a run has
// ended, or one left that waited. The caller holds mu.
func (s *slots) grant(now time.Time) {
	s.starved = false
	for t := s.waiting.first; t != nil && s.free > 0; {
		next := t.next
		if s.may(t) {
			if s.starved = t.weight() > s.free; s.starved {
				return
			}
			s.waiting.remove(t)
			t.lane.waiting--
			s.start(t, now)
			close(t.granted)
		}
		t = next
	}
}

// arm sets the alarm for when the oldest holder becomes a long run, if that
// matters to anyone. The caller holds mu.
func (s *slots) arm(now time.Time) {
	oldest := s.holders.first
	if s.armed || oldest == nil || s.waiting.n == 0 || s.lent.weight >= lendFactor*s.size*fullWeight {
		return
	}
	s.armed = true
	in := longRun - now.Sub(oldest.started)
	if s.alarm == nil {
		s.alarm = time.AfterFunc(in, s.reclaim)
	} else {
		s.alarm.Reset(in)
	}
}

// reclaim takes the slots from long runs while others wait.
func (s *slots) reclaim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	now := time.Now()
	for s.waiting.n > 0 && s.lent.weight < lendFactor*s.size*fullWeight {
		oldest := s.holders.first
		if oldest == nil || now.Sub(oldest.started) < longRun {
			break
		}
		s.holders.remove(oldest)
		s.lent.push(oldest)
		s.free += oldest.weight()
		s.grant(now)
	}
	s.arm(now)
}

// state returns how many predictions wait and how many are under way.
func (s *slots) state() (waiting, running int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting.n + s.parked, s.holders.n + s.lent.n
}
