"""Jobs: made, watched, cancelled, kept for a while, and lost in a crash; and requests that are sent twice."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, pixels, png

QUICK = {"prompt": "a hat", "num_inference_steps": "4", "seed": "7"}
LONG = {"prompt": "a hat", "num_inference_steps": "250", "seed": "7", "n": "10"}


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def files() -> dict[str, bytes]:
    return {"image": png(picture()), "mask": png(mask())}


def make(http: httpx.Client, fields: dict[str, str] = QUICK, **options: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs/edits", data=fields, files=files(), **options)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


def wait(http: httpx.Client, job: dict[str, Any], *states: str, seconds: float = 60) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = http.get(f"/v1/jobs/{job['id']}").json()
        if found["status"] in states:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def events(http: httpx.Client, job: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    with http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    blocks = [block.split("\n") for block in text.split("\n\n") if block and not block.startswith(":")]
    return [(name[len("event: ") :], json.loads(data[len("data: ") :])) for name, data in blocks]


def test_a_job_from_beginning_to_end(http: httpx.Client, inpaint: InpaintPipeline) -> None:
    job = make(http, QUICK | {"partial_images": "2"})
    assert (job["object"], job["model"], job["steps"]) == ("job", "inpaint", 4)
    seen = events(http, job)
    names = [name for name, _ in seen]
    assert names[-1] == "completed"
    assert set(names) <= {"progress", "preview", "completed"}
    steps = [data["steps_done"] for name, data in seen if name == "progress"]
    assert steps == sorted(steps)
    done = wait(http, job, "completed")
    assert (done["steps_done"], done["images"], done["queue_position"]) == (4, 1, 0)
    assert done["k22"]["seeds"] == [7]
    answer = http.get(f"/v1/jobs/{job['id']}/images/0")
    assert answer.headers["content-type"] == "image/png"
    expected = inpaint("a hat", image=picture(), mask_image=mask(), num_inference_steps=4, seed=7).images[0]
    np.testing.assert_array_equal(pixels(answer.content), np.asarray(expected))
    whole = http.get(f"/v1/jobs/{job['id']}", params={"pictures": "true"}).json()
    assert len(whole["data"]) == 1
    assert done["previews"] == 2
    assert pixels(http.get(f"/v1/jobs/{job['id']}/previews/1").content).shape == (64, 96, 3)
    assert http.get(f"/v1/jobs/{job['id']}/images/1").status_code == 404
    assert job["id"] in [found["id"] for found in http.get("/v1/jobs").json()["data"]]
    assert http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert http.get(f"/v1/jobs/{job['id']}").status_code == 410


def test_a_job_is_cancelled_within_a_step(http: httpx.Client) -> None:
    job = make(http, LONG)
    waiting = make(http, LONG | {"seed": "8"})
    wait(http, job, "running")
    assert wait(http, waiting, "queued", "running")["queue_position"] in (0, 1)
    cancelled = http.delete(f"/v1/jobs/{job['id']}").json()
    assert cancelled["status"] == "cancelled"
    assert cancelled["steps_done"] < 250
    assert cancelled["error"]["message"] == "the client cancelled the job"
    assert [name for name, _ in events(http, job)] == ["cancelled"]
    assert http.get(f"/v1/jobs/{job['id']}/images/0").status_code == 409
    assert http.delete(f"/v1/jobs/{waiting['id']}").json()["status"] == "cancelled"


def test_a_watcher_that_goes_cancels_nothing(http: httpx.Client) -> None:
    job = make(http, QUICK | {"num_inference_steps": "40"})
    with http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        next(answer.iter_text())
    assert wait(http, job, "completed", "cancelled", "failed")["status"] == "completed"


def test_jobs_that_there_are_not(http: httpx.Client) -> None:
    for path in ("", "/events", "/images/0", "/previews/0"):
        answer = http.get(f"/v1/jobs/job_unknown{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "job_not_found"
    assert http.delete("/v1/jobs/job_unknown").status_code == 404
    refused = http.post("/v1/jobs/edits", data=QUICK | {"stream": "true"}, files=files())
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "stream"


def test_the_methods_and_queries_of_a_job(http: httpx.Client) -> None:
    job = make(http, LONG)
    path = f"/v1/jobs/{job['id']}"
    begun = time.monotonic()
    head = http.head(f"{path}/events", timeout=5)
    assert time.monotonic() - begun < 5
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert wait(http, job, "queued", "running")["steps_done"] < 250
    refused = http.put(path)
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
    http.delete(path)
    done = make(http)
    wait(http, done, "completed")
    path = f"/v1/jobs/{done['id']}"
    for text, sent in (("1", True), ("true", True), ("True", True), ("0", False), ("false", False)):
        assert ("data" in http.get(path, params={"pictures": text}).json()) == sent
    refused = http.get(path, params={"pictures": "maybe"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "pictures")


def test_one_idempotency_key_is_one_job(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "key-1"}
    before = made(http)
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(
            http.post("/v1/images/edits", data=QUICK | {"num_inference_steps": "30"}, files=files(), headers=headers)
        )

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    assert made(http) == before + 1
    other = http.post("/v1/images/edits", data=QUICK | {"seed": "8"}, files=files(), headers=headers)
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    first, second = make(http, headers={"Idempotency-Key": "key-2"}), make(http, headers={"Idempotency-Key": "key-2"})
    assert first["id"] == second["id"]
    wait(http, first, "completed")  # the next test counts pictures


def test_a_request_with_a_key_goes_on_without_its_client(server: Server, http: httpx.Client) -> None:
    headers, fields = {"Idempotency-Key": "key-3"}, QUICK | {"num_inference_steps": "250", "n": "4"}
    before = made(http)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/images/edits",
            data=fields,
            files=files(),
            headers=headers,
            timeout=httpx.Timeout(5, read=0.2),
        )
    again = http.post("/v1/images/edits", data=fields, files=files(), headers=headers)
    assert again.status_code == 200
    assert made(http) == before + 4


def made(http: httpx.Client) -> float:
    """The pictures that were made so far."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("k22_images_total{"))


def test_results_are_kept_within_a_time_and_a_size(bundles: Bundles, tmp_path: Path) -> None:
    flags = ("--keep-seconds", "1.5", "--keep-bytes", "50K")
    with (
        Server(bundles.inpaint, folder=tmp_path, flags=flags) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        jobs = [make(http, QUICK | {"seed": str(seed)}) for seed in range(4)]
        wait(http, jobs[-1], "completed")
        codes = [http.get(f"/v1/jobs/{job['id']}").status_code for job in jobs]
        assert codes == [410, 410, 200, 200], "a result has about 19 kB, so two of them fit"
        time.sleep(1.6)
        gone = http.get(f"/v1/jobs/{jobs[-1]['id']}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "job_expired")
        assert "k22_kept_bytes 0.0" in http.get("/metrics").text


def test_a_crash_loses_running_jobs_and_says_so(bundles: Bundles, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Server(bundles.inpaint, folder=tmp_path, flags=("--state", str(state))) as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            ended = make(http)
            wait(http, ended, "completed")
            running = make(http, LONG)
            wait(http, running, "running")
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert sorted(path.name for path in state.iterdir()) == ["jobs.jsonl", "jobs.lock"]
    with (state / "jobs.jsonl").open("a") as journal:
        journal.write('{"job": "job_cut')
    with (
        Server(bundles.inpaint, folder=tmp_path, flags=("--state", str(state))) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        codes = {job["id"]: http.get(f"/v1/jobs/{job['id']}").json()["error"]["code"] for job in (ended, running)}
        assert codes == {ended["id"]: "job_expired", running["id"]: "job_lost"}
        assert http.get("/v1/jobs/job_cut").status_code == 404
