package inference

import (
	"time"

	"modelgate/models"
)

// Refresh has Run look at once which models are pinned. It does not block. It
// fits Catalog.Changed.
func (s *Service) Refresh() { s.pool.rouse() }

// Drain ends the reloading of sessions that are lost and of pinned models, and
// losses count for nothing any more: the server is about to stop. Requests are
// served until Close.
func (s *Service) Drain() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.pool.draining = true
}

// rouse has Run call keep.
func (p *pool) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// pins reports whether the entry's version is pinned. The caller holds mu.
func (p *pool) pins(e *entry) bool {
	_, pinned := p.pinned[e.version.ID]
	return pinned
}

// pinnedShare is the part of the budget, one in so many, that pinned models may
// take together: the rest is everybody's. Who manages a model may pin it.
const pinnedShare = 2

// keep loads the pinned versions that are not loaded, and remembers which ones
// are pinned. Those beyond their share of the budget are served like others. It
// returns how long to wait before the next try of those whose
// backoff goes on; 0: there is none.
func (p *pool) keep(versions []*models.Version) (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pinned = make(map[string]struct{}, len(versions))
	now := time.Now()
	left, unpinned := p.budget/pinnedShare, map[string]struct{}{}
	for _, v := range versions {
		size := v.Size
		if e := p.entries[v.ID]; e != nil && e.phase == live {
			size = max(size, e.memory)
		}
		if left -= size; p.budget > 0 && left < 0 {
			left += size
			if unpinned[v.ID] = struct{}{}; !has(p.unpinned, v.ID) {
				p.log.Warn("a model is not pinned: pinned models would take too much of session-memory together", "model", v.Model, "version", v.Number,
					"bytes", size, "most", p.budget/pinnedShare)
			}
			continue
		}
		p.pinned[v.ID] = struct{}{}
		in := p.due(v, now)
		if in > 0 && (wait == 0 || in < wait) {
			wait = in
		}
	}
	p.unpinned = unpinned
	return wait
}

func has(set map[string]struct{}, id string) bool {
	_, ok := set[id]
	return ok
}

// due begins the load of a pinned version, or returns how long it has to wait
// for that; 0: there is nothing to wait for. The caller holds mu.
func (p *pool) due(v *models.Version, now time.Time) time.Duration {
	e, r := p.entries[v.ID], p.records[v.ID]
	_, gone := p.gone[v.ID]
	switch {
	case p.draining || gone || r != nil && r.condemned:
	case e == nil:
		if r != nil && now.Before(r.retryAt) {
			return r.retryAt.Sub(now)
		}
		p.begin(v, 0, "")
	case e.phase == failed:
		// Later than for a caller, since nobody waits for it.
		if at := e.retryAt.Add(lastBackoff); now.Before(at) {
			return at.Sub(now)
		}
		p.forget(e)
		p.begin(v, e.failures, "")
	}
	return 0
}
