package ort

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// resident is the process's resident memory in KiB, free Go memory given back.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("there is no /proc to read resident memory from")
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() / 1024
}

// flat runs f many times and wants resident memory to stay within slack KiB of
// what it was after a tenth of them.
func flat(t *testing.T, times, slack int, f func(i int) error) {
	t.Helper()
	first := 0
	for i := range times {
		if i == times/10 {
			first = resident(t)
		}
		if err := f(i); err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
	}
	last := resident(t)
	t.Logf("%d times: %d KiB resident after a tenth, %d KiB at the end", times, first, last)
	if raceEnabled {
		return // its shadow memory grows with what it has seen
	}
	if last-first > slack {
		t.Errorf("resident memory grew by %d KiB", last-first)
	}
}

// twoIO runs two_io on a row count that changes and checks the answer.
func twoIO(s inference.Session, mem *inference.Memory, rows int64, x float32, heap bool) error {
	in := make([]inference.Tensor, 2)
	for k := range in {
		if heap {
			in[k] = inference.Tensor{Type: models.Float32, Shape: []int64{rows, 3}, Data: make([]byte, 12*rows)}
		} else {
			var err error
			if in[k], err = inference.NewTensor(mem, models.Float32, []int64{rows, 3}); err != nil {
				return err
			}
			defer in[k].Release()
		}
		for i := range inference.View[float32](&in[k]) {
			inference.View[float32](&in[k])[i] = x * float32(k+1)
		}
	}
	values, err := s.Run(bg, in, []int{1, 0})
	if err != nil {
		return err
	}
	defer func() {
		for i := range values {
			values[i].Release()
		}
	}()
	dot, difference := inference.View[float32](&values[0].Tensor), inference.View[float32](&values[1].Tensor)
	for i, got := range difference {
		if got != -x || dot[i/3] != 6*x*x {
			return fmt.Errorf("%v rows of %v: got %v and %v", rows, x, difference, dot)
		}
	}
	return nil
}

func TestMemoryIsFlatOverRuns(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	s := loadFile(t, open(t, Config{Memory: mem}), "two_io.onnx")
	flat(t, 100_000, 2048, func(i int) error { return twoIO(s, mem, 1, float32(i%100), false) })
	if mem.InUse() != 0 {
		t.Errorf("%d bytes were not released", mem.InUse())
	}
}

// Every run has a shape that was never seen before.
func TestMemoryIsFlatOverShapes(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	s := loadFile(t, open(t, Config{Memory: mem}), "digits.onnx")
	const runs = 3000
	flat(t, runs, 4096, func(i int) error {
		rows := int64((i*1237)%runs%300 + 1)
		x, err := inference.NewTensor(mem, models.Float32, []int64{rows, 1, 8, 8})
		if err != nil {
			return err
		}
		defer x.Release()
		clear(x.Data)
		values, err := s.Run(bg, []inference.Tensor{x}, []int{0})
		for k := range values {
			values[k].Release()
		}
		return err
	})
}

func TestMemoryIsFlatOverKinds(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	kinds, maps, broken := loadFile(t, e, "sequence.onnx"), loadFile(t, e, "zipmap_strings.onnx"), loadFile(t, e, "divide.onnx")
	words := loadFile(t, e, "types.onnx")
	run := func(s inference.Session, in ...inference.Tensor) error {
		var want []int
		for i := range s.Graph().Outputs {
			want = append(want, i)
		}
		values, err := s.Run(bg, in, want)
		for i := range values {
			values[i].Release()
		}
		return err
	}
	heap := func(typ models.DataType, shape ...int64) inference.Tensor {
		n, _ := inference.Elements(shape)
		return inference.Tensor{Type: typ, Shape: shape, Data: make([]byte, n*int64(typ.Size()))}
	}
	var each []inference.Tensor
	for _, g := range words.Graph().Inputs {
		x := heap(g.Type, 20)
		if g.Type == models.String {
			x.Data, x.Strings = nil, slices.Repeat([]string{"a string that is too long to be kept inside its header"}, 20)
		}
		each = append(each, x)
	}
	flat(t, 10_000, 2048, func(int) error {
		if err := run(broken, heap(models.Int64, 1), heap(models.Int64, 1)); !errors.Is(err, inference.ErrRun) {
			return fmt.Errorf("0/0: %w", err)
		}
		return errors.Join(run(kinds, heap(models.Float32, 4, 3), heap(models.Int64, 5)), run(maps, heap(models.Float32, 5, 4)),
			run(words, each...))
	})
}

func TestMemoryIsFlatOverLoads(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	good, bad := read(t, "digits.onnx"), read(t, "hostile/type_mismatch.onnx")
	flat(t, 500, 4096, func(int) error {
		s, err := e.Load(bg, good, inference.Options{})
		if err != nil {
			return err
		}
		if _, err := e.Load(bg, bad, inference.Options{}); !errors.Is(err, inference.ErrLoad) {
			return fmt.Errorf("a bad file: %w", err)
		}
		return s.Close()
	})
}

// Go's collector may run at any moment, and moves and frees nothing that C
// still reads.
func TestUnderGarbageCollection(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	s, words := loadFile(t, e, "two_io.onnx"), loadFile(t, e, "types.onnx")
	text := slices.IndexFunc(words.Graph().Inputs, func(g models.GraphValue) bool { return g.Type == models.String })
	stop := make(chan struct{})
	var collector, runs sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	for g := range 4 {
		runs.Go(func() {
			for i := range 2000 {
				if err := twoIO(s, mem, int64(1+i%50), float32(100*g+i%100), g%2 == 0); err != nil {
					t.Error(err)
					return
				}
				if err := echo(words, text, fmt.Sprint("goroutine ", g, " run ", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	runs.Wait()
	close(stop)
	collector.Wait()
}

// echo sends strings, and empty tensors beside, through the identity.
func echo(s inference.Session, text int, word string) error {
	var in []inference.Tensor
	for i, g := range s.Graph().Inputs {
		x := inference.Tensor{Type: g.Type, Shape: []int64{0}}
		if i == text {
			x.Shape, x.Strings = []int64{3}, []string{word, "", strings.Repeat(word, 20)}
		}
		in = append(in, x)
	}
	values, err := s.Run(bg, in, []int{text})
	if err != nil {
		return err
	}
	defer values[0].Release()
	if got := values[0].Tensor.Strings; !slices.Equal(got, in[text].Strings) {
		return fmt.Errorf("got %q, want %q", got, in[text].Strings)
	}
	return nil
}

// The bytes of a model are not needed once it is loaded.
func TestModelBytesAreNotKept(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	e := open(t, Config{Memory: mem})
	model := bytes.Clone(read(t, "two_io.onnx"))
	s, err := e.Load(t.Context(), model, inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	clear(model)
	if err := twoIO(s, mem, 2, 3, false); err != nil {
		t.Error(err)
	}
}

// What Memory says is near what a session takes.
func TestFootprint(t *testing.T) {
	e := open(t, Config{Memory: inference.NewMemory(1 << 20)})
	const sessions = 200
	before := resident(t)
	var said int64
	for range sessions {
		s := loadFile(t, e, "digits.onnx")
		said += s.Memory()
	}
	took := resident(t) - before
	t.Logf("%d sessions take %d KiB, and say %d KiB", sessions, took, said/1024)
	if !raceEnabled && (said/1024 < int64(took)/2 || said/1024 > 2*int64(took)) {
		t.Error("that is more than twice, or less than half")
	}
}
