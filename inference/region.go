package inference

import (
	"os"
	"slices"
	"sync"
)

// region is a mapping that slabs are cut from: memory shared with another
// process.
type region struct {
	mapping []byte
	page    int
	discard func([]byte) // frees the pages of a stretch, whose content may be lost

	mu   sync.Mutex
	free []extent // by offset, none touching the next; guarded by mu
}

// extent is a stretch of a region.
type extent struct{ at, size int }

// take returns where the first stretch of that many bytes begins, and its
// size in whole pages; false when there is none.
func (r *region) take(size int) (extent, bool) {
	size = (size + r.page - 1) &^ (r.page - 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.free {
		e := &r.free[i]
		if e.size < size {
			continue
		}
		taken := extent{e.at, size}
		if e.at, e.size = e.at+size, e.size-size; e.size == 0 {
			r.free = slices.Delete(r.free, i, i+1)
		}
		return taken, true
	}
	return extent{}, false
}

// give takes back what take gave.
func (r *region) give(e extent) {
	r.discard(r.bytes(e))
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.free, e.at, func(o extent, at int) int { return o.at - at })
	r.free = slices.Insert(r.free, i, e)
	if i+1 < len(r.free) && e.at+e.size == r.free[i+1].at {
		r.free[i].size += r.free[i+1].size
		r.free = slices.Delete(r.free, i+1, i+2)
	}
	if i > 0 && r.free[i-1].at+r.free[i-1].size == e.at {
		r.free[i-1].size += r.free[i].size
		r.free = slices.Delete(r.free, i, i+1)
	}
}

func (r *region) bytes(e extent) []byte { return r.mapping[e.at : e.at+e.size : e.at+e.size] }

// Within returns a Memory whose blocks lie in mapping, page-aligned memory
// that another process may see too. They count for the budget of m as well,
// and yield to its other users when they lie free. discard frees the pages of
// a stretch whose content nobody needs. done is called once after Retire, when
// no block is in use any more: until then mapping must stay.
func (m *Memory) Within(mapping []byte, discard func([]byte), done func()) *Memory {
	page := os.Getpagesize()
	whole := len(mapping) &^ (page - 1)
	inner := &Memory{budget: min(int64(whole), m.budget), outer: m, done: done,
		region: &region{mapping: mapping[:whole:whole], page: page, discard: discard}}
	if whole > 0 {
		inner.region.free = []extent{{0, whole}}
	}
	m.innerMu.Lock()
	defer m.innerMu.Unlock()
	m.inner = append(m.inner, inner)
	return inner
}

// Retire ends a Memory made by Within: blocks in use stay until they are
// released, and nobody should ask for others.
func (m *Memory) Retire() {
	m.retired.Store(true)
	m.Trim()
	m.finish()
}

// finish calls done when a retired memory has no block left.
func (m *Memory) finish() {
	if !m.retired.Load() || m.mapped.Load() > 0 || !m.finished.CompareAndSwap(false, true) {
		return
	}
	outer := m.outer
	outer.innerMu.Lock()
	outer.inner = slices.DeleteFunc(outer.inner, func(o *Memory) bool { return o == m })
	outer.innerMu.Unlock()
	m.done()
}

// inners returns the memories that lie within.
func (m *Memory) inners() []*Memory {
	m.innerMu.Lock()
	defer m.innerMu.Unlock()
	return slices.Clone(m.inner)
}
