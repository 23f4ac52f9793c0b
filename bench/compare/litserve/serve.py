"""LitServe with ONNX Runtime. serve.py PORT WORKERS MODEL.onnx ...

Workers are as many as cores, as LitServe's documentation advises for CPUs. Its fast queue, advised for hundreds of requests
a second, made small models no faster here and cost CPU, so it is off, as by default. Its batching is off by default and
stays so. One API serves all models, since each further API would bring workers of its own.
"""

import sys
from pathlib import Path

import litserve
import numpy as np
import onnxruntime


class OnnxAPI(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {
            Path(path).stem: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in sys.argv[3:]
        }

    def decode_request(self, request):
        return self.sessions[request["model"]], np.array(request["x"], dtype=np.float32)

    def predict(self, call):
        session, x = call
        return session.run(None, {"x": x})[0]

    def encode_response(self, probabilities):
        return {"probabilities": probabilities.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(OnnxAPI(), accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
