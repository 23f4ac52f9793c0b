package inference

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"modelgate/models"
)

// tensor makes one on the Go heap, for tests.
func tensor[T Fixed](t models.DataType, shape []int64, values ...T) Tensor {
	n, _ := Elements(shape)
	made, err := NewTensor(NewMemory(1<<30), t, shape)
	if err != nil || int(n) != len(values) {
		panic("a test's tensor")
	}
	copy(View[T](&made), values)
	return made
}

func texts(shape []int64, values ...string) Tensor {
	return Tensor{Type: models.String, Shape: shape, Strings: values}
}

func TestAppendJSON(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		value Value
		want  string
	}{
		{Value{Tensor: tensor(models.Float32, []int64{1, 3}, float32(0.98), 0.02, 0)}, `[[0.98,0.02,0]]`},
		{Value{Tensor: tensor(models.Float32, []int64{}, float32(1.5))}, `1.5`},
		{Value{Tensor: tensor(models.Float32, []int64{3}, nan, inf, -inf)}, `[null,null,null]`},
		{Value{Tensor: tensor(models.Float32, []int64{4}, float32(math.Copysign(0, -1)), 1e-7, 1e21, 16777216)}, `[-0,1e-7,1e+21,16777216]`},
		{Value{Tensor: tensor(models.Float64, []int64{4}, 0.1, 1e-9, 1e300, math.Copysign(0, -1))}, `[0.1,1e-9,1e+300,-0]`},
		{Value{Tensor: tensor(models.Float16, []int64{4}, uint16(0x2E66), 0x3555, 0x7C00, 0xC000)}, `[0.1,0.3333,null,-2]`},
		{Value{Tensor: tensor(models.BFloat16, []int64{2}, uint16(0x3DCD), 0x7F7F)}, `[0.1,3.39e+38]`},
		{Value{Tensor: tensor(models.Int64, []int64{2, 2, 1}, int64(math.MinInt64), math.MaxInt64, 0, -1)}, `[[[-9223372036854775808],[9223372036854775807]],[[0],[-1]]]`},
		{Value{Tensor: tensor(models.Uint64, []int64{1}, uint64(math.MaxUint64))}, `[18446744073709551615]`},
		{Value{Tensor: tensor(models.Int8, []int64{2}, int8(-128), 127)}, `[-128,127]`},
		{Value{Tensor: tensor(models.Uint8, []int64{2}, uint8(0), 255)}, `[0,255]`},
		{Value{Tensor: tensor(models.Int16, []int64{1}, int16(-5))}, `[-5]`},
		{Value{Tensor: tensor(models.Uint16, []int64{1}, uint16(65535))}, `[65535]`},
		{Value{Tensor: tensor(models.Int32, []int64{1}, int32(-5))}, `[-5]`},
		{Value{Tensor: tensor(models.Uint32, []int64{1}, uint32(math.MaxUint32))}, `[4294967295]`},
		{Value{Tensor: tensor(models.Bool, []int64{2}, uint8(1), 0)}, `[true,false]`},
		{Value{Tensor: texts([]int64{2, 1}, "a\"\\\n\r\t\x01ä", "\xff<&>")}, `[["a\"\\\n\r\t\u0001ä"],["` + "\ufffd" + `<&>"]]`},
		{Value{Tensor: tensor[float32](models.Float32, []int64{0, 4})}, `[]`},
		{Value{Tensor: tensor[float32](models.Float32, []int64{2, 0, 3})}, `[[],[]]`},
		{Value{Tensor: texts([]int64{0})}, `[]`},
		{Value{Kind: models.KindMaps, Maps: []Map{
			{Keys: tensor(models.Int64, []int64{2}, int64(0), -1), Values: tensor(models.Float32, []int64{2}, float32(0.25), 0.75)},
			{Keys: tensor[int64](models.Int64, []int64{0}), Values: tensor[float32](models.Float32, []int64{0})},
		}}, `[{"0":0.25,"-1":0.75},{}]`},
		{Value{Kind: models.KindMaps}, `[]`},
		{Value{Kind: models.KindMap, Maps: []Map{{Keys: texts([]int64{1}, `a"b`), Values: tensor(models.Int64, []int64{1}, int64(7))}}}, `{"a\"b":7}`},
		{Value{Kind: models.KindTensors, Tensors: []Tensor{
			tensor(models.Float32, []int64{1, 2}, float32(1), 2), tensor(models.Float32, []int64{}, float32(3))}}, `[[[1,2]],3]`},
	} {
		r := &Result{Model: "m", Outputs: []Output{{Name: "y", Value: c.value}}}
		got, err := AppendJSON([]byte("x"), r, nil)
		if want := `x{"model":"m","outputs":{"y":` + c.want + `}}`; err != nil || string(got) != want {
			t.Errorf("got %s, %v\nwant %s", got, err, want)
		}
		if !json.Valid(got[1:]) {
			t.Errorf("not JSON: %s", got)
		}
	}
}

