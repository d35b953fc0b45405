"""uvicorn with an end that loses nothing: after SIGTERM, running jobs end and new ones are refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.serving.announcement import announce
from kandinsky_runtime.serving.app import make_app
from kandinsky_runtime.serving.connections import BACKLOG, connections
from kandinsky_runtime.serving.models import Models
from kandinsky_runtime.serving.security import Keys
from kandinsky_runtime.serving.service import LAST_SECONDS, Service
from kandinsky_runtime.serving.settings import Settings
from kandinsky_runtime.serving.tracing import set_up_tracing

_ANSWER_SECONDS = 1.0  # after a second signal, for units of work in progress and for answers ...
_CUT_SECONDS = 2.0  # ... and until the process ends, whatever it does

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def hangups_ignored() -> Iterator[None]:
    """Ignore SIGHUP, which would end the process, while nothing can be read again yet."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class DrainingServer(uvicorn.Server):  # type: ignore[misc] # not a dependency of the type check
    """Stops in two steps: refuse new work and finish what is there; then close."""

    def __init__(self, config: uvicorn.Config, service: Service, keys: Keys) -> None:
        super().__init__(config)
        self._service, self._keys = service, keys
        self._draining: asyncio.Task[None] | None = None
        self._cutting: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP until the server has ended.

        The first SIGTERM or SIGINT begins the end, the second one makes it short. The handlers only call the event
        loop: a handler could wait for a lock that the code it interrupts holds.
        """
        loop = asyncio.get_running_loop()

        def end(sig: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._begin_end)

        def reload(sig: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._reload)

        wanted = [signal.SIGTERM, signal.SIGINT]
        before = {number: signal.signal(number, end) for number in wanted}
        if hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def fail(self) -> None:
        """End because the warm-up failed."""
        self.should_exit = True

    def _begin_end(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        elif self._cutting is None:
            self._cutting = asyncio.ensure_future(self._cut_short())

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True

    async def _cut_short(self) -> None:
        """Answer the requests that are there with 503, and end; no unit of work and no warm-up is waited for."""
        _log.warning("stopping at once: %d requests are given up", self._service.admission.taken)
        end = threading.Timer(_CUT_SECONDS, os._exit, (0,))
        end.daemon = True
        end.start()
        self._service.cancel_all()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._answered(), _ANSWER_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()
        self.should_exit = True

    async def _answered(self) -> None:
        await self._service.drained()
        while self.server_state.tasks:
            await asyncio.sleep(0.02)

    def _reload(self) -> None:
        try:
            self._keys.reload()
            _log.info("the keys were read again")
        except UsageError as error:
            _log.error("%s; the keys are those of before", error)


def serve(models: Models, settings: Settings) -> int:
    """Serve until a signal ends it.

    Returns:
        The exit status: 0 after a signal.

    Raises:
        Kandinsky22Error: the address cannot be listened at, or the warm-up failed.
    """
    keys = Keys(None if settings.keys is None else Path(settings.keys))
    service = Service(settings, models)
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    app: Starlette = make_app(service, keys, tracing=set_up_tracing(), on_failure=lambda: server.fail())
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", server_header=False,
        timeout_graceful_shutdown=LAST_SECONDS, h11_max_incomplete_event_size=64 * 1024, ws="none",
        http=connections(settings.body_seconds), backlog=BACKLOG,
    )  # fmt: skip
    server = DrainingServer(config, service, keys)
    announce(models.by_name, host, port)
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
    if service.failure is not None:
        error = service.failure
        if isinstance(error, Kandinsky22Error):
            raise error
        raise Kandinsky22Error(f"the warm-up failed: {error}") from error
    return 0


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        raise Kandinsky22Error(
            f"cannot listen at {settings.host}:{settings.port}: {error.strerror}; choose another --port"
        ) from error
    return made
