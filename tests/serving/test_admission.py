"""Who may enter: places, estimated time, bodies that are too large, too slow or not what they seem."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.serving.admission import Admission, Busy
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, png

FIELDS = {"prompt": "a hat", "num_inference_steps": "4", "seed": "7"}


class Waiting:
    """A task with so many seconds of work."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def remaining(self) -> float:
        return self.seconds


def door(*seconds: float, most: int = 4, most_seconds: float = 100) -> Admission:
    tasks: Any = [Waiting(item) for item in seconds]
    return Admission(most, most_seconds, lambda: tasks)


def test_places() -> None:
    admission = door(10, 10, most=2)
    places = [admission.enter() for _ in range(2)]
    with pytest.raises(Busy, match="2 requests, and no room") as caught:
        admission.enter()
    assert (caught.value.reason, caught.value.retry_after, caught.value.retry) == ("queue_full", 10, True)
    places[0].release()
    places[0].release()
    assert admission.taken == 1
    admission.enter()
    admission.draining = True
    with pytest.raises(Busy, match="about to stop"):
        admission.enter()


def test_waiting_is_estimated_as_the_loop_orders() -> None:
    assert door().wait(10) == 0
    assert door(10, 15).wait(10) == 25, "those of its own kind come first"
    assert door(300).wait(10) == pytest.approx(10 / 3), "a long one keeps a quarter of the time"


def test_what_waits_too_long() -> None:
    with pytest.raises(Busy, match="would wait for about 150 s") as caught:
        door(80, 70).check(80, None)
    assert caught.value.retry_after == 50
    door(80).check(80, 170)
    with pytest.raises(Busy, match="gives up after 100 s; try again") as caught:
        door(80).check(80, 100)
    assert (caught.value.reason, caught.value.retry) == ("deadline", True)
    with pytest.raises(Busy, match="send it to /v1/jobs") as caught:
        door().check(80, 60)
    assert not caught.value.retry
    with pytest.raises(Busy) as caught:
        door(5000).check(5000, None)
    assert caught.value.retry_after == 120, "OpenAI's client does not retry after more"


def files() -> dict[str, bytes]:
    return {"image": png(picture()), "mask": png(mask())}


def test_ten_times_too_much(bundles: Bundles, tmp_path: Path) -> None:
    """Refusals come at once and say when to come again; what was accepted is done; health answers all the while."""

    async def overload(url: str) -> tuple[list[httpx.Response], int]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
            sent, busy = files(), asyncio.Event()

            async def one(seed: int) -> httpx.Response:
                return await http.post("/v1/images/edits", data=FIELDS | {"seed": str(seed)}, files=sent)

            async def health() -> int:
                count = 0
                while not busy.is_set():
                    assert (await http.get("/livez")).status_code == 200
                    count += 1
                    await asyncio.sleep(0.02)
                return count

            watching = asyncio.ensure_future(health())
            answers = await asyncio.gather(*(one(seed) for seed in range(80)))
            busy.set()
            return list(answers), await watching

    with Server(bundles.inpaint, folder=tmp_path, flags=("--max-jobs", "8")) as server:
        answers, health = asyncio.run(overload(server.url))
        figures = httpx.get(f"{server.url}/metrics").text
    done = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(done) + len(refused) == len(answers)
    assert len(done) >= 8
    assert len(refused) > 20
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert health > 3
    line = next(line for line in figures.splitlines() if line.startswith('k22_rejected_total{reason="queue_full"}'))
    assert float(line.split()[-1]) == len(refused)


def test_a_place_is_taken_before_the_body_is_read(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.inpaint, folder=tmp_path, flags=("--max-jobs", "1", "--body-seconds", "6")) as server:
        host, port = server.url.removeprefix("http://").split(":")
        slow = socket.create_connection((host, int(port)), timeout=30)
        slow.sendall(
            b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1000000\r\n\r\n--x\r\n"
        )
        end = time.monotonic() + 5
        while "k22_places_taken 1.0" not in httpx.get(f"{server.url}/metrics").text:
            assert time.monotonic() < end
        refused = httpx.post(
            f"{server.url}/v1/images/edits", content=b"x" * 1000, headers={"Content-Type": "image/png"}
        )
        assert refused.status_code == 503, "it is refused before anything of it is read"
        with slow:
            answer = b""
            while part := slow.recv(10_000):
                answer += part
                if b"send it faster" in answer:
                    break
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 6 s" in answer
        assert httpx.post(f"{server.url}/v1/images/edits", data=FIELDS, files=files(), timeout=60).status_code == 200


