"""A Ray cluster of two nodes in processes of this machine, and the application on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from kandinsky_runtime.serving.ray.application import NAME
from kandinsky_runtime.serving.ray.command import CONTROLLER, REPLICA, replica_names
from tests.free_ports import free_ports
from tests.serving.server_process import SIZE

# No reports over the network, no token in the user's folder, and figures for the autoscaling twice a second.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}
# Options of the deployment that are shorter than any operator's.
QUICK = {
    "health_check_period_s": 1,
    "autoscaling_config": {
        "min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1, "upscale_delay_s": 0.5,
        "downscale_delay_s": 2, "look_back_period_s": 2, "metrics_interval_s": 0.5,
    },
}  # fmt: skip
SECONDS = 60  # until something happens, on a busy machine


class TwoNodes:
    """The cluster: a head with two CPUs, and another node with one; a replica takes one.

    Attributes:
        address: for RAY_ADDRESS.
        url: of the proxy on the head, once `start_serve` was called.
    """

    def __init__(self, folder: str) -> None:
        # Ray writes the cluster's address into its usual folder, and does not make it, if `temp_dir` is another one.
        os.environ["RAY_TMPDIR"] = folder
        usual = Path(folder) / "ray"
        usual.mkdir()
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "temp_dir": str(usual), "include_dashboard": False}
        )
        self.address = self._cluster.address
        self.url = ""
        self._other = self._cluster.add_node(num_cpus=1)

    def __enter__(self) -> TwoNodes:
        ray.init(self.address, log_to_driver=False, logging_level="ERROR")
        return self

    def __exit__(self, *_: object) -> None:
        serve.shutdown()
        ray.shutdown()
        self._cluster.shutdown()

    def start_serve(self) -> None:
        """Start Serve, with a proxy on the head."""
        [port] = free_ports(1)
        serve.start(
            http_options=HTTPOptions(host="127.0.0.1", port=port), proxy_location="HeadOnly",
            controller_options=CONTROLLER,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}"

    def deploy(self, bundles: tuple[Path, ...], deployment: dict[str, Any] | None = None, **arguments: Any) -> None:
        """Deploy the application as `serve deploy` does, and wait until it runs."""
        size = f"{SIZE[0]}x{SIZE[1]}"
        given = {"bundles": [str(bundle) for bundle in bundles], "threads": 1, "size": size, "no_auth": True}
        config = {
            "name": NAME,
            "import_path": "kandinsky_runtime.serving.ray:app",
            "args": given | arguments,
            "deployments": [{"name": NAME, **(deployment or {})}],
        }
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [config]}))
        until(lambda: self.status == "RUNNING")

    @property
    def status(self) -> str:
        """The application's status."""
        application = serve.status().applications.get(NAME)
        return "" if application is None else str(application.status.value)

    @property
    def running(self) -> int:
        """The number of replicas that run."""
        return int(serve.status().applications[NAME].deployments[NAME].replica_states.get("RUNNING", 0))

    def replica_of_other_node(self) -> Any:
        """The actor of the replica on the node that is not the head."""

        def node_of(replica: Any) -> str:
            return str(ray.get_runtime_context().get_node_id())

        found = {ray.get(actor.__ray_call__.remote(node_of)): actor for actor in replicas().values()}
        return found[self._other.node_id]

    def kill_node(self) -> None:
        """End the processes of the node that is not the head."""
        self._cluster.remove_node(self._other, allow_graceful=False)

    def replace_node(self) -> None:
        """Add another node after `kill_node`."""
        self._other = self._cluster.add_node(num_cpus=1)


def replicas() -> dict[str, Any]:
    """The actors of all replicas that live, by the names of the replicas."""
    return {name.removeprefix(REPLICA): ray.get_actor(name, namespace="serve") for name in replica_names()}


def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
