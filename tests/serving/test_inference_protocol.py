"""Triton's own client, with its defaults (binary tensors), and the protocol's JSON form."""

from __future__ import annotations

import base64
import gzip
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, pixels, png

PARAMETERS: dict[str, Any] = {"seed": 7, "num_inference_steps": 4}


@pytest.fixture
def client(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.url.removeprefix("http://"))


def tensor(name: str, *values: bytes) -> triton.InferInput:
    made = triton.InferInput(name, [len(values)], "BYTES")
    made.set_data_from_numpy(np.array(values, object))
    return made


def inputs() -> list[triton.InferInput]:
    return [tensor("PROMPT", b"a hat"), tensor("IMAGE", png(picture())), tensor("MASK", png(mask()))]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("inpaint")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata() == {
        "name": "kandinsky22-deploy",
        "version": version("kandinsky22-deploy"),
        "extensions": ["binary_tensor_data"],
    }
    metadata = client.get_model_metadata("inpaint")
    assert [item["name"] for item in metadata["inputs"]] == ["PROMPT", "NEGATIVE_PROMPT", "IMAGE", "MASK"]
    assert metadata["outputs"][0] == {"name": "IMAGE", "datatype": "BYTES", "shape": [-1]}


def test_the_only_version(server: Server, client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("inpaint")
    assert metadata["versions"] == ["1"]
    assert client.get_model_metadata("inpaint", model_version="1") == metadata
    assert client.is_model_ready("inpaint", model_version="1")
    result = client.infer("inpaint", inputs(), model_version="1", parameters=PARAMETERS)
    np.testing.assert_array_equal(result.as_numpy("SEED"), [7])
    assert not client.is_model_ready("inpaint", model_version="2")
    with pytest.raises(InferenceServerException, match="model inpaint has no version '2'; its only one is 1"):
        client.infer("inpaint", inputs(), model_version="2", parameters=PARAMETERS)


def test_a_timeout_is_in_microseconds(client: triton.InferenceServerClient) -> None:
    parameters = {"seed": 7, "num_inference_steps": 250}
    with pytest.raises(InferenceServerException) as caught:
        client.infer("inpaint", inputs(), parameters=parameters, timeout=1000)
    assert caught.value.status() in ("503", "504")  # refused at once, or given up
    client.infer("inpaint", inputs(), parameters=PARAMETERS, timeout=60_000_000)


def test_errors_that_come_before_the_routes(bundles: Bundles, tmp_path: Path) -> None:
    """Also these have the protocol's form, which the client shows."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-sixteen-letters")
    with Server(bundles.inpaint, folder=tmp_path, flags=("--keys", str(keys))) as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        for headers, message in (
            ({}, "a key is needed"),
            ({"Origin": "http://evil.example"}, "a page of http://evil.example"),
        ):
            with pytest.raises(InferenceServerException) as caught:
                client.infer("inpaint", inputs(), headers=headers)
            assert message in str(caught.value)
        assert httpx.get(f"{server.url}/v2").json() == {
            "error": "a key is needed: send it as Authorization: Bearer KEY"
        }
        assert httpx.get(f"{server.url}/v1/models").json()["error"]["code"] == "invalid_api_key"


def test_a_compressed_request(server: Server) -> None:
    answer = httpx.post(
        f"{server.url}/v2/models/inpaint/infer", content=gzip.compress(b"{}", mtime=0),
        headers={"Content-Encoding": "gzip"},
    )  # fmt: skip
    assert (answer.status_code, answer.json()) == (
        415, {"error": "compressed bodies are not taken; send the body as it is"}
    )  # fmt: skip


def test_infer_is_the_pipelines_picture(client: triton.InferenceServerClient, inpaint: InpaintPipeline) -> None:
    result = client.infer("inpaint", inputs(), parameters=PARAMETERS | {"n": 2}, request_id="r1")
    expected = inpaint(
        "a hat", image=picture(), mask_image=mask(), num_images_per_prompt=2, num_inference_steps=4, seed=7
    )
    images = result.as_numpy("IMAGE")
    assert len(images) == 2
    for content, image in zip(images, expected.images, strict=True):
        np.testing.assert_array_equal(pixels(content), np.asarray(image))
    np.testing.assert_array_equal(result.as_numpy("SEED"), [7, 8])
    assert result.get_response()["id"] == "r1"


def test_json_alone(server: Server, client: triton.InferenceServerClient) -> None:
    def element(name: str, text: str) -> dict[str, Any]:
        return {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}

    encoded = [base64.b64encode(png(image)).decode() for image in (picture(), mask())]
    body = {
        "parameters": PARAMETERS,
        "inputs": [element("PROMPT", "a hat"), element("IMAGE", encoded[0]), element("MASK", encoded[1])],
    }
    answer = httpx.post(f"{server.url}/v2/models/inpaint/infer", json=body, timeout=60).json()
    image = next(item for item in answer["outputs"] if item["name"] == "IMAGE")
    binary = client.infer("inpaint", inputs(), parameters=PARAMETERS).as_numpy("IMAGE")[0]
    np.testing.assert_array_equal(pixels(base64.b64decode(image["data"][0])), pixels(binary))


def test_only_the_outputs_that_are_asked_for(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("SEED", binary_data=False)]
    result = client.infer("inpaint", inputs(), outputs=outputs, parameters=PARAMETERS)
    assert [item["name"] for item in result.get_response()["outputs"]] == ["SEED"]
    np.testing.assert_array_equal(result.as_numpy("SEED"), [7])


def test_a_list_of_seeds(server: Server) -> None:
    def answer(seed: object) -> httpx.Response:
        parameters = PARAMETERS | {"prompt": "a cat", "size": "64x64", "n": 2, "seed": seed}
        return httpx.post(f"{server.url}/v2/models/plain/infer", json={"parameters": parameters}, timeout=60)

    assert answer([9, 3]).json()["outputs"][1]["data"] == [9, 3]
    for seed, message in (([3, 2**63], "the last seed is 9223372036854775808"), ({}, "seed"), ([1], "seed")):
        refused = answer(seed)
        assert refused.status_code == 400
        assert message in refused.json()["error"]


def test_text_to_image(client: triton.InferenceServerClient) -> None:
    result = client.infer("plain", [tensor("PROMPT", b"a cat")], parameters=PARAMETERS | {"size": "64x96"})
    assert pixels(result.as_numpy("IMAGE")[0]).shape == (96, 64, 3)


@pytest.mark.parametrize(
    ("given", "parameters", "message"),
    [
        ([], {}, "prompt is missing"),
        ([tensor("PROMPT", b"a", b"b")], {}, "PROMPT has the shape [2]; expected [1]"),
        ([tensor("TEXT", b"a")], {}, "there is no input 'TEXT'"),
        ([tensor("PROMPT", b"\xff")], {}, "PROMPT is not UTF-8"),
        ([tensor("PROMPT", b"a"), tensor("PROMPT", b"b")], {}, "PROMPT is there twice"),
        (inputs(), {"foo": 1}, "there is no field 'foo'"),
        (inputs(), {"model": "plain"}, "the parameter model differs from the model of the request, inpaint"),
        (inputs(), {"prompt": "a cat"}, "prompt is there twice, as an input and as a parameter"),
        (inputs(), {"stream": True}, "no streams"),
        (inputs(), {"seed": 2**63 - 1, "n": 2}, "the last seed is 9223372036854775808"),
        ([tensor("PROMPT", b"a"), tensor("IMAGE", b"no picture"), tensor("MASK", png(mask()))], {}, "is not a picture"),
    ],
)
def test_what_is_refused(
    client: triton.InferenceServerClient, given: list[Any], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("inpaint", given, parameters=parameters)
    assert message in str(caught.value)
    assert caught.value.status() == "400"


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (b"{}", "3", "Inference-Header-Content-Length"),
        (b"{}x", "2", "1 bytes behind the tensors"),
        (b"[]", None, "a JSON list; expected an object"),
        (b'{"inputs": {}}', None, "inputs is a JSON dict"),
        (b'{"inputs": [1]}', None, "an entry without a name"),
        (b'{"inputs": [{"name": "PROMPT", "datatype": "FP32", "shape": [1]}]}', None, "expected BYTES"),
        (b'{"inputs": [{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": [1]}]}', None, "one text"),
        (
            b'{"inputs": [{"name": "MASK", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]}',
            None,
            "0 bytes are left",
        ),
        (b'{"outputs": [{"name": "X"}]}', None, "there is no output 'X'"),
        (b'{"parameters": 3}', None, "parameters is a JSON int"),
        (b'{"parameters": {"timeout": -1}}', None, "timeout is -1; expected a whole number from 0"),
    ],
)
def test_what_is_malformed(server: Server, content: bytes, length: str | None, message: str) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = httpx.post(f"{server.url}/v2/models/inpaint/infer", content=content, headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_an_element_with_a_wrong_length(server: Server) -> None:
    head = b'{"inputs": [{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}]}'
    for length in (1, 3, 2**32 - 1):
        answer = httpx.post(
            f"{server.url}/v2/models/inpaint/infer",
            content=head + struct.pack("<I", length) + b"ab",
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        assert answer.status_code == 400
        assert "does not fill" in answer.json()["error"]
