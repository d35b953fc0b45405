"""Jobs: for what takes longer than a gateway waits. Made, looked at, watched and cancelled under `/v1/jobs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kandinsky_runtime.checks import boolean
from kandinsky_runtime.serving.answers import Refusal, event, event_stream, job_answer
from kandinsky_runtime.serving.fields import FieldError
from kandinsky_runtime.serving.images_api import COMMENT_SECONDS, accept
from kandinsky_runtime.serving.jobs import COMPLETED, ENDED, Job, replica_of
from kandinsky_runtime.serving.service import Service
from kandinsky_runtime.serving.store import Absence

_MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


async def create(request: Request) -> Response:
    """Make a job; the last part of the path says of what. Answers 202 with its state."""
    service: Service = request.app.state.service
    job = (await accept(request, service, request.url.path.rsplit("/", 1)[-1], job=True)).job
    service.on_detached(job)
    headers = {"location": f"/v1/jobs/{job.id}"}
    return JSONResponse(job_answer(job, service.position(job)), 202, headers)


async def every(request: Request) -> Response:
    """The caller's jobs, the oldest first."""
    service: Service = request.app.state.service
    if service.replica:
        raise Refusal(
            501, "this server has replicas that do not know each other's jobs; ask for each job by its id",
            code="not_available",
        )  # fmt: skip
    jobs = service.store.of_owner(request.state.owner)
    return JSONResponse({"object": "list", "data": [job_answer(job, service.position(job)) for job in jobs]})


async def one(request: Request) -> Response:
    """Look at a job, or remove it."""
    return await (remove(request) if request.method == "DELETE" else look(request))


async def look(request: Request) -> Response:
    """A job's state; `?pictures=true` sends the results with it."""
    service, job = request.app.state.service, _job(request)
    text = request.query_params.get("pictures", "false")
    try:
        pictures = boolean(text)
    except ValueError as error:
        raise FieldError("pictures", f"pictures is {text[:80]!r}; {error}") from None
    return JSONResponse(await asyncio.to_thread(job_answer, job, service.position(job), pictures=pictures))


async def watch(request: Request) -> Response:
    """A job's events: `progress` after each change, `preview` with a picture's number, then the job's last state."""
    job = _job(request)
    if request.method == "HEAD":
        return event_stream(_no_events())
    return event_stream(_events(request.app.state.service, job))


async def picture(request: Request) -> Response:
    """A result's file, by its number from 0."""
    job = _job(request)
    if job.state != COMPLETED:
        raise Refusal(409, f"the job is {job.state}, and has no results", code="no_results")
    return _file(job, job.images, request.path_params["number"], "result")


async def preview(request: Request) -> Response:
    """The file of a picture on the way, by its number from 0."""
    job = _job(request)
    return _file(job, job.shown, request.path_params["number"], "preview")


async def remove(request: Request) -> Response:
    """Cancel a job that has not ended, or forget one that has."""
    service, job = request.app.state.service, _job(request)
    if job.state in ENDED:
        service.store.drop(job)
        return Response(status_code=204)
    job.cancel("the client cancelled the job", "client")
    await job.wait()
    return JSONResponse(job_answer(job, 0))


async def _events(service: Service, job: Job) -> AsyncIterator[str]:
    sent = 0
    async for changed in job.changes(COMMENT_SECONDS):
        if not changed:
            yield ": still there\n\n"
            continue
        while sent < len(job.shown):
            yield event("preview", {"id": job.id, "number": sent})
            sent += 1
        name = job.state if job.state in ENDED else "progress"
        yield event(name, job_answer(job, service.position(job)))


async def _no_events() -> AsyncIterator[str]:
    """What HEAD gets: the headers alone, without waiting for the job."""
    events: tuple[str, ...] = ()
    for text in events:
        yield text


def _job(request: Request) -> Job:
    """The job of the path, if it is the caller's.

    Raises:
        Refusal: there is none, or it is gone.
    """
    service: Service = request.app.state.service
    name = request.path_params["job"]
    if service.replica and replica_of(name) not in ("", service.replica):
        raise Refusal(410, f"job {name[:80]} was lost when its replica ended; send it again", code="job_lost")
    found = service.store.find(request.state.owner, name)
    if isinstance(found, Job):
        return found
    if found is Absence.LOST:
        raise Refusal(410, f"job {name} was lost when the server stopped; send it again", code="job_lost")
    if found is Absence.EXPIRED:
        raise Refusal(410, f"job {name} has ended, and its results are no longer kept", code="job_expired")
    raise Refusal(404, f"there is no job {name[:80]!r}", code="job_not_found")


def _file(job: Job, files: list[bytes], number: str, what: str) -> Response:
    if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) < len(files)):
        raise Refusal(
            404, f"the job has {len(files)} {what}s, numbered from 0; there is no {number[:20]}", code="not_found"
        )
    return Response(
        files[int(number)], media_type=_MEDIA[job.format.name], headers={"cache-control": "private, no-store"}
    )
