"""A file goes on where it stopped, unless the remote one has changed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kandinsky_export import hub
from kandinsky_export.errors import DownloadError
from kandinsky_export.hub import http
from tests.export.hub.checkpoint import MOVQ, NAME, PADDLE_FILES, UNET, WEIGHTS, contents
from tests.export.hub.fake_server import FakeServer, Handler, cut_after, hold_after, send_all
from tests.export.hub.fake_store import fetch, in_store, part_of, stop_halfway, wait_until


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
    store.script[in_store(UNET)] = [cut_after(50_000)] * (3 * http.ATTEMPTS)
    assert contents(fetch(tmp_path)) == PADDLE_FILES


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
    store.script[in_store(UNET)] = [cut_after(300_000)] * http.ATTEMPTS
    with pytest.raises(DownloadError):
        fetch(tmp_path)
    part_of(tmp_path).write_bytes(WEIGHTS[::-1])
    assert contents(fetch(tmp_path)) == PADDLE_FILES


@pytest.mark.parametrize("announced", [1_024_001, 2_000_000])
def test_a_length_that_is_too_great_is_an_error(announced: int, store: FakeServer, tmp_path: Path) -> None:
    store.headers[in_store(UNET)] = {"Content-Length": str(announced)}
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch(tmp_path)
    assert UNET not in contents(part_of(tmp_path).parents[1])


def test_an_empty_file(store: FakeServer, tmp_path: Path) -> None:
    store.files[in_store(MOVQ)] = b""
    assert contents(fetch(tmp_path))[MOVQ] == b""


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


def test_progress_goes_to_stderr(store: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fetch_checkpoint(NAME, hub="paddle", cache_dir=tmp_path / "loud")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf"{UNET}: 100%.*0\.98M/0\.98M", err)

    hub.fetch_checkpoint(NAME, hub="paddle", cache_dir=tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")
