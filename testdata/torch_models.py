"""Models made with PyTorch and exported by its own exporter."""

import logging
import warnings

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from casefile import Sample, session


def _seeded() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def _export(model: nn.Module, example: torch.Tensor, inputs: list[str], outputs: list[str]) -> torch.onnx.ONNXProgram:
    """Export with the default exporter, batch axis dynamic, and drop the stack traces, which hold local paths."""
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of torchvision, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model.eval(), (example,), dynamo=True, verbose=False, opset_version=21,
                                    input_names=inputs, output_names=outputs, dynamic_shapes=({0: batch},))
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    return program


class _DigitsNet(nn.Module):
    """Two 3x3 convolutions, one pooling, one linear layer; the softmax is inside, so the output is probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.linear = nn.Linear(24 * 4 * 4, 10)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.conv1(image / 16.0))
        hidden = torch.max_pool2d(torch.relu(self.conv2(hidden)), 2)
        return self.linear(hidden.flatten(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.logits(image), 1)


def digits() -> Sample:
    """Convolutional network on scikit-learn's 8x8 digits, pixels 0 to 16; trained on 1,400 of its 1,797."""
    _seeded()
    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    shuffled = torch.randperm(len(images)).numpy()
    train, held = shuffled[:1400], shuffled[1400:]
    net = _DigitsNet()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    x, y = torch.from_numpy(images[train]), torch.from_numpy(data.target[train])
    for _ in range(30):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net.logits(x[batch]), y[batch], label_smoothing=0.05).backward()
            optimiser.step()
    proto = _export(net, torch.zeros(2, 1, 8, 8), ["image"], ["probabilities"]).model_proto
    guessed = session(proto.SerializeToString()).run(None, {"image": images[held]})[0].argmax(1)
    accuracy = (guessed == data.target[held]).mean()
    assert accuracy > 0.95, accuracy
    print(f"digits: {accuracy:.1%} of the images held back are right")
    first = [int(np.flatnonzero(data.target[held] == d)[0]) for d in range(10)]
    return Sample("digits", proto, {
        "one_image": {"image": images[held][first[3]][None]},
        "each_digit": {"image": images[held][first]},
        "blank_and_full": {"image": np.stack([np.full((1, 8, 8), -0.0), np.full((1, 8, 8), 16)]).astype(np.float32)},
        "no_images": {"image": np.zeros((0, 1, 8, 8), np.float32)},
    })


def external() -> Sample:
    """Two linear layers whose weights the exporter puts into external.onnx.data, as it does by default."""
    _seeded()
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    program = _export(net, torch.zeros(2, 8), ["x"], ["y"])
    proto = program.model_proto
    rows = torch.randn(3, 8)
    return Sample("external", proto, {
        "one_row": {"x": rows[:1].numpy()},
        "three_rows": {"x": rows.numpy()},
        "no_rows": {"x": np.zeros((0, 8), np.float32)},
    }, save=lambda path: program.save(path, external_data=True))
