"""Bodies that are small enough and would still cost too much, or hold what no answer can repeat."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.requests import Request

from kandinsky_runtime.serving import bodies
from kandinsky_runtime.serving.answers import Refusal, error_body
from kandinsky_runtime.serving.bodies import json_object
from kandinsky_runtime.serving.fields import LONGEST_PROMPT, FieldError, data_url
from kandinsky_runtime.serving.settings import Settings
from tests.serving.server_process import Server, mask, picture, png

JSON = {"Content-Type": "application/json"}


def form(*fields: tuple[str, str]) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    return ("".join(parts) + "--b--\r\n").encode()


@pytest.mark.parametrize("charset", ["punycode", "utf-7", "idna", "unicode_escape", "latin-1", "nothing", '"UTF-16"'])
def test_other_charsets(server: Server, charset: str) -> None:
    for kind in ("multipart/form-data; boundary=b", "application/json"):
        headers = {"Content-Type": f"{kind}; charset={charset}"}
        answer = httpx.post(f"{server.url}/v1/images/edits", content=form(("prompt", "a")), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_charset")


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8"])
def test_the_one_charset(server: Server, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    answer = httpx.post(f"{server.url}/v1/images/edits", content=form(("prompt", "a")), headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image"), "all but the picture is there"


@pytest.mark.parametrize("names", [("prompt", "prompt[]"), ("prompt[]", "prompt"), ("prompt", "prompt")])
def test_a_field_once_alone_and_once_in_a_list(server: Server, names: tuple[str, str]) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(
        f"{server.url}/v1/images/edits", content=form(*((name, "a") for name in names)), headers=headers
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert "twice" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt":[' + b"[]," * 200_000 + b"[]]}",
        b'{"prompt":[' + b"{}," * 200_000 + b"{}]}",
        b'{"prompt":' + b"[" * 200_000,
        b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}",
    ],
    ids=["lists", "objects", "depth", "keys"],
)
def test_more_values_than_any_request_has(content: bytes) -> None:
    with pytest.raises(Refusal, match="commas and brackets") as caught:
        json_object(content)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_what_a_request_may_have() -> None:
    commas = "," * LONGEST_PROMPT
    text = '{"prompt": "%s", "negative_prompt": "%s", "seed": [1, 2]}'
    assert json_object((text % (commas, commas)).encode())["negative_prompt"] == commas
    assert json_object("\ufeff{}".encode()) == {}
    with pytest.raises(Refusal, match="not valid JSON"):
        json_object('{"prompt": "a"}'.encode("utf-16"))


def test_json_is_read_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(content: bytes) -> dict[str, Any]:
        threads.append(threading.get_ident())
        return json_object(content)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"prompt": "a"}'}

    threads: list[int] = []
    monkeypatch.setattr(bodies, "json_object", recorded)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    body = asyncio.run(bodies.read_body(Request(scope, receive), Settings(), forms=True))
    assert body.values == {"prompt": "a"}
    assert threads
    assert threads[0] != threading.get_ident()


def test_base64_of_several_blocks() -> None:
    content = bytes(range(256)) * 12_289
    text = base64.b64encode(content).decode()
    assert len(text) > 4 * 2**20
    assert data_url("image", text) == content
    for wrong in (f"AAA={text}", f"{text[: 2**20 - 1]}={text[2**20 :]}", text[:-1], f"{text}A", text[:-4] + "AA=A"):
        with pytest.raises(FieldError, match="not valid base64"):
            data_url("image", wrong)


@pytest.mark.parametrize("content", [rb'{"\ud800": 1}', rb'{"prompt": "a", "image": {"\ud800": 1}}'])
def test_names_that_no_answer_can_repeat(server: Server, content: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1/images/edits", content=content, headers=JSON)
    assert answer.status_code == 400
    assert r"\ud800" in answer.json()["error"]["message"]


def test_every_error_can_be_sent() -> None:
    assert error_body(Refusal(400, "\ud800", param="\udfff"))["error"] | {"type": "", "code": ""} == {
        "message": r"\ud800", "type": "", "param": r"\udfff", "code": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["PROMPT", "NEGATIVE_PROMPT"])
def test_a_tensor_that_is_no_text(server: Server, name: str) -> None:
    content = b'{"inputs": [{"name": "%s", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}' % name.encode()
    answer = httpx.post(f"{server.url}/v2/models/plain/infer", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{name} is no valid Unicode")


def test_numbers_of_pictures(server: Server) -> None:
    fields = {"prompt": "a hat", "num_inference_steps": "2"}
    files = {"image": png(picture()), "mask": png(mask())}
    job = httpx.post(f"{server.url}/v1/jobs/edits", data=fields, files=files).json()["id"]
    with httpx.stream("GET", f"{server.url}/v1/jobs/{job}/events", timeout=60) as events:
        events.read()
    for number in ("1", "5" * 5000, "-1", "x", "٠", "1.0"):
        for kind in ("images", "previews"):
            answer = httpx.get(f"{server.url}/v1/jobs/{job}/{kind}/{number}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), number
    assert httpx.get(f"{server.url}/v1/jobs/{job}/images/0").status_code == 200


@pytest.mark.parametrize(("size", "form", "limit"), [("16448x64", "webp", "16,383"), ("64x65536", "jpeg", "65,500")])
def test_results_that_a_format_cannot_hold(server: Server, size: str, form: str, limit: str) -> None:
    body = {"prompt": "a", "size": size, "output_format": form, "num_inference_steps": 1}
    answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_format")
    assert f"at most {limit} pixels" in answer.json()["error"]["message"]


def test_the_result_is_what_must_fit(server: Server) -> None:
    """With `inpaint_area` "mask", the result has the picture's size, whatever the size of the crop."""
    wide = (16_448, 64)
    fields = {"prompt": "a", "output_format": "webp", "inpaint_area": "mask", "num_inference_steps": "1"}
    spot = Image.new("L", wide)
    spot.paste(255, (100, 16, 132, 48))
    files = {"image": png(picture(0, wide)), "mask": png(spot)}
    answer = httpx.post(
        f"{server.url}/v1/images/edits", data=fields | {"width": "64", "height": "64"}, files=files, timeout=60
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_format")


@pytest.mark.parametrize("name", ["guidance_scale", "prior_guidance_scale"])
def test_guidance_beyond_any_use(server: Server, name: str) -> None:
    def send(value: float) -> httpx.Response:
        body: dict[str, Any] = {"prompt": "a", "size": "64x64", "num_inference_steps": 2, name: value}
        return httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=60)

    assert send(1000).status_code == 200
    answer = send(1e23)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert "up to 1000" in answer.json()["error"]["message"]
