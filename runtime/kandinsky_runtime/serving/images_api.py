"""OpenAI's image API: `/v1/images/edits` and `/v1/images/generations`, as one answer or as a stream of events."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kandinsky_runtime.serving.answers import (
    Refusal,
    completed_event,
    error_body,
    event,
    event_stream,
    images_answer,
    partial_event,
    refusal_of,
)
from kandinsky_runtime.serving.bodies import Body, read_body
from kandinsky_runtime.serving.fields import EDITS, Asked, read_fields
from kandinsky_runtime.serving.jobs import COMPLETED, Job
from kandinsky_runtime.serving.service import Service

COMMENT_SECONDS = 15.0  # between two comments of a silent stream; gateways close what is silent for longer
_LONGEST_KEY = 255


@dataclass(frozen=True)
class Accepted:
    """A request that has become a job.

    Attributes:
        shared: whether the job may have other readers, so that a reader who goes does not cancel it.
    """

    job: Job
    asked: Asked
    shared: bool


async def images(request: Request) -> Response:
    """Make or repaint pictures; the last part of the path says which."""
    service: Service = request.app.state.service
    endpoint = request.url.path.rsplit("/", 1)[-1]
    accepted = await accept(request, service, endpoint, job=False)
    job, asked = accepted.job, accepted.asked
    headers = {"x-k22-job": job.id}
    if asked.stream:
        return event_stream(_events(service, accepted, endpoint), headers)
    await until_ended(request, job, shared=accepted.shared)
    return JSONResponse(await asyncio.to_thread(images_answer, job, asked), headers=headers)


async def accept(request: Request, service: Service, endpoint: str, *, job: bool) -> Accepted:
    """Turn a request into a job: take a place, read the body, check everything, and give it to the step loop.

    A request with an idempotency key that was used before gets the job of then.

    Raises:
        Busy, FieldError, Refusal, UsageError: the request is refused.
    """
    key, owner = _idempotency_key(request), request.state.owner
    place = service.admission.enter()
    try:
        body = await read_body(request, service.settings, forms=endpoint == EDITS)
        most = service.settings.max_steps
        asked = await asyncio.to_thread(read_fields, endpoint, body.values, body.files, most_steps=most, job=job)
        fingerprint = "" if key is None else await asyncio.to_thread(_fingerprint, endpoint, body)
        async with service.store.turn(owner, key):
            if key is not None and (known := service.store.remembered(owner, key)) is not None:
                if known.fingerprint != fingerprint:
                    raise Refusal(
                        422, f"the Idempotency-Key {key!r} was used for another request; use a new one",
                        code="idempotency_key_reused",
                    )  # fmt: skip
                place.release()
                return Accepted(known.job, asked, shared=True)
            model, work = await service.plan(endpoint, asked, place)
            patience = None if job or asked.stream else _patience(request)
            made = service.submit(model, work, asked, place, owner, patience)
            if job or key is not None:
                service.store.add(made, key, fingerprint)
    except BaseException:
        place.release()
        raise
    request.state.job, request.state.asked = made, asked
    return Accepted(made, asked, shared=job or key is not None)


async def until_ended(request: Request, job: Job, *, shared: bool = False) -> None:
    """Wait for a job's results; if the client goes, cancel the job, unless it has other readers.

    Raises:
        Exception: the job's own error; a `Refusal` if the client has gone.
    """
    gone, ended = asyncio.ensure_future(_until_gone(request)), asyncio.ensure_future(job.wait())
    try:
        await asyncio.wait([gone, ended], return_when=asyncio.FIRST_COMPLETED)
    finally:
        _leave(job, shared=shared)
        gone.cancel()
        ended.cancel()
    if job.state != COMPLETED:
        raise job.error or Refusal(499, "the client has gone", code="client_gone")


def _leave(job: Job, *, shared: bool) -> None:
    if not shared:
        job.cancel("the client has gone", "disconnect")


async def _events(service: Service, accepted: Accepted, endpoint: str) -> AsyncIterator[str]:
    """The pictures on the way, then the results; comments while nothing happens."""
    job, asked, sent = accepted.job, accepted.asked, 0
    try:
        async for changed in job.changes(COMMENT_SECONDS):
            if not changed:
                yield f": step {job.steps_done} of {job.steps}, place {service.position(job)} in the queue\n\n"
            while sent < len(job.shown):
                yield partial_event(job, asked, endpoint, sent)
                sent += 1
        if job.state != COMPLETED:
            yield event("error", error_body(refusal_of(job.error or RuntimeError("no result"))))
        for image in job.images if job.state == COMPLETED else ():
            yield completed_event(job, asked, endpoint, image)
    finally:
        _leave(job, shared=accepted.shared)


async def _until_gone(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _patience(request: Request) -> float | None:
    """The seconds until the client gives up, which OpenAI's client says in a header."""
    text = request.headers.get("x-stainless-read-timeout", "")
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e6 else None


def _idempotency_key(request: Request) -> str | None:
    key: str | None = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= _LONGEST_KEY:
        raise Refusal(400, f"the Idempotency-Key has {len(key)} characters; expected 1 to {_LONGEST_KEY}")
    return key


def _fingerprint(endpoint: str, body: Body) -> str:
    digest = hashlib.sha256(endpoint.encode())
    digest.update(json.dumps(body.values, sort_keys=True).encode())
    for name, content in sorted(body.files.items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()
