"""MLServer with a runtime for ONNX of its own, since none is published. serve.py PORT WORKERS MODEL.onnx ...

Inference runs in the server's process (parallel_workers 0), one thread a run: with one worker, the default, or one a core
it answered fewer requests here and took more CPU, so WORKERS is not used. Debugging, which is on by default, is off. Batching
is off by default and stays so. It takes ports for gRPC and metrics besides.
"""

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        uri = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        (probabilities,) = self.session.run(None, {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", probabilities)])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    here = Path(__file__).resolve().parent
    folder = Path(tempfile.mkdtemp(dir="."))  # the caller's working folder, which he removes
    (folder / "settings.json").write_text(json.dumps({
        "debug": False, "host": "127.0.0.1", "http_port": int(sys.argv[1]), "grpc_port": free_port(),
        "metrics_port": free_port(), "parallel_workers": 0,
    }))
    for path in map(Path, sys.argv[3:]):
        (folder / path.stem).mkdir()
        (folder / path.stem / "model-settings.json").write_text(json.dumps({
            "name": path.stem, "implementation": "serve.OnnxModel", "parameters": {"uri": str(path.resolve())},
        }))
    os.environ["PYTHONPATH"] = str(here)
    program = Path(sys.executable).parent / "mlserver"
    os.execv(program, [str(program), "start", str(folder)])


if __name__ == "__main__":
    main()
