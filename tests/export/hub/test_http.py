"""Answers and failures of a server: what is tried again, what is refused, and what is followed."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from kandinsky_export.errors import DownloadError
from kandinsky_export.hub import http
from tests.export.hub.checkpoint import MOVQ, PADDLE_FILES, UNET, WEIGHTS, contents
from tests.export.hub.fake_server import FakeServer, Handler, cut_after, hold_after, send_all
from tests.export.hub.fake_store import fetch, in_store


@pytest.mark.parametrize("file", ["model_index.json", UNET])
def test_server_errors_are_tried_again(file: str, store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(file)] = [500, 503, 429]
    assert contents(fetch(tmp_path)) == PADDLE_FILES


def test_a_server_that_stays_broken(store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(UNET)] = [500] * 100
    with pytest.raises(DownloadError, match=rf"{store.url}\S+: the server answered 500 Internal Server Error"):
        fetch(tmp_path)
    assert len(store.statuses[in_store(UNET)]) == 100 - http.ATTEMPTS


def test_a_status_that_makes_no_sense_is_not_tried_again(store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(UNET)] = [402, 402]
    with pytest.raises(DownloadError, match="the server answered 402 Payment Required"):
        fetch(tmp_path)
    assert len(store.statuses[in_store(UNET)]) == 1


def test_a_part_that_was_not_asked_for_is_refused(store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(UNET)] = [206]
    with pytest.raises(DownloadError, match="the server answered 206; expected 200 for a whole file"):
        fetch(tmp_path)


def test_pauses_grow_and_attempts_are_bounded(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 1.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    store.script[in_store(UNET)] = [cut_after(0)] * 100
    message = r"in 5 attempts: the connection ended after 0 of 1,024,000 bytes; the 0 bytes that came are kept"
    with pytest.raises(DownloadError, match=message):
        fetch(tmp_path)
    assert pauses == [1, 2, 4, 8]


@pytest.mark.parametrize("length", ["", "-1", "many"])
def test_a_length_is_required(length: str, store: FakeServer, tmp_path: Path) -> None:
    store.headers[in_store(UNET)] = {"Content-Length": length}
    with pytest.raises(DownloadError, match="does not report its length"):
        fetch(tmp_path)


def test_a_login_page_is_not_taken_for_a_file(store: FakeServer, tmp_path: Path) -> None:
    store.headers[in_store("model_index.json")] = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DownloadError, match="a web page came in its place"):
        fetch(tmp_path)


def test_redirects_over_http_are_followed_and_keep_the_range(store: FakeServer, tmp_path: Path) -> None:
    store.files["/elsewhere"] = WEIGHTS
    store.headers["302"] = {"Location": "/elsewhere"}
    store.statuses[in_store(UNET)] = [302] * 10
    store.script["/elsewhere"] = [cut_after(300_000)] * 2  # before Python 3.13, urllib follows the HEAD with a GET
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert "bytes=300000-" in store.gets("/elsewhere")


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "gopher://127.0.0.1/"])
def test_redirects_to_anything_else_are_refused(target: str, store: FakeServer, tmp_path: Path) -> None:
    store.headers["302"] = {"Location": target}
    store.statuses[in_store(UNET)] = [302]
    with pytest.raises(DownloadError, match=r"the server answered 302|unknown url type: ftp"):
        fetch(tmp_path)


def test_redirects_in_a_circle_end(store: FakeServer, tmp_path: Path) -> None:
    store.headers["302"] = {"Location": in_store(UNET)}
    store.statuses[in_store(UNET)] = [302] * 100
    with pytest.raises(DownloadError, match="the server answered 302"):
        fetch(tmp_path)


def test_an_unknown_host_fails_at_once(store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = (
        "its host name cannot be resolved .*; check the network, or name a mirror of the store in K22_PADDLE_STORE"
    )
    with pytest.raises(DownloadError, match=message):
        fetch(tmp_path)
    assert len(asked) == 1


def test_a_host_that_does_not_listen_fails_at_once(store: FakeServer, tmp_path: Path) -> None:
    store.close()
    with pytest.raises(DownloadError, match=rf"{store.url}\S+: its host refuses the connection"):
        fetch(tmp_path)


def test_a_host_that_is_lost_halfway_is_tried_again(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_network(handler: Handler, body: bytes) -> None:
        send_all(handler, body[:300_000])
        monkeypatch.setattr(socket, "getaddrinfo", unknown_once)

    def unknown_once(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    resolve = socket.getaddrinfo
    store.script[in_store(UNET)] = [lose_network]
    assert contents(fetch(tmp_path)) == PADDLE_FILES


def test_silence_is_a_timeout(store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.2)
    store.script[in_store(UNET)] = [hold_after(300_000)]
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == [None, "bytes=300000-"]

    store.script[in_store(MOVQ)] = [hold_after(0)] * 100
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"nothing came for 0\.2 s"):
        fetch(tmp_path)
