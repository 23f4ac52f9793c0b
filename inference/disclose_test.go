package inference

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"modelgate/models"
)

var floatTypes = []models.DataType{models.Float32, models.Float64, models.Float16, models.BFloat16}

// fill writes floats into a tensor of any float type.
func fill(t *Tensor, values []float64) {
	for i, f := range values {
		switch t.Type {
		case models.Float32:
			View[float32](t)[i] = float32(f)
		case models.Float64:
			View[float64](t)[i] = f
		case models.Float16:
			View[uint16](t)[i] = float16.bits(f)
		case models.BFloat16:
			View[uint16](t)[i] = bfloat16.bits(f)
		}
	}
}

// made is a tensor of that type and shape, in mem.
func made(mem *Memory, dt models.DataType, shape []int64, values ...float64) Tensor {
	t, err := NewTensor(mem, dt, shape)
	if err != nil {
		panic(err)
	}
	fill(&t, values)
	return t
}

func declared(v *Value) *models.TensorSpec {
	spec := &models.TensorSpec{Name: "y", GraphValue: models.GraphValue{Kind: v.Kind, Type: v.Tensor.Type, Shape: v.Tensor.Shape}}
	if len(v.Maps) > 0 {
		spec.Type, spec.Key = v.Maps[0].Values.Type, v.Maps[0].Keys.Type
	}
	if len(v.Tensors) > 0 {
		spec.Type, spec.Shape = v.Tensors[0].Type, v.Tensors[0].Shape
	}
	return spec
}

// some values repeat, so that there are ties.
var someFloat = rapid.OneOf(rapid.Float64Range(-4, 4), rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1, -1, 0.5, math.NaN(), math.Inf(1), math.Inf(-1), 1e-30}))

func TestTopKKeepsTheLargest(t *testing.T) {
	mem := NewMemory(1 << 20)
	rapid.Check(t, func(t *rapid.T) {
		dt := rapid.SampledFrom(floatTypes).Draw(t, "type")
		rows, width := rapid.IntRange(0, 4).Draw(t, "rows"), rapid.IntRange(0, 9).Draw(t, "width")
		k := rapid.IntRange(1, 10).Draw(t, "k")
		a := made(mem, dt, []int64{int64(rows), int64(width)}, rapid.SliceOfN(someFloat, rows*width, rows*width).Draw(t, "values")...)
		before := numbers(nil, &a, 0, rows*width)
		v := Value{Tensor: a}
		if err := disclose(&models.Rule{TopK: k}, declared(&v), &v, mem); err != nil {
			t.Fatal(err)
		}
		after := numbers(nil, &v.Tensor, 0, rows*width)
		v.Release()
		for r := range rows {
			was, is := before[r*width:(r+1)*width], after[r*width:(r+1)*width]
			ranked := make([]int, width)
			for i := range ranked {
				ranked[i] = i
			}
			slices.SortStableFunc(ranked, func(a, b int) int { return cmp.Compare(was[b], was[a]) }) // NaN last
			for place, i := range ranked {
				want := was[i]
				if place >= k {
					want = 0
				}
				if math.Float64bits(is[i]) != math.Float64bits(want) && !(is[i] != is[i] && want != want) {
					t.Fatalf("top %d of %v is %v", k, was, is)
				}
			}
		}
	})
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

// roundOracle rounds by exact fractions.
func roundOracle(f float64, decimals int) *big.Rat {
	scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil))
	x := new(big.Rat).SetFloat64(f)
	x.Mul(x, scale)
	whole, rest := new(big.Int).QuoRem(x.Num(), x.Denom(), new(big.Int))
	twice := new(big.Int).Abs(rest)
	switch c := twice.Lsh(twice, 1).Cmp(x.Denom()); {
	case c > 0, c == 0 && whole.Bit(0) == 1:
		whole.Add(whole, big.NewInt(int64(x.Sign())))
	}
	return x.Quo(new(big.Rat).SetInt(whole), scale)
}

