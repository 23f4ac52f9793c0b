"""What a user of Python's tritonclient does, against a running server.

usage: triton_client.py HOST:PORT TOKEN CASES, where CASES is the folder of the
sample models' cases. Prints one line for each thing that worked; the first
that does not ends it.
"""

import json
import pathlib
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

url, token, cases = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
client = http.InferenceServerClient(url, concurrency=4)
stranger = http.InferenceServerClient(url)


def bearer():
    """A new one each time: the client writes its own headers into it."""
    return {"Authorization": "Bearer " + token}


def array(tensor):
    kind = np.object_ if tensor["datatype"] == "BYTES" else triton_to_np_dtype(tensor["datatype"])
    return np.array(tensor["data"], dtype=kind).reshape(tensor["shape"])


def inputs_of(case, binary):
    inputs = []
    for name, tensor in case["inputs"].items():
        given = http.InferInput(name, tensor["shape"], tensor["datatype"])
        # The client sends FP16 and BF16 as bytes alone.
        as_bytes = binary or tensor["datatype"] in ("FP16", "BF16")
        given.set_data_from_numpy(array(tensor), binary_data=as_bytes)
        inputs.append(given)
    return inputs


def same(name, got, want):
    if want.get("kind") == "maps":
        rows = [[row[key] for key in sorted(row)] for row in want["data"]]
        want = {"datatype": "FP32", "shape": [len(rows), len(rows[0]) if rows else 0], "data": rows}
    expected = array(want)
    assert list(got.shape) == want["shape"], (name, got.shape, want["shape"])
    if want["datatype"] == "BYTES":
        texts = [x.decode() if isinstance(x, bytes) else x for x in got.reshape(-1)]
        assert texts == list(expected.reshape(-1)), (name, texts, expected)
    elif want["datatype"].startswith(("FP", "BF")):
        assert np.allclose(got.astype(np.float64), expected.astype(np.float64), rtol=1e-5, atol=1e-5), (name, got, expected)
    else:
        assert (got == expected).all(), (name, got, expected)


def outputs_of(case, binary):
    return [http.InferRequestedOutput(name, binary_data=binary or tensor.get("datatype") == "BF16") for name, tensor in case["outputs"].items()]


def refused(status, words, do):
    try:
        do()
    except InferenceServerException as e:
        assert e.status() == str(status) and words in e.message(), (e.status(), e.message(), words)
        return
    raise AssertionError("a request was taken that should be refused with %d" % status)


assert stranger.is_server_live() and stranger.is_server_ready()
metadata = client.get_server_metadata(headers=bearer())
assert metadata["name"] == "modelgate" and "binary_tensor_data" in metadata["extensions"], metadata
print("server")

for name in ("iris", "digits", "sentiment", "half", "bfloat", "types"):
    assert client.is_model_ready(name, headers=bearer()), name
    assert client.is_model_ready(name, "1", headers=bearer()), name
    case_file = json.loads((cases / (name + ".json")).read_text())
    metadata = client.get_model_metadata(name, headers=bearer())
    assert {i["name"]: i["datatype"] for i in metadata["inputs"]} == {
        k: v["datatype"] for k, v in case_file["cases"][0]["inputs"].items()
    }, metadata
    for case in case_file["cases"]:
        for sent in (True, False):
            for wanted in (True, False, None):
                asked = None if wanted is None else outputs_of(case, wanted)
                result = client.infer(name, inputs_of(case, sent), outputs=asked, request_id="r7", headers=bearer())
                answer = result.get_response()
                assert answer["model_name"] == name and answer["id"] == "r7", answer
                for output, want in case["outputs"].items():
                    same((name, case["name"], sent, wanted, output), result.as_numpy(output), want)
    print(name, len(case_file["cases"]), "cases")
assert not client.is_model_ready("nothing", headers=bearer())

index = client.get_model_repository_index(headers=bearer())
assert {"name": "iris", "state": "READY", "reason": ""} in index, index
print("index")

before = client.get_inference_statistics("iris", headers=bearer())["model_stats"][0]
rows = http.InferInput("X", [3, 4], "FP32").set_data_from_numpy(np.ones([3, 4], np.float32))
client.infer("iris", [rows], headers=bearer())
after = client.get_inference_statistics("iris", "1", headers=bearer())["model_stats"][0]
assert (before["name"], before["version"], after["version"]) == ("iris", "", "1"), (before, after)
assert after["inference_count"] - before["inference_count"] == 3 and after["execution_count"] - before["execution_count"] == 1, (before, after)
assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1, (before, after)
assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"] > 0, (before, after)
assert len(client.get_inference_statistics(headers=bearer())["model_stats"]) >= 6
config = client.get_model_config("iris", headers=bearer())
assert config["max_batch_size"] > 0 and config["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}], config
print("statistics, config")

digits = json.loads((cases / "digits.json").read_text())["cases"][-1]
for request in (None, "gzip", "deflate"):
    for response in (None, "gzip", "deflate"):
        for binary in (True, False):
            result = client.infer("digits", inputs_of(digits, binary), outputs=outputs_of(digits, binary), headers=bearer(),
                                  request_compression_algorithm=request, response_compression_algorithm=response)
            same(("digits", request, response), result.as_numpy("probabilities"), digits["outputs"]["probabilities"])
print("compression")

pending = [client.async_infer("digits", inputs_of(digits, True), headers=bearer()) for _ in range(20)]
for request in pending:
    same("async", request.get_result().as_numpy("probabilities"), digits["outputs"]["probabilities"])
print("async")

row = http.InferInput("X", [1, 3], "FP32").set_data_from_numpy(np.ones([1, 3], np.float32))
refused(400, "wants FP32 [N,4], got [1,3]", lambda: client.infer("iris", [row], headers=bearer()))
row = http.InferInput("X", [1, 4], "FP64").set_data_from_numpy(np.ones([1, 4]))
refused(400, "wants FP32 [N,4]", lambda: client.infer("iris", [row], headers=bearer()))
row = http.InferInput("X", [1, 4], "FP32").set_data_from_numpy(np.ones([1, 4], np.float32))
refused(400, "unknown output", lambda: client.infer("iris", [row], outputs=[http.InferRequestedOutput("z")], headers=bearer()))
refused(400, "priority", lambda: client.infer("iris", [row], priority=1, headers=bearer()))
refused(400, "sequence_id", lambda: client.infer("iris", [row], sequence_id=5, headers=bearer()))
refused(404, "version", lambda: client.infer("iris", [row], model_version="9", headers=bearer()))
refused(403, "no such model", lambda: client.infer("nothing", [row], headers=bearer()))
shared = http.InferInput("X", [1, 4], "FP32")
shared.set_shared_memory("region", 16)
refused(400, "shared_memory_region", lambda: client.infer("iris", [shared], headers=bearer()))
refused(401, "log in", lambda: stranger.infer("iris", [row]))
refused(401, "", lambda: stranger.infer("iris", [row], headers={"Authorization": "Bearer nonsense"}))
refused(401, "", lambda: stranger.get_model_metadata("iris"))
assert not stranger.is_model_ready("iris")
refused(403, "", lambda: client.load_model("iris", headers=bearer()))
refused(403, "", lambda: client.unload_model("iris", headers=bearer()))
print("refusals")
