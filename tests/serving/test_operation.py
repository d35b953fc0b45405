"""For those who run it: health, metrics, logs, keys, hosts, settings and the end."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.sampling.schedulers import SCHEDULERS
from kandinsky_runtime.serving.estimates import Estimates
from kandinsky_runtime.serving.metrics import size_class
from kandinsky_runtime.serving.models import named_bundles
from kandinsky_runtime.serving.security import Keys
from kandinsky_runtime.serving.settings import gather, picture_size
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, png

FIELDS = {"prompt": "a secret hat", "num_inference_steps": "4", "seed": "7"}
KEY, OTHER = "first-key-of-sixteen", "second-key-of-sixteen"


def files() -> dict[str, bytes]:
    return {"image": png(picture()), "mask": png(mask())}


def edit(url: str, fields: dict[str, str] | None = None, **options: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/edits", data=FIELDS | (fields or {}), files=files(), timeout=60, **options)


def test_metrics_are_valid_and_count(server: Server) -> None:
    assert edit(server.url).status_code == 200
    assert edit(server.url, {"seed": "x"}).status_code == 400
    families = {
        family.name: family for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    }
    assert {
        "k22_requests", "k22_request_duration_seconds", "k22_queue_depth", "k22_requests_running", "k22_jobs",
        "k22_step_duration_seconds", "k22_stage_duration_seconds", "k22_images", "k22_rejected", "k22_build_info",
        "k22_kept_bytes", "k22_ready", "process_resident_memory_bytes",
    } <= set(families)  # fmt: skip
    counted = {
        (sample.labels["endpoint"], sample.labels["status"]): sample.value
        for sample in families["k22_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counted["/v1/images/edits", "200"] >= 1
    assert counted["/v1/images/edits", "400"] >= 1
    buckets = [s.labels["le"] for s in families["k22_request_duration_seconds"].samples if s.name.endswith("_bucket")]
    assert "1200.0" in buckets
    steps = {
        s.labels["size"]: s.value for s in families["k22_step_duration_seconds"].samples if s.name.endswith("_count")
    }
    assert steps["up to 0.1 MP"] >= 4
    stages = {sample.labels.get("stage") for sample in families["k22_stage_duration_seconds"].samples}
    assert {"prior", "encode", "decode"} <= stages


def test_the_size_of_a_picture_is_one_of_a_few_classes() -> None:
    sizes = [(width, height) for width in range(64, 4000, 64) for height in range(64, 4000, 64)]
    assert len({size_class(*size) for size in sizes}) == 7
    assert size_class(512, 512) == "up to 0.3 MP"
    assert size_class(4000, 4000) == "above 4.2 MP"


def test_a_bounded_number_of_sizes_is_learned() -> None:
    estimates = Estimates()
    for size in range(1, 1001):
        estimates.learn("model", "denoise", 7, 7.0)
        estimates.learn("model", "denoise", size * 1000, 1.0)
    ((_, known),) = estimates._seconds.items()
    assert len(known) == 64
    assert estimates.unit("model", "denoise", 7) == 7.0  # what is still done is not forgotten
    assert estimates.unit("model", "denoise", 1_000_000) == 1.0


def test_models_report_their_limits(server: Server) -> None:
    (inpaint, _) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert inpaint["limits"] == {"max_pixels": 16_000_000, "max_steps": 250, "max_results": 10, "min_size": 64}
    assert inpaint["schedulers"] == list(SCHEDULERS)
    assert (inpaint["task"], inpaint["engine"], inpaint["precision"]) == ("inpaint", "onnxruntime", "fp32")


def test_request_ids_come_back(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"X-Request-Id": "mine-7"}).headers["x-request-id"] == "mine-7"
    for bad in ("a b", "x" * 200, "ä".encode()):
        assert httpx.get(f"{server.url}/v1/models", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad
    assert len(httpx.get(f"{server.url}/livez").headers["x-request-id"]) == 24


def test_unknown_paths_and_methods(server: Server) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/images/edits", 405), ("POST", "/livez", 405)):
        answer = httpx.request(method, server.url + path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_only_this_machines_names_and_pages(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    assert server.status("/livez", {"Host": f"localhost:{port}"}) == 200
    assert server.status("/livez", {"Host": "evil.example"}) == 403
    assert server.status("/v1/models", {"Origin": "http://evil.example"}) == 403
    assert server.status("/v1/models", {"Origin": server.url}) == 200
    answer = httpx.get(f"{server.url}/v1/models", headers={"Origin": server.url})
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    answer = httpx.get(server.url)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_keys(bundles: Bundles, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"# ours\n{KEY}\n\n")
    with Server(bundles.inpaint, folder=tmp_path, flags=("--keys", str(keys), "--host", "0.0.0.0")) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for path in ("/livez", "/readyz", "/v2/health/live", "/"):
            assert httpx.get(url + path).status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json", "/v1/jobs"):
            answer = httpx.get(url + path)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{url}/v1/models", headers=bearer).status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"X-API-Key": KEY}).status_code == 200
        for wrong in (f"Bearer {KEY}x", "Bearer", f"Basic {KEY}", "Bearer # ours"):
            assert httpx.get(f"{url}/v1/models", headers={"Authorization": wrong}).status_code == 401
        job = httpx.post(f"{url}/v1/jobs/edits", data=FIELDS, files=files(), headers=bearer).json()

        keys.write_text(f"{OTHER}\n{KEY}\n")
        server.process.send_signal(signal.SIGHUP)
        end, second = time.monotonic() + 10, {"Authorization": f"Bearer {OTHER}"}
        while httpx.get(f"{url}/v1/models", headers=second).status_code != 200:
            assert time.monotonic() < end
        assert httpx.get(f"{url}/v1/jobs/{job['id']}", headers=bearer).status_code == 200
        assert httpx.get(f"{url}/v1/jobs/{job['id']}", headers=second).status_code == 404, "it is another's"
        assert httpx.get(f"{url}/v1/jobs", headers=second).json()["data"] == []

        keys.write_text("short\n")
        server.process.send_signal(signal.SIGHUP)
        while "the keys are those of before" not in server.errors:
            assert time.monotonic() < end + 10
        assert httpx.get(f"{url}/v1/models", headers=bearer).status_code == 200
        assert KEY not in server.errors


def test_keys_are_compared_whole(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{OTHER}")
    keys = Keys(file)
    owners = {keys.owner({"authorization": f"Bearer {key}"}) for key in (KEY, OTHER)}
    assert len(owners) == 2
    assert None not in owners
    assert keys.owner({"authorization": f"bearer {KEY}"}) in owners
    assert keys.owner({}) is None
    assert Keys(None).owner({}) == ""
    file.write_text(KEY, encoding="utf-8-sig")  # as Windows' editors write it
    assert Keys(file).owner({"authorization": f"Bearer {KEY}"}) in owners
    for content, message in (("", "no keys"), ("short", "less than 16"), (f"{KEY}ä", "other characters than ASCII")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            Keys(file)
    with pytest.raises(UsageError, match="cannot be read"):
        Keys(tmp_path / "nothing")


def test_sigterm_lets_jobs_end_and_refuses_new_ones(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.inpaint, folder=tmp_path) as server:
        answers: list[httpx.Response] = []
        fields = {"num_inference_steps": "150"}
        threads = [threading.Thread(target=lambda: answers.append(edit(server.url, fields))) for _ in range(20)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        with httpx.Client(base_url=server.url) as http:
            while "k22_places_taken 20.0" not in http.get("/metrics").text:
                assert time.monotonic() < end
            server.process.send_signal(signal.SIGTERM)
            while http.get("/readyz").status_code == 200:
                assert time.monotonic() < end
            assert http.get("/livez").status_code == 200
            refused = http.post("/v1/images/edits", data=FIELDS, files=files())
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert refused.headers["retry-after"]
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 20
        assert server.process.wait(30) == 0


def test_jobs_that_do_not_end_in_time_are_reported(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.inpaint, folder=tmp_path, flags=("--drain-seconds", "0.1")) as server:
        answers: list[httpx.Response] = []
        long = {"num_inference_steps": "250", "n": "10"}
        thread = threading.Thread(target=lambda: answers.append(edit(server.url, long)))
        thread.start()
        while "k22_requests_running 1.0" not in httpx.get(f"{server.url}/metrics").text:
            pass
        assert server.stop() == 0
        thread.join()
        assert answers[0].status_code == 503
        assert "the server stopped" in answers[0].json()["error"]["message"]


def test_json_logs_without_prompts(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.inpaint, folder=tmp_path, flags=("--log-format", "json")) as server:
        edit(server.url, {"user": "someone"}, headers={"X-Request-Id": "r-1"})
        edit(server.url, {"seed": "x"})
        server.stop()
        lines = [json.loads(line) for line in server.errors.splitlines()]
    requests = [line for line in lines if line.get("path") == "/v1/images/edits"]
    assert [line["status"] for line in requests] == [200, 400]
    done = requests[0]
    assert (done["request_id"], done["user"], done["state"], done["steps"]) == ("r-1", "someone", "completed", 4)
    assert done["run_seconds"] > 0
    assert "secret" not in json.dumps(lines)


def test_prompts_are_logged_if_asked_for(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.inpaint, folder=tmp_path, env={"K22_SERVE_LOG_PROMPTS": "true"}) as server:
        edit(server.url)
        server.stop()
        assert 'prompt="a secret hat"' in server.errors


def test_a_text_log_has_no_control_characters(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.inpaint, folder=tmp_path) as server:
        assert server.status("/x%0d%1b[31m%c2%9b%00y") == 404
        server.stop()
        errors = server.errors_raw
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", errors)
    assert rb'path="/x\r\u001b[31m\u009b\u0000y"' in errors


def test_settings_from_all_sources(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('max_jobs = 4\nsize = ["768x512"]\nmax_body = "2M"\nport = 1\nlow_memory = true\nengine = "paddle"')
    variables = {"K22_SERVE_PORT": "2", "K22_SERVE_MAX_JOBS": "5", "K22_SERVE_THREADS": "3", "HOME": "/"}
    options, settings = gather({"port": 3, "engine": "openvino"}, variables, file)
    assert (options.engine, options.threads, options.low_memory, options.tiles) == ("openvino", 3, True, False)
    assert (settings.port, settings.max_jobs, settings.max_body, settings.sizes) == (3, 5, 2 * 2**20, ((768, 512),))
    assert gather({}, {"K22_SERVE_SIZE": "64x64,128x96"})[1].sizes == ((64, 64), (128, 96))
    for variables, message in (
        ({"K22_SERVE_PORTS": "2"}, "the environment: there is no setting ports"),
        ({"K22_SERVE_PORT": "x"}, "port is 'x'"),
        ({"K22_SERVE_LOG_PROMPTS": "maybe"}, "expected true or false"),
        ({"K22_SERVE_MAX_JOBS": "0"}, "max_jobs"),
        ({"K22_SERVE_THREADS": "0"}, "threads is 0"),
        ({"K22_SERVE_TILES": "maybe"}, "expected true or false"),
        ({"K22_SERVE_STATE": ""}, "state is ''; expected a text that is not empty"),
        ({"K22_SERVE_KEYS": ""}, "keys is ''; expected a text that is not empty"),
        ({"K22_SERVE_HOST": " "}, "host is ' '; expected a text that is not empty"),
        ({"K22_SERVE_HOST": "0.0.0.0"}, "can be reached by other machines; give --keys"),
    ):
        with pytest.raises(UsageError, match=message):
            gather({}, variables)
    file.write_text("max_jobs = ")
    with pytest.raises(UsageError, match="cannot be read"):
        gather({}, {}, file)


@pytest.mark.parametrize("text", ["512", "axb", "63x64", "x", "999999x64", "64x64x64", "-64x64", "６４x64"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected WIDTHxHEIGHT"):
        picture_size(text)


def test_names_of_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir=x" / "bundle").mkdir(parents=True)
    assert named_bundles(["dir=x/bundle"]) == {"bundle": Path("dir=x/bundle")}
    assert named_bundles(["a=dir=x/bundle", "b=c"]) == {"a": Path("dir=x/bundle"), "b": Path("c")}
    for text in ("=bundle", "a/b=bundle", "..=bundle", "a\nb=bundle", "/"):
        with pytest.raises(UsageError, match="cannot be a model's name"):
            named_bundles([text])


def test_a_port_that_is_taken(server: Server, bundles: Bundles, tmp_path: Path) -> None:
    flags = ("--port", server.url.rpartition(":")[2])
    with Server(bundles.inpaint, folder=tmp_path, flags=flags, wait=False) as second:
        assert second.process.wait(30) == 1
        assert second.errors.splitlines()[-1].endswith("choose another --port")


def test_nothing_is_written(bundles: Bundles, tmp_path: Path) -> None:
    """A bundle that is mounted read-only, and no folder of one's own but the cache."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before = {path: path.stat().st_mtime_ns for path in bundles.inpaint.rglob("*")}
    with Server(bundles.inpaint, folder=tmp_path, env={"TMPDIR": str(temporary)}) as server:
        assert edit(server.url).status_code == 200
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert {path: path.stat().st_mtime_ns for path in bundles.inpaint.rglob("*")} == before
    assert list(temporary.iterdir()) == []
