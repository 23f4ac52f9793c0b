package models

// rule says what is known of a node's outputs, or false when its operator, as
// it is used there, is not known to keep rows apart. A rule is also asked about
// nodes all of whose inputs are constants.
type rule func(n *step) ([]abstract, bool)

// ruleOf returns the rule of a standard operator; nil when there is none,
// which refuses it. Without a rule, on purpose, are among others: operators
// that look at several rows (NonZero, Unique, Compress, NonMaxSuppression,
// DynamicQuantizeLinear, whose scale is that of the largest element of all
// rows), those whose batch is not axis 0 (RNN, GRU, LSTM, ReverseSequence),
// randomness, sequences, graphs within graphs, and whatever is rare.
func ruleOf(domain, op string) rule {
	if domain == "ai.onnx.ml" {
		return mlRules[op]
	}
	return onnxRules[op]
}

var onnxRules = map[string]rule{
	// One element from one element.
	"Abs": unary, "Acos": unary, "Acosh": unary, "Asin": unary, "Asinh": unary, "Atan": unary, "Atanh": unary,
	"BitwiseNot": unary, "Cast": pass, "CastLike": first, "Ceil": unary, "Celu": unary, "Clip": first, "Cos": unary, "Cosh": unary,
	"Elu": unary, "Erf": unary, "Exp": unary, "Floor": unary, "Gelu": unary, "HardSigmoid": unary, "HardSwish": unary,
	"Identity": pass, "IsInf": unary, "IsNaN": unary, "LeakyRelu": unary, "Log": unary, "Mish": unary, "Neg": unary,
	"Not": unary, "Reciprocal": unary, "RegexFullMatch": unary, "Relu": unary, "Round": unary, "Selu": unary,
	"Shrink": unary, "Sigmoid": unary, "Sign": unary, "Sin": unary, "Sinh": unary, "Softplus": unary, "Softsign": unary,
	"Sqrt": unary, "Swish": unary, "Tan": unary, "Tanh": unary, "ThresholdedRelu": unary, "Dropout": first,
	// One element from one of each, broadcast.
	"Add": elementwise, "And": elementwise, "BitShift": elementwise, "BitwiseAnd": elementwise, "BitwiseOr": elementwise,
	"BitwiseXor": elementwise, "Div": elementwise, "Equal": elementwise, "Greater": elementwise, "GreaterOrEqual": elementwise,
	"Less": elementwise, "LessOrEqual": elementwise, "Max": elementwise, "Mean": elementwise, "Min": elementwise,
	"Mod": elementwise, "Mul": elementwise, "Or": elementwise, "PRelu": elementwise, "Pow": elementwise,
	"StringConcat": elementwise, "Sub": elementwise, "Sum": elementwise, "Where": elementwise, "Xor": elementwise,
	// Along an axis that is not that of the rows.
	"ArgMax": argReduce, "ArgMin": argReduce, "CumSum": cumulate, "CumProd": cumulate,
	"Hardmax": softmax, "LogSoftmax": softmax, "Softmax": softmax,
	"LayerNormalization": normalize, "RMSNormalization": normalize, "LpNormalization": lpNormalize,
	"ReduceL1": reduce, "ReduceL2": reduce, "ReduceLogSum": reduce, "ReduceLogSumExp": reduce, "ReduceMax": reduce,
	"ReduceMean": reduce, "ReduceMin": reduce, "ReduceProd": reduce, "ReduceSum": reduce, "ReduceSumSquare": reduce,
	"TopK": topK, "Trilu": trilu, "OneHot": oneHot,
	// Products.
	"Gemm": gemm, "MatMul": matMul, "MatMulInteger": matMulInteger, "QLinearMatMul": qLinearMatMul,
	// One image or signal after the other: [N,C,...].
	"AveragePool": image, "BatchNormalization": batchNormalize, "Conv": conv, "ConvInteger": convInteger, "ConvTranspose": conv,
	"DepthToSpace": image, "GlobalAveragePool": image, "GlobalLpPool": image, "GlobalMaxPool": image,
	"GroupNormalization": image, "InstanceNormalization": image, "LRN": image, "LpPool": image, "MaxPool": image,
	"QLinearConv": qLinearConv, "Resize": resize, "SpaceToDepth": image,
	"DequantizeLinear": quantize, "QuantizeLinear": quantize,
	// Shapes.
	"Concat": concat, "Constant": constantNode, "ConstantOfShape": constantOfShape, "Expand": expand, "Flatten": flatten,
	"Gather": gather, "GatherElements": gatherElements, "Pad": pad, "Reshape": reshape, "Shape": shape, "Slice": slice, "Split": split,
	"Squeeze": squeeze, "Tile": tile, "Transpose": transpose, "Unsqueeze": unsqueeze,
	"TfIdfVectorizer": perRow(2),
}

