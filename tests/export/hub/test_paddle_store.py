"""The files that are requested from the Paddle store, their paths, and the errors for missing ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kandinsky_export import hub
from kandinsky_export.errors import CheckpointError, DownloadError
from kandinsky_export.hub.paddle_store import store_url
from kandinsky_runtime.errors import UsageError
from tests.export.hub.checkpoint import MOVQ, NAME, PADDLE_FILES, UNET, WEIGHTS, contents
from tests.export.hub.fake_server import FakeServer
from tests.export.hub.fake_store import fetch, in_store, stop_halfway


@pytest.mark.parametrize(
    "url", ["ftp://host/models", "file:///models", "models", "http://", "http://h/?x=1", "http://u:p@h/", "http://h/ü"]
)
def test_a_store_that_is_no_http_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.PADDLE_STORE_VARIABLE, url)
    with pytest.raises(UsageError, match="K22_PADDLE_STORE is"):
        hub.fetch_checkpoint(NAME, hub="paddle")


def test_the_default_store_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(hub.PADDLE_STORE_VARIABLE, raising=False)
    assert store_url() == "https://paddlenlp.bj.bcebos.com/models/community"
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


def test_another_store_of_the_same_name_is_another_source(
    store: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path)
    store.files.update({f"/mirror/{NAME}/{file}": content[::-1] for file, content in PADDLE_FILES.items()})
    monkeypatch.setenv(hub.PADDLE_STORE_VARIABLE, f"{store.url}/mirror")
    assert contents(fetch(tmp_path))[UNET] == WEIGHTS[::-1]


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


def test_a_relative_is_refused_before_its_weights_are_fetched(store: FakeServer, tmp_path: Path) -> None:
    store.files[in_store("model_index.json")] = b'{"_class_name": "KandinskyInpaintPipeline"}'
    for _ in range(2):  # the second time with the small files in the cache
        with pytest.raises(CheckpointError, match="Paddle store: this is a Kandinsky 2.1 decoder; it is not supported"):
            fetch(tmp_path)
    assert not store.gets(".pdparams")
