package models

import "slices"

// Rules of products, of images, and of ai.onnx.ml.

// gemm: Y = A B + C, of matrices. The rows are those of A.
func gemm(n *step) ([]abstract, bool) {
	a, b, c := n.arg(0), n.arg(1), n.arg(2)
	if a.form != rows || a.rank() != 2 || n.number("transA", 0) != 0 || b.form != constant || !b.ranked || b.rank() != 2 {
		return nil, false
	}
	width := b.dims[1]
	if n.number("transB", 0) != 0 {
		width = b.dims[0]
	}
	y := rowsOf(width)
	if c.form == absent {
		return one(y)
	}
	v, ok := broadcast(y, c)
	return []abstract{v}, ok
}

func matMul(n *step) ([]abstract, bool) {
	if len(n.in) != 2 {
		return nil, false
	}
	v, ok := product2(n.in[0], n.in[1])
	return []abstract{v}, ok
}

// product2 is numpy's matmul: the last two axes are matrices, those before
// them are broadcast. Rows of rank 2 are the left matrix' own rows; from rank 3
// on the axis of the rows counts matrices.
func product2(a, b abstract) (abstract, bool) {
	switch {
	case a.form == constant && b.form == constant:
		return abstract{form: constant}, true
	case !a.ranked || !b.ranked:
		return abstract{}, false
	case a.form == rows && b.form == rows:
		if a.rank() != b.rank() || a.rank() < 3 {
			return abstract{}, false
		}
	case a.form == rows && b.form == constant:
		if a.rank() < 2 || b.rank() < 1 || b.rank() > 2 && !under(b, a) {
			return abstract{}, false
		}
	case a.form == constant && b.form == rows:
		if b.rank() < 3 || a.rank() < 1 || a.rank() > 2 && !under(a, b) {
			return abstract{}, false
		}
	default:
		return abstract{}, false
	}
	// Beyond the first all dimensions follow from broadcasting; a vector's axis
	// is none of the result.
	rank := max(a.rank(), b.rank())
	dims := make([]int64, rank)
	for i := range dims {
		dims[i] = 1
	}
	for _, v := range []abstract{a, b} {
		for k := 0; k < v.rank()-2; k++ {
			at := rank - v.rank() + k
			dims[at] = together(dims[at], v.dims[k])
		}
	}
	dims = dims[:rank-2]
	if a.rank() >= 2 {
		dims = append(dims, a.dims[a.rank()-2])
	}
	if b.rank() >= 2 {
		dims = append(dims, b.dims[b.rank()-1])
	}
	return of(rows, dims), true
}

// under reports whether a constant broadcasts against rows without meeting
// their axis.
func under(c, v abstract) bool {
	return c.rank() < v.rank() || c.rank() == v.rank() && c.dims[0] == 1
}

// perColumn reports whether v, a scale or zero point of the right matrix, is
// left out, of one element or one for each column. One of a higher rank may have
// an element for each of several matrices, which are the rows if they are rows.
func (v abstract) perColumn() bool {
	return v.form == absent || v.form == constant && v.ranked && v.rank() <= 1
}

func matMulInteger(n *step) ([]abstract, bool) {
	if !n.arg(2).scalar() || !n.arg(3).perColumn() { // a zero point for each row of A is possible
		return nil, false
	}
	v, ok := product2(n.arg(0), n.arg(1))
	return []abstract{v}, ok
}

// qLinearMatMul: a, its scale and zero point, b, b's, y's.
func qLinearMatMul(n *step) ([]abstract, bool) {
	for _, i := range []int{1, 2, 6, 7} {
		if n.arg(i).form == absent || !n.arg(i).scalar() {
			return nil, false
		}
	}
	if !n.arg(4).perColumn() || !n.arg(5).perColumn() {
		return nil, false
	}
	v, ok := product2(n.arg(0), n.arg(3))
	return []abstract{v}, ok
}

