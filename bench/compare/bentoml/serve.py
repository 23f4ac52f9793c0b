"""BentoML with ONNX Runtime. serve.py PORT WORKERS MODEL.onnx ...

One worker process a core, one thread a run. The endpoints are coroutines: run on its threads, they were slower. Its adaptive
batching is off by default and stays so. The access log is on, as by default.
"""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


def endpoint(name):
    async def predict(self, x: np.ndarray) -> np.ndarray:
        return self.sessions[name].run(None, {"x": x.astype(np.float32, copy=False)})[0]

    predict.__name__ = name
    return bentoml.api(predict, route=f"/{name}/predict")


class Onnx:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {
            Path(path).stem: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in os.environ["MODELS"].split(os.pathsep)
        }


if __name__ == "__main__":
    os.environ["MODELS"] = os.pathsep.join(sys.argv[3:])
    os.environ["WORKERS"] = sys.argv[2]
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    os.environ["BENTOML_HOME"] = os.path.abspath("bentoml")  # in the caller's working folder, which he removes
    os.chdir(Path(__file__).resolve().parent)
    program = Path(sys.executable).parent / "bentoml"
    os.execv(program, [str(program), "serve", "serve:service", "--host", "127.0.0.1", "--port", sys.argv[1]])

for path in os.environ["MODELS"].split(os.pathsep):
    setattr(Onnx, Path(path).stem, endpoint(Path(path).stem))
service = bentoml.service(workers=int(os.environ["WORKERS"]))(Onnx)
