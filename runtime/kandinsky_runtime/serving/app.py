"""The ASGI application: routes, and what every request passes on its way to them."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kandinsky_runtime.errors import Kandinsky22Error
from kandinsky_runtime.serving import images_api, inference_api, jobs_api, operation, page
from kandinsky_runtime.serving.admission import Busy
from kandinsky_runtime.serving.answers import Refusal, error_answer, refusal_of
from kandinsky_runtime.serving.jobs import ENDED, Job, ServerStopped
from kandinsky_runtime.serving.logs import log_request
from kandinsky_runtime.serving.openapi import document
from kandinsky_runtime.serving.security import NOBODY, Keys, is_foreign
from kandinsky_runtime.serving.service import Service
from kandinsky_runtime.serving.tracing import Tracing

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_OPEN = ("/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "/", "/favicon.ico")


def make_app(
    service: Service,
    keys: Keys,
    *,
    tracing: Tracing | None = None,
    on_failure: Callable[[], None] | None = None,
) -> Starlette:
    """The application of a service.

    Args:
        service: the models and all that drives them.
        keys: whoever is let in.
        tracing: makes spans of the requests.
        on_failure: called if the warm-up, which the application then does in the background, failed; the server should
            end. None: the caller has started the service.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def start() -> None:
            if on_failure is None:
                return
            try:
                await service.start()
            except Exception:
                on_failure()

        starting = asyncio.ensure_future(start())
        try:
            yield
        finally:
            await asyncio.wait([starting])
            await service.stop()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = Starlette(routes=routes(), lifespan=lifespan, exception_handlers=_HANDLERS)
    app.state.service, app.state.keys = service, keys
    app.state.document = document(service)
    app.add_middleware(Entrance, service=service, keys=keys, tracing=tracing)
    return app


def routes() -> list[Route]:
    """Every route of the application."""

    def get(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, handler, methods=["GET"])

    def post(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, handler, methods=["POST"])

    return [
        get("/", page.show),
        get("/openapi.json", page.show_document),
        get("/livez", operation.live),
        get("/readyz", operation.ready),
        get("/health", operation.ready),
        get("/metrics", operation.metrics),
        get("/v1/models", operation.models),
        get("/v1/models/{model}", operation.model),
        post("/v1/images/edits", images_api.images),
        post("/v1/images/generations", images_api.images),
        get("/v1/jobs", jobs_api.every),
        post("/v1/jobs/edits", jobs_api.create),
        post("/v1/jobs/generations", jobs_api.create),
        Route("/v1/jobs/{job}", jobs_api.one, methods=["GET", "DELETE"]),
        get("/v1/jobs/{job}/events", jobs_api.watch),
        get("/v1/jobs/{job}/images/{number}", jobs_api.picture),
        get("/v1/jobs/{job}/previews/{number}", jobs_api.preview),
        get("/v2", inference_api.server),
        get("/v2/health/live", operation.live),
        get("/v2/health/ready", operation.ready),
        get("/v2/models/{model}", inference_api.model),
        get("/v2/models/{model}/ready", inference_api.model_ready),
        post("/v2/models/{model}/infer", inference_api.infer),
        get("/v2/models/{model}/versions/{version}", inference_api.model),
        get("/v2/models/{model}/versions/{version}/ready", inference_api.model_ready),
        post("/v2/models/{model}/versions/{version}/infer", inference_api.infer),
    ]


def _answer(path: str, refusal: Refusal) -> Response:
    """An error in the form of the interface that a path belongs to."""
    inference = path == "/v2" or path.startswith("/v2/")
    return inference_api.error_answer(refusal) if inference else error_answer(refusal)


async def _refused(request: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    request.state.error = str(refusal)
    if isinstance(refusal.code, str) and refusal.status == 503:
        request.app.state.service.metrics.rejected.labels(refusal.code).inc()
    return _answer(request.url.path, refusal)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return await _refused(request, Refusal(error.status_code, error.detail, headers=error.headers))


async def _gone(request: Request, error: Exception) -> Response:
    request.state.error = "the client has gone"
    return Response(status_code=499)


_HANDLERS = {
    HTTPException: _http_error,
    ClientDisconnect: _gone,
    **dict.fromkeys((Refusal, Busy, Kandinsky22Error, MemoryError, Exception), _refused),
}


class Entrance:
    """What every request passes: its id, its key, and the log and the figures of its answer."""

    def __init__(self, app: ASGIApp, service: Service, keys: Keys, tracing: Tracing | None) -> None:
        self._app, self._service, self._keys, self._tracing = app, service, keys, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, started = time.monotonic(), 500, False
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                sent = MutableHeaders(scope=message)
                if not self._service.replica:  # the proxy in front of replicas sends it
                    sent["x-request-id"] = request_id
                sent.setdefault("x-content-type-options", "nosniff")
                if self._service.admission.draining:
                    sent["connection"] = "close"
            await send(message)

        try:
            refusal = self._check(scope, headers, state)
            if refusal is not None:
                state["error"] = str(refusal)
                await _answer(scope["path"], refusal)(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not self._service.admission.draining:
                raise
            stopped = refusal_of(ServerStopped())
            state["error"] = str(stopped)
            if not started:
                await error_answer(stopped)(scope, receive, send_with_id)
        finally:
            route = scope.get("route")
            endpoint = getattr(route, "path", "other")
            seconds = time.monotonic() - begun
            self._service.metrics.requests.labels(endpoint, str(status)).inc()
            self._service.metrics.request_seconds.labels(endpoint).observe(seconds)
            log_request(self._service.settings, scope, status, seconds)
            if self._tracing is not None:
                job, ended = state.get("job"), time.time_ns()
                self._tracing.request(
                    headers, scope["method"], endpoint, status, ended - int(seconds * 1e9), ended,
                    job if isinstance(job, Job) and job.state in ENDED else None,
                )  # fmt: skip

    def _check(self, scope: Scope, headers: Headers, state: dict[str, object]) -> Refusal | None:
        """Why a request is not let in, or None."""
        settings, path = self._service.settings, scope["path"]
        foreign = is_foreign(headers, check_host=settings.local and not self._keys.needed)
        if foreign is not None:
            return Refusal(403, foreign, code="foreign_request")
        state["owner"] = NOBODY
        if path in _OPEN:
            return None
        owner = self._keys.owner(headers)
        if owner is None:
            return Refusal(
                401, "a key is needed: send it as Authorization: Bearer KEY", code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
        state["owner"] = owner
        if scope["method"] == "POST" and not self._service.models.ready:
            return Refusal(503, "the server is warming up; try again", code="warming_up", headers={"retry-after": "5"})
        return None
