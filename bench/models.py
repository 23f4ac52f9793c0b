"""Makes the models that are measured, with fixed random weights, into the folder named as the only argument.

Their answers mean nothing; their sizes and operators are those of the networks they are named after:
mlp_tiny (4-16-3), mlp_dense (256-1024-1200-10, 6 MB) and squeezenet (SqueezeNet 1.1, 3x224x224).
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model

OPSET = 17


class Graph:
    """Nodes and weights of one model; each method adds a layer and returns the name of its output."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def add(self, operator, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, *shape):
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = self.random.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / fan_in))
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def zeros(self, size):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.zeros(size, np.float32), name))
        return name

    def dense(self, x, inputs, outputs):
        return self.add("Gemm", [x, self.weight(inputs, outputs), self.zeros(outputs)])

    def conv(self, x, inputs, outputs, size, **attributes):
        y = self.add("Conv", [x, self.weight(outputs, inputs, size, size), self.zeros(outputs)],
                     kernel_shape=[size, size], **attributes)
        return self.add("Relu", [y])

    def pool(self, x):
        return self.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)

    def save(self, path, last, shape, classes):
        self.nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
        graph = helper.make_graph(
            self.nodes, path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *shape])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", classes])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        checker.check_model(model, full_check=True)
        save_model(model, path)


def mlp(path, *sizes):
    g = Graph(1)
    x = "x"
    for inputs, outputs in zip(sizes, sizes[1:]):
        x = g.dense(x, inputs, outputs)
        if outputs != sizes[-1]:
            x = g.add("Relu", [x])
    g.save(path, x, [sizes[0]], sizes[-1])


def squeezenet(path):
    """SqueezeNet 1.1: Iandola and others, arXiv:1602.07360, with the smaller first layers of its second release."""
    g = Graph(2)

    def fire(x, inputs, squeeze, expand):
        s = g.conv(x, inputs, squeeze, 1)
        return g.add("Concat", [g.conv(s, squeeze, expand, 1), g.conv(s, squeeze, expand, 3, pads=[1, 1, 1, 1])], axis=1)

    x = g.pool(g.conv("x", 3, 64, 3, strides=[2, 2]))
    x = g.pool(fire(fire(x, 64, 16, 64), 128, 16, 64))
    x = g.pool(fire(fire(x, 128, 32, 128), 256, 32, 128))
    x = fire(fire(x, 256, 48, 192), 384, 48, 192)
    x = fire(fire(x, 384, 64, 256), 512, 64, 256)
    x = g.add("GlobalAveragePool", [g.conv(x, 512, 1000, 1)])
    g.save(path, g.add("Flatten", [x], axis=1), [3, 224, 224], 1000)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    mlp(folder / "mlp_tiny.onnx", 4, 16, 3)
    mlp(folder / "mlp_dense.onnx", 256, 1024, 1200, 10)
    squeezenet(folder / "squeezenet.onnx")


main()
