"""Case files: the inputs of a model and the outputs that Python's onnxruntime computes for them.

A tensor is {"datatype", "shape", "data"}: datatype named as the Open Inference Protocol names it, data flat in
row-major order. Every float is written as the shortest decimal of its exact float64 value, so that reading it back and
rounding to the tensor's type gives the same bits. A sequence of maps is {"kind": "maps", "data": [{key: value}]} with
keys as strings; a sequence of tensors is {"kind": "tensors", "data": [tensor, ...]}.
"""

import dataclasses
import json
import os
from collections.abc import Callable

# Read by onnxruntime when it is loaded, so it stands before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

DATATYPES = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.STRING: "BYTES",
}


@dataclasses.dataclass
class Sample:
    """One model with the inputs to try it on.

    cases maps a case's name to its feeds, by graph input name. public maps a graph name to the public name, where the
    graph name is no plain identifier. save writes the model where the plain bytes of proto are not what is wanted.
    """

    name: str
    proto: onnx.ModelProto
    cases: dict[str, dict[str, np.ndarray]]
    public: dict[str, str] = dataclasses.field(default_factory=dict)
    save: Callable[[str], None] | None = None


def session(model: str | bytes, optimise: bool = True) -> ort.InferenceSession:
    """Open a model on one thread, so that sums are added in one order."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def write(sample: Sample, folder: str) -> None:
    """Write the model, run its cases from the written file and write the case file."""
    path = os.path.join(folder, sample.name + ".onnx")
    if sample.save:
        sample.save(path)
    else:
        with open(path, "wb") as file:
            file.write(sample.proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(path, full_check=True)

    types = {v.name: v.type.tensor_type.elem_type for v in sample.proto.graph.input}
    public = lambda name: sample.public.get(name, name)  # noqa: E731
    cases = []
    for name, feeds in sample.cases.items():
        outputs = _run(sample.proto, path, feeds)
        cases.append({
            "name": name,
            "inputs": {public(k): _tensor(v, types[k]) for k, v in feeds.items()},
            "outputs": {public(k): v for k, v in outputs.items()},
        })
    with open(os.path.join(folder, "cases", sample.name + ".json"), "w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"model": {_json(sample.name)}, "file": {_json(sample.name + ".onnx")}, "cases": [')
        file.write(",".join("\n" + _case_text(case) for case in cases))
        file.write("\n]}\n")


def _case_text(case: dict) -> str:
    """One case as JSON, a line for each tensor."""
    parts = [f' {{"name": {_json(case["name"])}']
    for side in ("inputs", "outputs"):
        lines = [f"\n   {_json(name)}: {_json(value)}" for name, value in case[side].items()]
        parts.append(f'  "{side}": {{' + ",".join(lines) + "}")
    return ",\n".join(parts) + "}"


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _run(proto: onnx.ModelProto, path: str, feeds: dict[str, np.ndarray]) -> dict:
    """Run once and encode every output by its graph name."""
    if any(array.dtype == ml_dtypes.bfloat16 for array in feeds.values()):
        opened = session(_widened(proto).SerializeToString(), optimise=False)
        feeds = {k: v.astype(np.float32) if v.dtype == ml_dtypes.bfloat16 else v for k, v in feeds.items()}
    else:
        opened = session(path)
    results = opened.run([v.name for v in proto.graph.output], feeds)
    return {v.name: _output(v.type, result) for v, result in zip(proto.graph.output, results, strict=True)}


def _widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with float32 for every bfloat16 input and output, which numpy lacks: exact in both directions."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    before, after, renamed = [], [], {}
    for value in [*wide.graph.input, *wide.graph.output]:
        kind = value.type.tensor_type
        if kind.elem_type != onnx.TensorProto.BFLOAT16:
            continue
        kind.elem_type = onnx.TensorProto.FLOAT
        narrow = renamed[value.name] = "narrow/" + value.name
        if any(value.name == output.name for output in wide.graph.output):
            after.append(onnx.helper.make_node("Cast", [narrow], [value.name], to=onnx.TensorProto.FLOAT))
        else:
            before.append(onnx.helper.make_node("Cast", [value.name], [narrow], to=onnx.TensorProto.BFLOAT16))
    inner = list(wide.graph.node)
    for node in inner:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    nodes = before + [onnx.NodeProto.FromString(node.SerializeToString()) for node in inner] + after
    del wide.graph.node[:]
    wide.graph.node.extend(nodes)
    return wide


def _output(kind: onnx.TypeProto, value) -> dict:
    if kind.HasField("tensor_type"):
        return _tensor(np.asarray(value), kind.tensor_type.elem_type)
    item = kind.sequence_type.elem_type
    if item.HasField("map_type"):
        return {"kind": "maps", "data": [{str(k): float(v) for k, v in entry.items()} for entry in value]}
    return {"kind": "tensors", "data": [_tensor(np.asarray(entry), item.tensor_type.elem_type) for entry in value]}


def _tensor(array: np.ndarray, elem: int) -> dict:
    flat = array.ravel(order="C")
    if elem == onnx.TensorProto.STRING:
        data = [str(item) for item in flat]
    elif elem in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        data = [float(item) for item in flat.astype(np.float32)]
    else:
        data = flat.tolist()
    return {"datatype": DATATYPES[elem], "shape": list(array.shape), "data": data}
