"""Fetching checkpoints by hub name, against servers that the tests start on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from kandinsky_export import hub
from kandinsky_export.errors import CheckpointError, DownloadError
from kandinsky_runtime.errors import Kandinsky22Error, UsageError

NAME = "kandinsky-community/tiny-inpaint"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = "unet/model_state.pdparams"
MOVQ = "movq/model_state.pdparams"
WEIGHTS = bytes(range(256)) * 4000  # about 1 MB


class PatientServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # with the usual 5, eight clients at once wait a second for each other


class FakeServer:
    """Serves `files` by URL path, remembers every request, and misbehaves as told by `script`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str | None] = {}  # in place of the hash of the content
        self.headers: dict[str, dict[str, str]] = {}  # further headers by path
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.script: dict[str, list[Callable[[Handler, bytes], None]]] = {}  # by path, one for each of its GETs
        self.statuses: dict[str, list[int]] = {}  # by path, one for each of its requests
        self.honours_range = True
        self.honours_if_range = True
        self.release = threading.Event()

        class BoundHandler(Handler):
            fake = self

        self.http = PatientServer(("127.0.0.1", 0), BoundHandler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def etag(self, path: str) -> str | None:
        return self.etags.get(path, f'"{hashlib.sha256(self.files[path]).hexdigest()}"')

    def gets(self, end: str = "") -> list[str | None]:
        """The Range headers of all GETs of paths with this end."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(end)]

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # or the body of an answer waits for the client to acknowledge the headers
    fake: FakeServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *arguments: object) -> None:
        """Keep stderr clean."""

    def answer(self) -> None:
        fake, path = self.fake, self.path.partition("?")[0]
        fake.requests.append((self.command, path, self.headers["Range"]))
        if fake.statuses.get(path):
            self.refuse(fake.statuses[path].pop(0))
        elif path not in fake.files:
            self.refuse(404)
        else:
            self.serve(path)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        for header, value in self.fake.headers.get(str(status), {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self, path: str) -> None:
        fake, content, etag = self.fake, self.fake.files[path], self.fake.etag(path)
        start = self.first_byte(etag)
        if start and start >= len(content):
            self.refuse(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        headers = {"Content-Length": str(len(content) - start), "ETag": etag or "", **fake.headers.get(path, {})}
        for header, value in headers.items():
            if value:
                self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            steps = fake.script.get(path)
            send = steps.pop(0) if steps else send_all
            send(self, content[start:])

    def first_byte(self, etag: str | None) -> int:
        span = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if span is None or not self.fake.honours_range:
            return 0
        condition = self.headers["If-Range"]
        if self.fake.honours_if_range and condition is not None and condition != etag:
            return 0
        return int(span[1])


def send_all(handler: Handler, body: bytes) -> None:
    handler.wfile.write(body)


def cut_after(count: int) -> Callable[[Handler, bytes], None]:
    """Send `count` bytes, then drop the connection."""
    return lambda handler, body: send_all(handler, body[:count])


def hold_after(count: int) -> Callable[[Handler, bytes], None]:
    """Send `count` bytes, then nothing until the test releases the server."""

    def send(handler: Handler, body: bytes) -> None:
        send_all(handler, body[:count])
        handler.wfile.flush()
        handler.fake.release.wait(20)

    return send


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pauses, no proxy, and nobody's cache or token."""
    monkeypatch.setattr(hub, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


# ---- names ----------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "",
    "name",
    "owner/",
    "/name",
    "owner/name/",
    "owner/name/more",
    "../name",
    "owner/..",
    "owner/a..b",
    "owner/.hidden",
    "owner/-option",
    "owner/name.",
    "a--b/c",
    "owner\\name",
    "owner/na me",
    "owner/näme",
    "owner/name\n",
    "owner/name?x",
    "./name",
    "~/name",
    "owner/" + "n" * 97,
]


@pytest.mark.parametrize("name", [NAME, "a/b", "Owner_1/name-2.2.x", "1/2", "o/" + "n" * 96])
def test_hub_names_are_recognised(name: str) -> None:
    assert hub.looks_like_hub_name(name)


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("which", ["huggingface", "paddle"])
def test_bad_names_are_refused_before_anything_is_asked_or_written(
    name: str, which: hub.Hub, tmp_path: Path, store: FakeServer
) -> None:
    assert not hub.looks_like_hub_name(name)
    with pytest.raises(UsageError, match="is not a hub name"):
        hub.fetch_checkpoint(name, hub=which, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert store.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hub": "elsewhere"}, "no hub is called 'elsewhere'"),
        ({"hub": "paddle", "revision": "main"}, "keeps no revisions"),
        ({"hub": "huggingface", "revision": "../main"}, "is not a revision"),
        ({"hub": "huggingface", "revision": ""}, "is not a revision"),
        ({"hub": "paddle", "variant": "../fp16"}, "is not a variant"),
        ({"hub": "paddle", "components": ("unet", "..")}, "is not a component"),
    ],
)
def test_other_arguments_that_cannot_be_meant_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hub.fetch_checkpoint(NAME, **arguments)


