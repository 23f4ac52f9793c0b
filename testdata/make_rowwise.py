"""Make rowwise.json: small graphs, and whether each computes every row by itself.

Each tries one rule of models/rowwise.go, one way or the other. "proved": true says that rows of different callers may share
a run; the tests then run it too, with poisoned rows beside a good one. README.md says how to run this.
"""

import base64
import json
import os

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F, I, S, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
CASES = []


def value(name, elem=F, shape=("N", 4)):
    return helper.make_tensor_value_info(name, elem, None if shape is None else list(shape))


def const(name, array, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def ints(name, *numbers):
    return const(name, np.array(numbers, np.int64), np.int64)


def weights(name, *shape):
    return const(name, np.random.default_rng(len(name) + sum(shape)).standard_normal(shape))


def case(name, proved, nodes, inputs=None, outputs=None, initializers=(), opset=18, ml=0):
    """One graph; a node is (operator, inputs, outputs, attributes), names separated by spaces."""
    made = []
    for op, ins, outs, *attributes in nodes:
        attributes = dict(attributes[0]) if attributes else {}
        domain = attributes.pop("domain", "")
        made.append(helper.make_node(op, ["" if n == "_" else n for n in ins.split()], outs.split(), domain=domain, **attributes))
    graph = helper.make_graph(made, "g", inputs or [value("x")], outputs or [value("y", shape=None)], initializer=list(initializers))
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)
    CASES.append({"name": name, "proved": proved, "model": base64.b64encode(model.SerializeToString()).decode()})


def elements():
    for op in ["Abs", "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Sqrt", "Neg", "Floor", "Softplus", "Elu", "LeakyRelu", "HardSwish",
               "Identity", "Reciprocal", "IsNaN"]:
        case("unary " + op, True, [(op, "x", "y")], outputs=[value("y", B if op == "IsNaN" else F, None)])
    case("cast", True, [("Cast", "x", "y", {"to": I})], outputs=[value("y", I, None)])
    case("clip", True, [("Clip", "x lo hi", "y")], initializers=[const("lo", -1), const("hi", 1)])
    case("clip by rows", False, [("ReduceMin", "x a", "lo", {"keepdims": 0}), ("Clip", "x lo", "y")], initializers=[ints("a", 0, 1)])
    case("dropout", True, [("Dropout", "x", "y")])
    case("dropout in training", False, [("Dropout", "x r t", "y")], initializers=[const("r", 0.5), const("t", True, bool)])
    case("random", False, [("RandomNormalLike", "x", "r"), ("Add", "x r", "y")])
    two = [value("x"), value("z")]
    for op in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "PRelu"]:
        case("rows with rows " + op, True, [(op, "x z", "y")], two)
    case("where", True, [("Greater", "x z", "c"), ("Where", "c x z", "y")], two)
    for shape, proved in [((), True), ((4,), True), ((1, 4), True), ((1, 1), True), ((2, 4), False), ((3, 1), False), ((1, 1, 4), False)]:
        case(f"broadcast a constant {list(shape)}", proved, [("Add", "x c", "y")], initializers=[weights("c", *shape)])
    case("broadcast rows over an inner axis", False, [("Add", "x z", "y")], [value("x", shape=["N", "N2"]), value("z", shape=["M"])])
    case("broadcast rows of ranks 2 and 3", False, [("Add", "x z", "y")], [value("x", shape=["N", 2, 4]), value("z", shape=["M", 4])])
    case("broadcast rows after unsqueeze", True, [("Unsqueeze", "z a", "w"), ("Add", "x w", "y")],
         [value("x", shape=["N", 4]), value("z", shape=["N"])], initializers=[ints("a", 1)])
    case("outer difference", False, [("Unsqueeze", "x a", "w"), ("Sub", "x w", "y")], [value("x", shape=["N"])], initializers=[ints("a", 1)])
    case("a fixed number of rows", False, [("Relu", "x", "y")], [value("x", shape=[1, 4])])
    case("an input of rank 0", False, [("Relu", "x", "y")], [value("x", shape=[])])
    case("an output without rows", False, [("Relu", "x", "y"), ("Identity", "c", "k")],
         outputs=[value("y", shape=None), value("k", shape=None)], initializers=[weights("c", 2)])
    case("the number of rows as an output", False, [("Relu", "x", "y"), ("Shape", "x", "k")], outputs=[value("y", shape=None), value("k", I, None)])
    case("the size as an output", False, [("Size", "x", "k"), ("Cast", "k", "f", {"to": F}), ("Add", "x f", "y")])


