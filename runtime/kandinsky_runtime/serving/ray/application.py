"""The application: the same ASGI application as `k22 serve`, in replicas that have a step loop each."""

# Without `from __future__ import annotations`: Ray reads the class of the builder's argument from its signature.
import asyncio
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.app import make_app
from kandinsky_runtime.serving.jobs import Job
from kandinsky_runtime.serving.logs import set_up_logs
from kandinsky_runtime.serving.models import Models
from kandinsky_runtime.serving.ray.arguments import Arguments
from kandinsky_runtime.serving.ray.router import JobRouter
from kandinsky_runtime.serving.security import Keys
from kandinsky_runtime.serving.service import Service
from kandinsky_runtime.serving.settings import Settings
from kandinsky_runtime.serving.tracing import set_up_tracing

NAME = "k22"
RETRY_SECONDS = 30  # in the Retry-After of a proxy, which cannot know when a picture is done
LAST_SECONDS = 10  # for freeing everything after the last request has ended
_IN_FLIGHT_ON_GPU = 2  # one that is worked on and one that waits, if share_steps is measured on the replica

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"

_log = logging.getLogger(__name__)


class Replica:
    """The server on one replica."""

    def __init__(self, bundles: list[str], load: dict[str, Any], settings: Settings, quiet: bool) -> None:
        self._bundles, self._load, self._settings, self._quiet = bundles, load, settings, quiet
        self._counting: set[asyncio.Task[None]] = set()

    async def __serve_build_asgi_app__(self) -> Starlette:
        """Open the bundles and warm up; called by Ray after `__init__`.

        Raises:
            Kandinsky22Error: a bundle, the keys, the engine or Serve's mode of operation cannot be used.
        """
        if os.environ.get(_HAPROXY, "0") != "0":
            raise UsageError(f"{_HAPROXY} is set; HAProxy would not find the replica of a job: unset it on all nodes")
        settings, context = self._settings, serve.get_replica_context()
        set_up_logs(settings, quiet=self._quiet)
        keys = Keys(None if settings.keys is None else Path(settings.keys))
        models = await asyncio.to_thread(partial(Models.load, self._bundles, **self._load))
        self._handle = serve.get_deployment_handle(context.deployment, context.app_name)
        self._service = Service(settings, models, replica=context.replica_tag)
        self._service.on_detached = self._count_job
        await self._service.start()
        return make_app(self._service, keys, tracing=set_up_tracing())

    async def check_health(self) -> None:
        """Called by Ray every few seconds.

        Raises:
            RuntimeError: the step loop is stuck or has ended; Ray replaces the replica.
        """
        stuck = self._service.stuck
        if stuck is not None:
            raise RuntimeError(stuck)

    async def until_ended(self, job: str, owner: str) -> None:
        """Wait for the end of an owner's job, by its id."""
        found = self._service.store.find(owner, job)
        if isinstance(found, Job):
            await found.wait()

    def _count_job(self, job: Job) -> None:
        """Let Ray count a job as a request, so that it scales with jobs."""
        task = asyncio.ensure_future(self._counted(job))
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def _counted(self, job: Job) -> None:
        try:
            await self._handle.until_ended.remote(job.id, job.owner)
        except (RayError, RayServeException) as error:
            _log.warning("Ray does not count the job %s: %s", job.id, error)


def app(args: Arguments) -> serve.Application:
    """The application of `serve run` and `serve deploy`.

    Raises:
        UsageError: an argument is invalid.
    """
    return application(args, args.settings())


def application(arguments: Arguments, settings: Settings) -> serve.Application:
    """The application with settings that were read already.

    Raises:
        UsageError: an argument is invalid.
    """
    arguments.check()
    most = arguments.max_replicas or arguments.min_replicas
    resources = reserved(arguments)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        ray_actor_options={"num_cpus": resources["CPU"], "num_gpus": resources["GPU"]},
        max_ongoing_requests=settings.max_jobs,
        max_queued_requests=2 * settings.max_jobs * most,  # those on their way to a free replica count as well
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_SECONDS),
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=most,
            target_ongoing_requests=in_flight(arguments, settings),
        ),
        graceful_shutdown_timeout_s=settings.drain_seconds + LAST_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class=JobRouter),
        logging_config={"enable_access_log": False},  # the server logs its requests itself
    )
    return deployment.bind(arguments.folders, arguments.load, settings, arguments.quiet)


def reserved(arguments: Arguments) -> dict[str, int]:
    """What Ray reserves for a replica, by Ray's names of resources."""
    return {"CPU": arguments.threads or 1, "GPU": int(arguments.on_gpu)}


def in_flight(arguments: Arguments, settings: Settings) -> int:
    """The requests that keep a replica busy: those that may share a step."""
    if isinstance(settings.share_steps, int):
        return settings.share_steps
    return _IN_FLIGHT_ON_GPU if arguments.on_gpu else 1