// mlRules are those of ai.onnx.ml. Where an operator takes [C] as well as
// [N,C], rows of rank 1 would be taken for one row, and are refused.
var mlRules = map[string]rule{
	"ArrayFeatureExtractor": arrayFeatures, "Binarizer": unary, "CategoryMapper": unary, "FeatureVectorizer": featureVector,
	"Imputer": perRow(2), "LabelEncoder": labelEncode, "LinearClassifier": perRow(1, 2), "LinearRegressor": perRow(2),
	"Normalizer": perRow(2), "OneHotEncoder": oneHotEncode, "SVMClassifier": perRow(1, 2), "SVMRegressor": perRow(2),
	"Scaler": perRow(2), "TreeEnsemble": perRow(2), "TreeEnsembleClassifier": perRow(1, 2), "TreeEnsembleRegressor": perRow(2),
	"ZipMap": zipMap,
}

// one is the answer of a rule with one output.
func one(v abstract) ([]abstract, bool) { return []abstract{v}, true }

// unranked is a constant of which nothing is known.
func unranked() ([]abstract, bool) { return one(abstract{form: constant}) }

// unary: elements by themselves, of one input.
func unary(n *step) ([]abstract, bool) {
	if len(n.in) != 1 || !n.only(1) {
		return nil, false
	}
	return first(n)
}

// first: elements of the first input by themselves; the others are constants
// that hold for all elements alike, or are not looked at (CastLike). Clip's
// bounds are scalars, Dropout's ratio too; its training mode must be left out.
func first(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form != rows && v.form != constant || !n.only(1) {
		return nil, false
	}
	for i := 1; i < len(n.in); i++ {
		if n.op == "Clip" && !n.in[i].scalar() || !n.in[i].steady() {
			return nil, false
		}
	}
	if n.op == "Dropout" && (n.arg(2).form != absent || n.find("is_test") != nil) {
		return nil, false
	}
	v.ints, v.unit = nil, false
	return one(v)
}

// pass: Identity and Cast, which keep also what is not rows.
func pass(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if len(n.in) != 1 || v.form == absent || v.form == rowMaps && n.op != "Identity" {
		return nil, false
	}
	if n.op == "Cast" {
		v.unit = false
		// As integers the elements stay what they are; 2^31 is beyond any size here.
		if to := DataType(n.number("to", 0)); v.ints != nil && to != Int64 && to != Int32 {
			if v.form == sizes {
				return nil, false
			}
			v.ints = nil
		}
		if DataType(n.number("to", 0)) == Int32 {
			for _, d := range v.ints {
				if d != rowCount && d != inner && d != int64(int32(d)) {
					return nil, false
				}
			}
		}
	}
	return one(v)
}

// elementwise: shapes are aligned at their ends, see
// https://github.com/onnx/onnx/blob/main/docs/Broadcasting.md. All rows must be
// of one rank, lest an inner axis meets the axis of the rows; a constant of the
// same rank must be 1 there, lest every row meets another part of it.
func elementwise(n *step) ([]abstract, bool) {
	if len(n.in) == 0 || !n.only(1) {
		return nil, false
	}
	v, ok := broadcast(n.in...)
	return []abstract{v}, ok
}

func broadcast(in ...abstract) (abstract, bool) {
	rank, form := 0, constant
	for i := range in {
		switch v := &in[i]; v.form {
		case rows:
			if form == rows && v.rank() != rank {
				return abstract{}, false
			}
			form, rank = rows, v.rank()
		case constant:
			if form == constant {
				rank = max(rank, v.rank())
			}
		default:
			return abstract{}, false
		}
	}
	dims := make([]int64, rank)
	for i := range dims {
		dims[i] = 1
	}
	for i := range in {
		v := &in[i]
		if !v.ranked && form == rows {
			return abstract{}, false
		}
		if !v.ranked {
			return abstract{form: constant}, true
		}
		if form == rows && v.form == constant && (v.rank() > rank || v.rank() == rank && v.dims[0] != 1) {
			return abstract{}, false
		}
		at := rank - v.rank()
		for k, d := range v.dims {
			dims[at+k] = together(dims[at+k], d)
		}
	}
	return of(form, dims), true
}