def axes():
    for op in ["Sum", "Max", "Min", "Mean", "Prod", "L1", "L2", "LogSumExp", "SumSquare"]:
        name = "Reduce" + op
        case(f"{name} axis 1", True, [(name, "x a", "y")], initializers=[ints("a", 1)])
        case(f"{name} axis 0", False, [(name, "x a", "m"), ("Add", "x m", "y")], initializers=[ints("a", 0)])
    case("reduce axis -1", True, [("ReduceMax", "x a", "y", {"keepdims": 0})], initializers=[ints("a", -1)])
    case("reduce axis -2", False, [("ReduceMax", "x a", "m"), ("Add", "x m", "y")], initializers=[ints("a", -2)])
    case("reduce all", False, [("ReduceMax", "x", "m"), ("Add", "x m", "y")])
    case("reduce over no axes", False, [("ReduceMax", "x a", "m"), ("Add", "x m", "y")], initializers=[ints("a")])
    case("reduce none", True, [("ReduceSum", "x _", "y", {"noop_with_empty_axes": 1})])
    case("reduce by attribute", True, [("ReduceMean", "x", "y", {"axes": [1]})], opset=13)
    case("reduce axis 0 by attribute", False, [("ReduceMean", "x", "m", {"axes": [0]}), ("Add", "x m", "y")], opset=13)
    case("reduce by computed axes", False, [("ArgMax", "x", "a", {"axis": 1, "keepdims": 0}), ("ReduceSum", "x a", "m"), ("Add", "x m", "y")])
    case("reduce rank 1", False, [("ReduceMax", "x a", "m"), ("Add", "x m", "y")], [value("x", shape=["N"])], initializers=[ints("a", -1)])
    for op in ["ArgMax", "ArgMin"]:
        case(f"{op} axis 1", True, [(op, "x", "y", {"axis": 1})], outputs=[value("y", I, None)])
        case(f"{op} axis -1", True, [(op, "x", "y", {"axis": -1, "keepdims": 0})], outputs=[value("y", I, None)])
        case(f"{op} by default", False, [(op, "x", "k"), ("Cast", "k", "f", {"to": F}), ("Add", "x f", "y")])
    for op in ["Softmax", "LogSoftmax", "Hardmax"]:
        case(f"{op} by default", True, [(op, "x", "y")])
        case(f"{op} axis 0", False, [(op, "x", "y", {"axis": 0})])
        case(f"{op} axis -2", False, [(op, "x", "y", {"axis": -2})])
        case(f"{op} before 13", True, [(op, "x", "y")], [value("x", shape=["N", 3, 2])], opset=12)
        case(f"{op} axis 0 before 13", False, [(op, "x", "y", {"axis": 0})], opset=12)
    case("Softmax rank 1", False, [("Softmax", "x", "y")], [value("x", shape=["N"])])
    case("CumSum axis 1", True, [("CumSum", "x a", "y")], initializers=[const("a", 1, np.int64)])
    case("CumSum axis 0", False, [("CumSum", "x a", "y")], initializers=[const("a", 0, np.int64)])
    case("TopK", True, [("TopK", "x k", "y i")], outputs=[value("y", shape=None), value("i", I, None)], initializers=[ints("k", 2)])
    case("TopK axis 0", False, [("TopK", "x k", "y i", {"axis": 0})], initializers=[ints("k", 1)])
    case("OneHot", True, [("OneHot", "x d v", "y")], [value("x", I, ["N"])], initializers=[const("d", 4, np.int64), const("v", [0, 1])])
    case("OneHot axis 0", False, [("OneHot", "x d v", "y", {"axis": 0})], [value("x", I, ["N"])],
         initializers=[const("d", 4, np.int64), const("v", [0, 1])])
    case("Trilu", True, [("Trilu", "x", "y")], [value("x", shape=["N", 3, 3])])
    case("Trilu over the rows", False, [("Trilu", "x", "y")])
    scale, shift = weights("s", 4), weights("b", 4)
    case("LayerNormalization", True, [("LayerNormalization", "x s b", "y")], initializers=[scale, shift])
    case("LayerNormalization over the rows", False, [("LayerNormalization", "x s b", "y", {"axis": 0})],
         initializers=[weights("s", 1, 4), weights("b", 1, 4)])
    case("LpNormalization", True, [("LpNormalization", "x", "y")])
    case("LpNormalization axis 0", False, [("LpNormalization", "x", "y", {"axis": 0})])
    case("MeanVarianceNormalization", False, [("MeanVarianceNormalization", "x", "y")], [value("x", shape=["N", 2, 3, 3])])
    for op in ["NonZero", "Unique"]:
        case(op, False, [(op, "x", "k"), ("Identity", "x", "y")])
    case("Einsum", False, [("Einsum", "x z", "y", {"equation": "ij,kj->ik"})], [value("x"), value("z")])
    case("DynamicQuantizeLinear", False, [("DynamicQuantizeLinear", "x", "q s z"), ("DequantizeLinear", "q s z", "y")])


