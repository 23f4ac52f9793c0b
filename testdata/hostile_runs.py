"""Models that do no harm with zeros, and all the more with other inputs: for make_hostile.py."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from graph_models import const, model, value

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# A window over which one step of the graph goes for each element of what it is given. Nothing ends a step but the end of
# its process.
WINDOW = 100_001


def _pool(given: str) -> onnx.NodeProto:
    return helper.make_node("MaxPool", [given], ["most"], kernel_shape=[WINDOW], pads=[WINDOW // 2, WINDOW // 2])


def empty_inside() -> onnx.ModelProto:
    """A recurrent layer over those sequences whose values are all below a half. Without a single one the runtime aborts."""
    return model("empty_inside", [
        helper.make_node("ReduceMax", ["x", "axes"], ["most"], keepdims=0), helper.make_node("Less", ["most", "half"], ["keep"]),
        helper.make_node("Compress", ["x", "keep"], ["kept"], axis=1),
        helper.make_node("GRU", ["kept", "w", "r"], ["", "y"], hidden_size=2),
    ], [value("x", FLOAT, ["T", "N", 2])], [value("y", FLOAT, [1, "M", 2])],
        [const("axes", [0, 2], np.int64), const("half", 0.5), const("w", np.ones((1, 6, 2))), const("r", np.ones((1, 6, 2)))])


def huge_tensor() -> onnx.ModelProto:
    """The sum of n zeros, all of which are made first."""
    return model("huge_tensor", [
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]), helper.make_node("ReduceSum", ["zeros"], ["y"], keepdims=0),
    ], [value("n", INT64, [1])], [value("y", FLOAT, [])])


def string_bomb() -> onnx.ModelProto:
    """Doubles a string 34 times: of one character it makes 16 GiB, none of which the runtime's arena counts."""
    nodes = [helper.make_node("StringConcat", [f"s{i}" if i else "x"] * 2, [f"s{i + 1}"]) for i in range(34)]
    return model("string_bomb", nodes + [helper.make_node("Equal", ["s34", "x"], ["y"])],
                 [value("x", TensorProto.STRING, ["N"])], [value("y", TensorProto.BOOL, ["N"])])


def long_step() -> onnx.ModelProto:
    """One step over n elements: a minute or more for a million."""
    return model("long_step", [
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]), helper.make_node("Unsqueeze", ["zeros", "axes"], ["row"]),
        _pool("row"), helper.make_node("ReduceSum", ["most"], ["y"], keepdims=0),
    ], [value("n", INT64, [1])], [value("y", FLOAT, [])], [const("axes", [0, 1], np.int64)])


def long_fold() -> onnx.ModelProto:
    """The same step over a constant, which is computed while the model is loaded."""
    return model("long_fold", [
        helper.make_node("ConstantOfShape", ["shape"], ["row"]), _pool("row"),
        helper.make_node("ReduceMax", ["most"], ["m"], keepdims=0), helper.make_node("Add", ["x", "m"], ["y"]),
    ], [value("x", FLOAT, ["N", 2])], [value("y", FLOAT, ["N", 2])], [const("shape", [1, 1, 1_000_000], np.int64)])


FILES = [
    ("empty_inside.onnx", "", empty_inside,
     "onnxruntime 1.30 ends the process when this model makes the input of its recurrent layer empty, as [[[1, 1]]] does"),
    ("huge_tensor.onnx", "", huge_tensor, "16 GiB for the input [4294967296]"),
    ("string_bomb.onnx", "", string_bomb, "16 GiB of characters for an input of one"),
    ("long_step.onnx", "", long_step, "a minute or more within one node for the input [1000000]"),
    ("long_fold.onnx", "load_timeout", long_fold, "a minute or more within one node that the runtime computes while it loads"),
]
