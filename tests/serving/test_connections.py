"""Connections that send nothing, or no whole request."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.serving.conftest import Bundles
from tests.serving.server_process import Server

resource = pytest.importorskip("resource", reason="this system limits no open files")

FILES, MANY = 500, 900


@pytest.fixture(scope="module")
def small(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may open few files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = tmp_path_factory.mktemp("small")
    with ExitStack() as limited, ExitStack() as serving:  # this process needs more of them
        limited.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
        server = serving.enter_context(Server(bundles.inpaint, folder=folder, flags=("--body-seconds", "2")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * MANY)), hard))
        yield server


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nG",
    ],
)
def test_a_request_whose_head_does_not_arrive(small: Server, sent: bytes) -> None:
    begun = time.monotonic()
    with connect(small) as connection:
        connection.sendall(sent)
        answer = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(1000):
                answer += part
    assert 1.5 < time.monotonic() - begun < 6
    assert answer.startswith(b"HTTP/1.1 200") == sent.endswith(b"G")


def test_a_slow_head_that_keeps_sending(small: Server) -> None:
    begun = time.monotonic()
    with connect(small) as connection, suppress(ConnectionError):
        while time.monotonic() - begun < 8:
            connection.sendall(b"G")
            time.sleep(0.1)
    assert time.monotonic() - begun < 6


def test_a_request_that_comes_after_a_pause(small: Server) -> None:
    with httpx.Client(base_url=small.url) as http:
        for _ in range(3):
            assert http.get("/livez").status_code == 200
            time.sleep(1.5)


def test_more_idle_connections_than_the_server_may_open_files(small: Server) -> None:
    with ExitStack() as idle:
        for _ in range(MANY):
            idle.enter_context(connect(small))
        for _ in range(5):
            assert httpx.get(f"{small.url}/livez", timeout=5).status_code == 200
    assert "Traceback" not in small.errors
