"""Triton, as PyTriton packages it, with ONNX Runtime behind it. serve.py PORT WORKERS MODEL.onnx ...

The package carries Triton's server with its Python backend alone, not the one for ONNX: each request goes by shared memory
to this process, which runs the model, one thread a run. Dynamic batching is on by default and stays so. Models of images
have one instance a core and batches of 4, the default; the others one instance and batches of 64: both was faster here
than the other way round.
"""

import os
import socket
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime

os.environ["PYTRITON_HOME"] = os.path.abspath("pytriton")  # in the caller's working folder, which he removes

from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def instance(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @batch
    def infer(x):
        return session.run(None, {"x": x})

    return infer, session


def main():
    # Triton's helper for Python is linked against the library of the Python that runs here, wherever that lies.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    config = TritonConfig(http_address="127.0.0.1", http_port=int(sys.argv[1]), grpc_address="127.0.0.1",
                          grpc_port=free_port(), metrics_address="127.0.0.1", metrics_port=free_port())
    with Triton(config=config) as triton:
        for path in sys.argv[3:]:
            infer, session = instance(path)
            shape = session.get_inputs()[0].shape[1:]
            classes = session.get_outputs()[0].shape[1:]
            images = len(shape) == 3
            infers = [infer] + [instance(path)[0] for _ in range(int(sys.argv[2]) - 1) if images]
            triton.bind(
                model_name=Path(path).stem, infer_func=infers,
                inputs=[Tensor(name="x", dtype=np.float32, shape=tuple(shape))],
                outputs=[Tensor(name="probabilities", dtype=np.float32, shape=tuple(classes))],
                config=ModelConfig(max_batch_size=4 if images else 64), strict=False,
            )
        triton.serve()


if __name__ == "__main__":
    main()
