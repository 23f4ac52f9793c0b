package ort

import (
	"math"
	"slices"
	"testing"

	"modelgate/inference"
	"modelgate/models"
)

// The smallest integer divided by -1 traps on x86; it must cost no more than
// an answer (testdata/README.md, divide). Without fpe.c this test ends the
// process.
func TestSmallestIntegerByMinusOne(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	s := loadFile(t, open(t, Config{Memory: mem}), "divide.onnx")
	var in []inference.Tensor
	for _, v := range []int64{math.MinInt64, -1} {
		x, err := inference.NewTensor(mem, models.Int64, []int64{1})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Release()
		inference.View[int64](&x)[0] = v
		in = append(in, x)
	}
	out, err := s.Run(t.Context(), in, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer out[0].Release()
	if got := inference.View[int64](&out[0].Tensor)[0]; got != math.MinInt64 {
		t.Errorf("got %d, want the dividend", got)
	}
	// Go's own traps stay panics.
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a division by zero in Go did not panic")
			}
		}()
		zero := len(in) - 2
		_ = 1 / zero
	}()
}

// Some kernels divide by the size of what they get: TopK by its rows. An empty
// input must cost no more than an answer. Without fpe.c this test ends the
// process.
func TestDivisionByEmptyInput(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	int64s := message(num(1, 7), sub(2, sub(1, num(1, 1)))) // TypeProto.Tensor: INT64 [1]
	e := open(t, Config{Memory: mem})
	s, err := loadBytes(t, e, file(list(node("TopK", []string{"x", "k"}, []string{"v", "i"})),
		list(port("x", floats([]int64{-1, 4})), port("k", sub(1, int64s))),
		list(port("v", floats([]int64{-1, -1})))))
	if err != nil {
		t.Fatal(err)
	}
	x, err := inference.NewTensor(mem, models.Float32, []int64{0, 4})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Release()
	k, err := inference.NewTensor(mem, models.Int64, []int64{1})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Release()
	inference.View[int64](&k)[0] = 3
	out, err := s.Run(t.Context(), []inference.Tensor{x, k}, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer out[0].Release()
	if got := out[0].Tensor.Shape; !slices.Equal(got, []int64{0, 3}) {
		t.Errorf("got the shape %v, want [0 3]", got)
	}
}