// image: pooling, normalisation within an instance, and the like, of [N,C,...]
// with constant parameters. MaxPool's second output counts positions through
// all rows, hence only the first.
func image(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if !v.isRows(3) || !n.only(1) {
		return nil, false
	}
	for i := 1; i < len(n.in); i++ {
		if !n.in[i].steady() {
			return nil, false
		}
	}
	dims := append([]int64(nil), v.dims...)
	for i := 2; i < len(dims); i++ {
		dims[i] = open
	}
	switch n.op {
	case "AveragePool", "LpPool", "MaxPool":
		if k := n.find("kernel_shape"); k != nil {
			copy(dims[2:], n.spatial(v.dims[2:], k.ints))
		}
	case "DepthToSpace", "SpaceToDepth":
		if v.rank() != 4 {
			return nil, false
		}
		dims[1] = open
	case "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool":
		for i := 2; i < len(dims); i++ {
			dims[i] = 1
		}
	case "GroupNormalization", "InstanceNormalization":
		dims = v.dims
	case "LRN":
		if v.rank() != 4 {
			return nil, false
		}
		dims = v.dims
	}
	return one(of(rows, dims))
}

// batchNormalize: with stored statistics only.
func batchNormalize(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if !v.isRows(2) || len(n.in) != 5 || n.number("training_mode", 0) != 0 || !n.only(1) {
		return nil, false
	}
	for i := 1; i < 5; i++ {
		if n.in[i].form != constant {
			return nil, false
		}
	}
	return one(v)
}

// conv: [N,C,...] with constant weights, ConvTranspose too.
func conv(n *step) ([]abstract, bool) {
	if len(n.in) > 3 || !n.arg(2).steady() {
		return nil, false
	}
	return n.convolve(n.arg(0), n.arg(1))
}

func (n *step) convolve(x, w abstract) ([]abstract, bool) {
	if !x.isRows(3) || w.form != constant || !w.ranked || w.rank() != x.rank() {
		return nil, false
	}
	dims := append([]int64(nil), x.dims...)
	for i := range dims[1:] {
		dims[1+i] = open
	}
	if n.op != "ConvTranspose" {
		dims[1] = w.dims[0]
		copy(dims[2:], n.spatial(x.dims[2:], w.dims[2:]))
	}
	return one(of(rows, dims))
}

// spatial are the sizes that a window leaves: floor((in + padding - extent) /
// stride) + 1. Where something else decides (auto_pad, ceil_mode) they are
// open.
func (n *step) spatial(in, kernel []int64) []int64 {
	out := make([]int64, len(in))
	for i := range out {
		out[i] = open
	}
	setting := func(name string, i int, otherwise int64) int64 {
		a := n.find(name)
		switch {
		case a == nil:
			return otherwise
		case i < len(a.ints) && !a.long:
			return a.ints[i]
		}
		return -1
	}
	auto := n.find("auto_pad")
	if len(kernel) != len(in) || n.number("ceil_mode", 0) != 0 || auto != nil && string(auto.text) != "NOTSET" {
		return out
	}
	const most = 1 << 30 // of each number, so that none overflows
	for i, size := range in {
		stride, dilation := setting("strides", i, 1), setting("dilations", i, 1)
		before, behind := setting("pads", i, 0), setting("pads", len(in)+i, 0)
		if min(size, kernel[i], stride, dilation) < 1 || min(before, behind) < 0 || max(size, kernel[i], stride, dilation, before, behind) > most {
			continue
		}
		if left := size + before + behind - ((kernel[i]-1)*dilation + 1); left >= 0 {
			out[i] = left/stride + 1
		}
	}
	return out
}

func convInteger(n *step) ([]abstract, bool) {
	if !n.arg(2).scalar() || !n.arg(3).steady() {
		return nil, false
	}
	return n.convolve(n.arg(0), n.arg(1))
}

// qLinearConv: x, its scale and zero point, w, w's, y's, bias.
func qLinearConv(n *step) ([]abstract, bool) {
	for i := 1; i < len(n.in); i++ {
		if !n.in[i].steady() {
			return nil, false
		}
	}
	for _, i := range []int{1, 2, 6, 7} {
		if n.arg(i).form == absent || !n.arg(i).scalar() {
			return nil, false
		}
	}
	return n.convolve(n.arg(0), n.arg(3))
}

