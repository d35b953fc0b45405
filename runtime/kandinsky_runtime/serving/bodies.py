"""The body of a request is read: bounded in size, in time and in parts.

What a picture is, is decided by its content. File names and declared types are not looked at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from kandinsky_runtime.serving.answers import Refusal
from kandinsky_runtime.serving.settings import Settings

_JSON, _FORM = "application/json", "multipart/form-data"
_MOST_FILES, _MOST_FIELDS, _LONGEST_FIELD = 20, 100, 1024 * 1024
# In a JSON text, each value is next to one of these. They are counted in texts, too: two prompts of the most characters
# may consist of them.
_MARKS, _MOST_MARKS = (b"[", b"{", b","), 100_000

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
    if kind != _JSON and not (forms and kind == _FORM):
        expected = f"{_JSON} or {_FORM}" if forms else _JSON
        raise Refusal(415, f"Content-Type is {kind[:80]!r}; expected {expected}", code="unsupported_media_type")
    _check_charset(request)
    limited = Request(request.scope, _limited(request, settings.max_body))
    if kind == _FORM:
        return await _in_time(_read_form(limited), settings)
    content = await _in_time(limited.body(), settings)
    return Body(await asyncio.to_thread(json_object, content), {})


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


def _check_charset(request: Request) -> None:
    """Refuse what is not UTF-8; some of Python's codecs need a time that grows with the square of the length."""
    # The function that Starlette reads forms with, so that both understand the same.
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8"):
        name = charset.decode("latin-1")
        raise Refusal(415, f"the charset is {name[:80]!r}; expected utf-8", code="unsupported_charset")


async def _read_form(request: Request) -> Body:
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
        plain = name.removesuffix("[]")
        if isinstance(value, UploadFile):
            if plain in files:
                raise Refusal(
                    400, f"{plain} is there several times; this server repaints one picture a request", param=plain
                )
            files[plain] = await value.read()
        elif name == plain and plain not in values:
            values[plain] = value
        elif name != plain and isinstance(values.setdefault(plain, []), list):
            values[plain].append(value)
        else:
            raise Refusal(400, f"{plain} is there twice; give it once", param=plain)
    return Body(values, files)


def json_object(content: bytes) -> dict[str, Any]:
    """The object of a JSON text.

    Raises:
        Refusal: it is no JSON, or no object, a name is there twice, or it has more values than any request.
    """
    if sum(map(content.count, _MARKS)) > _MOST_MARKS:
        raise Refusal(
            400, f"the body has more than {_MOST_MARKS:,} commas and brackets; no request needs so many",
            code="invalid_json",
        )  # fmt: skip
    try:
        found = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_each_once)
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