def products():
    square, wide = weights("w", 4, 3), weights("w", 2, 4, 3)
    case("MatMul", True, [("MatMul", "x w", "y")], initializers=[square])
    case("MatMul by a vector", True, [("MatMul", "x w", "y")], initializers=[weights("w", 4)])
    case("MatMul constant on the left", False, [("MatMul", "w x", "y")], [value("x", shape=["N", 4])], initializers=[weights("w", 3, 4)])
    case("MatMul of a batch", True, [("MatMul", "x w", "y")], [value("x", shape=["N", 2, 5, 4])], initializers=[wide])
    case("MatMul of a batch by a constant on the left", True, [("MatMul", "w x", "y")], [value("x", shape=["N", 3, 2])], initializers=[weights("w", 4, 3)])
    case("MatMul by several matrices", False, [("MatMul", "x w", "y")], initializers=[wide])
    case("MatMul of rows, rank 3", True, [("Transpose", "x", "t", {"perm": [0, 2, 1]}), ("MatMul", "x t", "y")], [value("x", shape=["N", 3, 4])])
    case("MatMul of rows, rank 2", False, [("Transpose", "x", "t"), ("MatMul", "x t", "y")])
    case("MatMul of rows of ranks 3 and 2", False, [("MatMul", "x z", "y")], [value("x", shape=["N", 3, "M"]), value("z")])
    case("Gemm", True, [("Gemm", "x w b", "y")], initializers=[square, weights("b", 3)])
    case("Gemm transB", True, [("Gemm", "x w", "y", {"transB": 1})], initializers=[weights("w", 3, 4)])
    case("Gemm transA", False, [("Gemm", "x w", "y", {"transA": 1})], initializers=[weights("w", 4, 3)])
    case("Gemm with rows as weights", False, [("Gemm", "x z", "y", {"transB": 1})], [value("x"), value("z")])
    case("Gemm with a column as C", False, [("Gemm", "x w b", "y")], initializers=[square, weights("b", 2, 1)])
    case("Gemm with rows as C", True, [("Gemm", "x w z", "y")], [value("x"), value("z", shape=["N", 3])], initializers=[square])
    case("attention", True, [("MatMul", "x q", "a"), ("MatMul", "x k", "b"), ("Transpose", "b", "c", {"perm": [0, 2, 1]}),
                             ("MatMul", "a c", "d"), ("Softmax", "d", "e"), ("MatMul", "e x", "y")],
         [value("x", shape=["N", "M", 4])], initializers=[weights("q", 4, 4), weights("k", 4, 4)])


