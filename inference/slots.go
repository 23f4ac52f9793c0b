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

// slots bounds how many runs compute at once, in the order they came.
//
// A run that outlasts longRun while others wait gives its slot back and goes on
// without one, so that a slow model does not hold up quick ones. Two things
// keep that from becoming a flood: a model has at most as many runs at once as
// there are slots, and at most lendFactor times as many runs in all are without
// a slot.
type slots struct {
	size     int
	queue    int           // runs that may wait
	patience time.Duration // how long a run waits at most

	mu      sync.Mutex
	free    int         // guarded by mu
	lent    int         // runs without a slot; guarded by mu
	holders turns       // runs with a slot, in order of their start; guarded by mu
	waiting turns       // in order of arrival; guarded by mu
	alarm   *time.Timer // calls reclaim; guarded by mu
	armed   bool        // alarm is set; guarded by mu
}

// lane counts the runs of one model.
type lane struct {
	running int // guarded by slots.mu
}

// turn is one run's place, from acquire to release.
type turn struct {
	lane    *lane
	started time.Time     // set when granted
	granted chan struct{} // closed when granted; nil when it did not wait

	in         *turns // which list it is in; nil: it runs without a slot; guarded by slots.mu
	prev, next *turn  // guarded by slots.mu
}

// turns is a list of turns that allocates nothing.
type turns struct {
	first, last *turn
	n           int
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
}

func newSlots(size, queue int, patience time.Duration) *slots {
	return &slots{size: size, queue: queue, patience: patience, free: size}
}

// acquire waits for a run's turn, which must be released. It fails with
// ErrQueueFull, at once when too many wait and otherwise when patience ends,
// and with ctx's error.
func (s *slots) acquire(ctx context.Context, l *lane) (*turn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &turn{lane: l}
	s.mu.Lock()
	// When a slot is free, all who wait are of models at their cap: see grant.
	if s.free > 0 && l.running < s.size {
		s.start(t, time.Now())
		s.mu.Unlock()
		return t, nil
	}
	if s.waiting.n >= s.queue {
		s.mu.Unlock()
		return nil, ErrQueueFull
	}
	t.granted = make(chan struct{})
	s.waiting.push(t)
	s.arm(time.Now())
	s.mu.Unlock()
	if err := s.wait(ctx, t); err != nil {
		return nil, err
	}
	return t, nil
}

// wait returns when t was granted, or gives it up.
func (s *slots) wait(ctx context.Context, t *turn) error {
	patience := time.NewTimer(s.patience)
	defer patience.Stop()
	var err error
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-patience.C:
		err = ErrQueueFull
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-t.granted: // at the same moment: hand it on
		s.finish(t)
	default:
		s.waiting.remove(t)
	}
	return err
}

// release ends a turn.
func (s *slots) release(t *turn) {
	s.mu.Lock()
	s.finish(t)
	s.mu.Unlock()
}

// start gives t a slot. The caller holds mu.
func (s *slots) start(t *turn, now time.Time) {
	s.free--
	t.lane.running++
	t.started = now
	s.holders.push(t)
}

// finish ends a turn that was granted. The caller holds mu.
func (s *slots) finish(t *turn) {
	if t.in != nil {
		s.holders.remove(t)
		s.free++
	} else {
		s.lent--
	}
	t.lane.running--
	if s.waiting.n > 0 {
		now := time.Now()
		s.grant(now)
		s.arm(now)
	}
}

// grant starts those who wait, in order, but for models at their cap. It is
// called whenever a slot or a lane has become free. The caller holds mu.
func (s *slots) grant(now time.Time) {
	for t := s.waiting.first; t != nil && s.free > 0; {
		next := t.next
		if t.lane.running < s.size {
			s.waiting.remove(t)
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
	if s.armed || oldest == nil || s.waiting.n == 0 || s.lent >= lendFactor*s.size {
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
	for s.waiting.n > 0 && s.lent < lendFactor*s.size {
		oldest := s.holders.first
		if oldest == nil || now.Sub(oldest.started) < longRun {
			break
		}
		s.holders.remove(oldest)
		s.lent++
		s.free++
		s.grant(now)
	}
	s.arm(now)
}

// state returns how many runs wait and how many are under way.
func (s *slots) state() (waiting, running int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting.n, s.holders.n + s.lent
}
