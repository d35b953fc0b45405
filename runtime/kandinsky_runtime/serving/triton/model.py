"""What a generated `model.py` calls: the step loop of `k22 serve` behind Triton's Python backend.

`execute` hands requests to an event loop in a thread of its own and returns at once, so that a request joins others
between two steps and is answered when it is done. Triton's own queue therefore stays empty; `max_jobs` bounds the
requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kandinsky_runtime.errors import Cancelled
from kandinsky_runtime.serving.answers import refusal_of
from kandinsky_runtime.serving.fields import FieldError
from kandinsky_runtime.serving.jobs import COMPLETED, Job
from kandinsky_runtime.serving.models import Models
from kandinsky_runtime.serving.service import Service
from kandinsky_runtime.serving.tensors import FILES, TEXTS, read_request, seeds_of, utf8
from kandinsky_runtime.serving.triton.parameters import read_parameters

_CANCEL_SECONDS = 0.1  # how often a request is asked whether its client has cancelled it
_CODES = {400: "INVALID_ARG", 404: "NOT_FOUND", 413: "INVALID_ARG", 503: "UNAVAILABLE"}  # by HTTP status

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    """Copies of a request's content; Triton frees its own when `execute` returns."""

    tensors: dict[str, bytes]
    parameters: dict[str, Any]
    timeout: float | None


class TritonModel:
    """One bundle, warm, with a step loop.

    Args:
        backend: the module `triton_python_backend_utils`.
        config: the model's configuration, parsed.

    Raises:
        Kandinsky22Error: the bundle, a parameter or the engine cannot be used, or the warm-up failed.
    """

    def __init__(self, backend: Any, config: Mapping[str, Any]) -> None:
        self._backend = backend
        given = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        chosen = read_parameters(given)
        models = Models.load([f"{config['name']}={chosen.bundle}"], **chosen.options)
        (self._model,) = models.by_name.values()
        self._settings = chosen.settings
        self._service = Service(chosen.settings, models)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()
        try:
            self._wait(self._service.start())
        except BaseException:
            self.close()
            raise

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests; each is answered through its response sender when its work has ended."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                copied = self._copied(request)
            except Exception as error:
                self._send_error(sender, error)
                continue
            asyncio.run_coroutine_threadsafe(self._answer(copied, sender), self._loop)

    def close(self) -> None:
        """Let the requests end, for `drain_seconds` at most, and free everything."""
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _stop(self) -> None:
        await self._service.drain()
        await self._service.stop()

    def _copied(self, request: Any) -> _Request:
        tensors = {}
        for name in (*TEXTS, *FILES):
            tensor = self._backend.get_input_tensor_by_name(request, name)
            if tensor is not None:
                elements = tensor.as_numpy().reshape(-1)
                if len(elements) != 1:
                    raise FieldError(name, f"{name} has {len(elements)} elements; expected 1")
                tensors[name] = bytes(elements[0])
        timeout = request.timeout() / 1e6
        return _Request(tensors, json.loads(request.parameters() or "{}"), timeout or None)

    async def _answer(self, request: _Request, sender: Any) -> None:
        """Do a request's work and send its answer, or the error that it ended with."""
        try:
            job = await self._submit(request)
            await self._until_ended(job, sender)
            response = await asyncio.to_thread(self._response, job)
        except Exception as error:
            self._send_error(sender, error)
            return
        self._send(sender, response)

    async def _submit(self, request: _Request) -> Job:
        service = self._service
        place = service.admission.enter()
        try:
            texts = {name.lower(): utf8(name, raw) for name, raw in request.tensors.items() if name in TEXTS}
            files = {name.lower(): raw for name, raw in request.tensors.items() if name in FILES}
            endpoint, asked = read_request(
                self._model.name, self._model.task, texts, files, request.parameters, self._settings.max_steps
            )
            model, work = await service.plan(endpoint, asked, place)
            return service.submit(model, work, asked, place, "", request.timeout)
        except BaseException:
            place.release()
            raise

    async def _until_ended(self, job: Job, sender: Any) -> None:
        """Wait for a job's results; if the client cancels the request, the job is cancelled.

        Raises:
            Exception: the job's own error.
        """
        ended = asyncio.ensure_future(job.wait())
        while not (await asyncio.wait([ended], timeout=_CANCEL_SECONDS))[0]:
            if sender.is_cancelled():
                job.cancel("the client has cancelled the request", "client")
        if job.state != COMPLETED:
            raise job.error or Cancelled("the request was cancelled")

    def _response(self, job: Job) -> Any:
        images = np.array(job.images, dtype=np.object_)
        tensors = [("IMAGE", images), ("SEED", np.array(seeds_of(job), dtype=np.int64))]
        return self._backend.InferenceResponse([self._backend.Tensor(name, value) for name, value in tensors])

    def _send_error(self, sender: Any, error: Exception) -> None:
        kinds = self._backend.TritonError
        refusal = refusal_of(error)
        cancelled = isinstance(error, Cancelled)
        code = kinds.CANCELLED if cancelled else getattr(kinds, _CODES.get(refusal.status, "INTERNAL"))
        self._send(sender, self._backend.InferenceResponse(error=kinds(str(refusal), code)))

    def _send(self, sender: Any, response: Any) -> None:
        try:
            sender.send(response, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # Triton's own exceptions; the client has gone, and the others are to go on
            _log.warning("an answer could not be sent: %s", error)