def images():
    x = [value("x", shape=["N", 3, 6, 6])]
    case("Conv", True, [("Conv", "x w b", "y")], x, initializers=[weights("w", 2, 3, 3, 3), weights("b", 2)])
    case("Conv with rows as weights", False, [("Conv", "x z", "y")], [*x, value("z", shape=["M", 3, 3, 3])])
    case("ConvTranspose", True, [("ConvTranspose", "x w", "y")], x, initializers=[weights("w", 3, 2, 3, 3)])
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    for op, attributes in [("MaxPool", pool), ("AveragePool", pool), ("LpPool", pool), ("GlobalAveragePool", {}), ("GlobalMaxPool", {})]:
        case(op, True, [(op, "x", "y", attributes)], x)
    case("MaxPool's indices", False, [("MaxPool", "x", "y i", pool)], x, [value("y", shape=None), value("i", I, None)])
    stats = [const("s", [1, 2, 3]), const("b", [0, 1, 2]), const("m", [0.5, 1, 0]), const("v", [1, 2, 4])]
    case("BatchNormalization", True, [("BatchNormalization", "x s b m v", "y")], x, initializers=stats)
    case("BatchNormalization in training", False, [("BatchNormalization", "x s b m v", "y rm rv", {"training_mode": 1})], x, initializers=stats)
    case("InstanceNormalization", True, [("InstanceNormalization", "x s b", "y")], x, initializers=stats[:2])
    case("GroupNormalization", True, [("GroupNormalization", "x s b", "y", {"num_groups": 1})], x, initializers=stats[:2], opset=21)
    case("LRN", True, [("LRN", "x", "y", {"size": 3})], x)
    case("DepthToSpace", True, [("DepthToSpace", "x", "y", {"blocksize": 2})], [value("x", shape=["N", 4, 2, 2])])
    case("Resize", True, [("Resize", "x _ s", "y")], x, initializers=[const("s", [1, 1, 2, 2])])
    case("Resize of the rows", False, [("Resize", "x _ s", "y")], x, initializers=[const("s", [2, 1, 2, 2])])
    case("Resize by fixed sizes", False, [("Resize", "x _ _ s", "y")], x, initializers=[ints("s", 2, 3, 12, 12)])
    case("Resize by sizes", True, [("Shape", "x", "n", {"end": 2}), ("Concat", "n t", "s", {"axis": 0}), ("Resize", "x _ _ s", "y")], x,
         initializers=[ints("t", 12, 12)])
    case("QuantizeLinear", True, [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "y")],
         initializers=[const("s", 0.1), const("z", 3, np.uint8)])
    case("QuantizeLinear of channels", True, [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "y")], x,
         initializers=[const("s", [0.1, 0.2, 0.3]), const("z", [1, 2, 3], np.uint8)])
    case("QuantizeLinear of rows", False, [("QuantizeLinear", "x s z", "q", {"axis": 0}), ("DequantizeLinear", "q s z", "y", {"axis": 0})],
         initializers=[const("s", [0.1, 0.2]), const("z", [1, 2], np.uint8)])
    digits = [("Conv", "x w", "a", {"pads": [1, 1, 1, 1], "strides": [2, 2]}), ("Reshape", "a s", "y", {"allowzero": 1})]
    case("Conv and Reshape to a row", True, digits, x, initializers=[weights("w", 2, 3, 3, 3), ints("s", -1, 18)])
    case("Conv and Reshape to half a row", False, digits, x, initializers=[weights("w", 2, 3, 3, 3), ints("s", -1, 9)])
    case("LSTM", False, [("LSTM", "x w r", "y", {"hidden_size": 2})], [value("x", shape=["N", "M", 3])],
         initializers=[weights("w", 1, 8, 3), weights("r", 1, 8, 2)])


