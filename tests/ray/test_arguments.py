"""What the application and `k22 serve --ray` take and refuse, and what Ray is asked for; without a cluster."""

from __future__ import annotations

import asyncio
import pickle
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("ray", reason="Ray Serve is not installed: pip install '.[ray]'")

import ray
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.common import StreamingHTTPRequest
from ray.serve.schema import ServeDeploySchema

from kandinsky_runtime.cli import main
from kandinsky_runtime.decoder.load_options import LoadOptions
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.ray import app
from kandinsky_runtime.serving.ray.application import LAST_SECONDS, NAME, RETRY_SECONDS, Replica
from kandinsky_runtime.serving.ray.arguments import MAX_JOBS, Arguments
from kandinsky_runtime.serving.ray.command import reason, room_warning
from kandinsky_runtime.serving.ray.router import chosen_replica
from kandinsky_runtime.serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SOUND = {"bundles": ["/bundles/inpaint"], "threads": 2, "no_auth": True}


def config_of(**arguments: Any) -> Any:
    """The configuration of the deployment, as Serve makes it from the arguments of a file."""
    return call_user_app_builder_with_args_if_necessary(app, SOUND | arguments)._bound_deployment._deployment_config


def test_the_options_of_opening_a_bundle_have_their_defaults() -> None:
    assert Arguments(bundles=["/bundles/inpaint"]).load == {**asdict(LoadOptions()), "progress": False}


def test_what_ray_is_asked_for() -> None:
    config = config_of(max_replicas=4, share_steps=3, drain_seconds=100)
    assert config.max_ongoing_requests == MAX_JOBS
    assert config.max_queued_requests == 2 * MAX_JOBS * 4
    assert (config.backpressure_config.status_code, config.backpressure_config.retry_after_s) == (503, RETRY_SECONDS)
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 4, 3)
    assert config.graceful_shutdown_timeout_s == 100 + LAST_SECONDS
    assert config_of(min_replicas=2).autoscaling_config.max_replicas == 2
    assert config_of().autoscaling_config.target_ongoing_requests == 1


def test_a_replica_reserves_its_threads_or_its_gpu() -> None:
    def reserved(**arguments: Any) -> tuple[float, float]:
        options = app(Arguments(**SOUND | arguments))._bound_deployment.ray_actor_options
        return options["num_cpus"], options.get("num_gpus", 0)

    assert reserved() == (2, 0)
    assert reserved(threads=None, device="cuda") == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "room"),
    [
        ({"threads": 2, "min_replicas": 3}, None),  # two on the first node, one on the second
        ({"threads": 2, "min_replicas": 4}, "room for 3 of 4 replicas, each with 2 CPU on one node"),
        ({"threads": 8}, "room for 0 of 1 replicas, each with 8 CPU on one node"),
        ({"device": "cuda", "threads": 1}, None),
        ({"device": "cuda", "threads": 4, "min_replicas": 2}, "room for 1 of 2 replicas, each with 4 CPU, 1 GPU"),
    ],
)
def test_a_cluster_without_room_is_named(arguments: dict[str, Any], room: str | None) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 5.0, "memory": 1e9}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    if "device" in arguments:
        nodes.append({"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}})
    warning = room_warning(Arguments(**SOUND | arguments), nodes)
    assert warning is None if room is None else room in str(warning)


def test_arguments_of_a_command_line_are_texts() -> None:
    texts = {"bundles": "a=/b/a,c=/b/c", "threads": "2", "no_auth": "true", "size": "64x96,128x64", "max_jobs": "4"}
    arguments = Arguments(**texts)
    arguments.check()
    assert arguments.folders == ["a=/b/a", "c=/b/c"]
    assert arguments.load["threads"] == 2
    assert (arguments.settings().sizes, arguments.settings().max_jobs) == (((64, 96), (128, 64)), 4)
    assert Arguments(**SOUND).settings().max_jobs == MAX_JOBS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundles": []}, "bundles is empty"),
        ({"bundles": "bundle"}, "expected an absolute path"),
        ({"bundles": "/a/x,/b/x"}, "two bundles are called x"),
        ({"threads": None}, "threads is missing; give the CPUs of a replica"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
        ({"device": "cuda:1"}, "Ray gives each replica its own GPU: write cuda"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is 2, and min_replicas 3"),
        ({"no_auth": False}, "give keys, a file of API keys on every node, or no_auth: true"),
        ({"state": "/var"}, "state cannot be used with Ray"),
        ({"host": "0.0.0.0"}, "host cannot be used with Ray: Serve's proxies listen"),
        ({"port": 80}, "port cannot be used with Ray"),
        ({"max_job": 2}, "there is no argument max_job; the arguments are bundles, engine"),
        ({"max_jobs": 0}, "max_jobs"),
        ({"size": "1x1"}, "the arguments of the application: size is '1x1'"),
    ],
)
def test_arguments_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        app(Arguments(**SOUND | changes))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--ray", "threads is missing"),
        ("--ray --threads 1 --state state", "--state cannot be used with --ray"),
        ("--ray --threads 1 --port 0", "--port 0 cannot be used with --ray"),
        ("--ray --threads 1 --host 0.0.0.0", "give --keys F with API keys, or --no-auth"),
        ("--replicas 2", "--replicas is for --ray"),
    ],
)
def test_flags_that_are_refused(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "bundle", *flags.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_bundle_that_is_none_is_found_before_ray_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "none"), "--ray", "--threads", "1"]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not ray.is_initialized()


