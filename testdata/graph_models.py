"""Models written node by node: one for each corner of the types and of the runtime that a server must get right."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from casefile import Sample

IR_VERSION = 10
OPSET = 21


def model(name: str, nodes: list, inputs: list, outputs: list, initializers: list = (), **fields) -> onnx.ModelProto:
    """One graph in the standard domain; inputs and outputs are ValueInfoProtos."""
    graph = helper.make_graph(nodes, name, inputs, outputs, initializer=list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                             producer_name="modelgate-testdata", **fields)


def value(name: str, elem: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def const(name: str, array, dtype=np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def _floats(*rows, dtype=np.float32) -> np.ndarray:
    return np.array(rows, dtype)


def two_io() -> Sample:
    """difference = a - b, dot = row-wise inner product: inputs and outputs that a wrong order would betray."""
    proto = model(
        "two_io",
        [helper.make_node("Sub", ["a", "b"], ["difference"]),
         helper.make_node("Mul", ["a", "b"], ["products"]),
         helper.make_node("ReduceSum", ["products", "last"], ["dot"], keepdims=1)],
        [value("a", TensorProto.FLOAT, ["N", 3]), value("b", TensorProto.FLOAT, ["N", 3])],
        [value("difference", TensorProto.FLOAT, ["N", 3]), value("dot", TensorProto.FLOAT, ["N", 1])],
        [const("last", [1], np.int64)])
    return Sample("two_io", proto, {
        "one_row": {"a": _floats([1, 2, 3]), "b": _floats([10, 20, 30])},
        "three_rows": {"a": _floats([1, 2, 3], [-1, 0.5, 0.25], [0, -0.0, 7]),
                       "b": _floats([0.1, 0.2, 0.3], [4, 8, 16], [-0.0, 0, -7])},
        "no_rows": {"a": np.zeros((0, 3), np.float32), "b": np.zeros((0, 3), np.float32)},
    })


def half() -> Sample:
    """float16 in and out; one multiplication, so that every processor rounds once and alike."""
    proto = model("half", [helper.make_node("Mul", ["x", "scale"], ["y"])],
                  [value("x", TensorProto.FLOAT16, ["N", 3])], [value("y", TensorProto.FLOAT16, ["N", 3])],
                  [const("scale", [0.5, 3, -1.25], np.float16)])
    return Sample("half", proto, {
        "one_row": {"x": _floats([1, 2, 3], dtype=np.float16)},
        "rounded": {"x": _floats([0.1, 0.2, 0.3], [1000.5, 1 / 3, 1e-3], dtype=np.float16)},
        "edges": {"x": _floats([65504, -0.0, 0.0], [6e-8, 6.104e-5, 65504 / 2], dtype=np.float16)},
        "no_rows": {"x": np.zeros((0, 3), np.float16)},
    })


def bfloat() -> Sample:
    """bfloat16 in and out, computed in float32: onnxruntime has no bfloat16 arithmetic on the CPU."""
    proto = model("bfloat",
                  [helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
                   helper.make_node("Mul", ["wide", "scale"], ["scaled"]),
                   helper.make_node("Cast", ["scaled"], ["y"], to=TensorProto.BFLOAT16)],
                  [value("x", TensorProto.BFLOAT16, ["N", 3])], [value("y", TensorProto.BFLOAT16, ["N", 3])],
                  [const("scale", [0.5, 3, -1.25])])
    kind = ml_dtypes.bfloat16
    return Sample("bfloat", proto, {
        "one_row": {"x": _floats([1, 2, 3], dtype=kind)},
        "rounded": {"x": _floats([0.1, 0.2, 0.3], [1000.5, 1 / 3, 1e-3], dtype=kind)},
        "edges": {"x": _floats([float(ml_dtypes.finfo(kind).max), -0.0, 0.0], [1e-38, 1e30, 2e38], dtype=kind)},
        "no_rows": {"x": np.zeros((0, 3), kind)},
    })


def dynamic() -> Sample:
    """Three axes of any size, transposed and summed."""
    proto = model("dynamic",
                  [helper.make_node("Transpose", ["x"], ["transposed"], perm=[0, 2, 1]),
                   helper.make_node("ReduceSum", ["x", "last"], ["row_sums"], keepdims=0)],
                  [value("x", TensorProto.FLOAT, ["batch", "rows", "columns"])],
                  [value("transposed", TensorProto.FLOAT, ["batch", "columns", "rows"]),
                   value("row_sums", TensorProto.FLOAT, ["batch", "rows"])],
                  [const("last", [2], np.int64)])
    count = lambda *shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)  # noqa: E731
    return Sample("dynamic", proto, {
        "one": {"x": count(1, 1, 1)},
        "two_by_three_by_four": {"x": count(2, 3, 4)},
        "no_batch": {"x": count(0, 3, 4)},
        "no_columns": {"x": count(2, 3, 0)},
    })


def ints() -> Sample:
    """int64 and bool in and out: masked = numbers where the flag stands, else -1; inverted = not flags."""
    proto = model("ints",
                  [helper.make_node("Where", ["flags", "numbers", "absent"], ["masked"]),
                   helper.make_node("Not", ["flags"], ["inverted"])],
                  [value("numbers", TensorProto.INT64, ["N"]), value("flags", TensorProto.BOOL, ["N"])],
                  [value("masked", TensorProto.INT64, ["N"]), value("inverted", TensorProto.BOOL, ["N"])],
                  [const("absent", [-1], np.int64)])
    case = lambda numbers, flags: {"numbers": np.array(numbers, np.int64), "flags": np.array(flags, bool)}  # noqa: E731
    return Sample("ints", proto, {
        "one": case([42], [True]),
        "several": case([1, 2, 3, 4], [True, False, True, False]),
        "extremes": case([2**63 - 1, -2**63, 2**53 + 1, 0], [True, True, True, True]),
        "none": case([], []),
    })


def divide() -> Sample:
    """Whole division of int64. 0 / 0, which a trial of zeros asks for, is an error of the run and not of the model.

    The smallest int64 divided by -1 traps on x86 and kills the process that runs it (seen with onnxruntime 1.30.0), so
    this is also the model whose worker a caller can crash.
    """
    proto = model("divide", [helper.make_node("Div", ["a", "b"], ["quotient"])],
                  [value("a", TensorProto.INT64, ["N"]), value("b", TensorProto.INT64, ["N"])],
                  [value("quotient", TensorProto.INT64, ["N"])])
    case = lambda a, b: {"a": np.array(a, np.int64), "b": np.array(b, np.int64)}  # noqa: E731
    return Sample("divide", proto, {
        "one": case([7], [2]),
        "several": case([-7, 2**63 - 1, -2**63], [2, -1, 1]),
        "none": case([], []),
    })


def scalar() -> Sample:
    """Rank 0 in and out."""
    proto = model("scalar",
                  [helper.make_node("Add", ["x", "x"], ["doubled"]),
                   helper.make_node("Greater", ["x", "zero"], ["is_positive"])],
                  [value("x", TensorProto.FLOAT, [])],
                  [value("doubled", TensorProto.FLOAT, []), value("is_positive", TensorProto.BOOL, [])],
                  [const("zero", 0)])
    return Sample("scalar", proto, {
        "positive": {"x": np.array(1.5, np.float32)},
        "negative": {"x": np.array(-0.1, np.float32)},
        "minus_zero": {"x": np.array(-0.0, np.float32)},
    })


_FLOAT_EDGES = [0.0, -0.0, 1 / 3, -1.5]

# Public name, element type, numpy type and the values of the case "extremes".
_TYPES = [
    ("fp32", TensorProto.FLOAT, np.float32, _FLOAT_EDGES + [float(np.finfo(np.float32).max), 1e-45]),
    ("fp64", TensorProto.DOUBLE, np.float64, _FLOAT_EDGES + [float(np.finfo(np.float64).max), 5e-324]),
    ("fp16", TensorProto.FLOAT16, np.float16, _FLOAT_EDGES + [65504.0, 6e-8]),
    ("bf16", TensorProto.BFLOAT16, ml_dtypes.bfloat16, _FLOAT_EDGES + [3.3895313892515355e38, 9.2e-41]),
    ("int8", TensorProto.INT8, np.int8, [-2**7, -1, 0, 1, 2**7 - 1]),
    ("int16", TensorProto.INT16, np.int16, [-2**15, -1, 0, 1, 2**15 - 1]),
    ("int32", TensorProto.INT32, np.int32, [-2**31, -1, 0, 1, 2**31 - 1]),
    ("int64", TensorProto.INT64, np.int64, [-2**63, -2**53 - 1, 0, 2**53 + 1, 2**63 - 1]),
    ("uint8", TensorProto.UINT8, np.uint8, [0, 1, 2**7, 2**8 - 1]),
    ("uint16", TensorProto.UINT16, np.uint16, [0, 1, 2**15, 2**16 - 1]),
    ("uint32", TensorProto.UINT32, np.uint32, [0, 1, 2**31, 2**32 - 1]),
    ("uint64", TensorProto.UINT64, np.uint64, [0, 1, 2**63, 2**64 - 1]),
    ("bool", TensorProto.BOOL, bool, [True, False]),
    ("string", TensorProto.STRING, object,
     ["", "plain", "Grüße, 世界 🦊", "line\nbreak\ttab", "quote \" and \\", "</script>&\u2028"]),
]


def types() -> Sample:
    """Identity for every element type served: input fp32 goes to output fp32_out, and so on."""
    proto = model("types",
                  [helper.make_node("Identity", [name], [name + "_out"]) for name, *_ in _TYPES],
                  [value(name, elem, ["n_" + name]) for name, elem, *_ in _TYPES],
                  [value(name + "_out", elem, ["n_" + name]) for name, elem, *_ in _TYPES])
    return Sample("types", proto, {
        "one_each": {name: np.array(edges[1:2], dtype) for name, _, dtype, edges in _TYPES},
        "extremes": {name: np.array(edges, dtype) for name, _, dtype, edges in _TYPES},
        "empty": {name: np.zeros(0, dtype) for name, _, dtype, _ in _TYPES},
    })


def sequence() -> Sample:
    """Outputs that are sequences of tensors: the rows of x alone, and n in pieces of two."""
    two = const("two", 2, np.int64)
    proto = model("sequence",
                  [helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=0),
                   helper.make_node("SplitToSequence", ["n", "two"], ["pairs"], axis=0)],
                  [value("x", TensorProto.FLOAT, ["N", 3]), value("n", TensorProto.INT64, ["M"])],
                  [helper.make_tensor_sequence_value_info("rows", TensorProto.FLOAT, [3]),
                   helper.make_tensor_sequence_value_info("pairs", TensorProto.INT64, ["K"])], [two])
    return Sample("sequence", proto, {
        "one_row": {"x": _floats([1, 2, 3]), "n": np.array([7], np.int64)},
        "three_rows": {"x": _floats([1, 2, 3], [4, 5, 6], [-0.0, 0, 0.1]), "n": np.arange(5, dtype=np.int64)},
    })


def defaults() -> Sample:
    """An initializer that is listed among the inputs, as old exporters do: no input of the public contract."""
    proto = model("defaults", [helper.make_node("Add", ["x", "offset"], ["y"])],
                  [value("x", TensorProto.FLOAT, ["N", 2]), value("offset", TensorProto.FLOAT, [2])],
                  [value("y", TensorProto.FLOAT, ["N", 2])], [const("offset", [1, -1])])
    return Sample("defaults", proto, {"one_row": {"x": _floats([1, 2])}, "two_rows": {"x": _floats([1, 2], [3, 4])}})


def rowmix() -> Sample:
    """Rows mix: every row gets the maximum of its whole batch added, so requests must not share a batch."""
    proto = model("rowmix",
                  [helper.make_node("ReduceMax", ["x", "first"], ["top"], keepdims=1),
                   helper.make_node("Add", ["x", "top"], ["y"])],
                  [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 4])],
                  [const("first", [0], np.int64)])
    return Sample("rowmix", proto, {
        "one_row": {"x": _floats([1, 2, 3, 4])},
        "two_rows": {"x": _floats([1, 2, 3, 4], [40, -3, 20, -1])},
        "no_rows": {"x": np.zeros((0, 4), np.float32)},
    })


def slow_run() -> Sample:
    """Counts to `iterations` in a Loop: a run of chosen length, as good as endless for 2**63 - 1."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]),
         helper.make_node("Add", ["state", "one"], ["state_out"])],
        "body",
        [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("state", TensorProto.INT64, [1])],
        [value("on_out", TensorProto.BOOL, []), value("state_out", TensorProto.INT64, [1])])
    proto = model("slow_run", [helper.make_node("Loop", ["iterations", "", "zero"], ["count"], body=body)],
                  [value("iterations", TensorProto.INT64, [1])], [value("count", TensorProto.INT64, [1])],
                  [const("zero", [0], np.int64), const("one", [1], np.int64)])
    return Sample("slow_run", proto, {
        "none": {"iterations": np.array([0], np.int64)},
        "one": {"iterations": np.array([1], np.int64)},
        "thousand": {"iterations": np.array([1000], np.int64)},
    })


