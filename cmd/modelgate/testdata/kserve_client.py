"""What a user of KServe's inference clients does, REST and gRPC, against a
running server.

usage: kserve_client.py URL HOST:PORT TOKEN CASES, where CASES is the folder of
the sample models' cases. Prints one line for each thing that worked; the first
that does not ends it.
"""

import asyncio
import json
import logging
import pathlib
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

base, target, token, cases = sys.argv[1], sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
logging.disable(logging.CRITICAL)  # the client logs what it raises
KINDS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BYTES": np.object_}


def bearer():
    """A new one each time: the client writes its own headers into it."""
    return {"Authorization": "Bearer " + token}


def metadata():
    return (("authorization", "Bearer " + token),)


def array(tensor):
    return np.array(tensor["data"], dtype=KINDS[tensor["datatype"]]).reshape(tensor["shape"])


def request_of(name, case, binary, outputs=None, requested=False):
    inputs = []
    for key, tensor in case["inputs"].items():
        given = InferInput(key, tensor["shape"], tensor["datatype"])
        given.set_data_from_numpy(array(tensor), binary_data=binary)
        inputs.append(given)
    asked = [RequestedOutput(key) for key in case["outputs"]] if requested else []
    return InferRequest(name, inputs, request_id="r7", parameters={"binary_data_output": True} if outputs else None, request_outputs=asked)


def same(name, answer, case):
    assert answer.model_name == case["model"] and answer.id == "r7", (name, answer)
    assert len(answer.outputs) == len(case["outputs"]), (name, answer)
    for output in answer.outputs:
        want = case["outputs"][output.name]
        assert output.shape == want["shape"] and output.datatype == want["datatype"], (name, output.shape, output.datatype, want)
        got, expected = output.as_numpy(), array(want)
        if want["datatype"] == "BYTES":
            texts = [x.decode() if isinstance(x, bytes) else x for x in got.reshape(-1)]
            assert texts == list(expected.reshape(-1)), (name, texts, expected)
        elif want["datatype"].startswith("FP"):
            assert np.allclose(got.astype(np.float64), expected.astype(np.float64), rtol=1e-5, atol=1e-5), (name, got, expected)
        else:
            assert (got == expected).all(), (name, got, expected)


def tensor_of(output):
    """An output as the protocol carries it: maps become a table of their values."""
    if output.get("kind") != "maps":
        return output
    rows = [[row[key] for key in sorted(row)] for row in output["data"]]
    return {"datatype": "FP32", "shape": [len(rows), len(rows[0]) if rows else 0], "data": rows}


def samples(*names):
    """The cases that this client can write: it takes an empty tensor for none."""
    for name in names:
        for case in json.loads((cases / (name + ".json")).read_text())["cases"]:
            if all(all(t["shape"]) for t in case["inputs"].values()):
                yield name, dict(case, model=name, outputs={k: tensor_of(v) for k, v in case["outputs"].items()})


async def refused(kind, check, do):
    try:
        await do()
    except kind as e:
        assert check(e), e
        return
    raise AssertionError("a request was taken that should be refused")


async def rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=30))
    assert await client.is_server_live(base) and await client.is_server_ready(base)
    assert await client.is_model_ready(base, "iris", headers=bearer())
    assert not await client.is_model_ready(base, "nothing", headers=bearer())
    assert not await client.is_model_ready(base, "iris")
    count = 0
    for name, case in samples("iris", "digits", "sentiment", "half"):
        for binary in (False, True):
            if not binary and any(t["datatype"] == "FP16" for t in case["inputs"].values()):
                continue  # the client sends them as bytes alone
            for outputs in (False, True):
                answer = await client.infer(base, request_of(name, case, binary, outputs, requested=binary), model_name=name, headers=bearer())
                same((name, case["name"], binary, outputs), answer, case)
                count += 1
    assert count > 20, count
    case = next(samples("iris"))[1]
    wide = dict(case, inputs={"X": {"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}})

    def status(code, words):
        return lambda e: e.response.status_code == code and words in str(e)

    await refused(httpx.HTTPStatusError, status(400, "wants FP32 [N,4], got [1,3]"), lambda: client.infer(base, request_of("iris", wide, False), model_name="iris", headers=bearer()))
    await refused(httpx.HTTPStatusError, status(400, "model_name"), lambda: client.infer(base, request_of("iris", case, False), model_name="digits", headers=bearer()))
    await refused(httpx.HTTPStatusError, status(403, "no such model"), lambda: client.infer(base, request_of("nothing", case, False), model_name="nothing", headers=bearer()))
    await refused(httpx.HTTPStatusError, status(401, "log in"), lambda: client.infer(base, request_of("iris", case, False), model_name="iris"))
    await asyncio.gather(*[client.infer(base, request_of("iris", case, True), model_name="iris", headers=bearer()) for _ in range(20)])
    await client.close()
    print("REST", count, "answers")


async def rpc():
    client = InferenceGRPCClient(target, timeout=30)
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("iris", headers=metadata())
    count = 0
    for name, case in samples("iris", "digits", "sentiment", "half"):
        for binary in (False, True):
            if not binary and any(t["datatype"] == "FP16" for t in case["inputs"].values()):
                continue
            answer = await client.infer(request_of(name, case, binary, requested=binary), headers=metadata())
            same((name, case["name"], binary), answer, case)
            count += 1
    assert count > 10, count
    case = next(samples("iris"))[1]
    wide = dict(case, inputs={"X": {"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}})

    def status(code, words):
        return lambda e: e.code() == code and words in e.details()

    code = grpc.StatusCode
    await refused(grpc.RpcError, status(code.INVALID_ARGUMENT, "wants FP32 [N,4], got [1,3]"), lambda: client.infer(request_of("iris", wide, False), headers=metadata()))
    await refused(grpc.RpcError, status(code.PERMISSION_DENIED, "no such model"), lambda: client.infer(request_of("nothing", case, True), headers=metadata()))
    await refused(grpc.RpcError, status(code.UNAUTHENTICATED, "log in"), lambda: client.infer(request_of("iris", case, True)))
    await refused(grpc.RpcError, status(code.UNAUTHENTICATED, ""), lambda: client.is_model_ready("iris", headers=(("authorization", "Bearer nonsense"),)))
    await asyncio.gather(*[client.infer(request_of("iris", case, True), headers=metadata()) for _ in range(20)])
    await client.close()
    print("gRPC", count, "answers")


asyncio.run(rest())
asyncio.run(rpc())
