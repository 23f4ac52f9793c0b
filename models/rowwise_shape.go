package models

import (
	"math"
	"slices"
)

// Rules of operators that move elements. Rows stay rows where axis 0 stays
// what it is. Lists of sizes are followed as far as exporters compute shapes
// with them.

// reshape: the new shape must begin with the number of rows: with 0, which
// copies it, with the number itself as Shape gave it, or with -1 where all
// other dimensions are known and make up a row.
func reshape(n *step) ([]abstract, bool) {
	v, to := n.arg(0), n.arg(1)
	literal := n.number("allowzero", 0) != 0 && (to.ints == nil || slices.Contains(to.ints, 0)) // 0 is then a size
	if len(n.in) != 2 || literal || to.form != constant && to.form != sizes {
		return nil, false
	}
	if v.form == constant && to.form == constant {
		return reshapeConstant(v, to)
	}
	if to.ints == nil || to.rank() > 1 || len(to.ints) == 0 || len(to.ints) > maxProvedRank {
		return nil, false
	}
	switch v.form {
	case sizes:
		return []abstract{listOf(v.ints, []int64{int64(len(v.ints))})}, len(to.ints) == 1 && (to.ints[0] == -1 || to.ints[0] == int64(len(v.ints)))
	case columns:
		if to.ints[0] != -1 || len(to.ints) > 2 || len(to.ints) == 2 && to.ints[1] != 1 {
			return nil, false
		}
		return []abstract{rowsOf([]int64{1}[:len(to.ints)-1]...)}, true
	case rows:
		return reshapeRows(v, to.ints)
	}
	return nil, false
}

func reshapeConstant(v, to abstract) ([]abstract, bool) {
	if to.ints == nil || slices.ContainsFunc(to.ints, func(d int64) bool { return d <= 0 }) || len(to.ints) > maxProvedRank {
		if len(to.ints) == 1 && to.ints[0] == -1 && v.ranked && product(v.dims) >= 0 {
			return one(abstract{form: constant, ranked: true, dims: []int64{product(v.dims)}, ints: v.ints})
		}
		return unranked()
	}
	return one(abstract{form: constant, ranked: true, dims: to.ints})
}

func reshapeRows(v abstract, to []int64) ([]abstract, bool) {
	dims := make([]int64, len(to))
	guessed := -1 // where the -1 stands
	for i, d := range to {
		switch {
		case d > 0:
			dims[i] = d
		case d == 0 && i < v.rank():
			dims[i] = v.dims[i]
		case d == -1 && guessed < 0:
			guessed, dims[i] = i, 1
		case d == inner && i > 0:
			dims[i] = open
		case d == rowCount && i == 0:
		default:
			return nil, false
		}
	}
	size, rest := product(v.dims[1:]), product(dims[1:])
	switch {
	case guessed == 0:
		// The runtime divides all elements by rest: the rows stay apart only if
		// that is what a row has.
		return []abstract{of(rows, dims)}, size > 0 && rest == size
	case to[0] != 0 && to[0] != rowCount:
		return nil, false
	case guessed > 0:
		if dims[guessed] = open; size > 0 && rest > 0 && size%rest == 0 {
			dims[guessed] = size / rest
		}
	}
	return one(of(rows, dims))
}

func flatten(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axis := n.number("axis", 1)
	if axis < 0 {
		axis += int64(v.rank())
	}
	if v.form != rows || axis != 1 {
		return nil, false
	}
	return one(rowsOf(product(v.dims[1:])))
}

func transpose(n *step) ([]abstract, bool) {
	v, perm := n.arg(0), n.find("perm")
	if v.form == constant && (!v.ranked || perm == nil) {
		return unranked()
	}
	if perm == nil || len(perm.ints) != v.rank() || v.form != rows && v.form != constant {
		return nil, false
	}
	dims := make([]int64, v.rank())
	var seen [maxProvedRank + 1]bool
	for i, p := range perm.ints {
		if p < 0 || p >= int64(v.rank()) || seen[p] {
			return nil, false
		}
		seen[p] = true
		dims[i] = v.dims[p]
	}
	if v.form == rows && perm.ints[0] != 0 {
		return nil, false
	}
	return one(of(v.form, dims))
}

// squeeze without axes would take the axis of the rows when there is one.
func squeeze(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axes, given, ok := n.list("axes", 1, 13)
	switch {
	case !ok:
		return nil, false
	case (v.form == sizes || v.form == constant) && len(v.ints) == 1 && v.rank() == 1:
		return one(listOf(v.ints, []int64{}))
	case v.form == constant:
		return unranked()
	case v.form != rows || !given || len(axes) == 0:
		return nil, false
	}
	return without(v, axes, false)
}

func unsqueeze(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axes, given, ok := n.list("axes", 1, 13)
	switch {
	case !ok || !given:
		return nil, false
	case (v.form == sizes || v.form == constant) && len(v.ints) == 1 && v.rank() == 0 && len(axes) == 1:
		return one(listOf(v.ints, []int64{1}))
	case v.form == constant:
		return unsqueezed(v, axes)
	case v.form != rows:
		return nil, false
	}
	return unsqueezed(v, axes)
}