func TestDecimalsRoundHalfToEven(t *testing.T) {
	mem := NewMemory(1 << 20)
	rapid.Check(t, func(t *rapid.T) {
		dt := rapid.SampledFrom(floatTypes).Draw(t, "type")
		decimals := rapid.IntRange(0, 15).Draw(t, "decimals")
		f := rapid.OneOf(someFloat, rapid.Float64Range(-1e5, 1e5), rapid.Float64(), rapid.Map(rapid.IntRange(-4000, 4000), func(n int) float64 { return float64(n) / 16 })).Draw(t, "f")
		a := made(mem, dt, []int64{1}, f)
		exact := numbers(nil, &a, 0, 1)[0]
		v := Value{Tensor: a}
		rule := &models.Rule{Decimals: &decimals}
		if err := disclose(rule, declared(&v), &v, mem); err != nil {
			t.Fatal(err)
		}
		defer v.Release()
		got := numbers(nil, &v.Tensor, 0, 1)[0]
		if math.IsNaN(exact) || math.IsInf(exact, 0) {
			if !(got == exact || got != got && exact != exact) {
				t.Fatalf("%v became %v", exact, got)
			}
			return
		}
		decimal := roundOracle(exact, decimals)
		var want float64
		switch dt {
		case models.Float32:
			f32, _ := decimal.Float32()
			want = float64(f32)
		case models.Float64:
			want, _ = decimal.Float64()
		case models.Float16:
			bits, _ := parseHalf([]byte(decimal.FloatString(decimals)), 0, float16)
			want = float16.value(bits)
		case models.BFloat16:
			bits, _ := parseHalf([]byte(decimal.FloatString(decimals)), 0, bfloat16)
			want = bfloat16.value(bits)
		}
		if got != want || got == 0 && math.Signbit(got) {
			t.Fatalf("%s %v to %d decimals: got %v, want %v", dt, exact, decimals, got, want)
		}
		if err := disclose(rule, declared(&v), &v, mem); err != nil {
			t.Fatal(err)
		}
		if again := numbers(nil, &v.Tensor, 0, 1)[0]; math.Float64bits(again) != math.Float64bits(got) {
			t.Fatalf("%s %v to %d decimals: %v, then %v", dt, exact, decimals, got, again)
		}
	})
}

func TestDecimals(t *testing.T) {
	mem := NewMemory(1 << 20)
	for _, c := range []struct {
		f        float64
		decimals int
		want     string
	}{
		{0.125, 2, "0.12"}, {0.375, 2, "0.38"}, {2.5, 0, "2"}, {3.5, 0, "4"}, {-0.001, 2, "0"}, {0.98012, 3, "0.98"}, {1e30, 3, "1e+30"},
	} {
		a := made(mem, models.Float32, []int64{}, c.f)
		roundTo(&a, c.decimals)
		if got := strconv.FormatFloat(float64(View[float32](&a)[0]), 'g', -1, 32); got != c.want {
			t.Errorf("%v to %d decimals: %s, want %s", c.f, c.decimals, got, c.want)
		}
		a.Release()
	}
}

