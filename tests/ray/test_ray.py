"""The application on a real Ray cluster of two nodes, with OpenAI's own client.

The first tests are about `k22 serve --ray` with one replica, the others about what `serve deploy` starts.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

pytest.importorskip("ray", reason="Ray Serve is not installed: pip install '.[ray]'")

import ray

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.serving.jobs import replica_of
from kandinsky_runtime.serving.ray.application import RETRY_SECONDS
from tests.free_ports import free_ports
from tests.ray.ray_cluster import QUICK, SECONDS, TwoNodes, replicas, until
from tests.served_bundles import Bundles
from tests.serving.server_process import Server, mask, picture, pixels, png

# Its successor, an environment variable, is set as well; Serve compares other options with this one.
pytestmark = pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")

STEPS = {"num_inference_steps": 4, "seed": 7}
LONG = {"num_inference_steps": 250, "seed": 1}
MOST = 2  # requests of a replica


@pytest.fixture(scope="module")
def command(nodes: TwoNodes, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`k22 serve --ray` on the cluster, with one replica."""
    flags = ("--ray", "--port", str(*free_ports(1)), "--max-jobs", str(MOST))
    environment = {"RAY_ADDRESS": nodes.address}
    folder = tmp_path_factory.mktemp("command")
    with Server(bundles.inpaint, bundles.plain, folder=folder, flags=flags, env=environment) as made:
        yield made


@pytest.fixture(scope="module")
def deployed(nodes: TwoNodes, bundles: Bundles) -> TwoNodes:
    """The application as `serve deploy` starts it, with 1 to 3 replicas that come and go within seconds."""
    nodes.start_serve()
    nodes.deploy((bundles.inpaint,), QUICK)
    return nodes


@pytest.fixture
def client(command: Server) -> openai.OpenAI:
    return client_of(command)


