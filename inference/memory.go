package inference

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
	"syscall"
)

// Pooled blocks come in 32 sizes: 64 and 128 bytes, then two per power of two
// up to maxPooled, so that at most a third of a block is idle. All are
// multiples of 64, a cache line and what vector instructions like.
const (
	classes   = 32
	minBlock  = 64
	maxPooled = 4 << 20
	slabSize  = 64 << 10 // blocks smaller than this are carved from one mapping
)

// Memory hands out Buffers outside the Go heap, under one byte budget: what a
// runtime written in C may read while Go's collector runs, and what doesn't
// count for the collector's pace. Blocks of up to 4 MiB are kept for reuse
// (about 30 ns for Get and Release together), larger ones go back to the
// system when they are released. Blocks that lie free count for the budget but
// yield to a request that needs the room. Safe for concurrent use.
type Memory struct {
	budget  int64
	mapped  atomic.Int64 // bytes taken from the system or charged; <= budget
	classes [classes]class

	innerMu sync.Mutex
	inner   []*Memory // made by Within; guarded by innerMu

	// Of a memory made by Within.
	outer             *Memory
	region            *region
	done              func()
	retired, finished atomic.Bool
}

// class is the free list of one block size.
type class struct {
	mu    sync.Mutex
	free  *Buffer // guarded by mu; linked by Buffer.next
	count int64   // blocks in free; guarded by mu
	_     [32]byte
}

// slab is one mapping, carved into blocks of one size.
type slab struct {
	mapping []byte
	place   extent // of a region's
	charged int64  // what it counts for the budget
	live    int    // blocks handed out; guarded by the class's mu
}

// NewMemory returns a Memory that never holds more than budget bytes.
func NewMemory(budget int64) *Memory {
	return &Memory{budget: max(budget, 0)}
}

// Budget is the bound given to NewMemory, in bytes.
func (m *Memory) Budget() int64 { return m.budget }

// InUse is the bytes handed out at the moment, rounding up to block sizes
// included.
func (m *Memory) InUse() int64 {
	n := m.mapped.Load()
	for i := range m.classes {
		c := &m.classes[i]
		c.mu.Lock()
		n -= c.count * blockSize(i)
		c.mu.Unlock()
	}
	for _, o := range m.inners() {
		n -= o.mapped.Load() - o.InUse()
	}
	return max(n, 0)
}

// Held is the bytes held from the system: InUse and what lies free for reuse.
func (m *Memory) Held() int64 { return m.mapped.Load() }

// Get returns a Buffer of n bytes, 64-byte aligned, whose content is left over
// from others: the caller writes all of it before anybody reads it. It never
// waits: ErrTooLarge when n exceeds the whole budget, ErrQueueFull when it
// exceeds what is left of it, ctx's error when ctx is done and no block lies
// ready.
func (m *Memory) Get(ctx context.Context, n int) (*Buffer, error) {
	if n < 0 || int64(n) > m.budget {
		return nil, ErrTooLarge
	}
	i := classOf(n)
	if i >= classes || blockSize(i) > m.budget {
		return m.direct(ctx, n)
	}
	c := &m.classes[i]
	c.mu.Lock()
	b := c.pop()
	c.mu.Unlock()
	if b == nil {
		var err error
		if b, err = m.grow(ctx, i); err != nil {
			return nil, err
		}
	}
	b.bytes = b.block[:n:n]
	return b, nil
}

// Trim gives the memory that lies free back to the system.
func (m *Memory) Trim() {
	for i := range m.classes {
		m.classes[i].trim(m)
	}
	for _, o := range m.inners() {
		o.Trim()
	}
}

// grow maps one more slab for class i and returns its first block.
func (m *Memory) grow(ctx context.Context, i int) (*Buffer, error) {
	size := blockSize(i)
	// A slab is a small part of the budget, lest blocks of one size keep out
	// those of all others.
	blocks := max(1, min(slabSize, m.budget/64)/size)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !m.reserve(blocks * size) {
		// There may be room for a block though for no slab.
		if blocks == 1 || !m.reserve(size) {
			return nil, ErrQueueFull
		}
		blocks = 1
	}
	s, err := m.mmap(int(blocks*size), blocks*size)
	if err != nil {
		return nil, err
	}
	headers := make([]Buffer, blocks)
	for k := range headers {
		at := int64(k) * size
		headers[k] = Buffer{block: s.mapping[at : at+size : at+size], mem: m, slab: s, class: int8(i)}
	}
	c := &m.classes[i]
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := len(headers) - 1; k >= 0; k-- {
		c.push(&headers[k])
	}
	return c.pop(), nil
}

