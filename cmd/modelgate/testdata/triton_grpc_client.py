"""What a user of Python's tritonclient does over gRPC, against a running server.

usage: triton_grpc_client.py HOST:PORT TOKEN ADMIN CASES, where ADMIN is the
token of an administrator and CASES is the folder of the sample models' cases.
Prints one line for each thing that worked; the first that does not ends it.
"""

import json
import pathlib
import queue
import sys

import grpc as core
import numpy as np
import tritonclient.grpc as grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

url, token, admin, cases = sys.argv[1], sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
client = grpc.InferenceServerClient(url)
bearer = {"authorization": "Bearer " + token}
boss = {"authorization": "Bearer " + admin}


def array(tensor):
    kind = np.object_ if tensor["datatype"] == "BYTES" else triton_to_np_dtype(tensor["datatype"])
    return np.array(tensor["data"], dtype=kind).reshape(tensor["shape"])


def inputs_of(case):
    inputs = []
    for name, tensor in case["inputs"].items():
        inputs.append(grpc.InferInput(name, tensor["shape"], tensor["datatype"]).set_data_from_numpy(array(tensor)))
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


def outputs_of(case):
    return [grpc.InferRequestedOutput(name) for name in case["outputs"]]


def refused(code, words, do):
    try:
        do()
    except InferenceServerException as e:
        assert e.status() == "StatusCode." + code and words in e.message(), (e.status(), e.message(), words)
        return
    raise AssertionError("a request was taken that should be refused with " + code)


assert client.is_server_live() and client.is_server_ready()
metadata = client.get_server_metadata(headers=bearer)
assert metadata.name == "modelgate" and "statistics" in metadata.extensions, metadata
print("server")

for name in ("iris", "digits", "sentiment", "half", "bfloat", "types"):
    assert client.is_model_ready(name, headers=bearer), name
    assert client.is_model_ready(name, "1", headers=bearer), name
    case_file = json.loads((cases / (name + ".json")).read_text())
    metadata = client.get_model_metadata(name, headers=bearer)
    assert {i.name: i.datatype for i in metadata.inputs} == {
        k: v["datatype"] for k, v in case_file["cases"][0]["inputs"].items()
    }, metadata
    for case in case_file["cases"]:
        for asked in (None, outputs_of(case)):
            result = client.infer(name, inputs_of(case), outputs=asked, request_id="r7", headers=bearer)
            answer = result.get_response()
            assert answer.model_name == name and answer.id == "r7", answer
            for output, want in case["outputs"].items():
                same((name, case["name"], output), result.as_numpy(output), want)
    print(name, len(case_file["cases"]), "cases")

index = client.get_model_repository_index(headers=bearer)
assert ("iris", "READY") in [(m.name, m.state) for m in index.models], index
print("index")

digits = json.loads((cases / "digits.json").read_text())["cases"][-1]
for algorithm in (None, "gzip", "deflate"):
    result = client.infer("digits", inputs_of(digits), headers=bearer, compression_algorithm=algorithm)
    same(("digits", algorithm), result.as_numpy("probabilities"), digits["outputs"]["probabilities"])
print("compression")

answers = queue.Queue()
for _ in range(20):
    client.async_infer("digits", inputs_of(digits), callback=lambda result, error: answers.put((result, error)), headers=bearer)
for _ in range(20):
    result, error = answers.get(timeout=30)
    assert error is None, error
    same("async", result.as_numpy("probabilities"), digits["outputs"]["probabilities"])
print("async")

row = grpc.InferInput("X", [1, 4], "FP32").set_data_from_numpy(np.ones([1, 4], np.float32))
wide = grpc.InferInput("X", [1, 3], "FP32").set_data_from_numpy(np.ones([1, 3], np.float32))
client.start_stream(callback=lambda result, error: answers.put((result, error)), headers=bearer)
for i in range(30):
    if i == 10:
        client.async_stream_infer("iris", [wide], request_id=str(i))
    elif i == 11:
        client.async_stream_infer("nothing", [row], request_id=str(i))
    else:
        client.async_stream_infer("digits", inputs_of(digits), request_id=str(i))
for i in range(30):
    result, error = answers.get(timeout=30)
    if i == 10:
        assert "wants FP32 [N,4], got [1,3]" in error.message(), error
    elif i == 11:
        assert "no such model" in error.message(), error
    else:
        assert error is None and result.get_response().id == str(i), (i, error)
        same("stream", result.as_numpy("probabilities"), digits["outputs"]["probabilities"])
client.stop_stream()
print("stream")

