"""Hugging Face through its library: answers, absence, the cache and the library's own settings."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kandinsky_export import hub
from kandinsky_export.errors import CheckpointError, DownloadError
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from tests.export.hub.checkpoint import COMMIT, NAME, PLAIN, PUBLISHED, names, weights
from tests.export.hub.fake_huggingface import FakeHuggingFace, fetch_hf, go_offline, without_the_hub
from tests.export.hub.fake_server import FakeServer


def test_importing_the_module_loads_no_hub_library() -> None:
    libraries = {"huggingface_hub", "requests", "filelock"}
    code = f"import sys, kandinsky_export.hub; sys.exit(not {libraries}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


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


def test_a_relative_is_refused_before_its_weights_are_fetched(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    path = f"/{NAME}/resolve/{COMMIT}/unet/config.json"
    huggingface.server.files[path] = b'{"addition_embed_type": "image_hint"}'
    with pytest.raises(
        CheckpointError, match="this is the ControlNet decoder of Kandinsky 2.2, which takes a depth map"
    ):
        fetch_hf(tmp_path)
    assert not huggingface.server.gets(".safetensors")
