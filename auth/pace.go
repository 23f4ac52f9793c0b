package auth

import (
	"context"
	"sync"
	"time"
)

const (
	paceWindow = 64
	maxPace    = time.Second
)

// pacer makes failed sign-ins take the same time, whatever the reason. The same
// work is done for all of them, but that is not the same time: a user with a
// hash from another system costs more or less than a name that does not exist,
// and the garbage of one hash is collected during the next. So each answer is
// held back until the slowest of the last failures would have been given. This
// costs no computing, and successful sign-ins are not held back.
type pacer struct {
	mu     sync.Mutex
	recent [paceWindow]time.Duration // ring of the last failures; guarded by mu
	next   int                       // guarded by mu
	// others is the slowest failure over a hash of another kind or cost. Those
	// may be too rare to stay in the ring. Guarded by mu.
	others time.Duration
}

// hold waits until the answer to a failure may be given, or ctx ends.
func (p *pacer) hold(ctx context.Context, v verification) {
	floor := p.observe(time.Since(v.began), v.other)
	rest := time.NewTimer(time.Until(v.began.Add(floor)))
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
	}
}

// observe notes how long a failure took and returns how long it should take.
func (p *pacer) observe(took time.Duration, other bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	took = min(took, maxPace)
	p.recent[p.next] = took
	p.next = (p.next + 1) % paceWindow
	if other {
		p.others = max(p.others, took)
	}
	floor := p.others
	for _, d := range p.recent {
		floor = max(floor, d)
	}
	return floor
}
