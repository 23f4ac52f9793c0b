package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"modelgate/models"
)

// The tolerances of the runner in the onnx package: floats may differ by
// absolute + relative * |expected|.
const (
	conformanceRelative = 1e-3
	conformanceAbsolute = 1e-7
)

// compareValues compares what came with what the data expect, which may be
// fewer outputs. In JSON, null stands for all that is no number.
func compareValues(want, got []onnxValue, inJSON bool) error {
	for i := range want {
		if want[i].sequence != got[i].sequence || len(want[i].items) != len(got[i].items) {
			return fmt.Errorf("output %d: sequences of %d and %d", i, len(want[i].items), len(got[i].items))
		}
		w, g := want[i].items, got[i].items
		if !want[i].sequence {
			w, g = []onnxTensor{want[i].tensor}, []onnxTensor{got[i].tensor}
		}
		for k := range w {
			if err := w[k].near(&g[k], inJSON); err != nil {
				return fmt.Errorf("output %d, tensor %d: %w", i, k, err)
			}
		}
	}
	return nil
}

// near compares types, shapes and elements: floats within the tolerances,
// everything else exactly.
func (t *onnxTensor) near(got *onnxTensor, inJSON bool) error {
	switch {
	case t.datatype != got.datatype || !slices.Equal(t.shape, got.shape):
		return fmt.Errorf("%s %v, expected is %s %v", got.datatype, got.shape, t.datatype, t.shape)
	case !slices.Equal(t.strings, got.strings):
		return fmt.Errorf("%q, expected is %q", got.strings, t.strings)
	case len(t.data) != len(got.data):
		return fmt.Errorf("%d bytes, expected are %d", len(got.data), len(t.data))
	case !t.isFloat():
		if !bytes.Equal(t.data, got.data) {
			return fmt.Errorf("other values: %x, expected is %x", cutBytes(got.data), cutBytes(t.data))
		}
		return nil
	}
	for i := range int(t.elements()) {
		if w, g := t.float(i), got.float(i); !nearFloat(w, g, inJSON) {
			return fmt.Errorf("value %d is %v, expected is %v", i, g, w)
		}
	}
	return nil
}

func nearFloat(want, got float64, inJSON bool) bool {
	switch {
	case math.IsNaN(want):
		return math.IsNaN(got)
	case math.IsInf(want, 0):
		return got == want || inJSON && math.IsNaN(got)
	}
	return math.Abs(got-want) <= conformanceAbsolute+conformanceRelative*math.Abs(want)
}

// sameNumbers fails unless an answer in JSON has the very bits of the answer
// in bytes, wherever those are numbers.
func sameNumbers(binary, inJSON []onnxValue) error {
	for i := range min(len(binary), len(inJSON)) {
		b, j := &binary[i].tensor, &inJSON[i].tensor
		if len(b.data) != len(j.data) {
			return fmt.Errorf("output %d: %d bytes in bytes, %d in JSON", i, len(b.data), len(j.data))
		}
		if len(b.data) == 0 {
			continue
		}
		for k := range int(b.elements()) {
			if b.isFloat() && (math.IsNaN(b.float(k)) || math.IsInf(b.float(k), 0)) {
				continue
			}
			if b.bits(k) != j.bits(k) {
				return fmt.Errorf("output %d, value %d: bits %x in bytes, %x in JSON", i, k, b.bits(k), j.bits(k))
			}
		}
	}
	return nil
}

func cutBytes(b []byte) []byte { return b[:min(len(b), 32)] }

// TestConformanceComparison: what the comparison lets pass and what not.
func TestConformanceComparison(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	doubles := func(shape []int64, v ...float64) *onnxTensor {
		x := &onnxTensor{datatype: models.Float64, shape: shape}
		for _, f := range v {
			x.data = binary.LittleEndian.AppendUint64(x.data, math.Float64bits(f))
		}
		return x
	}
	one := []int64{1}
	ints := func(v ...byte) *onnxTensor {
		return &onnxTensor{datatype: models.Uint8, shape: []int64{int64(len(v))}, data: v}
	}
	text := func(v string) *onnxTensor {
		return &onnxTensor{datatype: models.String, shape: one, strings: []string{v}}
	}
	for _, c := range []struct {
		name        string
		want, got   *onnxTensor
		bytes, json bool // that it passes
	}{
		{"equal", doubles(one, 2), doubles(one, 2), true, true},
		{"within", doubles(one, 2), doubles(one, 2.0019), true, true},
		{"beyond", doubles(one, 2), doubles(one, 2.0021), false, false},
		{"nearly zero", doubles(one, 0), doubles(one, 0.9e-7), true, true},
		{"not so nearly", doubles(one, 0), doubles(one, 1.1e-7), false, false},
		{"NaN", doubles(one, nan), doubles(one, nan), true, true},
		{"NaN for a number", doubles(one, 2), doubles(one, nan), false, false},
		{"a number for NaN", doubles(one, nan), doubles(one, 2), false, false},
		{"infinity", doubles(one, inf), doubles(one, inf), true, true},
		{"null for infinity", doubles(one, inf), doubles(one, nan), false, true},
		{"the other infinity", doubles(one, inf), doubles(one, -inf), false, false},
		{"another shape", doubles([]int64{1, 1}, 2), doubles(one, 2), false, false},
		{"fewer", doubles(one, 2), doubles(one), false, false},
		{"whole numbers", ints(200), ints(200), true, true},
		{"others", ints(200), ints(201), false, false},
		{"another type", ints(2), doubles(one, 2), false, false},
		{"strings", text("a"), text("a"), true, true},
		{"other strings", text("a"), text("b"), false, false},
	} {
		want, got := []onnxValue{{tensor: *c.want}}, []onnxValue{{tensor: *c.got}}
		if err := compareValues(want, got, false); (err == nil) != c.bytes {
			t.Errorf("%s, in bytes: %v", c.name, err)
		}
		if err := compareValues(want, got, true); (err == nil) != c.json {
			t.Errorf("%s, in JSON: %v", c.name, err)
		}
	}
	if err := sameNumbers([]onnxValue{{tensor: *doubles(one, 2)}}, []onnxValue{{tensor: *doubles(one, math.Nextafter(2, 3))}}); err == nil {
		t.Error("other bits in JSON than in bytes passed")
	}
}
