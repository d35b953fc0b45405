"""The end of a server: what is there is finished, or answered so that the client tries another server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from kandinsky_runtime.serving.service import LAST_SECONDS
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, png

QUICK: dict[str, Any] = {"prompt": "a hat", "num_inference_steps": 4, "size": "96x64"}
LONG = {"prompt": "a hat", "num_inference_steps": "250", "n": "10"}


def files() -> dict[str, bytes]:
    return {"image": png(picture()), "mask": png(mask())}


def figure(server: Server, line: str, seconds: float = 30) -> None:
    """Wait until the metrics have a line."""
    end = time.monotonic() + seconds
    while line not in httpx.get(f"{server.url}/metrics").text:
        assert time.monotonic() < end, line
        time.sleep(0.02)


class SlowRequest:
    """A request whose body arrives in two parts."""

    def __init__(self, server: Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._body = json.dumps(QUICK).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(self._body)}\r\n"
        self._socket.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + self._body[:10])

    def finish(self) -> None:
        self._socket.sendall(self._body[10:])

    def answer(self) -> tuple[int, dict[str, Any]]:
        with self._socket:
            content = b""
            while part := self._socket.recv(100_000):
                content += part
        head, _, body = content.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def edit(server: Server, answers: list[httpx.Response]) -> threading.Thread:
    """Start a long request in a thread."""
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{server.url}/v1/images/edits", data=LONG, files=files(), timeout=60))
    )
    thread.start()
    figure(server, "k22_requests_running 1.0")
    return thread


def test_a_body_that_is_on_its_way_is_waited_for(bundles: Bundles, tmp_path: Path) -> None:
    with Server(bundles.plain, folder=tmp_path) as server:
        request = SlowRequest(server)
        figure(server, "k22_places_taken 1.0")
        server.process.send_signal(signal.SIGTERM)
        time.sleep(LAST_SECONDS + 1.5)  # longer than for answers that are being sent
        request.finish()
        status, answer = request.answer()
        assert (status, len(answer.get("data", []))) == (200, 1), answer
        assert server.process.wait(30) == 0


def test_what_does_not_end_in_time_is_for_another_server(bundles: Bundles, tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state"))
    with Server(bundles.inpaint, bundles.plain, folder=tmp_path, flags=("--drain-seconds", "0.1", *state)) as server:
        job = httpx.post(f"{server.url}/v1/jobs/edits", data=LONG, files=files(), timeout=60).json()
        answers: list[httpx.Response] = []
        thread = edit(server, answers)
        request = SlowRequest(server)
        figure(server, "k22_places_taken 3.0")
        assert server.stop() == 0
        thread.join()
        assert answers[0].status_code == 503
        assert answers[0].headers["x-should-retry"] == "true"
        assert int(answers[0].headers["retry-after"]) >= 1
        assert answers[0].json()["error"]["code"] == "server_stopped"
        status, answer = request.answer()
        assert (status, answer["error"]["code"]) == (503, "server_stopped")
        assert "Traceback" not in server.errors
    with Server(bundles.inpaint, folder=tmp_path, flags=state) as server:
        gone = httpx.get(f"{server.url}/v1/jobs/{job['id']}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (410, "job_lost")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_answers_and_ends_at_once(bundles: Bundles, tmp_path: Path, number: int) -> None:
    with Server(bundles.inpaint, bundles.plain, folder=tmp_path) as server:
        answers: list[httpx.Response] = []
        thread = edit(server, answers)
        request = SlowRequest(server)
        figure(server, "k22_places_taken 2.0")
        server.process.send_signal(number)
        while server.status("/readyz") == 200:
            time.sleep(0.02)
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
        thread.join()
        status, answer = request.answer()
        for code, error in ((answers[0].status_code, answers[0].json()["error"]), (status, answer["error"])):
            assert (code, error["code"]) == (503, "server_stopped")
        assert "Traceback" not in server.errors


def test_a_second_signal_ends_a_warm_up(bundles: Bundles, tmp_path: Path) -> None:
    sizes = [flag for side in range(512, 1024, 8) for flag in ("--size", f"{side}x512")]
    with Server(bundles.inpaint, folder=tmp_path, flags=tuple(sizes), wait=False) as server:
        end = time.monotonic() + 30
        while server.status("/livez") != 200:
            assert time.monotonic() < end
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.errors


def test_a_hangup_while_bundles_are_opened() -> None:
    code = """
import os, signal, sys
from kandinsky_runtime.cli import main
from kandinsky_runtime.serving.models import Models

def load(*arguments, **options):
    os.kill(os.getpid(), signal.SIGHUP)
    sys.exit(7)

Models.load = load
main(["serve", "bundle"])
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