def shapes():
    deep = [value("x", shape=["N", 2, 6])]
    for to, proved in [((0, -1), True), ((0, 12), True), ((-1, 12), True), ((0, 3, 4), True), ((-1, 3, 4), True), ((0, 0, 3, 2), True), ((-1, 0, 6), True),
                       ((-1, 6), False), ((2, -1), False), ((-1,), False), ((1, -1, 12), False), ((-1, 24), False), ((-1, 2, 0), True)]:
        # The last but one fits two rows, the others any.
        case(f"Reshape {list(to)}", proved, [("Reshape", "x s", "y")], deep, initializers=[ints("s", *to)])
    case("Reshape with open dimensions", False, [("Reshape", "x s", "y")], [value("x", shape=["N", "M"])], initializers=[ints("s", -1, 2)])
    case("Reshape and back", False, [("Reshape", "x s", "a"), ("ReduceMax", "a k", "m"), ("Add", "x m", "y")], initializers=[ints("s", 2, -1), ints("k", 0)])
    case("Reshape by what callers send", False, [("Reshape", "x s", "y")], [value("x"), value("s", I, ["K"])])
    shaped = [("Shape", "x", "n"), ("Gather", "n zero", "b"), ("Unsqueeze", "b axis", "c"), ("Concat", "c rest", "s", {"axis": 0}), ("Reshape", "x s", "y")]
    some = [const("zero", 0, np.int64), ints("axis", 0), ints("rest", -1)]
    case("Reshape by Shape", True, shaped, deep, initializers=some)
    case("Reshape by the size of another axis", False, shaped, [value("x", shape=["N", "M"])], initializers=[const("zero", 1, np.int64), *some[1:]])
    case("Reshape with the rows last", False, [*shaped[:3], ("Concat", "rest c", "s", {"axis": 0}), shaped[4]], deep, initializers=some)
    case("rows counted", False, [*shaped[:2], ("Cast", "b", "f", {"to": F}), ("Add", "x f", "y")], initializers=some[:1])
    case("Flatten", True, [("Flatten", "x", "y")], deep)
    case("Flatten axis 0", False, [("Flatten", "x", "y", {"axis": 0})], deep)
    case("Flatten axis 2", False, [("Flatten", "x", "y", {"axis": 2})], deep)
    case("Transpose inner axes", True, [("Transpose", "x", "y", {"perm": [0, 2, 1]})], deep)
    case("Transpose the rows", False, [("Transpose", "x", "y", {"perm": [1, 0, 2]})], deep)
    case("Transpose by default", False, [("Transpose", "x", "y")], deep)
    case("Concat axis 1", True, [("Concat", "x z", "y", {"axis": 1})], [value("x"), value("z", shape=["N", 2])])
    case("Concat axis 0", False, [("Concat", "x z", "y", {"axis": 0})], [value("x"), value("z")])
    case("Concat axis -2", False, [("Concat", "x z", "y", {"axis": -2})], [value("x"), value("z")])
    case("Concat with a constant row", False, [("Concat", "x c", "y", {"axis": 1})], initializers=[weights("c", 1, 2)])
    case("Split", True, [("Split", "x", "y z", {"axis": 1, "num_outputs": 2})], outputs=[value("y", shape=None), value("z", shape=None)])
    case("Split the rows", False, [("Split", "x", "y z", {"num_outputs": 2})], outputs=[value("y", shape=None), value("z", shape=None)])
    case("Squeeze", True, [("Squeeze", "x a", "y")], [value("x", shape=["N", 1, 4])], initializers=[ints("a", 1)])
    case("Squeeze whatever is 1", False, [("Squeeze", "x", "y")], [value("x", shape=["N", 1, 4])])
    case("Squeeze the rows", False, [("Squeeze", "x a", "y")], initializers=[ints("a", 0)])
    case("Squeeze by attribute", True, [("Squeeze", "x", "y", {"axes": [1]})], [value("x", shape=["N", 1, 4])], opset=11)
    case("Unsqueeze", True, [("Unsqueeze", "x a", "y")], initializers=[ints("a", 1, -1)])
    case("Unsqueeze before the rows", False, [("Unsqueeze", "x a", "y")], initializers=[ints("a", 0)])
    case("Unsqueeze before the rows, from behind", False, [("Unsqueeze", "x a", "y")], initializers=[ints("a", -3)])
    case("Slice", True, [("Slice", "x s e a", "y")], initializers=[ints("s", 1), ints("e", 3), ints("a", 1)])
    case("Slice all rows", True, [("Slice", "x s e a", "y")], initializers=[ints("s", 0, 1), ints("e", 2**63 - 1, 3), ints("a", 0, 1)])
    case("Slice some rows", False, [("Slice", "x s e a", "y")], initializers=[ints("s", 1), ints("e", 2**63 - 1), ints("a", 0)])
    case("Slice rows backwards", False, [("Slice", "x s e a t", "y")], initializers=[ints("s", -1), ints("e", -(2**62)), ints("a", 0), ints("t", -1)])
    case("Slice without axes", False, [("Slice", "x s e", "y")], initializers=[ints("s", 0), ints("e", 1)])
    case("Slice by attribute", True, [("Slice", "x", "y", {"axes": [1], "starts": [1], "ends": [3]})], opset=9)
    case("Pad", True, [("Pad", "x p", "y")], initializers=[ints("p", 0, 1, 0, 2)])
    case("Pad before the rows", False, [("Pad", "x p", "y")], initializers=[ints("p", 1, 0, 0, 0)])
    case("Pad behind the rows", False, [("Pad", "x p", "y")], initializers=[ints("p", 0, 0, 1, 0)])
    case("Expand", True, [("Expand", "x s", "y")], [value("x", shape=["N", 1])], initializers=[ints("s", 1, 3)])
    case("Expand to several rows", False, [("Expand", "x s", "y")], [value("x", shape=["N", 1])], initializers=[ints("s", 2, 3)])
    case("Expand to a higher rank", False, [("Expand", "x s", "y")], initializers=[ints("s", 1, 1, 4)])
    token = [("Shape", "x", "n", {"end": 1}), ("Concat", "n t", "s", {"axis": 0}), ("Expand", "c s", "e"), ("Concat", "e x", "y", {"axis": 1})]
    case("Expand a constant to all rows", True, token, initializers=[ints("t", 2), weights("c", 1, 2)])
    case("Expand a constant of several rows", False, token, initializers=[ints("t", 2), weights("c", 2, 2)])
    case("Tile", True, [("Tile", "x r", "y")], initializers=[ints("r", 1, 2)])
    case("Tile the rows", False, [("Tile", "x r", "y")], initializers=[ints("r", 2, 1)])
    case("Gather from a table", True, [("Gather", "c x", "y")], [value("x", I, ["N", 3])], initializers=[weights("c", 4, 2)])
    case("Gather from a table's columns", False, [("Gather", "c x", "y", {"axis": 1})], [value("x", I, ["N", 3])], initializers=[weights("c", 2, 4)])
    case("Gather columns", True, [("Gather", "x i", "y", {"axis": 1})], initializers=[ints("i", 2, 0)])
    case("Gather rows", False, [("Gather", "x i", "y")], initializers=[ints("i", 0, 0)])
    case("Gather rows by rows", False, [("Gather", "x i", "y")], [value("x"), value("i", I, ["N"])])
    case("GatherElements", True, [("GatherElements", "x i", "y", {"axis": 1})], [value("x"), value("i", I, ["N", 2])])
    case("GatherElements of rows", False, [("GatherElements", "x i", "y")], [value("x"), value("i", I, ["N", 2])])
    case("ScatterND", False, [("ScatterND", "x i u", "y")], initializers=[ints("i0"), const("i", [[0]], np.int64), weights("u", 1, 4)])
    case("ConstantOfShape", True, [("Shape", "x", "n"), ("ConstantOfShape", "n", "c"), ("Add", "x c", "y")])
    case("Range over the rows", False, [("Shape", "x", "n", {"end": 1}), ("Squeeze", "n", "k"), ("Range", "zero k one", "r"), ("Cast", "r", "f", {"to": F}),
                                        ("Unsqueeze", "f a", "g"), ("Add", "x g", "y")],
         initializers=[const("zero", 0, np.int64), const("one", 1, np.int64), ints("a", 1)])
    case("ReverseSequence", False, [("ReverseSequence", "x l", "y")], initializers=[ints("l", 1, 1, 1, 1)])
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", F, None)])
    case("If", False, [("If", "c", "y", {"then_branch": branch, "else_branch": branch})], initializers=[const("c", True, bool)])
    case("SequenceConstruct", False, [("SequenceConstruct", "x x", "s"), ("ConcatFromSequence", "s", "y", {"axis": 1})])