def test_why_no_replica_can_start() -> None:
    traceback = "Traceback …\nkandinsky_runtime.errors.EngineUnavailable: no engine\n\nTraceback …\n"
    message = (
        f"The deployment failed to start 3 times in a row. {traceback}kandinsky_runtime.errors.UsageError: a key\n"
    )
    assert reason(message) == "a key"
    assert reason("something else") == "something else"


@pytest.mark.parametrize("text", ["0", "2:1", "a", "1:", "-1"])
def test_replicas_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "bundle", "--ray", f"--replicas={text}"])
    assert "is not a number of replicas such as 2, or a range such as 1:4" in capsys.readouterr().err


def pending(path: str = "/", headers: dict[str, str] | None = None) -> Any:
    """A request as a proxy hands it to the router."""
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    sent = StreamingHTTPRequest({"path": path, "headers": raw}, proxy_actor_name="proxy")
    return SimpleNamespace(args=[pickle.dumps(sent)], metadata=SimpleNamespace(is_http_request=True))


def test_the_replica_of_a_request() -> None:
    names = ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
    assert chosen_replica(pending("/v1/jobs/job_bbbbbbbb.x/events"), names) == "bbbbbbbb"
    for path in ("/v1/jobs/job_gone1234.x", "/v1/jobs/edits", "/v1/jobs/none", "/v1/images/edits", "/"):
        assert chosen_replica(pending(path), names) is None
    by_key = [chosen_replica(pending(headers={"idempotency-key": f"k{n}"}), names) for n in range(50)]
    assert set(by_key) == set(names)
    again = [chosen_replica(pending(headers={"idempotency-key": f"k{n}"}), [*names[::-1], "new"]) for n in range(50)]
    assert all(new in (old, "new") for old, new in zip(by_key, again, strict=True)), "few keys move"
    call = SimpleNamespace(args=["job_cccccccc.x", ""], metadata=SimpleNamespace(is_http_request=False))
    assert chosen_replica(call, names) == "cccccccc"


def test_a_stuck_step_loop_is_unhealthy() -> None:
    replica = Replica([], {}, Settings(), quiet=True)
    replica._service = SimpleNamespace(stuck=None)
    asyncio.run(replica.check_health())
    replica._service = SimpleNamespace(stuck="a unit of work has taken more than 60 s")
    with pytest.raises(RuntimeError, match="more than 60 s"):
        asyncio.run(replica.check_health())


def test_haproxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(UsageError, match="would not find the replica of a job"):
        asyncio.run(Replica([], {}, Settings(), quiet=True).__serve_build_asgi_app__())


def test_the_manifest_agrees_with_the_application() -> None:
    """docs/deployment/ray-service.yaml: what Serve and the application take, and grace periods that match."""
    (_, resource) = yaml.safe_load_all((ROOT / "docs/deployment/ray-service.yaml").read_text())
    config = yaml.safe_load(resource["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(config).applications
    arguments = Arguments(**application.args)
    assert application.import_path == f"{app.__module__.rpartition('.')[0]}:{app.__name__}"
    assert {deployment.name for deployment in application.deployments} <= {NAME}
    deployment = app(arguments)._bound_deployment
    cluster = resource["spec"]["rayClusterConfig"]
    versions = (ROOT / "scripts/constraints/ray.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in versions
    workers = cluster["workerGroupSpecs"][0]["template"]["spec"]
    period = workers["terminationGracePeriodSeconds"]
    assert period > deployment._deployment_config.graceful_shutdown_timeout_s
    limits = workers["containers"][0]["resources"]["limits"]
    assert int(limits["cpu"]) % deployment.ray_actor_options["num_cpus"] == 0
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS", "value": "1"} in head["env"]


def test_without_ray_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from kandinsky_runtime.cli import main\n"
        "sys.exit(main(['serve', 'bundle', '--ray', '--threads', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "ray is not installed: pip install 'kandinsky22-deploy[ray]'" in done.stderr
