package auth

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// pollEvery is how often the Store is asked what other processes changed.
	pollEvery = time.Second
	// believed is how long after such a question what is remembered counts: a right
	// that another process took away is gone here after so long at the latest.
	believed = 2 * time.Second
	// pollTimeout ends a question that is not answered.
	pollTimeout = 5 * time.Second
	// pollTries is how often a caller asks before he gives up: an answer that comes
	// late may be too old to be believed.
	pollTries = 3
)

// follower keeps a Service abreast of what other processes do to its Store.
type follower struct {
	until atomic.Int64 // Unix nanoseconds; what is remembered is believed before that
	look  atomic.Int64 // Unix nanoseconds of the last look for an unknown key
	apply atomic.Pointer[func(context.Context, Changes) error]

	mu      sync.Mutex
	running *poll // guarded by mu; nil: none
	mark    int64 // owned by who runs the poll
	failing bool  // owned by who runs the poll
}

// poll is a question under way, for all who wait for its answer.
type poll struct {
	done chan struct{}
	err  error // read after done
}

// OnChanges sets the one listener: it is told what was changed in the Store, also
// by this process, before anybody is let in who is decided by it. An error counts
// as a Store that does not answer. Call it before serving.
func (s *Service) OnChanges(f func(context.Context, Changes) error) { s.follower.apply.Store(&f) }

// abreast makes sure that at a time what is remembered may be believed. Within
// two seconds of the last answer of the Store it costs a comparison; later the
// Store is asked, once for all who wait. When it does not answer, nobody is let
// in: ErrUnavailable.
func (s *Service) abreast(ctx context.Context, now time.Time) error {
	for range pollTries {
		if s.follower.believes(now) {
			return nil
		}
		if err := s.poll(ctx); err != nil {
			return err
		}
		now = s.cfg.Now()
	}
	if s.follower.believes(now) {
		return nil
	}
	return ErrUnavailable.Because(errSlowStore)
}

// believes says whether what is remembered counts at a time. Where much more is
// left than there can be, the clock went backwards, and nobody knows how long ago
// the Store was asked. (A little more is left to who read the clock before
// another asked.)
func (f *follower) believes(now time.Time) bool {
	left := f.until.Load() - now.UnixNano()
	return left > 0 && left <= int64(believed+pollEvery)
}

var errSlowStore = errors.New("the database takes too long to tell what was changed")

// poll asks the Store what was changed, or waits for who is asking already.
func (s *Service) poll(ctx context.Context) error {
	f := &s.follower
	f.mu.Lock()
	if p := f.running; p != nil {
		f.mu.Unlock()
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			return ErrUnavailable.Because(ctx.Err())
		}
	}
	p := &poll{done: make(chan struct{})}
	f.running = p
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running = nil
		f.mu.Unlock()
		close(p.done)
	}()
	p.err = ErrUnavailable // if ask panics
	// Others wait for this answer: it is not for its caller alone to give up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollTimeout)
	defer cancel()
	p.err = s.ask(ctx)
	switch {
	case p.err != nil && !f.failing:
		s.cfg.Logger.Error("the database does not tell what was changed; nobody is let in until it does", "cause", p.err)
	case p.err == nil && f.failing:
		s.cfg.Logger.Info("the database tells again what was changed")
	}
	f.failing = p.err != nil
	if f.failing {
		s.metrics.pollFailures.Inc()
	}
	return p.err
}

// ask drops what is remembered of what was changed. What is read from the Store
// after it was asked is as new as its answer.
func (s *Service) ask(ctx context.Context) error {
	f := &s.follower
	asked := s.cfg.Now()
	changes, err := s.cfg.Store.Changes(ctx, f.mark)
	if err != nil {
		return err
	}
	everybody, keys := changes.All, changes.All
	for _, c := range changes.List {
		switch c.Kind {
		case RoleChanged:
			everybody = true
		case KeysChanged:
			everybody, keys = true, true
		}
	}
	if keys {
		if err := s.cfg.Keys.reload(ctx); err != nil {
			return err
		}
	}
	if everybody {
		s.cache.revokeAll()
	}
	for _, c := range changes.List {
		if c.Kind == UserChanged && !everybody {
			s.cache.revoke(c.Subject)
		}
	}
	if apply := f.apply.Load(); apply != nil && (changes.All || len(changes.List) > 0) {
		if err := (*apply)(ctx, changes); err != nil {
			return ErrUnavailable.Because(err)
		}
	}
	f.mark = changes.Mark
	f.until.Store(asked.Add(believed).UnixNano())
	return nil
}

// mayLook says whether the Store may be asked for a key that is not known here:
// once a second, however many tokens name such keys.
func (s *Service) mayLook(now time.Time) bool {
	last := s.follower.look.Load()
	since := now.UnixNano() - last
	return (since >= int64(pollEvery) || since < 0) && s.follower.look.CompareAndSwap(last, now.UnixNano())
}