def ml():
    def learned(name, proved, op, ins, outs, inputs=None, outputs=None, initializers=(), before=(), after=(), **attributes):
        case(name, proved, [*before, (op, ins, outs, {**attributes, "domain": "ai.onnx.ml"}), *after], inputs, outputs, initializers, ml=3)

    line = [value("x", shape=["N"])]
    scores = [value("label", I, None), value("y", shape=None)]
    linear = {"coefficients": [0.5, -1.0, 2.0, 0.25] * 3, "intercepts": [0.0, 1.0, 2.0], "classlabels_ints": [0, 1, 2], "post_transform": "SOFTMAX"}
    learned("LinearClassifier", True, "LinearClassifier", "x", "label y", outputs=scores, **linear)
    learned("LinearRegressor", True, "LinearRegressor", "x", "y", coefficients=[1.0, 2.0, 3.0, 4.0], intercepts=[1.0])
    learned("LinearRegressor of a line", False, "LinearRegressor", "x", "y", line, coefficients=[1.0, 2.0, 3.0, 4.0], intercepts=[1.0])
    tree = {"nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
            "nodes_values": [0.0, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0]}
    learned("TreeEnsembleRegressor", True, "TreeEnsembleRegressor", "x", "y", n_targets=1, target_treeids=[0, 0], target_nodeids=[1, 2],
            target_ids=[0, 0], target_weights=[1.0, 2.0], **tree)
    learned("TreeEnsembleClassifier", True, "TreeEnsembleClassifier", "x", "label y", outputs=scores, class_treeids=[0, 0, 0, 0], class_nodeids=[1, 1, 2, 2],
            class_ids=[0, 1, 0, 1], class_weights=[0.9, 0.1, 0.2, 0.8], classlabels_int64s=[0, 1], **tree)
    learned("SVMRegressor", True, "SVMRegressor", "x", "y", kernel_type="RBF", kernel_params=[0.5, 0.0, 3.0], n_supports=2,
            support_vectors=[0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], coefficients=[1.0, -1.0], rho=[0.5])
    for op, attributes in [("Scaler", {"offset": [1.0, 0.0, 2.0, 3.0], "scale": [1.0, 2.0, 3.0, 4.0]}), ("Normalizer", {"norm": "MAX"}), ("Normalizer", {"norm": "L2"}),
                           ("Imputer", {"imputed_value_floats": [1.0, 2.0, 3.0, 4.0], "replaced_value_float": 0.0})]:
        name = op + attributes.get("norm", "")
        learned(name, True, op, "x", "y", **attributes)
        learned(name + " of a line", False, op, "x", "y", line, **attributes)
    learned("Binarizer", True, "Binarizer", "x", "y", threshold=0.5)
    learned("FeatureVectorizer", True, "FeatureVectorizer", "x z", "y", [value("x"), value("z", shape=["N", 2])], inputdimensions=[4, 2])
    learned("LabelEncoder", True, "LabelEncoder", "x", "y", [value("x", S, ["N"])], [value("y", I, None)], keys_strings=["a", "b"], values_int64s=[1, 2])
    learned("OneHotEncoder", True, "OneHotEncoder", "x", "y", [value("x", I, ["N"])], cats_int64s=[0, 1, 2, 3])
    learned("ArrayFeatureExtractor", True, "ArrayFeatureExtractor", "x i", "y", initializers=[ints("i", 2, 0)])
    learned("labels of the best class", True, "ArrayFeatureExtractor", "labels best", "row", outputs=[value("y", I, None)],
            initializers=[ints("labels", 10, 20, 30, 40), ints("flat", -1)], before=[("ArgMax", "x", "best", {"axis": 1})], after=[("Reshape", "row flat", "y")])
    learned("labels left in one row", False, "ArrayFeatureExtractor", "labels best", "y", outputs=[value("y", I, None)],
            initializers=[ints("labels", 10, 20, 30, 40)], before=[("ArgMax", "x", "best", {"axis": 1})])
    maps = helper.make_value_info("y", helper.make_sequence_type_proto(helper.make_map_type_proto(I, helper.make_tensor_type_proto(F, []))))
    learned("ZipMap", True, "ZipMap", "x", "y", outputs=[maps], classlabels_int64s=[0, 1, 2, 3])
    case("TfIdfVectorizer", True, [("TfIdfVectorizer", "x", "y", TFIDF)], [value("x", S, ["N", 3])])
    case("TfIdfVectorizer of a line", False, [("TfIdfVectorizer", "x", "y", TFIDF)], [value("x", S, ["N"])])