func TestAppendJSONRepeatsTheID(t *testing.T) {
	r := &Result{Model: "iris", Outputs: []Output{
		{Name: "label", Value: Value{Tensor: tensor(models.Int64, []int64{1}, int64(2))}},
		{Name: "p", Value: Value{Tensor: tensor(models.Float32, []int64{1}, float32(0.5))}},
	}}
	for _, c := range []struct {
		e    Envelope
		want string
	}{
		{Envelope{}, `{"model":"iris","outputs":{"label":[2],"p":[0.5]}}`},
		{Envelope{HasID: true}, `{"id":"","model":"iris","outputs":{"label":[2],"p":[0.5]}}`},
		{Envelope{HasID: true, ID: "r\"1\u2028"}, `{"id":"r\"1` + "\u2028" + `","model":"iris","outputs":{"label":[2],"p":[0.5]}}`},
	} {
		if got, err := AppendJSON(nil, r, &c.e); err != nil || string(got) != c.want {
			t.Errorf("got %s, %v\nwant %s", got, err, c.want)
		}
	}
}

func TestAppendJSONRefusesWhatIsNotWhole(t *testing.T) {
	cut := tensor(models.Float32, []int64{4}, float32(1), 2, 3, 4)
	cut.Data = cut.Data[:8]
	for name, c := range map[string]struct {
		value Value
		want  error
	}{
		"cut":         {Value{Tensor: cut}, ErrRun},
		"strings":     {Value{Tensor: texts([]int64{3}, "a")}, ErrRun},
		"negative":    {Value{Tensor: Tensor{Type: models.Float32, Shape: []int64{-1}}}, ErrRun},
		"no type":     {Value{Tensor: Tensor{Shape: []int64{1}}}, ErrRun},
		"two maps":    {Value{Kind: models.KindMap, Maps: make([]Map, 2)}, ErrRun},
		"odd map":     {Value{Kind: models.KindMap, Maps: []Map{{Keys: texts([]int64{2}, "a", "b"), Values: texts([]int64{1}, "a")}}}, ErrRun},
		"float keys":  {Value{Kind: models.KindMap, Maps: []Map{{Keys: tensor(models.Float32, []int64{1}, float32(1)), Values: texts([]int64{1}, "a")}}}, ErrRun},
		"kind":        {Value{Kind: 9}, ErrRun},
		"empties":     {Value{Tensor: Tensor{Type: models.Float32, Shape: []int64{1 << 40, 0}}}, ErrTooLarge},
		"many arrays": {Value{Tensor: Tensor{Type: models.Uint8, Shape: append([]int64{1 << 16}, make25()...), Data: make([]byte, 1<<16)}}, ErrTooLarge},
	} {
		r := &Result{Model: "m", Outputs: []Output{{Name: "y", Value: c.value}}}
		got, err := AppendJSON([]byte("x"), r, nil)
		if !errors.Is(err, c.want) || string(got) != "x" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func make25() []int64 {
	ones := make([]int64, 25)
	for i := range ones {
		ones[i] = 1
	}
	return ones
}

// Floats look as encoding/json writes them, and read back bit by bit.
func TestAppendFloat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := math.Float64frombits(rapid.Uint64().Draw(t, "bits"))
		g := math.Float32frombits(rapid.Uint32().Draw(t, "bits32"))
		if rapid.Bool().Draw(t, "small") {
			f, g = float64(int64(f))/8, float32(int32(g))/8
		}
		same(t, f, string(appendFloat64(nil, f)), 64)
		same(t, g, string(appendFloat32(nil, g)), 32)
	})
}

