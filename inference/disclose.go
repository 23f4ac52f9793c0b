package inference

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"modelgate/models"
)

// disclose applies a rule to one output of the type that spec declares, in
// place. What the value then is, models.Rule.Spec says.
//
//   - Only floats are touched: integers, bools and strings are labels.
//   - label_only turns a float tensor into the INT64 argmax over its last axis,
//     taken of the values as computed; TopK and Decimals have no bearing on it.
//     Rank 0 gives 0, an empty axis -1. Each map of floats gives the index of
//     the winner among its sorted keys. Equal values: the lowest index wins;
//     NaN loses against everything.
//   - top_k keeps the k largest of the last axis (of a map, of its values) by
//     the same order and zeroes the others.
//   - decimals rounds the exact binary value half to even, then to the nearest
//     value of the element type. Zero loses its sign. NaN and the infinities
//     stay, and so do numbers so large that they have no decimals.
//
// Errors are those of NewTensor; the value is then still the caller's to
// release, and not to be shown.
func disclose(rule *models.Rule, spec *models.TensorSpec, v *Value, mem *Memory) error {
	switch {
	case !isFloat(spec.Type):
		return nil
	case rule.LabelOnly:
		return label(v, mem)
	case rule.TopK == 0 && rule.Decimals == nil:
		return nil
	}
	each(v, func(t *Tensor) {
		if rule.TopK > 0 {
			topK(t, rule.TopK)
		}
		if rule.Decimals != nil {
			roundTo(t, *rule.Decimals)
		}
	})
	return nil
}

// each calls f for the arrays of numbers in a value.
func each(v *Value, f func(*Tensor)) {
	switch v.Kind {
	case models.KindTensor:
		f(&v.Tensor)
	case models.KindTensors:
		for i := range v.Tensors {
			f(&v.Tensors[i])
		}
	default:
		for i := range v.Maps {
			f(&v.Maps[i].Values)
		}
	}
}

func isFloat(t models.DataType) bool {
	switch t {
	case models.Float16, models.BFloat16, models.Float32, models.Float64:
		return true
	}
	return false
}

// order maps floats to integers of the same order: NaN lowest, both zeros
// alike.
func order(f float64) int64 {
	switch {
	case f != f:
		return math.MinInt64
	case f == 0:
		return 0
	}
	n := int64(math.Float64bits(f))
	if n < 0 {
		n = math.MinInt64 - n
	}
	return n
}

// numbers reads the elements from..to-1 of a float tensor onto dst.
func numbers(dst []float64, t *Tensor, from, to int) []float64 {
	switch t.Type {
	case models.Float32:
		for _, v := range View[float32](t)[from:to] {
			dst = append(dst, float64(v))
		}
	case models.Float64:
		dst = append(dst, View[float64](t)[from:to]...)
	case models.Float16:
		for _, v := range View[uint16](t)[from:to] {
			dst = append(dst, float16.value(v))
		}
	case models.BFloat16:
		for _, v := range View[uint16](t)[from:to] {
			dst = append(dst, bfloat16.value(v))
		}
	}
	return dst
}

// lastAxis returns the size of the last axis (1 for rank 0) and how many rows
// of that size there are.
func lastAxis(shape []int64) (width, rows int) {
	if len(shape) == 0 {
		return 1, 1
	}
	last := len(shape) - 1
	n, _ := Elements(shape[:last])
	return int(shape[last]), int(n)
}

// label replaces floats by what wins.
func label(v *Value, mem *Memory) error {
	switch v.Kind {
	case models.KindTensor:
		return labelTensor(&v.Tensor, mem)
	case models.KindTensors:
		for i := range v.Tensors {
			if err := labelTensor(&v.Tensors[i], mem); err != nil {
				return err
			}
		}
		return nil
	}
	shape := []int64{int64(len(v.Maps))}
	if v.Kind == models.KindMap {
		shape = []int64{}
	}
	t, err := NewTensor(mem, models.Int64, shape)
	if err != nil {
		return err
	}
	for i := range v.Maps {
		View[int64](&t)[i] = int64(winner(&v.Maps[i]))
	}
	v.Release()
	*v = Value{Kind: models.KindTensor, Tensor: t}
	return nil
}

func labelTensor(t *Tensor, mem *Memory) error {
	width, rows := lastAxis(t.Shape)
	made, err := NewTensor(mem, models.Int64, t.Shape[:max(len(t.Shape)-1, 0)])
	if err != nil {
		return err
	}
	out, row := View[int64](&made), make([]float64, 0, width)
	for i := range rows {
		out[i] = int64(argmax(numbers(row, t, i*width, (i+1)*width)))
	}
	t.Release()
	*t = made
	return nil
}