func TestLabelOnly(t *testing.T) {
	mem := NewMemory(1 << 20)
	nan, inf := math.NaN(), math.Inf(1)
	maps := func(keys func(i int) Tensor, rows ...[]float64) Value {
		v := Value{Kind: models.KindMaps}
		for i, row := range rows {
			v.Maps = append(v.Maps, Map{Keys: keys(i), Values: made(mem, models.Float32, []int64{int64(len(row))}, row...)})
		}
		return v
	}
	ints := func(list ...int64) func(int) Tensor {
		return func(int) Tensor {
			t, _ := NewTensor(mem, models.Int64, []int64{int64(len(list))})
			copy(View[int64](&t), list)
			return t
		}
	}
	words := func(list ...string) func(int) Tensor {
		return func(int) Tensor { return texts([]int64{int64(len(list))}, list...) }
	}
	single := maps(ints(7, 3), []float64{0.9, 0.1})
	single.Kind = models.KindMap
	for _, c := range []struct {
		name  string
		value Value
		want  string
	}{
		{"rows", Value{Tensor: made(mem, models.Float32, []int64{2, 3}, 0.1, 0.7, 0.2, 3, 1, 2)}, "[2] [1 0]"},
		{"ties and NaN", Value{Tensor: made(mem, models.Float64, []int64{5, 3}, 1, 1, 0, nan, 1, 1, nan, nan, nan, nan, nan, -inf, math.Copysign(0, -1), 0, -1)}, "[5] [0 1 0 2 0]"},
		{"halves", Value{Tensor: made(mem, models.Float16, []int64{1, 3}, -1, -0.5, -2)}, "[1] [1]"},
		{"brain halves", Value{Tensor: made(mem, models.BFloat16, []int64{1, 2}, -1, 5)}, "[1] [1]"},
		{"rank 1", Value{Tensor: made(mem, models.Float32, []int64{3}, 1, 2, 3)}, "[] [2]"},
		{"rank 0", Value{Tensor: made(mem, models.Float32, []int64{}, 42)}, "[] [0]"},
		{"rank 3", Value{Tensor: made(mem, models.Float32, []int64{1, 2, 2}, 1, 2, 4, 3)}, "[1 2] [1 0]"},
		{"no rows", Value{Tensor: made(mem, models.Float32, []int64{0, 3})}, "[0] []"},
		{"no columns", Value{Tensor: made(mem, models.Float32, []int64{2, 0})}, "[2] [-1 -1]"},
		{"maps", maps(ints(0, 1, 2), []float64{0.2, 0.5, 0.3}, []float64{0.5, 0.5, 0}), "[2] [1 0]"},
		{"maps in disorder", maps(ints(10, -5, 2), []float64{0.1, 0.2, 0.7}, []float64{0.4, 0.4, 0.2}), "[2] [1 0]"},
		{"maps by words", maps(words("setosa", "versicolor", "a"), []float64{0.1, 0.8, 0.1}), "[1] [2]"},
		{"no maps", Value{Kind: models.KindMaps, Tensor: Tensor{Type: models.Float32}}, "[0] []"},
		{"empty map", maps(ints(), []float64{}), "[1] [-1]"},
		{"a map", single, "[] [1]"},
	} {
		v, spec := c.value, declared(&c.value)
		v.Tensor = c.value.Tensor
		rule := models.Rule{LabelOnly: true, TopK: 1}
		if err := disclose(&rule, spec, &v, mem); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := rule.Spec(*spec)
		if v.Kind != want.Kind || v.Tensor.Type != want.Type || len(v.Tensor.Shape) != len(want.Shape) {
			t.Errorf("%s: %v %s %v, but metadata says %v %s %v", c.name, v.Kind, v.Tensor.Type, v.Tensor.Shape, want.Kind, want.Type, want.Shape)
		}
		if got := plain(&v.Tensor); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		v.Release()
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

func TestLabelOnlyOfSequences(t *testing.T) {
	mem := NewMemory(1 << 20)
	v := Value{Kind: models.KindTensors, Tensors: []Tensor{made(mem, models.Float32, []int64{1, 2}, 1, 2), made(mem, models.Float32, []int64{1, 2}, 2, 1)}}
	spec := declared(&v)
	rule := models.Rule{LabelOnly: true}
	if err := disclose(&rule, spec, &v, mem); err != nil {
		t.Fatal(err)
	}
	if want := rule.Spec(*spec); want.Kind != v.Kind || want.Type != models.Int64 {
		t.Errorf("metadata says %v", want)
	}
	if a, b := plain(&v.Tensors[0]), plain(&v.Tensors[1]); a != "[1] [1]" || b != "[1] [0]" {
		t.Errorf("got %s and %s", a, b)
	}
	v.Release()
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

// Labels are shown as they are, whatever the rule.
func TestOnlyFloatsAreTouched(t *testing.T) {
	mem := NewMemory(1 << 20)
	two := 2
	for _, v := range []Value{
		{Tensor: tensor(models.Int64, []int64{3}, int64(3), 1, 2)},
		{Tensor: tensor(models.Bool, []int64{3}, uint8(1), 0, 1)},
		{Tensor: texts([]int64{2}, "a", "b")},
		{Kind: models.KindMaps, Maps: []Map{{Keys: texts([]int64{1}, "a"), Values: tensor(models.Int64, []int64{1}, int64(7))}}},
	} {
		want := fmt.Sprint(v.Kind, plain(&v.Tensor), len(v.Maps))
		spec := declared(&v)
		rule := models.Rule{LabelOnly: true, TopK: 1, Decimals: &two}
		for _, rule := range []models.Rule{rule, {TopK: 1, Decimals: &two}} {
			if err := disclose(&rule, spec, &v, mem); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(v.Kind, plain(&v.Tensor), len(v.Maps)); got != want {
				t.Errorf("%s became %s", want, got)
			}
		}
	}
}

func TestRulesHoldForMapsAndSequences(t *testing.T) {
	mem := NewMemory(1 << 20)
	one := 1
	v := Value{Kind: models.KindMaps, Maps: []Map{
		{Keys: texts([]int64{3}, "a", "b", "c"), Values: made(mem, models.Float32, []int64{3}, 0.26, 0.55, 0.19)},
		{Keys: texts([]int64{3}, "a", "b", "c"), Values: made(mem, models.Float32, []int64{3}, 0.1, 0.1, 0.8)},
	}}
	if err := disclose(&models.Rule{TopK: 2, Decimals: &one}, declared(&v), &v, mem); err != nil {
		t.Fatal(err)
	}
	if a, b := plain(&v.Maps[0].Values), plain(&v.Maps[1].Values); a != "[3] [0.3 0.6 0]" || b != "[3] [0.1 0 0.8]" {
		t.Errorf("got %s and %s", a, b)
	}
	v.Release()
	w := Value{Kind: models.KindTensors, Tensors: []Tensor{made(mem, models.Float32, []int64{2}, 0.26, 0.55)}}
	if err := disclose(&models.Rule{TopK: 1, Decimals: &one}, declared(&w), &w, mem); err != nil {
		t.Fatal(err)
	}
	if got := plain(&w.Tensors[0]); got != "[2] [0 0.6]" {
		t.Errorf("got %s", got)
	}
	w.Release()
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

func TestLabelOnlyWithoutMemory(t *testing.T) {
	mem, none := NewMemory(1<<20), NewMemory(0)
	v := Value{Tensor: made(mem, models.Float32, []int64{1, 2}, 1, 2)}
	if err := disclose(&models.Rule{LabelOnly: true}, declared(&v), &v, none); err == nil {
		t.Error("no error")
	}
	v.Release()
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}