CANARY = "CANARY_7f3a"


def canary() -> Sample:
    """Every string of the file that nobody outside may see is a canary, the graph's input and output names too.

    Two layers over three floats, plus a row of a table of four that the first float chooses: outside [0, 4) the run
    fails, and the runtime's message then names the node.
    """
    name = lambda suffix: f"{CANARY}/{suffix}"  # noqa: E731
    node = lambda op, inputs, output, **attributes: helper.make_node(  # noqa: E731
        op, [name(i) for i in inputs], [name(output)], name=name("node." + output), doc_string=name("node doc"),
        **attributes)
    batch = name("batch")
    graph_input = value(name("in:0"), TensorProto.FLOAT, [batch, 3])
    graph_output = value(name("out:0"), TensorProto.FLOAT, [batch, 2])
    nodes = [
        node("Gemm", ["in:0", "w1", "b1"], "hidden"),
        node("Relu", ["hidden"], "active"),
        node("Gemm", ["active", "w2", "b2"], "scores"),
        node("Slice", ["in:0", "start", "end", "axis"], "chosen"),
        node("Cast", ["chosen"], "index", to=TensorProto.INT64),
        node("GatherND", ["table", "index"], "row"),
        node("Add", ["scores", "row"], "out:0"),
    ]
    initializers = [
        const(name("w1"), [[0.5, -1, 0.25, 2], [1, 0.5, -0.5, 0.125], [-0.25, 1, 2, -1]]),
        const(name("b1"), [0.5, -0.5, 0.25, 0]),
        const(name("w2"), [[1, -1], [0.5, 0.25], [-2, 1], [0.75, 0.5]]),
        const(name("b2"), [0.125, -0.125]),
        const(name("table"), [[0, 0], [10, -10], [20, -20], [30, -30]]),
        const(name("start"), [0], np.int64), const(name("end"), [1], np.int64), const(name("axis"), [1], np.int64),
    ]
    proto = model(name("graph"), nodes, [graph_input], [graph_output], initializers, doc_string=name("model doc"))
    proto.producer_name, proto.producer_version = name("producer"), name("producer version")
    helper.set_model_props(proto, {name("key"): name("value")})
    proto.graph.doc_string = name("graph doc")
    proto.graph.value_info.append(value(name("hidden"), TensorProto.FLOAT, [batch, 4]))
    for described in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        described.doc_string = name("value doc")
    for tensor in proto.graph.initializer:
        tensor.doc_string = name("tensor doc")
    for owner in [proto.graph, *proto.graph.node]:
        owner.metadata_props.add(key=name("key"), value=name("value"))
    return Sample("canary", proto, {
        "one_row": {name("in:0"): _floats([1, 2, 3])},
        "several_rows": {name("in:0"): _floats([0, 0.5, -1], [3, -0.0, 0.1], [2, 1e3, -1e3])},
        "no_rows": {name("in:0"): np.zeros((0, 3), np.float32)},
    }, public={name("in:0"): "input_0", name("out:0"): "output_0"})
