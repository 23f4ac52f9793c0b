package inference

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errBusy is for a load that waited too long for others.
var errBusy = errors.New("too many models are being loaded")

var errNoRoom = errors.New("no memory for the session")

// reserve takes n bytes of the budget (gives, when n is negative), closing idle
// sessions, the longest unused first, as far as it must.
func (p *pool) reserve(ctx context.Context, n int64) error {
	if n <= 0 {
		p.unreserve(-n)
		return nil
	}
	return p.makeRoom(ctx, n)
}

// makeRoom is reserve for n >= 0; makeRoom(ctx, 0) brings what is used back
// within the budget.
func (p *pool) makeRoom(ctx context.Context, n int64) error {
	for {
		p.mu.Lock()
		if p.budget == 0 || p.used+n <= p.budget {
			p.used += n
			p.mu.Unlock()
			return nil
		}
		used, freed, victim := p.used, p.freed, p.oldestIdle()
		switch {
		case victim != nil:
			p.metrics.evictions.WithLabelValues("memory").Inc()
			victim.closed = true
			p.forget(victim)
			p.closing++
			p.mu.Unlock()
			p.closeSession(victim)
		case p.closing > 0:
			p.mu.Unlock()
			select {
			case <-freed:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			p.mu.Unlock()
			return fmt.Errorf("%w: it needs %d more bytes, %d of %d are taken by models in use or pinned", errNoRoom, n, used, p.budget)
		}
	}
}

func (p *pool) unreserve(n int64) {
	p.mu.Lock()
	p.used -= n
	p.mu.Unlock()
}

// oldestIdle returns the live entry that was unused for longest, of those that
// are not pinned. The caller holds mu.
func (p *pool) oldestIdle() (oldest *entry) {
	for _, e := range p.entries {
		if e.phase == live && e.refs == 0 && !p.pins(e) && (oldest == nil || e.lastUsed.Before(oldest.lastUsed)) {
			oldest = e
		}
	}
	return oldest
}

// tend does what is due now and then: it closes what is idle, asks sessions
// what memory they take by now, and forgets what is over.
func (p *pool) tend(ctx context.Context) {
	p.closeIdle()
	p.measure(ctx)
	p.forgetLosses()
}

// closeIdle closes what was not used for idleClose and is not pinned, and
// forgets failures whose backoff is long over.
func (p *pool) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, e := range p.entries {
		if e.refs == 0 && e.phase != loading && !p.pins(e) && now.Sub(e.lastUsed) >= p.idleClose {
			if e.phase == live {
				p.metrics.evictions.WithLabelValues("idle").Inc()
			}
			p.closeLater(e)
		}
	}
}

// measure asks every session what memory it takes, and closes idle ones while
// all together take more than the budget.
func (p *pool) measure(ctx context.Context) {
	p.mu.Lock()
	var list []*entry
	for _, e := range p.entries {
		if e.phase == live {
			e.refs++ // it is not closed under the question, which may take a while
			list = append(list, e)
		}
	}
	p.mu.Unlock()
	for _, e := range list {
		bytes := e.session.Memory()
		p.mu.Lock()
		if !e.lost.Load() {
			p.used += bytes - e.memory
			e.memory = bytes
		}
		e.refs--
		p.closeUnneeded(e)
		p.mu.Unlock()
	}
	err := p.makeRoom(ctx, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	full := errors.Is(err, errNoRoom)
	if full && !p.crowded {
		p.log.Warn("loaded models take more memory than session-memory, and none of them can be closed: they are in use or pinned",
			"bytes", p.used, "budget", p.budget)
	}
	p.crowded = full
}

// enter counts a trial, whose session lives outside of the pool, and reserves
// memory for it; leave ends it.
func (p *pool) enter(ctx context.Context, memory int64) error {
	p.mu.Lock()
	if p.drained != nil {
		p.mu.Unlock()
		return ErrUnavailable
	}
	p.guests++
	p.mu.Unlock()
	if err := p.reserve(ctx, memory); err != nil {
		p.leave(0)
		return ErrUnavailable.Because(err)
	}
	return nil
}

func (p *pool) leave(memory int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used -= memory
	p.guests--
	p.checkDrained()
}
