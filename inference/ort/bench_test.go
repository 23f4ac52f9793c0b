package ort

import (
	"context"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

var bg = context.Background()

// BenchmarkRun is one run with everything around it: buffers for the inputs,
// the run, releasing what came out.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		file string
		rows int64
	}{{"rowmix.onnx", 1}, {"two_io.onnx", 1}, {"two_io.onnx", 10_000}, {"types.onnx", 1}, {"sentiment.onnx", 1}, {"iris.onnx", 1}, {"iris.onnx", 100}, {"digits.onnx", 1}} {
		name := c.file[:len(c.file)-len(".onnx")]
		if c.rows > 1 {
			name += "/many"
		}
		b.Run(name, func(b *testing.B) { benchmarkRun(b, c.file, c.rows, false) })
	}
	b.Run("rowmix/parallel", func(b *testing.B) { benchmarkRun(b, "rowmix.onnx", 1, true) })
	b.Run("digits/parallel", func(b *testing.B) { benchmarkRun(b, "digits.onnx", 1, true) })
}

func benchmarkRun(b *testing.B, file string, rows int64, parallel bool) {
	mem := inference.NewMemory(256 << 20)
	s := loadFile(b, open(b, Config{Memory: mem}), file)
	graph := s.Graph()
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	var want []int
	for i := range graph.Outputs {
		want = append(want, i)
	}
	var shapes [][]int64
	for _, g := range graph.Inputs {
		shape := append([]int64{}, g.Shape...)
		for k := range shape {
			if shape[k] < 0 {
				shape[k] = rows
			}
		}
		shapes = append(shapes, shape)
	}
	once := func(in []inference.Tensor) error {
		for i, g := range graph.Inputs {
			var err error
			if in[i], err = inference.NewTensor(mem, g.Type, shapes[i]); err != nil {
				return err
			}
			if g.Type == models.String {
				in[i].Strings[0] = "a fine day"
			} else {
				clear(in[i].Data)
			}
		}
		values, err := s.Run(ctx, in, want)
		for i := range values {
			values[i].Release()
		}
		for i := range in {
			in[i].Release()
		}
		return err
	}
	b.ReportAllocs()
	if !parallel {
		in := make([]inference.Tensor, len(shapes))
		for b.Loop() {
			if err := once(in); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		in := make([]inference.Tensor, len(shapes))
		for pb.Next() {
			if err := once(in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	e := open(b, Config{Memory: inference.NewMemory(1 << 20)})
	for _, file := range []string{"two_io.onnx", "digits.onnx"} {
		model := read(b, file)
		b.Run(file, func(b *testing.B) {
			for b.Loop() {
				s, err := e.Load(bg, model, inference.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
