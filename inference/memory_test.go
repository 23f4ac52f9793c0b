package inference

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"unsafe"

	"modelgate/models"
)

func TestClassesCoverEverySize(t *testing.T) {
	for n := 1; n <= maxPooled; n += 1 + n/97 {
		i := classOf(n)
		if i >= classes || blockSize(i) < int64(n) {
			t.Fatalf("%d bytes: class %d of %d bytes", n, i, blockSize(i))
		}
		if i > 0 && blockSize(i-1) >= int64(n) {
			t.Fatalf("%d bytes: class %d, though %d bytes suffice", n, i, blockSize(i-1))
		}
		if blockSize(i)%minBlock != 0 {
			t.Fatalf("class %d of %d bytes is not aligned", i, blockSize(i))
		}
	}
	if classOf(maxPooled) != classes-1 || classOf(maxPooled+1) != classes {
		t.Errorf("the last class is %d, beyond it %d", classOf(maxPooled), classOf(maxPooled+1))
	}
}

func TestBuffersAreAlignedApartAndExact(t *testing.T) {
	mem := NewMemory(64 << 20)
	held := map[uintptr]*Buffer{}
	for _, n := range []int{0, 1, 63, 64, 65, 100, 4096, 40_000, 70_000, 1 << 20, maxPooled, maxPooled + 1, 9 << 20} {
		for range 3 {
			b, err := mem.Get(t.Context(), n)
			if err != nil {
				t.Fatal(n, err)
			}
			if len(b.Bytes()) != n || cap(b.Bytes()) != n {
				t.Fatalf("asked for %d bytes, got %d with room for %d", n, len(b.Bytes()), cap(b.Bytes()))
			}
			p := uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes())))
			if p == 0 || p%64 != 0 {
				t.Fatalf("%d bytes at %#x", n, p)
			}
			if held[p] != nil {
				t.Fatalf("%d bytes: handed out twice", n)
			}
			held[p] = b
			for i := range b.Bytes() {
				b.Bytes()[i] = byte(len(held))
			}
		}
	}
	if mem.InUse() < 3*(9<<20) {
		t.Errorf("%d bytes in use", mem.InUse())
	}
	for _, b := range held {
		for i, v := range b.Bytes() {
			if v != b.Bytes()[0] {
				t.Fatalf("byte %d of %d is another's", i, len(b.Bytes()))
			}
		}
		b.Release()
		if b.Bytes() != nil {
			t.Fatal("a released buffer still shows its bytes")
		}
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes in use after all was released", mem.InUse())
	}
	mem.Trim()
	if mem.Held() != 0 {
		t.Errorf("%d bytes held after Trim", mem.Held())
	}
}