// together is what two dimensions are broadcast to; they fit, else the run
// fails.
func together(a, b int64) int64 {
	switch {
	case a == 1:
		return b
	case b == 1 || a >= 0:
		return a
	}
	return b
}

// softmax: one axis from opset 13 on; before, all axes from the given one on
// are taken together.
func softmax(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form == constant {
		return unary(n)
	}
	otherwise := int64(-1)
	if n.opset < 13 {
		otherwise = 1
	}
	if axis, ok := n.axis(otherwise, v.rank()); !ok || axis == 0 || v.form != rows {
		return nil, false
	}
	return unary(n)
}

// normalize: LayerNormalization and RMSNormalization, over all axes from the
// given one on.
func normalize(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form != rows || !n.only(1) {
		return nil, false
	}
	if axis, ok := n.axis(-1, v.rank()); !ok || axis == 0 {
		return nil, false
	}
	for i := 1; i < len(n.in); i++ {
		if w := &n.in[i]; w.form != absent && (w.form != constant || !w.ranked || w.rank() >= v.rank()) {
			return nil, false
		}
	}
	return one(v)
}

func lpNormalize(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if axis, ok := n.axis(-1, v.rank()); !ok || axis == 0 || v.form != rows {
		return nil, false
	}
	return unary(n)
}

// reduce: without axes all are taken, which mixes rows, unless it says that
// none is meant.
func reduce(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form == constant {
		return unranked()
	}
	since := int64(18)
	if n.op == "ReduceSum" {
		since = 13
	}
	axes, _, ok := n.list("axes", 1, since)
	if !ok || v.form != rows {
		return nil, false
	}
	if len(axes) == 0 {
		return []abstract{v}, n.opset >= since && n.number("noop_with_empty_axes", 0) == 1
	}
	return without(v, axes, n.number("keepdims", 1) != 0)
}

// without takes axes from rows, or makes them 1.
func without(v abstract, axes []int64, keep bool) ([]abstract, bool) {
	var gone [maxProvedRank]bool
	for _, a := range axes {
		axis, ok := fromFront(a, v.rank())
		if !ok || axis == 0 {
			return nil, false
		}
		gone[axis] = true
	}
	var dims []int64
	for i, d := range v.dims {
		switch {
		case !gone[i]:
			dims = append(dims, d)
		case keep:
			dims = append(dims, 1)
		}
	}
	return one(of(rows, dims))
}

// argReduce: ArgMax and ArgMin, by default over the axis of the rows.
func argReduce(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axis, ok := n.axis(0, v.rank())
	if !ok || v.form != rows || len(n.in) != 1 {
		return nil, false
	}
	return without(v, []int64{int64(axis)}, n.number("keepdims", 1) != 0)
}

func cumulate(n *step) ([]abstract, bool) {
	v, axis := n.arg(0), n.arg(1)
	if v.form != rows || axis.form != constant || len(axis.ints) != 1 {
		return nil, false
	}
	if k, ok := fromFront(axis.ints[0], v.rank()); !ok || k == 0 {
		return nil, false
	}
	return one(v)
}

func topK(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axis, ok := n.axis(-1, v.rank())
	if !ok || axis == 0 || v.form != rows || n.opset < 10 || n.arg(1).form != constant {
		return nil, false
	}
	dims := append([]int64(nil), v.dims...)
	dims[axis] = open
	if k := n.arg(1).ints; len(k) == 1 && k[0] >= 0 {
		dims[axis] = k[0]
	}
	return []abstract{of(rows, dims), of(rows, dims)}, true
}

// trilu works on the last two axes.
func trilu(n *step) ([]abstract, bool) {
	v := n.arg(0)
	if v.form == constant && n.arg(1).steady() {
		return first(n)
	}
	return []abstract{v}, v.isRows(3) && n.arg(1).steady()
}

func oneHot(n *step) ([]abstract, bool) {
	v := n.arg(0)
	axis, ok := n.axis(-1, v.rank()+1)
	if !ok || axis == 0 || v.form != rows || n.arg(1).form != constant || n.arg(2).form != constant {
		return nil, false
	}
	return one(inserted(v, axis, open))
}

// inserted is rows with one axis more.
func inserted(v abstract, axis int, d int64) abstract {
	dims := append([]int64(nil), v.dims[:axis]...)
	return of(rows, append(append(dims, d), v.dims[axis:]...))
}
