"""Write reference.txt: what Python's onnxruntime makes of the conformance data of ONNX.

    pip install onnx==1.22.0 onnxruntime==1.30.0
    python testdata/conformance/reference.py "$(sh testdata/conformance/fetch.sh)" > testdata/conformance/reference.txt

Every model is loaded and run with the inputs of every data set, with one thread, as the program does it, and its
outputs are compared as TestConformance compares those of the program: shapes, whole numbers, bools and strings must be
alike, floats may differ by ATOL + RTOL * |expected|, as in the runner of the onnx package.

Element types that numpy lacks go in and come out as bytes, where onnxruntime lets them. The locales of the machine are
hidden, since what StringNormalizer can do depends on them.
"""

import ctypes
import os
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
RTOL, ATOL = 1e-3, 1e-7

# Types that onnxruntime takes as bytes only: numpy's type of the same width.
BYTES_ONLY = {
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.FLOAT8E4M3FN: np.uint8,
    TensorProto.FLOAT8E4M3FNUZ: np.uint8,
    TensorProto.FLOAT8E5M2: np.uint8,
    TensorProto.FLOAT8E5M2FNUZ: np.uint8,
    TensorProto.FLOAT8E8M0: np.uint8,
}


class Unfit(Exception):
    """A value that Python can't hand over."""


def read(path, kind):
    """A .pb file as numpy array, list, dict or None, by the type that the model declares."""
    parsers = {
        "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
        "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
        "map_type": (onnx.MapProto, numpy_helper.to_dict),
    }
    proto, convert = parsers.get(kind.WhichOneof("value"), (TensorProto, numpy_helper.to_array))
    message = proto()
    message.ParseFromString(path.read_bytes())
    return convert(message)


def element_type(array):
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def given(array):
    """The array as OrtValue. Sequences and optional values have none that Python could make."""
    if not isinstance(array, np.ndarray):
        raise Unfit
    kind = element_type(array)
    if kind in BYTES_ONLY:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array).view(BYTES_ONLY[kind]), kind)
    return ort.OrtValue.ortvalue_from_numpy(array)


def taken(value):
    """An OrtValue as numpy array."""
    kind = value.element_type()
    if kind not in BYTES_ONLY:
        return value.numpy()
    shape, width = value.shape(), np.dtype(BYTES_ONLY[kind]).itemsize
    size = int(np.prod(shape, dtype=np.int64)) * width
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, dtype=helper.tensor_dtype_to_np_dtype(kind)).reshape(shape)


def exotic(value):
    return isinstance(value, np.ndarray) and value.dtype.kind not in "OUS" and element_type(value) in BYTES_ONLY


def run(session, inputs, expected):
    """The outputs. The plain call is preferred, since it knows sequences, maps and optional values."""
    names = [i.name for i in session.get_inputs()]
    feeds = dict(zip(names, inputs))
    if not any(exotic(v) for v in [*inputs, *expected]):
        return session.run(None, feeds)
    values = session.run_with_ort_values(None, {name: given(v) for name, v in feeds.items()})
    return [taken(v) for v in values]


def alike(want, got):
    if want is None or got is None:
        return want is None and got is None
    if isinstance(want, (list, tuple)):
        return isinstance(got, (list, tuple)) and len(want) == len(got) and all(map(alike, want, got))
    if isinstance(want, dict):
        return isinstance(got, dict) and want.keys() == got.keys() and all(alike(want[k], got[k]) for k in want)
    want, got = np.asarray(want), np.asarray(got)
    if want.shape != got.shape:
        return False
    if want.dtype.kind in "OUS":
        return [str(x) for x in want.reshape(-1)] == [str(x) for x in got.reshape(-1)]
    if want.dtype != got.dtype:
        return False
    if want.dtype.kind in "biu":
        return bool((want == got).all())
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    return bool(np.isclose(got.astype(wide), want.astype(wide), rtol=RTOL, atol=ATOL, equal_nan=True).all())


def outcome(folder):
    """One word: passed, load, type, run or differs."""
    graph = onnx.load(folder / "model.onnx").graph
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    except Exception:
        return "load"
    for data in sorted(folder.glob("test_data_set_*")):
        inputs = [read(data / f"input_{i}.pb", graph.input[i].type) for i in range(len(list(data.glob("input_*.pb"))))]
        expected = [read(data / f"output_{i}.pb", graph.output[i].type) for i in range(len(list(data.glob("output_*.pb"))))]
        try:
            got = run(session, inputs, expected)
        except Unfit:
            return "type"
        except RuntimeError as e:  # of the binding; what the runtime refuses has types of its own
            return "type" if type(e) is RuntimeError else "run"
        except Exception:
            return "run"
        if len(got) < len(expected) or not all(map(alike, expected, got)):
            return "differs"
    return "passed"


def main() -> None:
    ort.set_default_logger_severity(4)
    os.environ["LOCPATH"] = os.devnull
    root = pathlib.Path(sys.argv[1])
    outcomes = {}
    for kind in KINDS:
        for folder in sorted((root / kind).iterdir()):
            outcomes[f"{kind}/{folder.name}"] = outcome(folder)
    print(f"# Made by reference.py with onnxruntime {ort.__version__} and the data of onnx {onnx.__version__}: what did not pass, and why.")
    print("# load: it can't be loaded; run: its run fails; differs: other outputs than expected; type: numpy lacks a type.")
    print(f"models {len(outcomes)}")
    print(f"passed {list(outcomes.values()).count('passed')}")
    for name, word in outcomes.items():
        if word != "passed":
            print(word, name)


if __name__ == "__main__":
    main()