@pytest.mark.parametrize(
    "url", ["ftp://host/models", "file:///models", "models", "http://", "http://h/?x=1", "http://u:p@h/", "http://h/ü"]
)
def test_a_store_that_is_no_http_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.PADDLE_STORE_VARIABLE, url)
    with pytest.raises(UsageError, match="K22_PADDLE_STORE is"):
        hub.fetch_checkpoint(NAME, hub="paddle")


def test_importing_the_module_loads_no_hub_library() -> None:
    code = "import sys, kandinsky_export.hub; sys.exit(not {'huggingface_hub', 'requests'}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the Paddle store -----------------------------------------------------------------------------------------------

PADDLE_FILES = {
    "model_index.json": b'{"_class_name": "KandinskyV22InpaintPipeline"}',
    "scheduler/scheduler_config.json": b'{"_class_name": "DDPMScheduler"}',
    "unet/config.json": b'{"in_channels": 9}',
    "movq/config.json": b'{"latent_channels": 4}',
    UNET: WEIGHTS,
    MOVQ: WEIGHTS[:1000],
}


@pytest.fixture
def store(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A Paddle store that holds NAME, named by K22_PADDLE_STORE."""
    server.files.update({f"/models/{NAME}/{file}": content for file, content in PADDLE_FILES.items()})
    monkeypatch.setenv(hub.PADDLE_STORE_VARIABLE, f"{server.url}/models/")
    return server


def in_store(file: str) -> str:
    return f"/models/{NAME}/{file}"


def fetch(tmp_path: Path, **options: Any) -> Path:
    return hub.fetch_checkpoint(NAME, hub="paddle", cache_dir=tmp_path / "cache", progress=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def part_of(tmp_path: Path, file: str = UNET) -> Path:
    return tmp_path / "cache" / "kandinsky-community--tiny-inpaint" / f"{file}.part"


def stop_halfway(tmp_path: Path, store: FakeServer, count: int = 300_000) -> None:
    """Leave the UNet with its first `count` bytes, and the store as if nothing had happened."""
    store.script[in_store(UNET)] = [cut_after(count)] + [cut_after(0)] * (hub.ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(tmp_path)
    assert part_of(tmp_path).read_bytes() == WEIGHTS[:count]
    store.requests.clear()


def test_the_default_store_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(hub.PADDLE_STORE_VARIABLE, raising=False)
    assert hub._paddle_store() == "https://paddlenlp.bj.bcebos.com/models/community"
    assert hub.default_cache_dir() == tmp_path / "xdg/kandinsky22-deploy/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.default_cache_dir() == tmp_path / ".cache/kandinsky22-deploy/hub"


def test_a_full_download(store: FakeServer, tmp_path: Path) -> None:
    folder = hub.fetch_checkpoint(NAME, hub="paddle", progress=False)
    assert folder == tmp_path / "xdg/kandinsky22-deploy/hub/kandinsky-community--tiny-inpaint"
    assert contents(folder) == PADDLE_FILES
    assert store.gets() == [None] * len(PADDLE_FILES)


def test_a_complete_cache_needs_no_network(store: FakeServer, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    store.close()
    store.requests.clear()
    assert fetch(tmp_path) == folder
    assert store.requests == []


def test_only_what_the_cache_lacks_is_fetched(store: FakeServer, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    store.requests.clear()
    (folder / MOVQ).unlink()
    (folder / "unet/config.json").write_bytes(b"{}")
    fetch(tmp_path)
    assert contents(folder) == PADDLE_FILES
    assert {path for method, path, _ in store.requests} == {in_store(MOVQ), in_store("unet/config.json")}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "whole": {"a": 1}, "partial": {}}'])
def test_a_damaged_ledger_counts_for_nothing(damage: str, store: FakeServer, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    (folder / hub.LEDGER_NAME).write_text(damage)
    store.requests.clear()
    fetch(tmp_path)
    assert len(store.gets()) == len(PADDLE_FILES)


def test_another_store_of_the_same_name_is_another_source(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path)
    store.files.update({f"/mirror/{NAME}/{file}": content[::-1] for file, content in PADDLE_FILES.items()})
    monkeypatch.setenv(hub.PADDLE_STORE_VARIABLE, f"{store.url}/mirror")
    assert contents(fetch(tmp_path))[UNET] == WEIGHTS[::-1]


def test_an_interruption_between_a_files_name_and_its_record(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: hub._CacheFolder) -> None:
        if (folder.path / UNET).read_bytes() != WEIGHTS:
            raise KeyboardInterrupt
        save(folder)

    fetch(tmp_path)
    store.files.update({f"/mirror/{NAME}/{file}": content[::-1] for file, content in PADDLE_FILES.items()})
    save = hub._CacheFolder._save
    with monkeypatch.context() as patch:
        patch.setattr(hub._CacheFolder, "_save", interrupted)
        patch.setenv(hub.PADDLE_STORE_VARIABLE, f"{store.url}/mirror")
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)
    assert contents(fetch(tmp_path)) == PADDLE_FILES


def test_components_of_a_prior(store: FakeServer, tmp_path: Path) -> None:
    files = {
        "model_index.json": b"{}",
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/config.json": b"{}",
        "text_encoder/model_state.pdparams": b"weights",
        "tokenizer/vocab.json": b"{}",
        "tokenizer/merges.txt": b"",
    }
    store.files = {in_store(file): content for file, content in files.items()}
    assert contents(fetch(tmp_path, components=("text_encoder", "tokenizer"))) == files


def test_the_fp16_variant(store: FakeServer, tmp_path: Path) -> None:
    for component in ("unet", "movq"):
        store.files[in_store(f"{component}/model_state.fp16.pdparams")] = b"half"
    folder = fetch(tmp_path, variant="fp16")
    assert {file for file in contents(folder) if file.endswith(".pdparams")} == {
        "unet/model_state.fp16.pdparams",
        "movq/model_state.fp16.pdparams",
    }
    assert contents(fetch(tmp_path)) == PADDLE_FILES | {
        "unet/model_state.fp16.pdparams": b"half",
        "movq/model_state.fp16.pdparams": b"half",
    }


def test_missing_files_are_all_named_with_their_urls(store: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch(tmp_path, variant="fp16")
    assert [fault.split()[0] for fault in caught.value.faults] == [
        "unet/model_state.fp16.pdparams",
        "movq/model_state.fp16.pdparams",
    ]
    assert f"404 Not Found for {store.url}/models/{NAME}/unet/model_state.fp16.pdparams" in str(caught.value)
    assert store.gets() == []


def test_a_file_that_vanishes_after_it_was_seen(store: FakeServer, tmp_path: Path) -> None:
    def send_and_remove(handler: Handler, body: bytes) -> None:
        del store.files[in_store(UNET)]
        send_all(handler, body)

    store.script[in_store("movq/config.json")] = [send_and_remove]
    with pytest.raises(DownloadError, match=rf"{UNET} cannot be fetched from {store.url}\S+: the server answered 404"):
        fetch(tmp_path)


def test_a_cut_connection_is_resumed_at_the_byte_where_it_broke(store: FakeServer, tmp_path: Path) -> None:
    store.script[in_store(UNET)] = [cut_after(300_000), cut_after(100_000)]
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == [None, "bytes=300000-", "bytes=400000-"]


def test_the_next_call_resumes_too(store: FakeServer, tmp_path: Path) -> None:
    stop_halfway(tmp_path, store)
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == ["bytes=300000-"]


def test_any_number_of_cuts_is_survived_as_long_as_bytes_come(store: FakeServer, tmp_path: Path) -> None:
    store.script[in_store(UNET)] = [cut_after(50_000)] * (3 * hub.ATTEMPTS)
    assert contents(fetch(tmp_path)) == PADDLE_FILES


def test_pauses_grow_and_attempts_are_bounded(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(hub, "BACKOFF_SECONDS", 1.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    store.script[in_store(UNET)] = [cut_after(0)] * 100
    message = r"in 5 attempts: the connection ended after 0 of 1,024,000 bytes; the 0 bytes that came are kept"
    with pytest.raises(DownloadError, match=message):
        fetch(tmp_path)
    assert pauses == [1, 2, 4, 8]


def test_a_file_that_changes_between_two_calls_starts_from_zero(store: FakeServer, tmp_path: Path) -> None:
    stop_halfway(tmp_path, store)
    store.files[in_store(UNET)] = WEIGHTS[::-1]
    assert contents(fetch(tmp_path))[UNET] == WEIGHTS[::-1]
    assert store.gets(UNET) == [None]


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changes_while_it_is_fetched_starts_from_zero(
    honours_if_range: bool, store: FakeServer, tmp_path: Path
) -> None:
    def cut_and_change(handler: Handler, body: bytes) -> None:
        send_all(handler, body[:300_000])
        store.files[in_store(UNET)] = WEIGHTS[::-1]

    store.honours_if_range = honours_if_range
    store.script[in_store(UNET)] = [cut_and_change]
    assert contents(fetch(tmp_path))[UNET] == WEIGHTS[::-1]
    assert store.gets(UNET) == [None, "bytes=300000-"] + [None] * (not honours_if_range)


def test_a_file_that_shrinks_while_it_is_fetched_starts_from_zero(store: FakeServer, tmp_path: Path) -> None:
    def cut_and_shrink(handler: Handler, body: bytes) -> None:
        send_all(handler, body[:300_000])
        store.files[in_store(UNET)] = b"short"

    store.honours_if_range = False
    store.script[in_store(UNET)] = [cut_and_shrink]
    assert contents(fetch(tmp_path))[UNET] == b"short"  # after a 416
    assert store.gets(UNET) == [None, "bytes=300000-", None]


def test_a_server_that_ignores_range_starts_from_zero(store: FakeServer, tmp_path: Path) -> None:
    stop_halfway(tmp_path, store)
    store.honours_range = False
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == ["bytes=300000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_nothing_is_resumed(etag: str | None, store: FakeServer, tmp_path: Path) -> None:
    store.etags[in_store(UNET)] = etag
    store.script[in_store(UNET)] = [cut_after(300_000)]
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == [None, None]


def test_a_whole_part_file_only_needs_its_name(store: FakeServer, tmp_path: Path) -> None:
    stop_halfway(tmp_path, store)
    part_of(tmp_path).write_bytes(WEIGHTS)
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == []


def test_a_whole_part_file_without_an_etag_may_be_another_file(store: FakeServer, tmp_path: Path) -> None:
    store.etags[in_store(UNET)] = None
    store.script[in_store(UNET)] = [cut_after(300_000)] * hub.ATTEMPTS
    with pytest.raises(DownloadError):
        fetch(tmp_path)
    part_of(tmp_path).write_bytes(WEIGHTS[::-1])
    assert contents(fetch(tmp_path)) == PADDLE_FILES


@pytest.mark.parametrize("file", ["model_index.json", UNET])
def test_server_errors_are_tried_again(file: str, store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(file)] = [500, 503, 429]
    assert contents(fetch(tmp_path)) == PADDLE_FILES


def test_a_server_that_stays_broken(store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(UNET)] = [500] * 100
    with pytest.raises(DownloadError, match=rf"{store.url}\S+: the server answered 500 Internal Server Error"):
        fetch(tmp_path)
    assert len(store.statuses[in_store(UNET)]) == 100 - hub.ATTEMPTS


def test_a_status_that_makes_no_sense_is_not_tried_again(store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(UNET)] = [402, 402]
    with pytest.raises(DownloadError, match="the server answered 402 Payment Required"):
        fetch(tmp_path)
    assert len(store.statuses[in_store(UNET)]) == 1


def test_a_part_that_was_not_asked_for_is_refused(store: FakeServer, tmp_path: Path) -> None:
    store.statuses[in_store(UNET)] = [206]
    with pytest.raises(DownloadError, match="the server answered 206 where a whole file was asked for"):
        fetch(tmp_path)


@pytest.mark.parametrize("announced", [1_024_001, 2_000_000])
def test_a_length_that_is_too_great_is_an_error(announced: int, store: FakeServer, tmp_path: Path) -> None:
    store.headers[in_store(UNET)] = {"Content-Length": str(announced)}
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch(tmp_path)
    assert UNET not in contents(part_of(tmp_path).parents[1])


@pytest.mark.parametrize("length", ["", "-1", "many"])
def test_a_length_is_required(length: str, store: FakeServer, tmp_path: Path) -> None:
    store.headers[in_store(UNET)] = {"Content-Length": length}
    with pytest.raises(DownloadError, match="does not tell its length"):
        fetch(tmp_path)


def test_a_login_page_is_not_taken_for_a_file(store: FakeServer, tmp_path: Path) -> None:
    store.headers[in_store("model_index.json")] = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DownloadError, match="a web page came in its place"):
        fetch(tmp_path)


def test_an_empty_file(store: FakeServer, tmp_path: Path) -> None:
    store.files[in_store(MOVQ)] = b""
    assert contents(fetch(tmp_path))[MOVQ] == b""


def test_no_room_on_the_disk_is_found_before_the_download(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 999, 999))
    with pytest.raises(DownloadError, match=r"has 999 bytes free and 1,025,\d+ are still to be fetched"):
        fetch(tmp_path)
    assert store.gets() == []


def test_bytes_that_came_need_no_room(store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_halfway(tmp_path, store, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 30_000, 30_000))
    assert contents(fetch(tmp_path)) == PADDLE_FILES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_keeps_what_came(
    number: int, store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(WEIGHTS):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DownloadError, match=r"the disk is full at .*: free some space and try again"):
            fetch(tmp_path)
    store.requests.clear()
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == []


def test_a_cache_that_cannot_be_written(store: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DownloadError, match=r"cannot be used: .*choose another cache folder"):
        fetch(tmp_path)


def test_ctrl_c_leaves_a_part_file_that_resumes(store: FakeServer, tmp_path: Path) -> None:
    store.files[in_store(UNET)] = WEIGHTS * 4
    store.script[in_store(UNET)] = [hold_after(2_500_000)]
    code = (
        "import pathlib, sys, kandinsky_export.hub as hub\n"
        "hub.fetch_checkpoint(sys.argv[1], hub='paddle', cache_dir=pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, NAME, str(tmp_path / "cache")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_until(lambda: part_of(tmp_path).exists() and part_of(tmp_path).stat().st_size > 1_400_000)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in stderr

    stopped = part_of(tmp_path).stat().st_size
    folder = part_of(tmp_path).parents[1]
    assert {file for file in contents(folder) if "model_state" in file} == {f"{UNET}.part"}
    store.requests.clear()
    assert contents(fetch(tmp_path)) == PADDLE_FILES | {UNET: WEIGHTS * 4}
    assert store.gets(UNET) == [f"bytes={stopped}-"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_do_not_fetch_into_the_same_folder(
    store: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = part_of(tmp_path).parents[1]
    folder.mkdir(parents=True)
    with FileLock(folder / hub.LOCK_NAME):
        other = threading.Thread(target=fetch, args=[tmp_path])
        other.start()
        wait_until(lambda: "another process is fetching" in caplog.text)
        assert store.requests == []
    other.join(10)
    assert contents(folder) == PADDLE_FILES


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
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.2)
    store.script[in_store(UNET)] = [hold_after(300_000)]
    assert contents(fetch(tmp_path)) == PADDLE_FILES
    assert store.gets(UNET) == [None, "bytes=300000-"]

    store.script[in_store(MOVQ)] = [hold_after(0)] * 100
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"nothing came for 0\.2 s"):
        fetch(tmp_path)


def test_progress_goes_to_stderr(store: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fetch_checkpoint(NAME, hub="paddle", cache_dir=tmp_path / "loud")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf"{UNET}: 100%.*0\.98M/0\.98M", err)

    hub.fetch_checkpoint(NAME, hub="paddle", cache_dir=tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")


# ---- Hugging Face ---------------------------------------------------------------------------------------------------

PLAIN = "diffusion_pytorch_model"
COMMON = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "movq/config.json",
}
PUBLISHED = COMMON | {
    "README.md",
    "cat.png",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "movq/diffusion_pytorch_model.bin",
    "movq/diffusion_pytorch_model.safetensors",
    "movq/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
}


class FakeHuggingFace:
    """A Hugging Face endpoint with one repository, NAME, over a FakeServer."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        server.headers["404"] = {"X-Error-Code": "RepoNotFound"}

    def publish(self, names: set[str]) -> None:
        """Make the repository hold these files, each with its own name as content."""
        listing = {
            "id": NAME,
            "modelId": NAME,
            "sha": COMMIT,
            "private": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in sorted(names)],
        }
        for path in ("", "/revision/main", f"/revision/{COMMIT}"):
            self.server.files[f"/api/models/{NAME}{path}"] = json.dumps(listing).encode()
        for name in names:
            path = f"/{NAME}/resolve/{COMMIT}/{name}"
            self.server.files[path] = name.encode()
            self.server.headers[path] = {"X-Repo-Commit": COMMIT}

    def fail(self, status: int, **headers: str) -> None:
        """Answer every question about the repository with this status."""
        self.server.headers[str(status)] = {name.replace("_", "-"): value for name, value in headers.items()}
        for path in ("", "/revision/main", "/revision/v9"):
            self.server.statuses[f"/api/models/{NAME}{path}"] = [status] * 100