// direct maps a block of its own, which Release unmaps.
func (m *Memory) direct(ctx context.Context, n int) (*Buffer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !m.reserve(int64(n)) {
		return nil, ErrQueueFull
	}
	s, err := m.mmap(max(n, 1), int64(n))
	if err != nil {
		return nil, err
	}
	return &Buffer{bytes: s.mapping[:n:n], mem: m, slab: s, class: direct, live: true}, nil
}

// Charge counts n bytes that lie elsewhere, such as strings on the Go heap,
// until the Buffer, which has no bytes of its own, is released.
func (m *Memory) Charge(n int64) (*Buffer, error) {
	if n < 0 || n > m.budget {
		return nil, ErrTooLarge
	}
	if !m.reserve(n) {
		return nil, ErrQueueFull
	}
	return &Buffer{mem: m, slab: &slab{charged: n}, class: direct, live: true}, nil
}

// reserve takes n bytes of the budget, at the cost of free blocks if it must.
func (m *Memory) reserve(n int64) bool {
	if m.tryReserve(n) {
		return true
	}
	m.outermost().Trim()
	return m.tryReserve(n)
}

func (m *Memory) outermost() *Memory {
	if m.outer != nil {
		return m.outer
	}
	return m
}

func (m *Memory) tryReserve(n int64) bool {
	if m.outer != nil && !m.outer.tryReserve(n) {
		return false
	}
	if m.add(n) {
		return true
	}
	if m.outer != nil {
		m.outer.mapped.Add(-n)
	}
	return false
}

// add counts n more bytes, if the budget has them.
func (m *Memory) add(n int64) bool {
	for {
		old := m.mapped.Load()
		if n > m.budget-old {
			return false
		}
		if m.mapped.CompareAndSwap(old, old+n) {
			return true
		}
	}
}

// mmap takes size bytes from the system, for which charged bytes were
// reserved; these go back when it fails.
func (m *Memory) mmap(size int, charged int64) (*slab, error) {
	if m.region != nil {
		place, ok := m.region.take(size)
		if !ok {
			m.subtract(charged)
			return nil, ErrQueueFull
		}
		return &slab{mapping: m.region.bytes(place), place: place, charged: charged}, nil
	}
	mapping, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		m.subtract(charged)
		return nil, ErrQueueFull.Because(err)
	}
	return &slab{mapping: mapping, charged: charged}, nil
}

// subtract gives n bytes back to the budget.
func (m *Memory) subtract(n int64) {
	if m.outer != nil {
		m.outer.mapped.Add(-n)
	}
	m.mapped.Add(-n)
}

// unmap gives a slab back. Munmap fails only for a mapping that is not ours.
func (m *Memory) unmap(s *slab) {
	switch {
	case s.mapping == nil:
	case m.region != nil:
		m.region.give(s.place)
	default:
		if err := syscall.Munmap(s.mapping); err != nil {
			panic("inference: unmapping a buffer: " + err.Error())
		}
	}
	m.subtract(s.charged)
	m.finish()
}

// pop takes a free block; nil when there is none. The caller holds mu.
func (c *class) pop() *Buffer {
	b := c.free
	if b != nil {
		c.free, b.next = b.next, nil
		c.count--
		b.slab.live++
		b.live = true
	}
	return b
}

// push makes b free. The caller holds mu.
func (c *class) push(b *Buffer) {
	b.next, c.free = c.free, b
	c.count++
}

// trim unmaps the slabs of which no block is in use.
func (c *class) trim(m *Memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	idle := map[*slab]struct{}{}
	for at := &c.free; *at != nil; {
		b := *at
		if b.slab.live > 0 {
			at = &b.next
			continue
		}
		*at, b.next, b.block = b.next, nil, nil
		c.count--
		idle[b.slab] = struct{}{}
	}
	for s := range idle {
		m.unmap(s)
	}
}

// classOf returns the class whose blocks hold n bytes; >= classes for none.
func classOf(n int) int {
	switch {
	case n <= 64:
		return 0
	case n <= 128:
		return 1
	}
	k := bits.Len(uint(n - 1)) // 2^(k-1) < n <= 2^k
	i := 2 + 2*(k-8)
	if n > 3<<(k-2) {
		i++
	}
	return i
}

// blockSize is the inverse of classOf.
func blockSize(i int) int64 {
	if i < 2 {
		return minBlock << i
	}
	k := 8 + (i-2)/2
	if i%2 == 0 {
		return 3 << (k - 2)
	}
	return 1 << k
}
