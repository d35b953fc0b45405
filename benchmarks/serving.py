"""How `k22 serve` holds up: overhead, overload, soak, kills and malformed requests, against a real server process.

    python -m benchmarks.serving BUNDLE [--only overhead,overhead768,overload,soak,kills,malformed] [--scale 1.0]
        [--json F]

The full size of each part: 200 requests alone, and 10 at 768 px; 10 times too much for 10 minutes; 20,000 requests;
100 kills; 10,000 malformed requests. `--scale 0.1` does a tenth of each. BUNDLE is an inpainting bundle with a prior,
a tiny one best.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.serving.server_process import SIZE, Server, mask, picture, png

FIELDS = {"prompt": "a hat", "num_inference_steps": "4"}
_CONNECTIONS = 48
FILES = {"image": png(picture()), "mask": png(mask())}


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values is, in milliseconds."""
    return round(1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))], 2)


def overhead(bundle: Path, folder: Path, scale: float, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The time of a request less that of the same run in this process, in turn."""
    count = max(10, round(200 * scale))
    image, area = picture(0, size), mask(size)
    files = {"image": png(image), "mask": png(area)}
    with (
        InpaintPipeline.load(bundle, threads=1) as pipeline,
        Server(bundle, folder=folder) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        served, alone = [], []
        for seed in range(count):
            begun = time.perf_counter()
            http.post("/v1/images/edits", data=FIELDS | {"seed": str(seed)}, files=files).raise_for_status()
            served.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            pipeline("a hat", image=image, mask_image=area, num_inference_steps=4, seed=seed)
            alone.append(time.perf_counter() - begun)
    differences = [first - second for first, second in zip(served, alone, strict=True)]
    return {
        "requests": count,
        "served_p50_ms": percentile(served, 0.5),
        "alone_p50_ms": percentile(alone, 0.5),
        "difference_p50_ms": percentile(differences, 0.5),
        "difference_p90_ms": percentile(differences, 0.9),
    }


def overload(bundle: Path, folder: Path, scale: float) -> dict[str, Any]:
    """Ten times as many requests as are done: what is refused, how quickly, and whether health answers."""
    seconds = max(10.0, 600 * scale)

    async def drive(url: str) -> dict[str, Any]:
        statuses: Counter[int] = Counter()
        refusals: list[float] = []
        health: list[float] = []
        without_retry = 0
        end = time.monotonic() + seconds
        with httpx.Client(base_url=url) as http:
            livez = _bytes_of(http.build_request("GET", "/livez"))
            work = [
                _bytes_of(http.build_request("POST", "/v1/images/edits", data=FIELDS | {"seed": str(n)}, files=FILES))
                for n in range(80)
            ]

        async def client(number: int) -> None:
            nonlocal without_retry
            rng = random.Random(number)  # noqa: S311
            while time.monotonic() < end:
                begun = time.monotonic()
                status, headers = await _answer(url, work[number])
                statuses[status] += 1
                if status == 503:
                    refusals.append(time.monotonic() - begun)
                    without_retry += b"retry-after:" not in headers.lower()
                    await asyncio.sleep(rng.uniform(0.5, 1.5))

        async def watch() -> None:
            while time.monotonic() < end:
                begun = time.monotonic()
                status, _ = await _answer(url, livez)
                if status != 200:
                    raise RuntimeError(f"/livez answered {status}")
                health.append(time.monotonic() - begun)
                await asyncio.sleep(0.1)

        await asyncio.gather(watch(), *(client(number) for number in range(len(work))))
        return {
            "seconds": seconds,
            "statuses": dict(statuses),
            "refusals_without_retry_after": without_retry,
            "refusal_p50_ms": percentile(refusals, 0.5),
            "refusal_p99_ms": percentile(refusals, 0.99),
            "livez_p50_ms": percentile(health, 0.5),
            "livez_p99_ms": percentile(health, 0.99),
        }

    with Server(bundle, folder=folder, flags=("--max-jobs", "8")) as server:
        found = asyncio.run(drive(server.url))
        found["places_taken_at_the_end"] = _gauge(server, "k22_places_taken")
        found["exit_status"] = server.stop()
    return found


def soak(bundle: Path, folder: Path, scale: float) -> dict[str, Any]:
    """Many requests of mixed sizes one after the other from four clients: memory of the first and the last part."""
    count = max(200, round(20_000 * scale))
    sizes = [SIZE, (64, 96), (128, 64)]
    bodies = [{"image": png(picture(0, size)), "mask": png(mask(size))} for size in sizes]
    memory: list[int] = []

    async def drive(server: Server) -> Counter[int]:
        statuses: Counter[int] = Counter()
        left = iter(range(count))
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:

            async def client() -> None:
                for number in left:
                    data = FIELDS | {"seed": str(number), "num_inference_steps": "2"}
                    answer = await http.post("/v1/images/edits", data=data, files=bodies[number % len(bodies)])
                    statuses[answer.status_code] += 1
                    memory.append(server.memory)

            await asyncio.gather(*(client() for _ in range(4)))
        return statuses

    with Server(bundle, folder=folder) as server:
        begun = time.monotonic()
        statuses = asyncio.run(drive(server))
        seconds = time.monotonic() - begun
    part = max(1, len(memory) // 20)
    first, last = statistics.median(memory[part : 2 * part]), statistics.median(memory[-part:])
    return {
        "requests": count,
        "seconds": round(seconds, 1),
        "statuses": dict(statuses),
        "second_part_mb": round(first / 2**20, 1),
        "last_part_mb": round(last / 2**20, 1),
        "growth_percent": round(100 * (last / first - 1), 2),
    }


def kills(bundle: Path, folder: Path, scale: float) -> dict[str, Any]:
    """SIGKILL at random moments of running jobs: what the next server says of them, and what files are left."""
    count = max(5, round(100 * scale))
    rng, state, temporary = random.Random(0), folder / "state", folder / "tmp"  # noqa: S311
    temporary.mkdir()
    outcomes: Counter[str] = Counter()
    known: dict[str, bool] = {}
    for _ in range(count + 1):
        with (
            Server(bundle, folder=folder, flags=("--state", str(state)), env={"TMPDIR": str(temporary)}) as server,
            httpx.Client(base_url=server.url, timeout=60) as http,
        ):
            for job, done in known.items():
                code = http.get(f"/v1/jobs/{job}").json()["error"]["code"]
                outcomes[f"{code} ({'done' if done else 'not done'} before)"] += 1
            known = {}
            for _ in range(3):
                data = FIELDS | {"num_inference_steps": str(rng.choice([2, 40, 250]))}
                known[http.post("/v1/jobs/edits", data=data, files=FILES).json()["id"]] = False
            time.sleep(rng.uniform(0, 1))
            known = {job: http.get(f"/v1/jobs/{job}").json()["status"] == "completed" for job in known}
            server.stop(signal.SIGKILL)
    return {
        "kills": count + 1,
        "reported": dict(outcomes),
        "files_left": sorted(path.name for path in [*temporary.iterdir(), *state.iterdir()]),
    }


def malformed(bundle: Path, folder: Path, scale: float) -> dict[str, Any]:
    """Requests that are cut, mutated, or of wrong types, over raw connections."""
    count = max(100, round(10_000 * scale))
    rng = np.random.default_rng(0)
    statuses: Counter[str] = Counter()
    faults: list[str] = []
    with Server(bundle, folder=folder, flags=("--body-seconds", "1", "--max-jobs", "64")) as server:
        host, port = server.url.removeprefix("http://").split(":")
        sound = _sound_requests(server.url)
        requests = [_mutated(rng, sound[number % len(sound)]) for number in range(count)]
        memory = 0
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for number, status in enumerate(pool.map(lambda request: _send(host, int(port), request), requests)):
                statuses[status] += 1
                if status.startswith("5") and status != "503":
                    faults.append(repr(requests[number][:300]))
                if number == count // 5:
                    memory = server.memory
        growth = server.memory / memory - 1
        alive = server.status("/livez")
        tracebacks = server.errors.count("Traceback")
    return {
        "requests": count,
        "statuses": dict(statuses),
        "faults": faults[:5],
        "memory_growth_percent": round(100 * growth, 2),
        "livez": alive,
        "tracebacks": tracebacks,
    }


def _sound_requests(url: str) -> list[bytes]:
    """The bytes of requests that are right."""
    encoded = "data:image/png;base64," + base64.b64encode(FILES["image"]).decode()
    with httpx.Client(base_url=url) as http:
        made = [
            http.build_request("POST", "/v1/images/edits", data=FIELDS, files=FILES),
            http.build_request("POST", "/v1/jobs/edits", data=FIELDS, files=FILES),
            http.build_request("POST", "/v1/images/edits", json={"prompt": "a", "image": encoded, "mask": encoded}),
            http.build_request(
                "POST",
                f"/v2/models/{http.get('/v1/models').json()['data'][0]['id']}/infer",
                json={"inputs": [{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a hat"]}]},
            ),
            http.build_request("GET", "/v1/jobs/job_x/events"),
        ]
    return [_bytes_of(request) for request in made]


def _bytes_of(request: httpx.Request) -> bytes:
    head = f"{request.method} {request.url.raw_path.decode()} HTTP/1.1\r\n".encode()
    headers = b"".join(name + b": " + value + b"\r\n" for name, value in request.headers.raw)
    return head + headers + b"\r\n" + request.read()


async def _answer(url: str, request: bytes) -> tuple[int, bytes]:
    """The status and the headers of an answer that is read whole, by a client that costs little."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
    finally:
        writer.close()
    return int(head.split(maxsplit=2)[1]), head


def _mutated(rng: np.random.Generator, request: bytes) -> bytes:
    """A request with one to four faults: cut, flipped, doubled, removed or exchanged bytes."""
    content = bytearray(request)
    for _ in range(rng.integers(1, 5)):
        kind, where = rng.integers(6), int(rng.integers(max(1, len(content))))
        length = int(rng.integers(1, 40))
        if kind == 0:
            content = content[:where]
        elif kind == 1 and content:
            content[min(where, len(content) - 1)] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[where:where] = content[where : where + length]
        elif kind == 3:
            del content[where : where + length]
        elif kind == 4:
            content[where : where + length] = rng.bytes(length)
        else:
            content[where:where] = rng.choice([b"\r\n", b"\0", b"{", b"}", b'"', b"--", b"\xff\xfe", b"9" * 30])
    return bytes(content)


def _send(host: str, port: int, request: bytes) -> str:
    """The status of the answer, or "closed" or "no answer"."""
    try:
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.sendall(request)
            head = connection.recv(64)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    parts = head.split()
    return parts[1].decode() if len(parts) > 1 else "closed"


def _gauge(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


PARTS: dict[str, Callable[[Path, Path, float], dict[str, Any]]] = {
    "overhead": overhead,
    "overhead768": lambda bundle, folder, scale: overhead(bundle, folder, scale / 20, (768, 768)),
    "overload": overload,
    "soak": soak,
    "kills": kills,
    "malformed": malformed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size (default: 1)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to a file as well")
    args = parser.parse_args()
    found: dict[str, Any] = {"environment": environment()}
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            found[name] = PARTS[name](args.bundle, Path(folder), args.scale)
            sys.stdout.write(f"{name} ({time.monotonic() - begun:.0f} s): {json.dumps(found[name], indent=1)}\n")
            sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