def client_of(server: Server | TwoNodes, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", **{"max_retries": 0} | options)


def edit(client: openai.OpenAI, **changes: Any) -> Any:
    sound: dict[str, Any] = {"image": png(picture()), "mask": png(mask()), "prompt": "a hat", "extra_body": STEPS}
    return client.images.edit(**sound | changes)


def content(item: Any) -> bytes:
    return base64.b64decode(item.b64_json)


def post(url: str, path: str = "/v1/images/edits", headers: dict[str, str] | None = None, **fields: Any) -> Any:
    files = {"image": png(picture()), "mask": png(mask())}
    data = {"prompt": "a hat", "num_inference_steps": "4", "seed": "7"} | {k: str(v) for k, v in fields.items()}
    return httpx.post(url + path, data=data, files=files, headers=headers, timeout=60)


def figure(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_pictures_are_the_pipelines(
    client: openai.OpenAI, inpaint: InpaintPipeline, generate: GeneratePipeline
) -> None:
    result = edit(client, n=2)
    expected = inpaint("a hat", image=picture(), mask_image=mask(), num_images_per_prompt=2, **STEPS)
    for item, image in zip(result.data, expected.images, strict=True):
        np.testing.assert_array_equal(pixels(content(item)), np.asarray(image))
    made = client.images.generate(model="plain", prompt="a cat", size="96x64", extra_body=STEPS)
    np.testing.assert_array_equal(
        pixels(content(made.data[0])), np.asarray(generate("a cat", width=96, height=64, **STEPS).images[0])
    )
    events = list(edit(client, stream=True, partial_images=2))
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert content(events[-1]) == content(edit(client).data[0])


def test_answers_are_those_of_k22_serve(command: Server, bundles: Bundles, tmp_path: Path) -> None:
    """Every kind of answer, with its status, the names of its headers, and its body."""
    identified = {"X-Request-Id": "r-1"}
    with Server(bundles.inpaint, bundles.plain, folder=tmp_path) as alone:

        def same(ask: Callable[[str], httpx.Response], body: bool = True) -> int:
            one, other = ask(alone.url), ask(command.url)
            assert one.status_code == other.status_code
            assert not body or one.text == other.text
            names = [sorted(set(answer.headers) - {"server"}) for answer in (one, other)]
            assert names[0] == names[1]
            assert other.headers.get_list("x-request-id") == ["r-1"]
            return other.status_code

        for path in ("/", "/openapi.json", "/livez", "/readyz", "/v1/models", "/v1/models/none", "/nothing", "/v2"):
            same(lambda url, path=path: httpx.get(url + path, headers=identified))
        for fields in ({"seed": "x"}, {"steps": 4}, {"model": "gpt-image-1"}, {"n": 11}):
            assert same(lambda url, fields=fields: post(url, headers=identified, **fields)) == 400
        hurried = identified | {"X-Stainless-Read-Timeout": "0.001"}
        assert same(lambda url: post(url, headers=hurried, num_inference_steps=250), body=False) == 503
        assert same(lambda url: httpx.post(f"{url}/v1/images/edits", json={"prompt": 7}, headers=identified)) == 400
        assert same(lambda url: httpx.get(f"{url}/v1/jobs/job_none", headers=identified)) == 404
        foreign = identified | {"Origin": "http://evil.example"}
        assert same(lambda url: httpx.get(url, headers=foreign)) == 403


def test_a_client_that_goes_cancels_its_work(command: Server) -> None:
    cancelled = 'k22_requests_cancelled_total{reason="disconnect"}'
    before = figure(command.url, cancelled)
    for stream in (False, True):
        timeout = httpx.Timeout(5, read=0.7)
        impatient = client_of(command, timeout=timeout)
        patience = {"X-Stainless-Read-Timeout": "600"}
        with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):
            list(edit(impatient, n=10, stream=stream, extra_headers=patience, extra_body=LONG))
        before += 1
        until(lambda: figure(command.url, cancelled) == before)  # noqa: B023
        assert figure(command.url, "k22_requests_running") == 0
        steps = figure(command.url, "k22_step_duration_seconds_count")
        assert steps < 2500
        time.sleep(0.2)
        assert figure(command.url, "k22_step_duration_seconds_count") == steps


def test_what_finds_no_room_is_told_when_to_try_again(command: Server) -> None:
    """A replica takes some requests, the proxy keeps twice as many, and refuses the others."""
    many = 16 * MOST  # so that a quick machine does not end the first ones before the last ones come
    with ThreadPoolExecutor(many) as pool:
        answers = list(pool.map(lambda _: post(command.url, num_inference_steps=150), range(many)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(answers) - len(refused) >= 2 * MOST
    assert {answer.headers["retry-after"] for answer in refused} == {str(RETRY_SECONDS)}


def test_serve_that_runs_already_is_left_alone(
    command: Server, nodes: TwoNodes, bundles: Bundles, tmp_path: Path
) -> None:
    flags, environment = ("--ray", "--port", str(*free_ports(1))), {"RAY_ADDRESS": nodes.address}
    with Server(bundles.inpaint, folder=tmp_path, flags=flags, env=environment, wait=False) as second:
        assert second.process.wait(SECONDS) == 1
        assert second.errors.splitlines()[-1].startswith("k22: error: Ray Serve runs on this cluster already")


def test_sigterm_lets_requests_end(command: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, command.url, num_inference_steps=250)
        until(lambda: figure(command.url, "k22_requests_running") == 1)
        assert command.stop(seconds=SECONDS) == 0
        assert answer.result().status_code == 200
    assert not replicas()


def test_sigterm_does_not_wait_for_a_replica_without_a_node(nodes: TwoNodes, bundles: Bundles, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code = "import sys; from kandinsky_runtime.cli import main; sys.exit(main())"
    flags = ["--ray", "--port", str(*free_ports(1)), "--threads", "64"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(bundles.inpaint), *flags],
            stdout=output, stderr=output, env=os.environ | {"RAY_ADDRESS": nodes.address},
        )  # fmt: skip
    try:
        until(lambda: "Adding 1 replica" in log.read_text())
        assert "the cluster has room for 0 of 1 replicas" in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait(10)


def test_a_killed_replica_costs_one_retry(deployed: TwoNodes) -> None:
    errors: list[Exception] = []
    pictures: list[Any] = []

    def ask(asked: openai.OpenAI) -> None:
        try:
            pictures.append(edit(asked, n=4, extra_body={"num_inference_steps": 100, "seed": 1}))
        except Exception as error:
            errors.append(error)

    before = set(replicas())
    threads = [
        threading.Thread(target=ask, args=(asked,))
        for asked in (client_of(deployed), client_of(deployed, max_retries=2))
    ]
    for thread in threads:
        thread.start()
    until(lambda: figure(deployed.url, "k22_requests_running") >= 1)
    for actor in replicas().values():
        ray.kill(actor)
    for thread in threads:
        thread.join()
    assert len(pictures) == 1, "the client that retries has its picture"
    assert isinstance(errors[0], openai.InternalServerError | openai.APIConnectionError)
    assert "x-should-retry" not in getattr(getattr(errors[0], "response", None), "headers", {})
    assert not before & set(replicas())


def stops_at_once(controller: Any) -> bool:
    """Whether the controller stops unhealthy replicas without waiting for their requests; runs there."""
    from ray.serve._private.deployment_state import DeploymentState

    return DeploymentState.FORCE_STOP_UNHEALTHY_REPLICAS


def test_a_replica_whose_step_loop_has_ended_is_replaced(deployed: TwoNodes) -> None:
    name, actor = next(iter(replicas().items()))
    ray.get(actor.check_health.remote())

    def end_loop(replica: Any) -> str:
        """End it, and return what Ray's next check will be told; the check may come, and kill, at any time after."""
        application = replica._replica_impl._user_callable_wrapper._callable
        application._service.loop.close()
        try:
            application.check_health().send(None)
        except RuntimeError as error:
            return str(error)
        return "healthy"

    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    assert ray.get(controller.__ray_call__.remote(stops_at_once)), "a stuck replica's requests would never end"
    assert "the step loop has ended" in ray.get(actor.__ray_call__.remote(end_loop))
    until(lambda: name not in replicas() and deployed.running == 1)
    assert edit(client_of(deployed)).data


def test_replicas_come_and_go_under_load(deployed: TwoNodes) -> None:
    """1 → 3 → 1 without a request that fails."""
    statuses: list[int] = []
    busy, idle = threading.Event(), threading.Event()

    def ask(until_idle: bool) -> None:
        while not (idle if until_idle else busy).is_set():
            statuses.append(post(deployed.url, num_inference_steps=50).status_code)

    threads = [threading.Thread(target=ask, args=(number == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: deployed.running == 3)
    finally:
        busy.set()
    try:
        until(lambda: deployed.running == 1 and len(replicas()) == 1)
    finally:
        idle.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 10
    assert set(statuses) == {200}


@pytest.fixture(scope="module")
def three(deployed: TwoNodes, bundles: Bundles) -> TwoNodes:
    """The same with three replicas all the time."""
    deployed.deploy((bundles.inpaint,), QUICK | {"autoscaling_config": {"min_replicas": 3, "max_replicas": 3}})
    until(lambda: deployed.running == 3)
    return deployed


def test_a_job_is_found_from_everywhere(three: TwoNodes, inpaint: InpaintPipeline) -> None:
    made = [post(three.url, "/v1/jobs/edits", num_inference_steps=50) for _ in range(8)]
    assert {answer.status_code for answer in made} == {202}
    owners = {replica_of(answer.json()["id"]) for answer in made}
    assert 1 < len(owners) <= 3
    assert owners <= set(replicas())
    expected = np.asarray(
        inpaint("a hat", image=picture(), mask_image=mask(), num_inference_steps=50, seed=7).images[0]
    )
    for answer in made:
        place = three.url + answer.headers["location"]
        until(lambda: httpx.get(place).json()["status"] == "completed")  # noqa: B023
        np.testing.assert_array_equal(pixels(httpx.get(f"{place}/images/0").content), expected)
        assert "event: completed" in httpx.get(f"{place}/events").text
        assert httpx.delete(place).status_code == 204
        assert httpx.get(place).json()["error"]["code"] == "job_expired"


def test_jobs_of_other_replicas(three: TwoNodes) -> None:
    lost = httpx.get(f"{three.url}/v1/jobs/job_gone1234.abc")
    assert (lost.status_code, lost.json()["error"]["code"]) == (410, "job_lost")
    assert httpx.get(f"{three.url}/v1/jobs/job_none").status_code == 404
    every = httpx.get(f"{three.url}/v1/jobs")
    assert (every.status_code, every.json()["error"]["code"]) == (501, "not_available")


def test_ray_counts_a_job(three: TwoNodes) -> None:
    job = post(three.url, "/v1/jobs/edits", num_inference_steps=250, n=10).json()["id"]
    actor = replicas()[replica_of(job)]
    until(lambda: ray.get(actor.get_num_ongoing_requests.remote()) == 1)
    assert httpx.delete(f"{three.url}/v1/jobs/{job}").json()["status"] == "cancelled"
    until(lambda: ray.get(actor.get_num_ongoing_requests.remote()) == 0)


def test_requests_of_one_key_are_done_once(three: TwoNodes) -> None:
    for key in ("first", "second"):
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(post, three.url, headers={"Idempotency-Key": key}) for _ in range(6)]
        assert len({answer.result().headers["x-k22-job"] for answer in asked}) == 1


def test_a_node_that_dies_costs_its_clients_a_retry(three: TwoNodes) -> None:
    """The last test: the node does not come back."""
    patient = client_of(three, max_retries=2)
    actor = three.replica_of_other_node()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(edit, patient, n=4, extra_body={"num_inference_steps": 100, "seed": 1}) for _ in range(6)]
        until(lambda: ray.get(actor.get_num_ongoing_requests.remote()) > 0)
        three.kill_node()
        pictures = {content(item) for answer in asked for item in answer.result().data}
    assert len(pictures) == 4
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.check_health.remote())