// argmax is the index of the largest element, -1 of an empty list.
func argmax(list []float64) int {
	best, at := int64(math.MinInt64), -1
	for i, f := range list {
		if o := order(f); at < 0 || o > best {
			best, at = o, i
		}
	}
	return at
}

// winner is the index, among the sorted keys, of the key with the largest
// value; -1 of an empty map.
func winner(m *Map) int {
	sorted := make([]int, m.Keys.Len())
	for i := range sorted {
		sorted[i] = i
	}
	if m.Keys.Type == models.String {
		slices.SortFunc(sorted, func(a, b int) int { return cmp.Compare(m.Keys.Strings[a], m.Keys.Strings[b]) })
	} else {
		keys := View[int64](&m.Keys)
		slices.SortFunc(sorted, func(a, b int) int { return cmp.Compare(keys[a], keys[b]) })
	}
	values := numbers(make([]float64, 0, len(sorted)), &m.Values, 0, len(sorted))
	inOrder := make([]float64, len(sorted))
	for i, k := range sorted {
		inOrder[i] = values[k]
	}
	return argmax(inOrder)
}

// topK zeroes all but the k largest elements of each row of a float tensor.
func topK(t *Tensor, k int) {
	width, rows := lastAxis(t.Shape)
	if width <= k {
		return
	}
	row, scratch, size := make([]float64, 0, width), make([]int64, width), t.Type.Size()
	for i := range rows {
		drop(numbers(row, t, i*width, (i+1)*width), k, scratch, func(n int) {
			at := (i*width + n) * size
			clear(t.Data[at : at+size])
		})
	}
}

// drop calls f for all but the k largest elements, of equal ones the first.
// scratch is as long as row.
func drop(row []float64, k int, scratch []int64, f func(i int)) {
	for i, v := range row {
		scratch[i] = order(v)
	}
	slices.Sort(scratch)
	top := scratch[len(scratch)-k:]
	least, equals := top[0], 0 // how many of the least are kept
	for equals < k && top[equals] == least {
		equals++
	}
	for i, v := range row {
		switch o := order(v); {
		case o > least:
		case o == least && equals > 0:
			equals--
		default:
			f(i)
		}
	}
}

// roundTo rounds the elements of a float tensor to that many decimals.
func roundTo(t *Tensor, decimals int) {
	decimals = max(decimals, 0)
	switch t.Type {
	case models.Float32:
		for i, v := range View[float32](t) {
			View[float32](t)[i] = round32(v, decimals)
		}
	case models.Float64:
		for i, v := range View[float64](t) {
			View[float64](t)[i] = round64(v, decimals)
		}
	case models.Float16:
		roundHalves(View[uint16](t), decimals, float16)
	case models.BFloat16:
		roundHalves(View[uint16](t), decimals, bfloat16)
	}
}

// round32 rounds by way of float64, which holds v * 10^12 exactly: 24 bits of
// v and the 28 bits of 5^12.
func round32(v float32, decimals int) float32 {
	f := float64(v)
	switch {
	case v == 0:
		return 0
	case !(math.Abs(f) < 1<<23):
		return v
	}
	if decimals <= 12 {
		q := math.RoundToEven(f*pow10f[decimals]) / pow10f[decimals]
		// q is the float64 nearest to the decimal, and rounds to float32 as the
		// decimal does unless it lies in the middle of two.
		if math.Float64bits(q)&(1<<29-1) != 1<<28 {
			return unsigned(float32(q))
		}
	}
	var room [64]byte
	rounded, _ := parseFloat32(strconv.AppendFloat(room[:0], f, 'f', decimals, 64), 0)
	return unsigned(rounded)
}

// unsigned turns -0 into 0.
func unsigned[T float32 | float64](f T) T {
	if f == 0 {
		return 0
	}
	return f
}

func round64(v float64, decimals int) float64 {
	if !(math.Abs(v) < 1<<52) {
		return v
	}
	var room [64]byte
	rounded, _ := parseFloat64(strconv.AppendFloat(room[:0], v, 'f', decimals, 64), 0)
	return unsigned(rounded)
}

func roundHalves(list []uint16, decimals int, h *halfFormat) {
	var room [64]byte
	whole := math.Ldexp(1, h.mantissa) // from here on there are no decimals
	for i, v := range list {
		f := h.value(v)
		if !(math.Abs(f) < whole) {
			continue
		}
		rounded, _ := parseHalf(strconv.AppendFloat(room[:0], f, 'f', decimals, 64), 0, h)
		if rounded == 1<<15 {
			rounded = 0
		}
		list[i] = rounded
	}
}