def test_a_body_that_is_too_large(bundles: Bundles, tmp_path: Path) -> None:
    def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    with Server(bundles.inpaint, folder=tmp_path, flags=("--max-body", "50K")) as server:
        headers = {"Content-Type": "application/json"}
        for content in (b"x" * 60_000, chunks()):
            answer = httpx.post(f"{server.url}/v1/images/edits", content=content, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        answer = httpx.post(f"{server.url}/v2/models/inpaint/infer", content=b"x" * 60_000)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("kind", "content", "headers", "status"),
    [
        ("image/png", b"x", {}, 415),
        ("application/json", gzip.compress(b"{}", mtime=0), {"Content-Encoding": "gzip"}, 415),
        ("application/json", b"{", {}, 400),
        ("application/json", b"[" * 100_000, {}, 400),
        ("application/json", b"[]", {}, 400),
        ("application/json", b'{"prompt": NaN}', {}, 400),
        ("application/json", b"\xff\xfe", {}, 400),
        ("multipart/form-data", b"x", {}, 400),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken", {}, 400),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--", {}, 400),
        ("multipart/form-data; boundary=x", b"", {}, 400),
    ],
)
def test_bodies_that_cannot_be_read(
    server: Server, kind: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = httpx.post(f"{server.url}/v1/images/edits", content=content, headers={"Content-Type": kind, **headers})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_pictures_with_too_many_pixels(server: Server) -> None:
    def bomb(width: int, height: int) -> bytes:
        """A PNG of few bytes and many pixels."""

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    sent = bomb(20_000, 20_000)
    assert len(sent) < 100_000
    before = server.memory
    for field in ("image", "mask"):
        answer = httpx.post(f"{server.url}/v1/images/edits", data=FIELDS, files=files() | {field: sent}, timeout=60)
        assert answer.status_code == 400
        assert "pixels" in answer.json()["error"]["message"]
    url = "data:image/png;base64," + base64.b64encode(sent).decode()
    assert (
        httpx.post(f"{server.url}/v1/images/edits", json={"prompt": "a", "image": url}, timeout=60).status_code == 400
    )
    assert server.memory - before < 50 * 2**20
    large = httpx.post(f"{server.url}/v1/images/edits", data=FIELDS | {"size": "9000x9000"}, files=files(), timeout=60)
    assert large.status_code == 400


def test_a_picture_that_is_read_slowly(bundles: Bundles, tmp_path: Path) -> None:
    """The client gets its answer in time; the place is free again when the worker has ended."""
    slow = b"P3\n2000 1000\n255\n" + b"1 2 3\n" * 2_000_000  # numbers as text: seconds of work for Pillow

    def places() -> str:
        figures = httpx.get(f"{server.url}/metrics").text
        return next(line for line in figures.splitlines() if line.startswith("k22_places_taken"))

    with Server(bundles.inpaint, folder=tmp_path) as server:
        begun = time.monotonic()
        fields = FIELDS | {"timeout": "0.5"}
        answer = httpx.post(f"{server.url}/v1/images/edits", data=fields, files=files() | {"image": slow}, timeout=60)
        seconds = time.monotonic() - begun
        assert places() == "k22_places_taken 1.0"
        assert answer.status_code == 504
        assert "the time limit of 0.5 s has passed" in answer.json()["error"]["message"]
        assert seconds < 5
        while places() != "k22_places_taken 0.0":
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        assert server.status("/livez") == 200


@pytest.mark.parametrize("url", ["http://localhost/x.png", "https://example.com/x", "file:///etc/passwd", "ftp://a/b"])
def test_urls_are_never_fetched(server: Server, url: str) -> None:
    for body in ({"image": url}, {"images": [{"image_url": url}]}, {"image": {"image_url": url}}):
        answer = httpx.post(f"{server.url}/v1/images/edits", json={"prompt": "a hat"} | body)
        assert answer.status_code == 400
        assert "fetches nothing" in answer.json()["error"]["message"]


def test_a_16_bit_picture_and_one_with_a_profile(server: Server) -> None:
    deep = Image.fromarray(np.full((64, 96), 40_000, np.uint16))
    stream = io.BytesIO()
    picture().convert("CMYK").save(stream, "JPEG")
    for content in (png(deep), stream.getvalue()):
        answer = httpx.post(
            f"{server.url}/v1/images/edits", data=FIELDS, files=files() | {"image": content}, timeout=60
        )
        assert answer.status_code == 200, answer.text


def test_headers_that_are_too_long(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for _ in range(100):
                connection.sendall(b"X-Long: " + b"x" * 10_000 + b"\r\n")
            answer = connection.recv(1000)
        except OSError:
            answer = b"HTTP/1.1 4"
        assert answer.startswith(b"HTTP/1.1 4") or answer == b""
    assert server.status("/livez") == 200


def test_values_of_every_json_type(server: Server) -> None:
    url = "data:image/png;base64," + base64.b64encode(png(picture())).decode()
    values: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e308,
        10**400,
        "",
        "x",
        "x" * 10_000,
        [],
        [1],
        {},
        {"a": 1},
        "\ud800",
    ]
    names = httpx.get(f"{server.url}/openapi.json").json()["paths"]["/v1/images/edits"]["post"]["requestBody"][
        "content"
    ]
    for name in names["application/json"]["schema"]["properties"]:
        for value in values:
            body = {"prompt": "a hat", "image": url, "mask": url, "num_inference_steps": 2, name: value}
            content = json.dumps(body).encode()
            answer = httpx.post(
                f"{server.url}/v1/images/edits",
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=60,
            )
            assert answer.status_code in (200, 400, 503), (name, value, answer.text)
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "deadline"
