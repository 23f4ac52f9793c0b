package inference_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/inference"
	"modelgate/models"
)

// onnx writes the few parts of an ONNX file that a chain of dense layers needs.
type onnx []byte

func (m onnx) num(field protowire.Number, v uint64) onnx {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func (m onnx) sub(field protowire.Number, content ...byte) onnx {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), content)
}

func (m onnx) text(field protowire.Number, s string) onnx { return m.sub(field, []byte(s)...) }

// denseModel is a multilayer perceptron with random weights: x FP32 [N,first]
// to y FP32 [N,last].
func denseModel(sizes ...int) []byte {
	random := rand.New(rand.NewPCG(1, 1))
	var graph onnx
	port := func(name string, width int) onnx {
		shape := onnx{}.sub(1, onnx{}.text(2, "N")...).sub(1, onnx{}.num(1, uint64(width))...)
		return onnx{}.text(1, name).sub(2, onnx{}.sub(1, onnx{}.num(1, 1).sub(2, shape...)...)...)
	}
	x := "x"
	for i := 1; i < len(sizes); i++ {
		raw := make([]byte, 0, 4*sizes[i-1]*sizes[i])
		for range sizes[i-1] * sizes[i] {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(random.NormFloat64())/float32(math.Sqrt(float64(sizes[i-1])))))
		}
		w, h, y := fmt.Sprint("w", i), fmt.Sprint("h", i), fmt.Sprint("r", i)
		if i == len(sizes)-1 {
			y = "y"
		}
		graph = graph.sub(5, onnx{}.num(1, uint64(sizes[i-1])).num(1, uint64(sizes[i])).num(2, 1).text(8, w).sub(9, raw...)...)
		graph = graph.sub(1, onnx{}.text(1, x).text(1, w).text(2, h).text(4, "MatMul")...)
		graph = graph.sub(1, onnx{}.text(1, h).text(2, y).text(4, "Relu")...)
		x = y
	}
	graph = graph.text(2, "g").sub(11, port("x", sizes[0])...).sub(12, port("y", sizes[len(sizes)-1])...)
	return onnx{}.num(1, 8).sub(8, onnx{}.num(2, 17)...).sub(7, graph...)
}

// BenchmarkDense compares one run at a time for each core, with nothing around
// it, with 64 callers of Predict, each on its own and in batches.
func BenchmarkDense(b *testing.B) {
	h := newHouse(b)
	model := denseModel(256, 1024, 1200, 10)
	b.Run("raw", func(b *testing.B) {
		session, err := h.engine.Load(b.Context(), model, inference.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer session.Close()
		share(b, runtime.GOMAXPROCS(0), func() error {
			in, err := denseRow(h.mem, 256)
			if err != nil {
				return err
			}
			defer in.Release()
			values, err := session.Run(context.Background(), []inference.Tensor{in}, []int{0})
			for i := range values {
				values[i].Release()
			}
			return err
		})
	})
	for _, rows := range []int{0, 8, 32, 64} {
		b.Run(fmt.Sprint("64 callers, max_batch ", rows), func(b *testing.B) {
			name := fmt.Sprint("dense", rows)
			h.publishBytes(b, name, model, models.Spec{Serving: &models.Serving{MaxBatch: rows}})
			share(b, 64, func() error {
				r, err := h.service.Predict(b.Context(), h.owner, models.Ref{Model: name}, func(_ *models.Signature, mem *inference.Memory) (*inference.Request, error) {
					in, err := denseRow(mem, 256)
					return &inference.Request{Inputs: []inference.Tensor{in}}, err
				})
				r.Release()
				return err
			})
		})
	}
}

// share divides b.N calls among goroutines.
func share(b *testing.B, goroutines int, call func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range goroutines {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

func denseRow(mem *inference.Memory, width int) (inference.Tensor, error) {
	in, err := inference.NewTensor(mem, models.Float32, []int64{1, int64(width)})
	if err != nil {
		return in, err
	}
	for i := range inference.View[float32](&in) {
		inference.View[float32](&in)[i] = float32(i%17) / 16
	}
	return in, nil
}

// publishBytes publishes a file's contents.
func (h *house) publishBytes(t testing.TB, name string, model []byte, spec models.Spec) *models.Version {
	t.Helper()
	staged, err := h.catalog.Stage(t.Context(), bytes.NewReader(model))
	if err != nil {
		t.Fatal(err)
	}
	_, v, err := h.catalog.Publish(t.Context(), h.owner, name, staged, spec, h.service.Try)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