@pytest.fixture
def huggingface(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeHuggingFace:
    """The endpoint, put in place of the real one: huggingface_hub reads HF_ENDPOINT only when it is imported."""
    from huggingface_hub import file_download, hf_api

    monkeypatch.setattr(hf_api, "ENDPOINT", server.url)
    monkeypatch.setattr(file_download, "ENDPOINT", server.url)
    monkeypatch.setattr(
        file_download, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    fake = FakeHuggingFace(server)
    fake.publish(PUBLISHED)
    return fake


def fetch_hf(tmp_path: Path, **options: Any) -> Path:
    return hub.fetch_checkpoint(NAME, hub="huggingface", cache_dir=tmp_path / "cache", progress=False, **options)


def names(folder: Path) -> set[str]:
    assert all(content.decode() == name for name, content in contents(folder).items())
    return set(contents(folder))


def weights(*ends: str) -> set[str]:
    return COMMON | {f"{component}/{PLAIN}{end}" for component in ("unet", "movq") for end in ends}


def test_safetensors_are_chosen_and_nothing_else(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    assert names(fetch_hf(tmp_path)) == weights(".safetensors")


def test_the_fp16_variant_is_chosen_when_asked_for(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    assert names(fetch_hf(tmp_path, variant="fp16")) == weights(".fp16.safetensors")


SHARDED = (".safetensors.index.json", "-00001-of-00002.safetensors", "-00002-of-00002.safetensors")
SHARDED_FP16 = (
    ".safetensors.index.fp16.json",
    ".fp16-00001-of-00002.safetensors",
    ".fp16-00002-of-00002.safetensors",
)
SHARDED_FP16_AFTER = (
    ".safetensors.index.fp16.json",
    "-00001-of-00002.fp16.safetensors",
    "-00002-of-00002.fp16.safetensors",
)


@pytest.mark.parametrize("halves", [SHARDED_FP16, SHARDED_FP16_AFTER])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_chosen_with_their_index(
    variant: str | None, halves: tuple[str, ...], huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    huggingface.publish(weights(".bin", *SHARDED, *halves))
    assert names(fetch_hf(tmp_path, variant=variant)) == weights(*(halves if variant else SHARDED))


def test_components_decide_what_is_needed(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    extra = {"tokenizer/vocab.json", "tokenizer/merges.txt", "text_encoder/model.fp16.safetensors"}
    huggingface.publish(PUBLISHED | extra | {"tokenizer/tokenizer.model"})
    assert names(fetch_hf(tmp_path, components=("text_encoder", "tokenizer"))) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }


@pytest.mark.parametrize(
    ("published", "variant", "faults"),
    [
        (
            COMMON | {f"unet/{PLAIN}.fp16.bin", f"unet/{PLAIN}.safetensors", f"movq/{PLAIN}.fp16.safetensors"},
            "fp16",
            [f"unet/ has no complete fp16 weights in safetensors form; it holds {PLAIN}.fp16.bin, {PLAIN}.safetensors"],
        ),
        (
            weights(".bin") - {"model_index.json", "movq/config.json"},
            None,
            [
                "model_index.json is missing",
                "movq/config.json is missing",
                f"unet/ has no complete weights in safetensors form; it holds {PLAIN}.bin",
                f"movq/ has no complete weights in safetensors form; it holds {PLAIN}.bin",
            ],
        ),
        (
            weights(".safetensors") - {f"movq/{PLAIN}.safetensors"} | {f"movq/{PLAIN}{SHARDED[0]}"},
            None,
            [f"movq/ has no complete weights in safetensors form; it holds {PLAIN}.safetensors.index.json"],
        ),
        (
            weights(*SHARDED) - {f"unet/{PLAIN}{SHARDED[0]}"},
            None,
            [
                f"unet/ has no complete weights in safetensors form; "
                f"it holds {PLAIN}-00001-of-00002.safetensors, {PLAIN}-00002-of-00002.safetensors"
            ],
        ),
        (
            weights(*SHARDED) - {f"unet/{PLAIN}{SHARDED[2]}"},
            None,
            [
                f"unet/ has no complete weights in safetensors form; "
                f"it holds {PLAIN}-00001-of-00002.safetensors, {PLAIN}.safetensors.index.json"
            ],
        ),
    ],
)
def test_what_is_missing_is_listed_beside_what_there_is(
    published: set[str], variant: str | None, faults: list[str], huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    huggingface.server.files.clear()
    huggingface.publish(published)
    with pytest.raises(CheckpointError) as caught:
        fetch_hf(tmp_path, variant=variant)
    assert caught.value.subject == f"{NAME} on Hugging Face"
    assert list(caught.value.faults) == faults
    assert not any("/resolve/" in path for _, path, _ in huggingface.server.requests)


def test_a_component_that_is_not_there(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch_hf(tmp_path, components=("prior", "tokenizer"))
    assert caught.value.faults == (
        "prior/config.json is missing",
        "prior/ has no complete weights in safetensors form; it holds nothing else",
        "tokenizer/ has no .json or .txt file; it holds nothing else",
    )


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "on Hugging Face does not exist, or is private"),
        (403, "GatedRepo", "on Hugging Face is gated: accept its terms"),
        (404, "RevisionNotFound", "revision v9 does not exist, though the repository does"),
        (400, "", "could not be fetched from http://127.0.0.1:.*400"),
        (403, "", "could not be fetched from http://127.0.0.1:.*403"),
        (502, "", "of which the cache holds no copy, could not be fetched from .*502"),
    ],
)
def test_answers_of_the_hub_become_one_sentence(
    status: int, code: str, message: str, huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    huggingface.fail(status, X_Error_Code=code)
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_hf(tmp_path, revision="v9" if code == "RevisionNotFound" else None)
    assert "\n" not in str(caught.value)


def test_a_name_that_only_hugging_face_forbids(huggingface: FakeHuggingFace) -> None:
    with pytest.raises(UsageError, match="Hugging Face forbids such a name"):
        hub.fetch_checkpoint("owner/name.git", hub="huggingface")


def test_an_endpoint_that_is_something_else(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    huggingface.server.files[f"/api/models/{NAME}"] = b'{"id": "x"}'
    with pytest.raises(DownloadError, match="does not answer as Hugging Face does: it leaves out 'private'"):
        fetch_hf(tmp_path)
    huggingface.server.files[f"/api/models/{NAME}"] = b"<html>"
    with pytest.raises(DownloadError, match="could not be fetched from http://127"):
        fetch_hf(tmp_path)


def test_a_hub_that_does_not_listen(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    huggingface.server.close()
    message = r"the cache holds no copy, could not be fetched from http\S+: \[Errno \d+\] Connection refused; check the"
    with pytest.raises(DownloadError, match=message):
        fetch_hf(tmp_path)


@pytest.mark.parametrize("trouble", ["closed", "broken", "offline"])
def test_without_the_hub_a_whole_copy_in_the_cache_is_used(
    trouble: str, huggingface: FakeHuggingFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_hf(tmp_path)
    without_the_hub(trouble, huggingface, monkeypatch)
    assert fetch_hf(tmp_path) == folder


@pytest.mark.parametrize("trouble", ["closed", "broken", "offline"])
def test_without_the_hub_an_incomplete_copy_is_refused(
    trouble: str, huggingface: FakeHuggingFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_hf(tmp_path, components=("unet",))
    without_the_hub(trouble, huggingface, monkeypatch)
    with pytest.raises(CheckpointError, match="the copy in the cache, ") as caught:
        fetch_hf(tmp_path)
    assert [fault.split("/")[0] for fault in caught.value.faults] == ["movq", "movq"]


def without_the_hub(trouble: str, huggingface: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch) -> None:
    if trouble == "closed":
        huggingface.server.close()
    elif trouble == "broken":
        huggingface.fail(503)
    else:
        go_offline(monkeypatch)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 does when huggingface_hub is imported."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(_http, "get_session", _http._default_backend_factory)
    from huggingface_hub import hf_api

    monkeypatch.setattr(hf_api, "get_session", _http._default_backend_factory)


def test_offline_without_a_copy(huggingface: FakeHuggingFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    with pytest.raises(DownloadError, match="the cache holds no copy, cannot be fetched offline: unset HF_HUB_OFFLINE"):
        fetch_hf(tmp_path)


def test_a_hub_that_is_lost_halfway(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    movq = f"/{NAME}/resolve/{COMMIT}/movq/{PLAIN}.safetensors"
    huggingface.server.statuses[movq] = [500] * 100
    with pytest.raises(DownloadError, match=r"could not be fetched from .*what came so far is kept"):
        fetch_hf(tmp_path)
    huggingface.server.statuses.clear()
    huggingface.server.requests.clear()
    assert names(fetch_hf(tmp_path)) == weights(".safetensors")
    assert huggingface.server.gets("/config.json") == []


def test_a_full_disk_under_the_library(
    huggingface: FakeHuggingFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub._snapshot_download.hf_hub_download", full)
    with pytest.raises(DownloadError, match="the disk is full at the cache of huggingface_hub"):
        fetch_hf(tmp_path)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'kandinsky22-deploy\[export\]'") as caught:
        fetch_hf(tmp_path)
    assert isinstance(caught.value, Kandinsky22Error)


def test_the_librarys_bars_go_to_stderr_unless_switched_off(
    huggingface: FakeHuggingFace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    hub.fetch_checkpoint(NAME, hub="huggingface", cache_dir=tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")
    assert not are_progress_bars_disabled()

    hub.fetch_checkpoint(NAME, hub="huggingface", cache_dir=tmp_path / "loud")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Fetching 6 files: 100%" in err


def test_the_librarys_environment_variables_are_honoured(server: FakeServer, tmp_path: Path) -> None:
    FakeHuggingFace(server).publish(PUBLISHED)
    code = "import sys, kandinsky_export.hub as h; print(h.fetch_checkpoint(sys.argv[1], hub='huggingface'))"
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        environment.pop(name, None)

    def run(**further: str) -> str:
        command = [sys.executable, "-W", "error", "-c", code, NAME]
        return subprocess.run(
            command, env=environment | further, check=True, capture_output=True, text=True
        ).stdout.strip()

    folder = run()
    assert folder.startswith(str(tmp_path / "home"))
    assert names(Path(folder)) == weights(".safetensors")
    server.requests.clear()
    assert run(HF_HUB_OFFLINE="1") == folder
    assert server.requests == []