func TestBudget(t *testing.T) {
	mem := NewMemory(1 << 20)
	if _, err := mem.Get(t.Context(), 1<<20+1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than the budget: %v", err)
	}
	if _, err := mem.Get(t.Context(), -1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("negative: %v", err)
	}
	half, err := mem.Get(t.Context(), 1<<19)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Get(t.Context(), 1<<19+1); err != ErrQueueFull {
		t.Errorf("more than is left: %v", err)
	}
	rest, err := mem.Get(t.Context(), 1<<19)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mem.Get(t.Context(), 1); err != ErrQueueFull {
		t.Errorf("nothing left: %v", err)
	}
	half.Release()
	rest.Release()
	// What lies free in one size yields to another.
	var small []*Buffer
	for range (1 << 20) / 64 {
		b, err := mem.Get(t.Context(), 64)
		if err != nil {
			t.Fatal(len(small), err)
		}
		small = append(small, b)
	}
	for _, b := range small {
		b.Release()
	}
	all, err := mem.Get(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	all.Release()
	if mem.InUse() != 0 || mem.Held() > mem.Budget() {
		t.Errorf("%d in use, %d held of %d", mem.InUse(), mem.Held(), mem.Budget())
	}
}

func TestGetHonoursContext(t *testing.T) {
	mem := NewMemory(1 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, n := range []int{64, 1 << 20} {
		if _, err := mem.Get(ctx, n); !errors.Is(err, context.Canceled) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if mem.Held() != 0 {
		t.Errorf("%d bytes held", mem.Held())
	}
}

// A copy of a tensor must not free what its memory has become since.
func TestReleaseOfStaleCopies(t *testing.T) {
	if strict {
		t.Skip("panics under the race detector, see TestStrict")
	}
	mem := NewMemory(1 << 20)
	first, err := NewTensor(mem, models.Float32, []int64{4})
	if err != nil {
		t.Fatal(err)
	}
	stale := first
	first.Release()
	first.Release()
	second, err := NewTensor(mem, models.Float32, []int64{4})
	if err != nil {
		t.Fatal(err)
	}
	stale.Release()
	third, err := NewTensor(mem, models.Float32, []int64{4})
	if err != nil {
		t.Fatal(err)
	}
	if unsafe.SliceData(second.Data) == unsafe.SliceData(third.Data) {
		t.Fatal("a stale copy freed another tensor's memory")
	}
	second.Release()
	third.Release()
	b, err := mem.Get(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	b.Release()
	if mem.InUse() != 0 {
		t.Errorf("%d bytes in use", mem.InUse())
	}
}

// A build with the race detector finds those who release twice or read on.
func TestStrict(t *testing.T) {
	if !strict {
		t.Skip("only with the race detector")
	}
	mem := NewMemory(1 << 20)
	b, err := mem.Get(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	kept := b.Bytes()
	copy(kept, "secret!!")
	b.Release()
	if string(kept) == "secret!!" {
		t.Error("released memory was not overwritten")
	}
	defer func() {
		if recover() == nil {
			t.Error("a second Release did not panic")
		}
	}()
	b.Release()
}

func TestElements(t *testing.T) {
	for _, c := range []struct {
		shape []int64
		n     int64
		ok    bool
	}{
		{nil, 1, true},
		{[]int64{}, 1, true},
		{[]int64{2, 3, 4}, 24, true},
		{[]int64{5, 0, 3}, 0, true},
		{[]int64{-1}, 0, false},
		{[]int64{0, -1}, 0, false},
		{[]int64{math.MaxInt64}, math.MaxInt64, true},
		{[]int64{3, 6148914691236517207}, 0, false},
		{[]int64{5, 1 << 62}, 0, false},
		{[]int64{1 << 32, 1 << 32}, 0, false},
		{[]int64{0, 1 << 62, 1 << 62}, 0, false},
	} {
		if n, ok := Elements(c.shape); n != c.n || ok != c.ok {
			t.Errorf("%v: %d %v", c.shape, n, ok)
		}
	}
}

func TestNewTensor(t *testing.T) {
	mem := NewMemory(1 << 20)
	for _, c := range []struct {
		typ   models.DataType
		shape []int64
		want  error
	}{
		{models.Float32, []int64{3, 6148914691236517207}, ErrTooLarge},
		{models.Float64, []int64{1 << 61}, ErrTooLarge},
		{models.Float64, []int64{1 << 20}, ErrTooLarge},
		{models.String, []int64{1 << 60}, ErrTooLarge},
		{models.String, []int64{1 << 17}, ErrTooLarge},
		{models.Float32, []int64{2, -1}, ErrInput},
		{models.Undefined, []int64{2}, ErrInput},
		{models.DataType(14), []int64{2}, ErrInput},
	} {
		if _, err := NewTensor(mem, c.typ, c.shape); !errors.Is(err, c.want) {
			t.Errorf("%v %v: %v", c.typ, c.shape, err)
		}
	}
	x, err := NewTensor(mem, models.Float32, []int64{2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if v := View[float32](&x); len(v) != 6 || x.Len() != 6 || len(x.Data) != 24 {
		t.Errorf("%d elements, %d bytes", len(v), len(x.Data))
	}
	s, err := NewTensor(mem, models.String, []int64{3})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Strings) != 3 || s.Data != nil || s.Len() != 3 {
		t.Errorf("%d strings", len(s.Strings))
	}
	scalar, err := NewTensor(mem, models.Int64, nil)
	if err != nil || scalar.Len() != 1 {
		t.Errorf("rank 0: %d elements, %v", scalar.Len(), err)
	}
	empty, err := NewTensor(mem, models.Int64, []int64{0, 4})
	if err != nil || empty.Len() != 0 || View[int64](&empty) != nil {
		t.Errorf("empty: %d elements, %v", empty.Len(), err)
	}
	v := Value{Kind: models.KindMaps, Tensor: x, Maps: []Map{{Keys: s, Values: scalar}}, Tensors: []Tensor{empty}}
	v.Release()
	v.Release()
	if mem.InUse() != 0 {
		t.Errorf("%d bytes in use", mem.InUse())
	}
}

// Many holders at once never share memory, and the books balance.
func TestMemoryConcurrently(t *testing.T) {
	mem := NewMemory(8 << 20)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				n := (i*7919 + g*104729) % 30_000
				if i%97 == 0 {
					n = 1 << 20
				}
				b, err := mem.Get(t.Context(), n)
				if errors.Is(err, ErrQueueFull) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				for k := range b.Bytes() {
					b.Bytes()[k] = byte(g)
				}
				for _, v := range b.Bytes() {
					if v != byte(g) {
						t.Error("another wrote into this buffer")
						return
					}
				}
				b.Release()
				if i%501 == 0 {
					mem.Trim()
				}
			}
		})
	}
	wg.Wait()
	if mem.InUse() != 0 || mem.Held() > mem.Budget() {
		t.Errorf("%d in use, %d held", mem.InUse(), mem.Held())
	}
}

func BenchmarkGetRelease(b *testing.B) {
	mem := NewMemory(64 << 20)
	for _, bench := range []struct {
		name string
		size int
	}{{"64B", 64}, {"64KiB", 64 << 10}, {"4MiB", 4 << 20}, {"8MiB", 8 << 20}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf, err := mem.Get(b.Context(), bench.size)
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				buf, err := mem.Get(context.Background(), 64)
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
			}
		})
	})
}
