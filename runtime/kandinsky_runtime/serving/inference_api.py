"""Open Inference Protocol v2 over HTTP, with the binary tensor data extension: what Triton's client speaks.

The inputs are BYTES [1], the outputs IMAGE BYTES [n] and SEED INT64 [n]; see `tensors`.

In JSON, the elements of IMAGE and MASK are base64 texts. In binary data, each element is its length in 4 bytes, little
endian, and its bytes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kandinsky_runtime.distribution import installed
from kandinsky_runtime.serving.answers import Refusal
from kandinsky_runtime.serving.bodies import json_object, read_bytes
from kandinsky_runtime.serving.fields import FieldError, data_url
from kandinsky_runtime.serving.images_api import until_ended
from kandinsky_runtime.serving.jobs import Job
from kandinsky_runtime.serving.models import Model
from kandinsky_runtime.serving.service import Service
from kandinsky_runtime.serving.tensors import FILES, OUTPUTS, TEXTS, inputs_of, read_request, seeds_of, utf8

_VERSION = "1"  # the only one of each model
_LENGTH = "inference-header-content-length"


async def server(request: Request) -> Response:
    """The server's name, version and extensions."""
    name, version = installed()
    return JSONResponse({"name": name, "version": version, "extensions": ["binary_tensor_data"]})


async def model(request: Request) -> Response:
    """A model's inputs and outputs."""
    found = _model(request)

    def tensor(name: str, datatype: str, shape: int) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": [shape]}

    return JSONResponse({
        "name": found.name,
        "versions": [_VERSION],
        "platform": f"kandinsky22_{found.pipeline.selection.engine.name}",
        "inputs": [tensor(name, "BYTES", 1) for name in inputs_of(found.task)],
        "outputs": [tensor("IMAGE", "BYTES", -1), tensor("SEED", "INT64", -1)],
    })  # fmt: skip


async def model_ready(request: Request) -> Response:
    """200 if a model takes requests."""
    service: Service = request.app.state.service
    return JSONResponse({"name": _model(request).name, "ready": service.ready}, 200 if service.ready else 503)


async def infer(request: Request) -> Response:
    """Make or repaint pictures."""
    service: Service = request.app.state.service
    found = _model(request)
    place = service.admission.enter()
    try:
        content = await read_bytes(request, service.settings)
        head, files, texts = await asyncio.to_thread(_read, content, request.headers.get(_LENGTH))
        parameters = head.get("parameters", {})
        wanted = _wanted(head.get("outputs"), bool(parameters.get("binary_data_output")))
        most = service.settings.max_steps
        endpoint, asked = await asyncio.to_thread(read_request, found.name, found.task, texts, files, parameters, most)
        planned, work = await service.plan(endpoint, asked, place)
        job = service.submit(planned, work, asked, place, request.state.owner, None)
    except BaseException:
        place.release()
        raise
    request.state.job, request.state.asked = job, asked
    await until_ended(request, job)
    return await asyncio.to_thread(_answer, job, wanted, head.get("id"))


def error_answer(refusal: Refusal) -> Response:
    """An error as this protocol has it."""
    return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)


def _model(request: Request) -> Model:
    service: Service = request.app.state.service
    name = request.path_params["model"]
    found = service.models.by_name.get(name)
    if found is None:
        raise Refusal(404, f"there is no model {name[:80]!r}; this server has {', '.join(service.models.by_name)}")
    version = request.path_params.get("version", _VERSION)
    if version != _VERSION:
        raise Refusal(404, f"model {name} has no version {version[:80]!r}; its only one is {_VERSION}")
    return found