func unsqueezed(v abstract, axes []int64) ([]abstract, bool) {
	if !v.ranked {
		return unranked()
	}
	rank := v.rank() + len(axes)
	if rank > maxProvedRank {
		return nil, false
	}
	var fresh [maxProvedRank]bool
	for _, a := range axes {
		axis, ok := fromFront(a, rank)
		if !ok || fresh[axis] || axis == 0 && v.form == rows {
			return nil, false
		}
		fresh[axis] = true
	}
	dims, next := make([]int64, rank), 0
	for i := range dims {
		if dims[i] = 1; !fresh[i] {
			dims[i] = v.dims[next]
			next++
		}
	}
	return one(of(v.form, dims))
}

// shape gives the sizes of rows; of constants a constant.
func shape(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form == sizes || v.form == constant && !v.ranked {
		return unranked()
	}
	if v.form != rows && v.form != constant {
		return nil, false
	}
	rank := int64(v.rank())
	clamp := func(k int64) int64 {
		if k < 0 {
			k += rank
		}
		return min(max(k, 0), rank)
	}
	start, end := clamp(n.number("start", 0)), clamp(n.number("end", rank))
	list := []int64{}
	for i := start; i < end; i++ {
		switch d := v.dims[i]; {
		case i == 0 && v.form == rows:
			list = append(list, rowCount)
		case d < 0:
			list = append(list, inner)
		default:
			list = append(list, d)
		}
	}
	return one(listOf(list, []int64{int64(len(list))}))
}

// gather: what the indices name, along an axis. Rows of indices into a
// constant (an embedding) put their axes in the place of the axis; that is the
// first for axis 0 only.
func gather(n *step) ([]abstract, bool) {
	v, index := n.arg(0), n.arg(1)
	if len(n.in) != 2 {
		return nil, false
	}
	if (v.form == sizes || v.form == constant) && index.form == constant && v.ints != nil && v.rank() == 1 && index.ints != nil {
		if axis, ok := n.axis(0, 1); !ok || axis != 0 {
			return nil, false
		}
		var list []int64
		for _, i := range index.ints {
			k, ok := fromFront(i, len(v.ints))
			if !ok {
				return nil, false
			}
			list = append(list, v.ints[k])
		}
		return []abstract{listOf(list, index.dims)}, index.rank() <= 1
	}
	switch {
	case v.form == constant && index.form == constant:
		return unranked()
	case !v.ranked || !index.ranked:
		return nil, false
	}
	axis, ok := n.axis(0, v.rank())
	if !ok || v.rank()+index.rank()-1 > maxProvedRank {
		return nil, false
	}
	dims := slices.Concat(v.dims[:axis], index.dims, v.dims[axis+1:])
	switch {
	case v.form == constant && index.form == rows && axis == 0, v.form == rows && index.form == constant && axis > 0:
		return one(of(rows, dims))
	}
	return nil, false
}

// gatherElements: each element of the indices names one along the axis, at its
// own place along all others.
func gatherElements(n *step) ([]abstract, bool) {
	v, index := n.arg(0), n.arg(1)
	if v.form != rows || index.form != rows || v.rank() != index.rank() {
		return nil, false
	}
	axis, ok := n.axis(0, v.rank())
	return []abstract{index}, ok && axis > 0
}

func concat(n *step) ([]abstract, bool) {
	axis := n.find("axis")
	if axis == nil || len(n.in) == 0 {
		return nil, false
	}
	if lists, ok := joined(n, axis.i); ok {
		return one(lists)
	}
	v := n.in[0]
	allConstant := true
	for i := range n.in {
		allConstant = allConstant && n.in[i].form == constant
	}
	if allConstant {
		return unranked()
	}
	at, ok := fromFront(axis.i, v.rank())
	if !ok || at == 0 {
		return nil, false
	}
	dims, total := slices.Clone(v.dims), int64(0)
	for i := range n.in {
		w := &n.in[i]
		if w.form != rows || w.rank() != v.rank() {
			return nil, false
		}
		if d := w.dims[at]; d < 0 || total < 0 || total > math.MaxInt32 {
			total = open
		} else {
			total += d
		}
	}
	dims[at] = total
	return one(of(rows, dims))
}

// joined concatenates lists of known integers.
func joined(n *step, axis int64) (abstract, bool) {
	list := []int64{}
	for i := range n.in {
		v := &n.in[i]
		if v.form != constant && v.form != sizes || v.ints == nil || v.rank() != 1 || len(list)+len(v.ints) > maxProvedInts {
			return abstract{}, false
		}
		list = append(list, v.ints...)
	}
	return listOf(list, []int64{int64(len(list))}), axis == 0 || axis == -1
}

// split: by default along the axis of the rows.
func split(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axis, ok := n.axis(0, v.rank())
	if !ok || axis == 0 || v.form != rows || !n.arg(1).steady() {
		return nil, false
	}
	parts, _, _ := n.list("split", 1, 13)
	out := make([]abstract, len(n.outputs))
	for i := range out {
		dims := slices.Clone(v.dims)
		if dims[axis] = open; i < len(parts) && parts[i] >= 0 {
			dims[axis] = parts[i]
		}
		out[i] = of(rows, dims)
	}
	return out, true
}

