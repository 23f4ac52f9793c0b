"""Makes the models that are measured, with fixed random weights, into the folder named as the only argument.

Their answers mean nothing; their sizes and operators are those of the networks they are named after:
mlp_tiny (4-16-3), mlp_dense (256-1024-1200-10, 6 MB), squeezenet (SqueezeNet 1.1), mobilenetv2 and resnet50, all three
for images of 3x224x224, and encoder (a transformer of 6 layers, width 256, over 128 token ids). Batch normalisation is
left out, as exporters fold it into the convolution before it.
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
        return self.constant(values)

    def constant(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def zeros(self, size):
        return self.constant(np.zeros(size, np.float32))

    def dense(self, x, inputs, outputs):
        return self.add("Gemm", [x, self.weight(inputs, outputs), self.zeros(outputs)])

    def linear_conv(self, x, inputs, outputs, size, stride=1, **attributes):
        """A convolution without what stands after it; its padding keeps the size, but for the stride."""
        inputs //= attributes.get("group", 1)
        return self.add("Conv", [x, self.weight(outputs, inputs, size, size), self.zeros(outputs)],
                        kernel_shape=[size, size], **{"strides": [stride] * 2, "pads": [size // 2] * 4, **attributes})

    def conv(self, x, inputs, outputs, size, stride=1, **attributes):
        return self.add("Relu", [self.linear_conv(x, inputs, outputs, size, stride, **attributes)])

    def pool(self, x):
        return self.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)

    def save(self, path, last, shape, classes, kind=TensorProto.FLOAT):
        self.nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
        graph = helper.make_graph(
            self.nodes, path.stem,
            [helper.make_tensor_value_info("x", kind, ["rows", *shape])],
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
        return g.add("Concat", [g.conv(s, squeeze, expand, 1), g.conv(s, squeeze, expand, 3)], axis=1)

    x = g.pool(g.conv("x", 3, 64, 3, 2, pads=[0, 0, 0, 0]))
    x = g.pool(fire(fire(x, 64, 16, 64), 128, 16, 64))
    x = g.pool(fire(fire(x, 128, 32, 128), 256, 32, 128))
    x = fire(fire(x, 256, 48, 192), 384, 48, 192)
    x = fire(fire(x, 384, 64, 256), 512, 64, 256)
    x = g.add("GlobalAveragePool", [g.conv(x, 512, 1000, 1)])
    g.save(path, g.add("Flatten", [x], axis=1), [3, 224, 224], 1000)


def mobilenet(path):
    """MobileNetV2, width 1: Sandler and others, arXiv:1801.04381, table 2."""
    g = Graph(3)

    def relu6(x):
        return g.add("Clip", [x, g.constant(np.float32(0)), g.constant(np.float32(6))])

    def bottleneck(x, inputs, outputs, stride, expansion):
        wide = inputs * expansion
        y = relu6(g.linear_conv(x, inputs, wide, 1)) if expansion > 1 else x
        y = relu6(g.linear_conv(y, wide, wide, 3, stride, group=wide))
        y = g.linear_conv(y, wide, outputs, 1)
        return g.add("Add", [x, y]) if stride == 1 and inputs == outputs else y

    x, inputs = relu6(g.linear_conv("x", 3, 32, 3, 2)), 32
    for expansion, outputs, repeats, stride in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                                                (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(repeats):
            x, inputs = bottleneck(x, inputs, outputs, stride if i == 0 else 1, expansion), outputs
    x = g.add("GlobalAveragePool", [relu6(g.linear_conv(x, 320, 1280, 1))])
    g.save(path, g.dense(g.add("Flatten", [x], axis=1), 1280, 1000), [3, 224, 224], 1000)


def resnet(path):
    """ResNet-50: He and others, arXiv:1512.03385, table 1, with the stride in the 3x3 convolution."""
    g = Graph(4)

    def bottleneck(x, inputs, middle, stride):
        y = g.conv(g.conv(x, inputs, middle, 1), middle, middle, 3, stride)
        y = g.linear_conv(y, middle, 4 * middle, 1)
        if inputs != 4 * middle or stride > 1:
            x = g.linear_conv(x, inputs, 4 * middle, 1, stride)
        return g.add("Relu", [g.add("Add", [x, y])])

    x = g.add("MaxPool", [g.conv("x", 3, 64, 7, 2)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = 64
    for middle, repeats, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for i in range(repeats):
            x, inputs = bottleneck(x, inputs, middle, stride if i == 0 else 1), 4 * middle
    x = g.add("Flatten", [g.add("GlobalAveragePool", [x])], axis=1)
    g.save(path, g.dense(x, 2048, 1000), [3, 224, 224], 1000)


def encoder(path, layers=6, width=256, heads=4, tokens=128, vocabulary=1000):
    """A transformer encoder: Vaswani and others, arXiv:1706.03762, with the normalisation first, and GELU.

    The mean over the tokens goes through a last layer of ten classes.
    """
    g = Graph(5)
    split = g.constant(np.array([0, tokens, heads, width // heads], np.int64))
    joined = g.constant(np.array([0, tokens, width], np.int64))
    scale = g.constant(np.float32((width // heads) ** -0.5))
    one, half, root = (g.constant(np.float32(v)) for v in (1, 0.5, 2**0.5))

    def linear(x, inputs, outputs):
        return g.add("Add", [g.add("MatMul", [x, g.weight(inputs, outputs)]), g.zeros(outputs)])

    def norm(x):
        ones = g.constant(np.ones(width, np.float32))
        return g.add("LayerNormalization", [x, ones, g.zeros(width)], axis=-1)

    def per_head(x, order):
        return g.add("Transpose", [g.add("Reshape", [linear(x, width, width), split])], perm=order)

    def attention(x):
        scores = g.add("MatMul", [per_head(x, [0, 2, 1, 3]), per_head(x, [0, 2, 3, 1])])
        weights = g.add("Softmax", [g.add("Mul", [scores, scale])], axis=-1)
        y = g.add("Transpose", [g.add("MatMul", [weights, per_head(x, [0, 2, 1, 3])])], perm=[0, 2, 1, 3])
        return linear(g.add("Reshape", [y, joined]), width, width)

    def gelu(x):
        y = g.add("Add", [g.add("Erf", [g.add("Div", [x, root])]), one])
        return g.add("Mul", [g.add("Mul", [x, y]), half])

    x = g.add("Add", [g.add("Gather", [g.weight(vocabulary, width), "x"]), g.weight(tokens, width)])
    for _ in range(layers):
        x = g.add("Add", [x, attention(norm(x))])
        x = g.add("Add", [x, linear(gelu(linear(norm(x), width, 4 * width)), 4 * width, width)])
    x = g.add("ReduceMean", [norm(x)], axes=[1], keepdims=0)
    g.save(path, g.dense(x, width, 10), [tokens], 10, TensorProto.INT64)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    mlp(folder / "mlp_tiny.onnx", 4, 16, 3)
    mlp(folder / "mlp_dense.onnx", 256, 1024, 1200, 10)
    squeezenet(folder / "squeezenet.onnx")
    mobilenet(folder / "mobilenetv2.onnx")
    resnet(folder / "resnet50.onnx")
    encoder(folder / "encoder.onnx")


main()
