"""`k22 serve --ray`: Ray Serve with the application, until a signal ends it."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from types import FrameType

import ray
from ray import serve

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.serving.announcement import announce
from kandinsky_runtime.serving.models import named_bundles, served_task
from kandinsky_runtime.serving.ray.application import LAST_SECONDS, NAME, application
from kandinsky_runtime.serving.ray.arguments import Arguments
from kandinsky_runtime.serving.settings import Settings

# A replica whose step loop is stuck would otherwise keep its CPUs or GPU for the whole drain time.
CONTROLLER = {"runtime_env": {"env_vars": {"RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1"}}}

_POLL_SECONDS = 0.2
_OWN_ERROR = re.compile(r"kandinsky_runtime\.errors\.\w+: ")


def serve_on_ray(arguments: Arguments, settings: Settings) -> int:
    """Start Ray Serve on the cluster of RAY_ADDRESS, or on this machine, and serve until a signal ends it.

    Returns:
        The exit status: 0 after a signal.

    Raises:
        UsageError: an argument is invalid, or a setting cannot be used with Ray.
        Kandinsky22Error: a bundle cannot be used, there is no such cluster, it has Serve already, or a replica cannot
            start.
    """
    if settings.state is not None:
        raise UsageError("--state cannot be used with --ray: a replica's list of jobs would be no other replica's")
    if settings.port == 0:
        raise UsageError("--port 0 cannot be used with --ray: Serve's proxies on all nodes need one port; name it")
    app = application(arguments, settings)
    for folder in named_bundles(arguments.folders).values():
        served_task(Bundle.open(folder))  # its faults are found before anything starts
    try:
        ray.init(include_dashboard=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise Kandinsky22Error(f"the Ray cluster cannot be reached: {error}") from error
    try:
        return _serve(app, arguments, settings)
    finally:
        ray.shutdown()


def _serve(app: serve.Application, arguments: Arguments, settings: Settings) -> int:
    if serve.status().proxies:
        raise Kandinsky22Error(
            "Ray Serve runs on this cluster already, with its own host and port; deploy to it with serve deploy, see"
            " docs/serving.md"
        )
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    serve.start(
        http_options={"host": settings.host, "port": settings.port}, proxy_location="EveryNode",
        controller_options=CONTROLLER,
    )  # fmt: skip
    try:
        if _started(app, stopped):
            announce(named_bundles(arguments.folders), settings.host, settings.port)
            stopped.wait()
    finally:
        for number, handler in before.items():  # a second signal ends at once
            signal.signal(number, handler)
        _drain(settings.drain_seconds)
        serve.shutdown()
    return 0


def _started(app: serve.Application, stopped: threading.Event) -> bool:
    """Start the application and wait until a replica is ready; false if a signal came first.

    Raises:
        Kandinsky22Error: no replica can start.
    """
    serve.run_many([serve.RunTarget(app, name=NAME)], wait_for_applications_running=False)
    while not stopped.wait(_POLL_SECONDS):
        state = serve.status().applications[NAME]
        if state.status == "RUNNING":
            return True
        if state.status == "DEPLOY_FAILED":
            raise Kandinsky22Error(f"no replica can start: {reason(state.deployments[NAME].message)}")
    return False


def reason(message: str) -> str:
    """The error of ours in Serve's message about a failed start; the whole message if it has none."""
    *_, last = _OWN_ERROR.split(message)
    return last.strip()


def _drain(seconds: float) -> None:
    """Delete the application, and wait until its last requests have ended."""
    serve.delete(NAME, _blocking=False)
    end = time.monotonic() + seconds + LAST_SECONDS
    while NAME in serve.status().applications and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