def _read(content: bytes, length: str | None) -> tuple[dict[str, Any], dict[str, bytes], dict[str, str]]:
    """The JSON part of a request, the files of its tensors by their fields' names, and their texts.

    Raises:
        FieldError, Refusal: something cannot be understood.
    """
    size = len(content)
    if length is not None:
        if not (length.isascii() and length.isdigit() and int(length) <= len(content)):
            raise Refusal(400, f"Inference-Header-Content-Length is {length[:40]!r}; the body has {len(content)} bytes")
        size = int(length)
    head = json_object(content[:size])
    for name, kind in (("parameters", dict), ("inputs", list)):
        if name in head and not isinstance(head[name], kind):
            raise FieldError(name, f"{name} is a JSON {type(head[name]).__name__}; expected a {kind.__name__}")
    start, files, texts = size, {}, {}
    for item in head.get("inputs", []):
        name = _checked_input(item)
        count = (item.get("parameters") or {}).get("binary_data_size")
        if count is None:
            value = _element(item)
            raw = _encoded(name, value) if name in TEXTS else data_url(name, value)
        else:
            if not isinstance(count, int) or isinstance(count, bool) or not 4 <= count <= len(content) - start:
                raise FieldError(name, f"{name}: binary_data_size is {count!r}; {len(content) - start} bytes are left")
            raw, start = _only_element(name, content[start : start + count]), start + count
        field = name.lower()
        if field in files or field in texts:
            raise FieldError(name, f"{name} is there twice; give it once")
        if name in FILES:
            files[field] = raw
        else:
            texts[field] = utf8(name, raw)
    if start != len(content):
        raise Refusal(400, f"{len(content) - start} bytes behind the tensors belong to none of them")
    return head, files, texts


def _checked_input(item: Any) -> str:
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise FieldError("inputs", "inputs has an entry without a name")
    name: str = item["name"]
    if name not in (*TEXTS, *FILES):
        raise FieldError(name[:80], f"there is no input {name[:80]!r}; the inputs are {', '.join((*TEXTS, *FILES))}")
    if item.get("datatype") != "BYTES":
        raise FieldError(name, f"{name} has the datatype {item.get('datatype')!r}; expected BYTES")
    if item.get("shape") not in ([1], [1, 1]):
        raise FieldError(name, f"{name} has the shape {item.get('shape')!r}; expected [1]")
    if not isinstance(item.get("parameters") or {}, Mapping):
        raise FieldError(name, f"{name}: parameters is no object")
    return name


def _element(item: Mapping[str, Any]) -> str:
    data = item.get("data")
    while isinstance(data, list) and len(data) == 1:
        (data,) = data
    if not isinstance(data, str):
        raise FieldError(item["name"], f"{item['name']}: data is no list of one text")
    return data


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FieldError(name, f"{name} is no valid Unicode: {error.reason}") from None


def _only_element(name: str, content: bytes) -> bytes:
    (length,) = struct.unpack("<I", content[:4])
    if length != len(content) - 4:
        raise FieldError(
            name, f"{name}: an element of {length} bytes does not fill the {len(content) - 4} that are there"
        )
    return content[4:]


def _wanted(outputs: Any, binary: bool) -> dict[str, bool]:
    """The outputs that are asked for, and whether each is sent as binary data."""
    if outputs is None or outputs == []:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(outputs, list):
        raise FieldError("outputs", f"outputs is a JSON {type(outputs).__name__}; expected a list")
    wanted = {}
    for item in outputs:
        name = item.get("name") if isinstance(item, Mapping) else None
        if name not in OUTPUTS:
            raise FieldError("outputs", f"there is no output {str(name)[:80]!r}; the outputs are {', '.join(OUTPUTS)}")
        parameters = item.get("parameters")
        own = parameters.get("binary_data", binary) if isinstance(parameters, Mapping) else binary
        wanted[str(name)] = bool(own)
    return wanted


def _answer(job: Job, wanted: Mapping[str, bool], name: Any) -> Response:
    """The outputs of a job."""
    seeds = seeds_of(job)
    outputs, tail = [], b""
    for output, binary in wanted.items():
        entry: dict[str, Any] = {"name": output, "datatype": "BYTES", "shape": [len(job.images)]}
        if output == "SEED":
            entry["datatype"] = "INT64"
        if binary:
            data = (
                b"".join(struct.pack("<I", len(image)) + image for image in job.images)
                if output == "IMAGE"
                else struct.pack(f"<{len(seeds)}q", *seeds)
            )
            entry["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            entry["data"] = [base64.b64encode(i).decode() for i in job.images] if output == "IMAGE" else seeds
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": job.model.name, "model_version": _VERSION, "outputs": outputs}
    if isinstance(name, str):
        head["id"] = name
    content = json.dumps(head).encode()
    if not tail:
        return Response(content, media_type="application/json")
    headers = {_LENGTH: str(len(content))}
    return Response(content + tail, media_type="application/octet-stream", headers=headers)