def misread():
    """Graphs that look other than they are, and operators that are otherwise than they look."""
    wide = [value("x", shape=["N", "M"])]
    # What the inner dimension cuts off a list is not known: here the list is not empty, but the axis of the rows.
    size = [("Shape", "x", "n", {"start": 1})]
    mix = ("Add", "x m", "y")
    case("axes cut by an inner dimension", False, [*size, ("Slice", "l zero n", "a"), ("ReduceMax", "x a", "m", {"noop_with_empty_axes": 1}), mix], wide,
         initializers=[ints("l", 0), ints("zero", 0)])
    case("a shape cut by an inner dimension", False, [("Shape", "x", "n"), ("Slice", "n one two", "m"), ("Slice", "n zero m", "s"),
         ("Concat", "s rest", "t", {"axis": 0}), ("Reshape", "x t", "y")], wide,
         initializers=[ints("zero", 0), ints("one", 1), ints("two", 2), ints("rest", -1)])
    for n in [-(2**63), -(2**63) + 1]:
        # Numbers that stand for others in the proof; as an int32 they are 0 and 1.
        case(f"a size of {n}", False, [("Constant", "", "c", {"value_ints": [n]}), ("Cast", "c", "i", {"to": TensorProto.INT32}), ("Cast", "i", "l", {"to": I}),
             ("Concat", "l rest", "s", {"axis": 0}), ("Reshape", "x s", "y")], initializers=[ints("rest", -1)])
    truth = TensorProto(name="t", data_type=B, dims=[1], raw_data=b"\2")
    # A truth of 2 is 1 as an integer, or not: the row is then split in other places.
    case("an axis of truth", False, [("Cast", "t", "a", {"to": I}), ("ReduceMax", "x a", "m", {"keepdims": 0}), ("Reshape", "m s", "h"),
         ("Softmax", "h", "y")], [value("x", shape=["N", 2, 3])], initializers=[truth, ints("s", -1, 2)])
    x = [value("x", TensorProto.UINT8, ["N", 2, 3]), value("z", TensorProto.UINT8, ["N", 3, 2])]
    out = [value("y", TensorProto.INT32, None)]
    case("MatMulInteger with a zero point for each row", False, [("MatMulInteger", "x z _ p", "y")], x, out,
         initializers=[const("p", np.arange(10).reshape(5, 1, 2), np.uint8)])
    case("MatMulInteger with a zero point", True, [("MatMulInteger", "x z _ p", "y")], x, out, initializers=[const("p", 3, np.uint8)])
    scales = [const("s", 0.5), const("o", 1, np.uint8)]
    case("QLinearMatMul with a scale for each row", False, [("QLinearMatMul", "x s o z q p s o", "y")], x, [value("y", TensorProto.UINT8, None)],
         initializers=[*scales, const("q", np.arange(1, 11).reshape(5, 1, 2)), const("p", np.arange(10).reshape(5, 1, 2), np.uint8)])
    image = [value("x", shape=["N", 3, 6, 6])]
    ceil = {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "ceil"}
    case("Resize that moves by half a pixel", False, [("Resize", "x r s", "y", ceil)], image, initializers=[const("r", []), const("s", [1, 1, 2, 2])], opset=11)
    for mode, rank, proved in [("nearest", 3, True), ("linear", 3, False), ("linear", 4, True), ("linear", 5, True), ("cubic", 4, True)]:
        case(f"Resize {mode} of rank {rank}", proved, [("Resize", "x _ s", "y", {"mode": mode})], [value("x", shape=["N", 4, 4, 4, 4][:rank])],
             initializers=[const("s", [1, 1, 2, 2, 2][:rank] if rank > 3 else [1, 2, 2])])
    for transform, proved in [("NONE", True), ("LOGISTIC", True), ("SOFTMAX", True), ("SOFTMAX_ZERO", True), ("PROBIT", False), ("probit", False)]:
        case(f"scores {transform}", proved, [("LinearRegressor", "x", "y", {"domain": "ai.onnx.ml", "coefficients": [0.5, -1.0, 2.0, 0.25],
             "intercepts": [0.5], "post_transform": transform})], ml=3)


TFIDF = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 1, "max_skip_count": 0, "ngram_counts": [0], "ngram_indexes": [0, 1],
         "pool_strings": ["a", "b"]}


def main():
    for part in [elements, axes, products, images, shapes, ml, misread]:
        part()
    names = [c["name"] for c in CASES]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "rowwise.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
    print("wrote", len(CASES), "graphs")


main()
