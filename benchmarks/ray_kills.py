"""What clients see when replicas and nodes of a Ray cluster are killed under load; prints a record in JSON.

    python -m benchmarks.ray_kills BUNDLE [--replicas 100] [--nodes 10] [--json F]

Two nodes in processes of this machine, three replicas. Clients ask for short and long pictures, streams and jobs all
the time; OpenAI's client retries twice, as by default. A replica, or the node that is not the head with its replica, is
killed at a random moment; the next kill waits until three replicas run. BUNDLE is an inpainting bundle with a prior, a
tiny one best.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray declares fields as pydantic 1 did
    import ray

from kandinsky_runtime.bench.report import environment
from tests.ray.ray_cluster import ENVIRONMENT, QUICK, TwoNodes, replicas, until
from tests.serving.server_process import mask, picture, png

SCALING = {"autoscaling_config": {"min_replicas": 3, "max_replicas": 3}}
FILES = {"image": png(picture()), "mask": png(mask())}
KINDS = ("short", "short", "long", "stream", "job")  # one client of each
_STEPS = {"short": 4, "long": 150, "stream": 50, "job": 50}
_SEEDS = 4


class Load:
    """Clients that ask all the time.

    Attributes:
        counts: what happened, by kind of request.
        errors: the errors that were left after the client's own retries.
        wrong: pictures that differ from the first one of the same seed.
    """

    def __init__(self, url: str) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.wrong = 0
        self._url, self._expected, self._ended = url, dict[tuple[str, int], bytes](), threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(kind, n)) for n, kind in enumerate(KINDS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kind: str, number: int) -> None:
        rng = random.Random(number)  # noqa: S311
        http = openai.DefaultHttpxClient(event_hooks={"request": [lambda _: self._count(f"{kind}: attempts")]})
        client = openai.OpenAI(base_url=f"{self._url}/v1", api_key="none", http_client=http)
        while not self._ended.is_set():
            seed = rng.randrange(_SEEDS)
            self._count(f"{kind}: requests")
            try:
                made = self._job(seed) if kind == "job" else self._picture(client, kind, seed)
            except (openai.APIError, httpx.HTTPError) as error:
                with self._lock:
                    self.errors[f"{kind}: {type(error).__name__}: {str(error)[:120]}"] += 1
                continue
            self._count(f"{kind}: pictures")
            with self._lock:
                self.wrong += self._expected.setdefault((kind, seed), made) != made

    def _picture(self, client: openai.OpenAI, kind: str, seed: int) -> bytes:
        body = {"num_inference_steps": _STEPS[kind], "seed": seed}
        asked: dict[str, Any] = {**FILES, "prompt": "a hat", "extra_body": body}
        if kind != "stream":
            return base64.b64decode(client.images.edit(**asked).data[0].b64_json)
        events = list(client.images.edit(**asked, stream=True))
        if not events or events[-1].type != "image_edit.completed":
            raise httpx.RemoteProtocolError("the stream ended without a picture")
        return base64.b64decode(events[-1].b64_json)

    def _job(self, seed: int) -> bytes:
        """A job's picture; a job that is lost is sent again, as the documentation says."""
        fields = {"prompt": "a hat", "num_inference_steps": str(_STEPS["job"]), "seed": str(seed)}
        with httpx.Client(base_url=self._url, timeout=60) as http:
            while True:
                self._count("job: attempts")
                made = http.post("/v1/jobs/edits", data=fields, files=FILES)
                if made.status_code != 202:
                    self._count(f"job: {made.status_code} when made")
                    continue
                place = made.headers["location"]
                while (state := _polled(http, place)) not in ("completed", "lost"):
                    time.sleep(0.05)
                if state == "completed":
                    answer = http.get(f"{place}/images/0")
                    if answer.status_code == 200:
                        return answer.content
                self._count("job: lost and sent again")

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1


def _polled(http: httpx.Client, place: str) -> str:
    """A job's status; "lost" if its replica is gone, "unknown" if the answer is an error that may pass."""
    answer = http.get(place)
    if answer.status_code == 200:
        return str(answer.json()["status"])
    return "lost" if answer.status_code == 410 else "unknown"


def kills(nodes: TwoNodes, count: int, kill: Callable[[], None], restore: Callable[[], None]) -> dict[str, Any]:
    """Kill under load, so many times."""
    recovery = []
    with Load(nodes.url) as load:
        for number in range(count):
            time.sleep(random.Random(number).uniform(0.2, 2))  # noqa: S311
            before = set(replicas())
            kill()
            begun = time.monotonic()
            restore()
            until(lambda: nodes.running == 3 and len(set(replicas()) - before) >= 1, 180)  # noqa: B023
            recovery.append(time.monotonic() - begun)
    return {
        "kills": count,
        "requests": sum(value for name, value in load.counts.items() if name.endswith(": requests")),
        "counts": dict(sorted(load.counts.items())),
        "errors_after_retries": dict(load.errors),
        "wrong_pictures": load.wrong,
        "seconds_until_replaced": {"p50": round(statistics.median(recovery), 1), "max": round(max(recovery), 1)},
    }


def kill_replica() -> None:
    """Kill one of the replicas."""
    ray.kill(random.choice(list(replicas().values())))  # noqa: S311


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--replicas", type=int, default=100, help="kills of a replica (default: 100)")
    parser.add_argument("--nodes", type=int, default=10, help="kills of a node (default: 10)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the record to a file as well")
    args = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    warnings.simplefilter("ignore", DeprecationWarning)
    found: dict[str, Any] = {"environment": environment(), "ray": ray.__version__}
    folder = tempfile.mkdtemp(prefix="k22-ray-", dir="/tmp")  # short: it holds sockets
    try:
        with TwoNodes(folder) as nodes:
            nodes.start_serve()
            nodes.deploy((args.bundle.resolve(),), QUICK | SCALING)
            until(lambda: nodes.running == 3)
            if args.replicas:
                found["replica_kills"] = kills(nodes, args.replicas, kill_replica, lambda: None)
            if args.nodes:
                found["node_kills"] = kills(nodes, args.nodes, nodes.kill_node, nodes.replace_node)
    finally:
        shutil.rmtree(folder)
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