// slice: of the axis of the rows all or nothing. Exporters write x[:, 1:] as
// two slices, of which the first takes all.
func slice(n *step) ([]abstract, bool) {
	v := n.arg(0)
	starts, _, ok1 := n.list("starts", 1, 10)
	ends, _, ok2 := n.list("ends", 2, 10)
	axes, given, ok3 := n.list("axes", 3, 10)
	steps, stepped := []int64(nil), false
	ok4 := true
	if n.opset >= 10 {
		steps, stepped, ok4 = n.list("steps", 4, 10)
	}
	if v.form == constant && v.ints == nil {
		return unranked()
	}
	if !ok1 || !ok2 || !ok3 || !ok4 || len(starts) != len(ends) || given && len(axes) != len(starts) || stepped && len(steps) != len(starts) {
		return nil, false
	}
	if v.form == constant || v.form == sizes {
		return sliceList(v, starts, ends, axes, steps)
	}
	if v.form != rows {
		return nil, false
	}
	dims := slices.Clone(v.dims)
	for i := range starts {
		axis := int64(i)
		if given {
			axis = axes[i]
		}
		at, ok := fromFront(axis, v.rank())
		if !ok {
			return nil, false
		}
		if at == 0 {
			if starts[i] != 0 || ends[i] < math.MaxInt32 || stepped && steps[i] != 1 {
				return nil, false
			}
			continue
		}
		dims[at] = open
	}
	return one(of(rows, dims))
}

func sliceList(v abstract, starts, ends, axes, steps []int64) ([]abstract, bool) {
	if v.rank() != 1 || len(starts) != 1 || starts[0] == inner || ends[0] == inner || len(axes) == 1 && axes[0] != 0 && axes[0] != -1 || len(steps) == 1 && steps[0] != 1 {
		if v.form == constant {
			return unranked()
		}
		return nil, false
	}
	n := int64(len(v.ints))
	clamp := func(k int64) int64 {
		if k < 0 {
			k += n
		}
		return min(max(k, 0), n)
	}
	from, to := clamp(starts[0]), clamp(ends[0])
	list := slices.Clone(v.ints[from:max(from, to)])
	return one(listOf(list, []int64{int64(len(list))}))
}

// pad: nothing before the first row and nothing behind the last.
func pad(n *step) ([]abstract, bool) {
	v := n.arg(0)
	pads, given, ok := n.list("pads", 1, 11)
	if !ok || !given || v.form != rows || len(pads) != 2*v.rank() || pads[0] != 0 || pads[v.rank()] != 0 ||
		!n.arg(2).steady() || n.arg(3).form != absent {
		return nil, false
	}
	dims := slices.Clone(v.dims)
	for i := 1; i < len(dims); i++ {
		if pads[i] != 0 || pads[v.rank()+i] != 0 {
			dims[i] = open
		}
	}
	return one(of(rows, dims))
}

// expand: to a shape that leaves the axis of the rows alone, or that makes a
// row of a constant for every row there is.
func expand(n *step) ([]abstract, bool) {
	v, to := n.arg(0), n.arg(1)
	if to.form != constant && to.form != sizes {
		return nil, false
	}
	if v.form == constant && to.form == constant {
		return unranked()
	}
	if to.ints == nil || !v.ranked || len(to.ints) > maxProvedRank || len(to.ints) == 0 || counted(to.ints[1:]) {
		return nil, false
	}
	lead := to.ints[0]
	switch {
	case v.form == rows && len(to.ints) < v.rank() && lead != rowCount:
	case v.form == rows && len(to.ints) == v.rank() && (lead == 1 || lead == rowCount):
	case v.form == constant && lead == rowCount && (v.rank() < len(to.ints) || v.rank() == len(to.ints) && v.dims[0] == 1):
	default:
		return nil, false
	}
	dims := make([]int64, max(v.rank(), len(to.ints)))
	for i := range dims {
		dims[i] = open
	}
	return one(of(rows, dims))
}

func tile(n *step) ([]abstract, bool) {
	v, repeats := n.arg(0), n.arg(1)
	if v.form == constant && repeats.form == constant {
		return unranked()
	}
	if v.form != rows || repeats.form != constant || len(repeats.ints) != v.rank() || repeats.ints[0] != 1 {
		return nil, false
	}
	dims := slices.Clone(v.dims)
	for i := range dims {
		dims[i] = open
	}
	return one(of(rows, dims))
}

// constantOfShape: alike for all rows.
func constantOfShape(n *step) ([]abstract, bool) {
	v := n.arg(0)
	switch {
	case v.form == constant:
		return unranked()
	case v.form != sizes || v.rank() != 1 || v.ints[0] != rowCount || counted(v.ints[1:]) || len(v.ints) > maxProvedRank:
		return nil, false
	}
	dims := slices.Clone(v.ints)
	for i := range dims {
		dims[i] = max(dims[i], open)
	}
	return one(of(rows, dims))
}
