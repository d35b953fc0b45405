"""What is sent back: errors in OpenAI's form, pictures, jobs, and server-sent events."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from kandinsky_runtime.decoder.output import InpaintOutput
from kandinsky_runtime.errors import Cancelled, UsageError
from kandinsky_runtime.serving.admission import Busy
from kandinsky_runtime.serving.fields import FIELDS, Asked, FieldError
from kandinsky_runtime.serving.jobs import CANCELLED, COMPLETED, FAILED, Job, ServerStopped

_WORD = re.compile(r"[a-z_]+")
_STOPPED_RETRY = 5  # seconds after which another server may have taken the place of one that stopped
_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status.
        param: the field that is at fault, or None.
        code: a word that stays the same between versions.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(_encodable(message))
        self.param = None if param is None else _encodable(param)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def _encodable(text: str) -> str:
    """A text without surrogates, which JSON may name but no answer can send."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def refusal_of(error: BaseException) -> Refusal:
    """The answer to an error of a request, or of the work that it asked for."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Busy):
        headers = {"retry-after": str(error.retry_after), "x-should-retry": "true" if error.retry else "false"}
        return Refusal(503, str(error), code=error.reason, headers=headers)
    if isinstance(error, ServerStopped):
        headers = {"retry-after": str(_STOPPED_RETRY), "x-should-retry": "true"}
        return Refusal(503, str(error), code="server_stopped", headers=headers)
    if isinstance(error, FieldError):
        return Refusal(400, str(error), param=error.param, code="invalid_value")
    if isinstance(error, UsageError):
        word = _WORD.match(str(error))
        param = word.group() if word is not None and word.group() in FIELDS else None
        return Refusal(400, str(error), param=param, code="invalid_value")
    again = {"x-should-retry": "false"}
    if isinstance(error, Cancelled):
        return Refusal(504, str(error), code="cancelled", headers=again)
    if isinstance(error, MemoryError):
        return Refusal(
            500, "there is not enough memory for this size; ask for a smaller one", code="out_of_memory", headers=again
        )
    return Refusal(500, f"the work failed: {error}", code="work_failed", headers=again)


def error_body(refusal: Refusal) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = _TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": str(refusal), "type": kind, "param": refusal.param, "code": refusal.code}}


def error_answer(refusal: Refusal) -> Response:
    """The answer of a refusal."""
    return JSONResponse(error_body(refusal), refusal.status, refusal.headers)


def images_answer(job: Job, asked: Asked) -> dict[str, Any]:
    """A job's results as OpenAI's clients read them, and the server's own figures under `k22`."""
    data = [{"b64_json": base64.b64encode(image).decode(), "revised_prompt": None} for image in job.images]
    return {
        "created": int(job.created),
        "data": data,
        **_described(job, asked),
        "usage": _NO_USAGE,
        "k22": figures(job),
    }


def figures(job: Job) -> dict[str, Any]:
    """What the server has to say about a job's results."""
    output = job.output
    if output is None:
        return {}
    found: dict[str, Any] = {
        "model": job.model.name,
        "seeds": list(output.seeds),
        "notes": list(output.notes),
        "seconds": {name: round(value, 4) for name, value in [*job.seconds.items(), *output.seconds.items()]},
    }
    if isinstance(output, InpaintOutput):
        found["masks"] = [asdict(report) for report in output.masks]
    return found


def partial_event(job: Job, asked: Asked, endpoint: str, number: int) -> str:
    """A picture on the way as an event."""
    name = f"{_event_prefix(endpoint)}.partial_image"
    return event(name, {
        "type": name, "b64_json": base64.b64encode(job.shown[number]).decode(), "partial_image_index": number,
        "created_at": int(job.created), **_described(job, asked),
    })  # fmt: skip


def completed_event(job: Job, asked: Asked, endpoint: str, image: bytes) -> str:
    """A result as an event."""
    name = f"{_event_prefix(endpoint)}.completed"
    return event(name, {
        "type": name, "b64_json": base64.b64encode(image).decode(), "created_at": int(job.created),
        **_described(job, asked), "usage": _NO_USAGE, "k22": figures(job),
    })  # fmt: skip


def event(name: str, data: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def event_stream(events: AsyncIterator[str], headers: Mapping[str, str] | None = None) -> Response:
    """An answer of server-sent events, which no proxy may keep back."""
    unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=unbuffered | dict(headers or {}))


def job_answer(job: Job, position: int, *, pictures: bool = False) -> dict[str, Any]:
    """A job's state.

    Args:
        position: the number of jobs before it.
        pictures: whether to send the results.
    """
    found: dict[str, Any] = {
        "id": job.id,
        "object": "job",
        "model": job.model.name,
        "status": job.state,
        "created_at": int(job.created),
        "queue_position": position,
        "steps": job.steps,
        "steps_done": job.steps_done,
        "seconds_left": round(job.remaining(), 1) if job.state not in (COMPLETED, FAILED, CANCELLED) else 0,
        "previews": len(job.shown),
        "images": len(job.images),
    }
    if job.state == COMPLETED:
        found["output_format"] = job.format.name
        found["k22"] = figures(job)
        if pictures:
            found["data"] = [{"b64_json": base64.b64encode(image).decode()} for image in job.images]
    if job.error is not None:
        found |= error_body(refusal_of(job.error))
    return found


def _described(job: Job, asked: Asked) -> dict[str, Any]:
    width, height = job.size
    return {
        "background": "opaque",
        "output_format": asked.format.name,
        "quality": asked.quality,
        "size": f"{width}x{height}",
    }


def _event_prefix(endpoint: str) -> str:
    return "image_edit" if endpoint == "edits" else "image_generation"
