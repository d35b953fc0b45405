"""`k22 serve --ray`: Ray Serve with the application, until a signal ends it."""

from __future__ import annotations

import logging
import re
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.context import _get_global_client

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.serving.announcement import announce
from kandinsky_runtime.serving.models import named_bundles, served_task
from kandinsky_runtime.serving.ray.application import LAST_SECONDS, NAME, application, reserved
from kandinsky_runtime.serving.ray.arguments import Arguments
from kandinsky_runtime.serving.settings import Settings

# A replica whose step loop is stuck would otherwise keep its CPUs or GPU for the whole drain time.
CONTROLLER = {"runtime_env": {"env_vars": {"RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1"}}}

REPLICA = f"SERVE_REPLICA::{NAME}#{NAME}#"

_POLL_SECONDS = 0.2
_OWN_ERROR = re.compile(r"kandinsky_runtime\.errors\.\w+: ")

_log = logging.getLogger(__name__)


def serve_on_ray(arguments: Arguments, settings: Settings) -> int:
    """Start Ray Serve on the cluster of RAY_ADDRESS or of this machine, and serve until a signal ends it.

    A cluster is started on this machine if there is none.

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
        raise Kandinsky22Error(
            f"the Ray cluster cannot be reached: {error}; if it asks for a token, set RAY_AUTH_MODE=token"
        ) from error
    try:
        if warning := room_warning(arguments, ray.nodes()):
            _log.warning(warning)
        return _serve(app, arguments, settings)
    finally:
        ray.shutdown()


def _serve(app: serve.Application, arguments: Arguments, settings: Settings) -> int:
    if serve.status().proxies:
        raise Kandinsky22Error(
            "Ray Serve runs on this cluster already, with its own host and port; deploy to it with serve deploy, see"
            " docs/platforms.md"
        )
    stopped: list[int] = []  # no event: a handler could wait for the lock that the thread it interrupts holds

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    serve.start(
        http_options={"host": settings.host, "port": settings.port}, proxy_location="EveryNode",
        controller_options=CONTROLLER,
    )  # fmt: skip
    try:
        if _started(app, stopped):
            announce(named_bundles(arguments.folders), settings.host, settings.port)
            while not stopped:
                time.sleep(_POLL_SECONDS)
    finally:
        for number, handler in before.items():  # a second signal ends at once
            signal.signal(number, handler)
        _drain(settings.drain_seconds)
        serve.shutdown()
    return 0


def _started(app: serve.Application, stopped: list[int]) -> bool:
    """Start the application and wait until a replica is ready; false if a signal came first.

    Args:
        stopped: the signals that came.

    Raises:
        Kandinsky22Error: no replica can start.
    """
    serve.run_many([serve.RunTarget(app, name=NAME)], wait_for_applications_running=False)
    while not stopped:
        state = serve.status().applications[NAME]
        if state.status == "RUNNING":
            return True
        if state.status == "DEPLOY_FAILED":
            raise Kandinsky22Error(f"no replica can start: {reason(state.deployments[NAME].message)}")
        time.sleep(_POLL_SECONDS)
    return False


def room_warning(arguments: Arguments, nodes: list[dict[str, Any]]) -> str | None:
    """What to say if the cluster has no room for the fewest replicas; None if it has.

    It is no error: an autoscaler may add nodes.

    Args:
        nodes: the cluster's nodes, from `ray.nodes()`.
    """
    wanted = reserved(arguments)
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    room = sum(min(int(node.get(name, 0) // count) for name, count in wanted.items() if count) for node in resources)
    if room >= arguments.min_replicas:
        return None
    of_each = ", ".join(f"{count} {name}" for name, count in wanted.items() if count)
    return (
        f"the cluster has room for {room} of {arguments.min_replicas} replicas, each with {of_each} on one node;"
        " waiting for more nodes. If none will come, give fewer --threads or --replicas"
    )


def reason(message: str) -> str:
    """The error of ours in Serve's message about a failed start; the whole message if it has none."""
    *_, last = _OWN_ERROR.split(message)
    return last.strip()


def _drain(seconds: float) -> None:
    """Delete the application, and wait until its last requests have ended.

    A replica that was never ready has none, and is killed. Serve would ask it to end, and if it waits for a node, Serve
    would wait for its answer as long as for the longest request.
    """
    ready = _ready_replicas()
    serve.delete(NAME, _blocking=False)
    end = time.monotonic() + seconds + LAST_SECONDS
    while (application := serve.status().applications.get(NAME)) and time.monotonic() < end:
        if application.status == "DELETING":  # Serve no longer replaces what dies
            # Ray is asked each time: Serve reports no replicas now, and may still have been making one before.
            for name in replica_names() - ready:
                with suppress(ValueError):  # it has gone already
                    ray.kill(ray.get_actor(name, namespace=SERVE_NAMESPACE))
        time.sleep(_POLL_SECONDS)


def replica_names() -> set[str]:
    """The names of the actors of the application's replicas: `REPLICA`, and Serve's name of the replica."""
    names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    return {name for name in names if name.startswith(REPLICA)}


def _ready_replicas() -> set[str]:
    """The names of the actors of the replicas that have been ready."""
    application = _get_global_client().get_serve_details()["applications"].get(NAME, {"deployments": {}})
    found = [replica for deployment in application["deployments"].values() for replica in deployment["replicas"]]
    return {replica["actor_name"] for replica in found if replica["state"] != "STARTING"}
