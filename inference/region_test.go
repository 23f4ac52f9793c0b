package inference

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"unsafe"
)

// memoryWithin makes a memory in a mapping of that many pages, which notes what is
// discarded and whether it is done with.
func memoryWithin(t *testing.T, outer *Memory, pages int) (inner *Memory, mapping []byte, done *int) {
	t.Helper()
	mapping = make([]byte, pages*os.Getpagesize())
	done = new(int)
	return outer.Within(mapping, func(b []byte) { clear(b) }, func() { *done++ }), mapping, done
}

func inside(mapping, block []byte) bool {
	from, at := uintptr(unsafe.Pointer(&mapping[0])), uintptr(unsafe.Pointer(&block[0]))
	return at >= from && at+uintptr(len(block)) <= from+uintptr(len(mapping))
}

// Blocks of a memory within a mapping lie there, count for both budgets, and
// don't overlap.
func TestWithin(t *testing.T) {
	ctx := context.Background()
	outer := NewMemory(64 << 20)
	inner, mapping, done := memoryWithin(t, outer, 4096)
	type held struct {
		b    *Buffer
		mark byte
	}
	var list []held
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 4000 {
		if len(list) > 0 && r.IntN(2) == 0 {
			k := r.IntN(len(list))
			h := list[k]
			if want := bytes.Repeat([]byte{h.mark}, len(h.b.Bytes())); !bytes.Equal(h.b.Bytes(), want) {
				t.Fatal("a block was written by another's holder")
			}
			h.b.Release()
			list = append(list[:k], list[k+1:]...)
			continue
		}
		size := 1 + r.IntN(1<<r.IntN(21))
		b, err := inner.Get(ctx, size)
		if errors.Is(err, ErrQueueFull) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !inside(mapping, b.Bytes()) {
			t.Fatal("a block lies outside of the mapping")
		}
		mark := byte(i)
		for k := range b.Bytes() {
			b.Bytes()[k] = mark
		}
		list = append(list, held{b, mark})
	}
	if in, out := inner.InUse(), outer.InUse(); in != out || in == 0 {
		t.Errorf("%d bytes are in use within, %d in all", in, out)
	}
	for _, h := range list {
		h.b.Release()
	}
	if in, out := inner.InUse(), outer.InUse(); in != 0 || out != 0 {
		t.Errorf("after all were released %d bytes are in use within, %d in all", in, out)
	}
	outer.Trim()
	if outer.Held() != 0 || inner.Held() != 0 {
		t.Errorf("after a trim %d and %d bytes are held", outer.Held(), inner.Held())
	}
	// All of it is one stretch again.
	b, err := inner.Get(ctx, len(mapping))
	if err != nil {
		t.Fatalf("the mapping is in pieces: %v", err)
	}
	inner.Retire()
	if *done != 0 {
		t.Error("a memory is done with though a block is in use")
	}
	b.Release()
	if *done != 1 || len(outer.inners()) != 0 {
		t.Errorf("done was called %d times, %d memories are known", *done, len(outer.inners()))
	}
	inner.Retire()
	if *done != 1 {
		t.Error("done was called again")
	}
}

// What lies free within makes room for others, and the other way round.
func TestWithinYields(t *testing.T) {
	ctx := context.Background()
	outer := NewMemory(1 << 20)
	inner, _, done := memoryWithin(t, outer, 1024)
	get := func(m *Memory, n int) *Buffer {
		t.Helper()
		b, err := m.Get(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	get(inner, 1<<20).Release()
	b := get(outer, 1<<20)
	if _, err := inner.Get(ctx, 64); !errors.Is(err, ErrQueueFull) {
		t.Errorf("beyond the budget of the outer memory: %v", err)
	}
	if _, err := inner.Charge(64); !errors.Is(err, ErrQueueFull) {
		t.Errorf("a charge beyond the budget of the outer memory: %v", err)
	}
	b.Release()
	get(inner, 1<<20).Release()
	if _, err := inner.Get(ctx, 1<<20+1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("beyond the whole: %v", err)
	}
	// A small one too is given back at once when the memory was retired.
	small := get(inner, 64)
	inner.Retire()
	small.Release()
	if *done != 1 || outer.Held() != 0 {
		t.Errorf("done was called %d times, %d bytes are held", *done, outer.Held())
	}
}

// Many goroutines use a memory that is retired under them.
func TestWithinConcurrently(t *testing.T) {
	outer := NewMemory(32 << 20)
	for range 20 {
		ended := make(chan struct{})
		mapping := make([]byte, 1<<20)
		inner := outer.Within(mapping, func([]byte) {}, func() { close(ended) })
		var group sync.WaitGroup
		for g := range 8 {
			group.Go(func() {
				for i := range 200 {
					if b, err := inner.Get(t.Context(), 1+(g*i)%9000); err == nil {
						b.Bytes()[0] = byte(g)
						b.Release()
					}
				}
			})
		}
		group.Wait()
		inner.Retire()
		<-ended
	}
	if outer.Held() != 0 {
		t.Errorf("%d bytes are held", outer.Held())
	}
}
