package ort

import (
	"math"
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