func same[T float32 | float64](t *rapid.T, f T, got string, bits int) {
	want, err := json.Marshal(f)
	if err != nil {
		want = []byte("null")
	}
	if got != string(want) {
		t.Fatalf("%v: got %s, want %s", f, got, want)
	}
	if back, err := strconv.ParseFloat(got, bits); err == nil && T(back) != f {
		t.Fatalf("%v is written %s", f, got)
	}
}

// What is encoded and decoded again is the same, for every type.
func TestJSONThereAndBack(t *testing.T) {
	mem := NewMemory(1 << 20)
	rapid.Check(t, func(t *rapid.T) {
		dt := rapid.SampledFrom([]models.DataType{models.Float32, models.Uint8, models.Int8, models.Uint16, models.Int16, models.Int32,
			models.Int64, models.String, models.Bool, models.Float16, models.Float64, models.Uint32, models.Uint64, models.BFloat16}).Draw(t, "type")
		shape := rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 3).Draw(t, "shape")
		a, err := NewTensor(mem, dt, shape)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Release()
		for i := range a.Strings {
			a.Strings[i] = rapid.String().Draw(t, "s")
		}
		if size := dt.Size(); size > 0 {
			for i := range a.Data {
				a.Data[i] = rapid.Byte().Draw(t, "b")
			}
			calm(&a)
		}
		text, err := AppendJSON(nil, &Result{Model: "m", Outputs: []Output{{Name: "y", Value: Value{Tensor: a}}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.TrimSuffix(strings.TrimPrefix(string(text), `{"model":"m","outputs":`), "}"))
		sig := &models.Signature{Inputs: []models.TensorSpec{{Name: "y", GraphValue: models.GraphValue{Type: dt, Shape: shape}}}}
		for i, d := range shape {
			if d == 0 { // below an empty array the text doesn't tell
				break
			}
			sig.Inputs[0].Shape = append(append(append([]int64{}, shape[:i]...), -1), shape[i+1:]...)
		}
		back, err := DecodeJSON(text, sig, mem)
		if err != nil {
			if strings.Contains(err.Error(), "got [") && reflect.DeepEqual(a.Len(), 0) {
				return
			}
			t.Fatalf("%s: %v", text, err)
		}
		defer back[0].Release()
		if plain(&back[0]) != plain(&a) {
			t.Fatalf("%s: %s became %s", text, plain(&a), plain(&back[0]))
		}
	})
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

// calm takes out of random bytes what JSON can't carry: NaN, infinities, and
// booleans that are neither 0 nor 1.
func calm(t *Tensor) {
	switch t.Type {
	case models.Bool:
		for i := range t.Data {
			t.Data[i] &= 1
		}
	case models.Float32:
		for i, v := range View[float32](t) {
			if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
				View[float32](t)[i] = 1
			}
		}
	case models.Float64:
		for i, f := range View[float64](t) {
			if math.IsNaN(f) || math.IsInf(f, 0) {
				View[float64](t)[i] = 1
			}
		}
	case models.Float16, models.BFloat16:
		h := float16
		if t.Type == models.BFloat16 {
			h = bfloat16
		}
		for i, v := range View[uint16](t) {
			if v&0x7FFF >= h.infinity {
				View[uint16](t)[i] = 1
			}
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	mem := NewMemory(1 << 20)
	scores, _ := NewTensor(mem, models.Float32, []int64{1, 1000})
	halves, _ := NewTensor(mem, models.Float16, []int64{1, 1000})
	for i := range 1000 {
		View[float32](&scores)[i] = float32(math.Exp(-float64(i) / 77))
		View[uint16](&halves)[i] = float16.bits(math.Exp(-float64(i) / 77))
	}
	for name, t := range map[string]Tensor{"float32": scores, "float16": halves} {
		r := &Result{Model: "m", Outputs: []Output{{Name: "y", Value: Value{Tensor: t}}}}
		var out []byte
		b.Run("1000_"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				out, _ = AppendJSON(out[:0], r, nil)
			}
		})
	}
}