// resize: the axis of the rows keeps its size, either by a scale of 1 or
// because the sizes begin with the number of rows.
func resize(n *step) ([]abstract, bool) {
	v, roi, scales, wanted := n.arg(0), n.arg(1), n.arg(2), n.arg(3)
	if n.opset < 11 || !v.isRows(3) || !roi.steady() || n.find("axes") != nil || n.find("keep_aspect_ratio_policy") != nil {
		return nil, false
	}
	// These look elsewhere also along an axis that keeps its size.
	if a := n.find("coordinate_transformation_mode"); a != nil && (string(a.text) == "tf_crop_and_resize" || string(a.text) == "tf_half_pixel_for_nn") {
		return nil, false
	}
	// Of rank 3 the runtime takes the rows for the depth of one volume: the next
	// row has no weight, but what is not finite shows all the same.
	if a := n.find("mode"); a != nil && string(a.text) != "nearest" && v.rank() < 4 {
		return nil, false
	}
	r := int64(v.rank())
	full := scales.form == constant && scales.ranked && scales.rank() == 1
	scaled := full && scales.dims[0] == r && scales.unit && wanted.form == absent
	empty := scales.form == absent || full && scales.dims[0] == 0
	sized := empty && wanted.form == sizes && int64(len(wanted.ints)) == r && wanted.ints[0] == rowCount && !counted(wanted.ints[1:])
	if !scaled && !sized {
		return nil, false
	}
	dims := append([]int64(nil), v.dims...)
	for i := range dims[1:] {
		dims[1+i] = open
	}
	return one(of(rows, dims))
}

// counted reports whether the number of rows is among the elements.
func counted(ints []int64) bool {
	for _, d := range ints {
		if d == rowCount {
			return true
		}
	}
	return false
}

// quantize: QuantizeLinear and DequantizeLinear, by one scale or by one for
// each element of another axis than that of the rows. Weights are constants.
func quantize(n *step) ([]abstract, bool) {
	v, scale, zero := n.arg(0), n.arg(1), n.arg(2)
	if scale.form != constant || !zero.steady() || n.number("block_size", 0) != 0 {
		return nil, false
	}
	if v.form == constant {
		v.ints, v.unit = nil, false
		return one(v)
	}
	if v.form != rows || !scale.ranked || scale.rank() > 1 {
		return nil, false
	}
	if !scale.scalar() {
		if axis, ok := n.axis(1, v.rank()); !ok || axis == 0 {
			return nil, false
		}
	}
	return one(v)
}

// perRow: an operator that takes [N,C], and gives outputs of those ranks.
func perRow(ranks ...int) rule {
	return func(n *step) ([]abstract, bool) {
		if v := n.arg(0); v.form != rows || v.rank() != 2 || len(n.in) != 1 || !n.plainScores() {
			return nil, false
		}
		out := make([]abstract, len(ranks))
		for i, r := range ranks {
			if out[i] = rowsOf(); r == 2 {
				out[i] = rowsOf(open)
			}
		}
		return out, true
	}
}

// plainScores reports whether the scores of a classifier or regressor are
// transformed in a way in which all are known to be written: see
// unwrittenScores.
func (n *step) plainScores() bool {
	a := n.find("post_transform")
	switch {
	case a == nil:
		return true
	case n.op == "TreeEnsemble": // by number, PROBIT is 4
		return a.i >= 0 && a.i <= 3
	}
	return slices.Contains(scoreTransforms, string(a.text))
}

// labelEncode: elements by themselves, also those of columns.
func labelEncode(n *step) ([]abstract, bool) {
	if v := n.arg(0); v.form == columns && len(n.in) == 1 {
		return one(v)
	}
	return unary(n)
}

func featureVector(n *step) ([]abstract, bool) {
	for i := range n.in {
		if v := &n.in[i]; v.form != rows || v.rank() != 2 {
			return nil, false
		}
	}
	return []abstract{rowsOf(open)}, len(n.in) > 0
}

func oneHotEncode(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form != rows || len(n.in) != 1 {
		return nil, false
	}
	return one(inserted(v, v.rank(), open))
}

// arrayFeatures: chosen elements of the last axis. Labels that are looked up
// by the index of a class come out as [1,N].
func arrayFeatures(n *step) ([]abstract, bool) {
	v, chosen := n.arg(0), n.arg(1)
	switch {
	case v.isRows(2) && chosen.form == constant:
		dims := append([]int64(nil), v.dims...)
		dims[len(dims)-1] = open
		return one(of(rows, dims))
	case v.form == constant && v.ranked && product(v.dims) >= 0 && (v.rank() == 1 || v.rank() == 2 && v.dims[0] == 1) &&
		chosen.form == rows && (chosen.rank() == 1 || product(chosen.dims[1:]) == 1):
		return one(abstract{form: columns})
	}
	return nil, false
}

func zipMap(n *step) ([]abstract, bool) {
	v := n.arg(0)
	return []abstract{{form: rowMaps}}, v.form == rows && v.rank() == 2
}
