"""The body of a request is read: bounded in size, in time and in parts.

What a picture is, is decided by its content. File names and declared types are not looked at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from kandinsky_runtime.serving.answers import Refusal
from kandinsky_runtime.serving.settings import Settings

_MOST_FILES, _MOST_FIELDS, _LONGEST_FIELD = 20, 100, 1024 * 1024

Content = TypeVar("Content")


@dataclass(frozen=True)
class Body:
    """A request's body.

    Attributes:
        values: values by name: JSON's, or a form's texts; a list for a name that ends in [].
        files: the files of a form by name.
    """

    values: Mapping[str, Any]
    files: Mapping[str, bytes]


async def read_body(request: Request, settings: Settings, *, forms: bool) -> Body:
    """Read a request's fields.

    Args:
        forms: whether a form (multipart) is taken as well as JSON.

    Raises:
        Refusal: the body is too large, too slow, or cannot be understood.
        ClientDisconnect: the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    _check_encoding(request)
    if kind != "application/json" and not (forms and kind == "multipart/form-data"):
        expected = "application/json or multipart/form-data" if forms else "application/json"
        raise Refusal(415, f"Content-Type is {kind[:80]!r}; expected {expected}", code="unsupported_media_type")
    return await _in_time(_read(Request(request.scope, _limited(request, settings.max_body)), kind), settings)


async def read_bytes(request: Request, settings: Settings) -> bytes:
    """Read a body that is not understood here; errors are those of `read_body`."""
    _check_encoding(request)
    return await _in_time(Request(request.scope, _limited(request, settings.max_body)).body(), settings)


def _check_encoding(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed bodies are not taken; send the body as it is", code="unsupported_encoding")


async def _in_time(reading: Awaitable[Content], settings: Settings) -> Content:
    try:
        return await asyncio.wait_for(reading, settings.body_seconds)
    except asyncio.TimeoutError:
        raise Refusal(
            408, f"the body did not arrive within {settings.body_seconds:g} s; send it faster", code="body_timeout"
        ) from None


async def _read(request: Request, kind: str) -> Body:
    if kind == "application/json":
        return Body(json_object(await request.body()), {})
    try:
        form = await request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD)
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read: {error.message}", code="invalid_form") from error
    except ClientDisconnect:
        raise
    except Exception as error:
        # The parser raises errors of several kinds for broken forms, and Starlette wraps some of them.
        raise Refusal(
            400, f"the form cannot be read: {getattr(error, 'detail', error)}", code="invalid_form"
        ) from error
    try:
        return await _fields_of(form)
    finally:
        await form.close()


async def _fields_of(form: FormData) -> Body:
    values: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            plain = name.removesuffix("[]")
            if plain in files:
                raise Refusal(
                    400, f"{plain} is there several times; this server repaints one picture a request", param=plain
                )
            files[plain] = await value.read()
        elif name.endswith("[]"):
            values.setdefault(name[:-2], []).append(value)
        elif name in values:
            raise Refusal(400, f"{name} is there twice; give it once", param=name)
        else:
            values[name] = value
    return Body(values, files)


def json_object(content: bytes) -> dict[str, Any]:
    """The object of a JSON text.

    Raises:
        Refusal: it is no JSON, or no object, or a name is there twice.
    """
    try:
        found = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise Refusal(400, f"the body is a JSON {type(found).__name__}; expected an object", code="invalid_json")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refusal(400, f"{name[:80]} is there twice; give it once", param=name[:80])
        found[name] = value
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _limited(request: Request, most: int) -> Any:
    """The request's `receive`, which refuses bodies of more bytes."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > most:
        raise Refusal(413, f"the body has {int(length):,} bytes; at most {most:,} are taken", code="body_too_large")
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise Refusal(413, f"the body has more than {most:,} bytes, the most that are taken", code="body_too_large")
        return message

    return receive