before = client.get_inference_statistics("iris", headers=bearer).model_stats[0]
rows = grpc.InferInput("X", [3, 4], "FP32").set_data_from_numpy(np.ones([3, 4], np.float32))
client.infer("iris", [rows], headers=bearer)
refused("INVALID_ARGUMENT", "wants", lambda: client.infer("iris", [wide], headers=bearer))
after = client.get_inference_statistics("iris", "1", headers=bearer).model_stats[0]
assert (before.name, before.version, after.version) == ("iris", "", "1"), (before, after)
assert after.inference_count - before.inference_count == 3 and after.execution_count - before.execution_count == 1, (before, after)
assert after.inference_stats.success.count - before.inference_stats.success.count == 1, (before, after)
assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1, (before, after)
assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns > 0, (before, after)
assert after.last_inference > 1_700_000_000_000, after
assert len(client.get_inference_statistics(headers=bearer).model_stats) >= 6
config = client.get_model_config("iris", headers=bearer).config
assert config.name == "iris" and config.max_batch_size > 0 and list(config.input[0].dims) == [4], config
assert config.input[0].data_type == model_config_pb2.TYPE_FP32 and config.output[0].data_type == model_config_pb2.TYPE_INT64, config
print("statistics, config")

double = grpc.InferInput("X", [1, 4], "FP64").set_data_from_numpy(np.ones([1, 4]))
refused("INVALID_ARGUMENT", "wants FP32 [N,4]", lambda: client.infer("iris", [double], headers=bearer))
refused("INVALID_ARGUMENT", "unknown output", lambda: client.infer("iris", [row], outputs=[grpc.InferRequestedOutput("z")], headers=bearer))
refused("INVALID_ARGUMENT", "priority", lambda: client.infer("iris", [row], priority=1, headers=bearer))
refused("INVALID_ARGUMENT", "sequence_", lambda: client.infer("iris", [row], sequence_id=5, headers=bearer))
refused("NOT_FOUND", "version", lambda: client.infer("iris", [row], model_version="9", headers=bearer))
refused("PERMISSION_DENIED", "no such model", lambda: client.infer("nothing", [row], headers=bearer))
shared = grpc.InferInput("X", [1, 4], "FP32")
shared.set_shared_memory("region", 16)
refused("INVALID_ARGUMENT", "shared_memory_", lambda: client.infer("iris", [shared], headers=bearer))
refused("UNAUTHENTICATED", "log in", lambda: client.infer("iris", [row]))
refused("UNAUTHENTICATED", "", lambda: client.infer("iris", [row], headers={"authorization": "Bearer nonsense"}))
refused("UNAUTHENTICATED", "", lambda: client.get_model_metadata("iris"))
refused("UNAUTHENTICATED", "", lambda: client.is_model_ready("iris"))
refused("PERMISSION_DENIED", "", lambda: client.load_model("iris", headers=bearer))
refused("PERMISSION_DENIED", "", lambda: client.unload_model("iris", headers=bearer))
refused("PERMISSION_DENIED", "no such model", lambda: client.is_model_ready("nothing", headers=bearer))
client.load_model("iris", headers=boss)
client.start_stream(callback=lambda result, error: answers.put((result, error)))
result, error = answers.get(timeout=30)
assert error is not None and "log in" in error.message(), (result, error)
client.stop_stream()
print("refusals")



class Bearer(core.UnaryUnaryClientInterceptor, core.StreamStreamClientInterceptor):
    """Puts an administrator's token into what a client has no argument for."""

    def intercept_unary_unary(self, proceed, details, request):
        return proceed(details._replace(metadata=list(boss.items())), request)

    def intercept_stream_stream(self, proceed, details, requests):
        return proceed(details._replace(metadata=list(boss.items())), requests)


channel = core.insecure_channel(url)
health = health_pb2_grpc.HealthStub(channel)
for service in ("", "inference.GRPCInferenceService"):
    assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
for answer in health.Watch(health_pb2.HealthCheckRequest()):
    assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer
    break
try:
    health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    raise AssertionError("health of a service that does not exist")
except core.RpcError as e:
    assert e.code() == core.StatusCode.NOT_FOUND, e
print("health")

try:
    list(ProtoReflectionDescriptorDatabase(channel).get_services())
    raise AssertionError("reflection without credentials")
except core.RpcError as e:
    assert e.code() == core.StatusCode.UNAUTHENTICATED, e
database = ProtoReflectionDescriptorDatabase(core.intercept_channel(channel, Bearer()))
assert "inference.GRPCInferenceService" in database.get_services()
described = database.FindFileContainingSymbol("inference.GRPCInferenceService")

# The server's description of its messages, against the client's: whatever it
# describes has there the same number and type.
theirs = dict(service_pb2.DESCRIPTOR.message_types_by_name) | dict(model_config_pb2.DESCRIPTOR.message_types_by_name)
kserve = {"RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"}  # Triton's have no fields
compared = 0


def compare(message, other):
    global compared
    for field in message.field:
        known = other.fields_by_name[field.name]
        assert (known.number, known.type) == (field.number, field.type), (message.name, field)
        compared += 1
    for nested in message.nested_type:
        compare(nested, other.nested_types_by_name[nested.name])


for message in described.message_type:
    if message.name not in kserve:
        compare(message, theirs[message.name])
assert compared > 80, compared
methods = {m.name for m in described.service[0].method}
assert methods <= {m.name for m in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}, methods
print("reflection")
