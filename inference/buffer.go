package inference

// direct is the class of a Buffer with a mapping of its own, or with none.
const direct = -1

// Buffer is a block of memory outside the Go heap, taken from a Memory and
// given back by Release. Who holds the Buffer owns it; it is not for
// concurrent use.
//
// Headers are pooled with their blocks, so a stale pointer may come to name
// another's block: who shares a Buffer wraps it in a Tensor, whose copies know
// their generation and can't free what is no longer theirs. A build with the
// race detector is strict: it never reuses a header, overwrites what is
// released, and panics on a second Release.
type Buffer struct {
	bytes []byte // what the holder sees; nil after Release
	block []byte // the whole block; nil for direct ones
	mem   *Memory
	slab  *slab
	next  *Buffer // in the free list; guarded by the class's mu
	gen   uint32  // counts releases; guarded by the class's mu
	live  bool    // handed out; guarded by the class's mu
	class int8
}

// Bytes returns the memory, exactly as long as asked for; nil after Release.
// It must not be touched after Release.
func (b *Buffer) Bytes() []byte { return b.bytes }

// Release gives the memory back. A nil Buffer is ignored, and so is a second
// Release as long as the block was not handed out again; it is a mistake all
// the same.
func (b *Buffer) Release() {
	if b != nil {
		b.release(b.gen)
	}
}

// release frees b unless it was released since gen was read.
func (b *Buffer) release(gen uint32) {
	if b.class == direct {
		b.releaseDirect(gen)
		return
	}
	mem := b.mem
	if c := &mem.classes[b.class]; b.giveBack(c, gen) && mem.retired.Load() {
		c.trim(mem)
	}
}

// giveBack puts b into the free list of its class, unless it was released
// since gen was read.
func (b *Buffer) giveBack(c *class, gen uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !b.live || b.gen != gen {
		stale()
		return false
	}
	b.slab.live--
	b.live = false
	b.bytes = nil
	b.gen++
	c.push(b.reusable())
	return true
}

func (b *Buffer) releaseDirect(gen uint32) {
	if !b.live || b.gen != gen {
		stale()
		return
	}
	b.live = false
	b.bytes = nil
	b.gen++
	b.mem.unmap(b.slab)
}

// reusable returns the header under which b's block is handed out next. When
// strict, it is a new one, so that whoever kept b is found out, and the block
// is overwritten, so that reading it after Release gives nonsense. The caller
// holds the class's mu.
func (b *Buffer) reusable() *Buffer {
	if !strict {
		return b
	}
	for i := range b.block {
		b.block[i] = 0xDB
	}
	fresh := &Buffer{block: b.block, mem: b.mem, slab: b.slab, class: b.class}
	b.block = nil
	return fresh
}

// stale is called for a second release, which the generation made harmless.
func stale() {
	if strict {
		panic("inference: a buffer was released twice")
	}
}
