"""Records of builds: they are found by the content of the files that were built, whatever their names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines import records
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span
from kandinsky_runtime.engines.records import BuildRecord
from kandinsky_runtime.errors import UsageError

DIGESTS = {"graph": "a" * 64, "weights": "b" * 64}
PROFILE = GraphProfile(Profile(), {"batch": Span(1, 2, 4), "height": Span(64, 96, 128)}, 8, True)
RECORD = BuildRecord("tensorrt", "unet", Precision.FP16, "entry", "my bundle", (PROFILE,), {"TensorRT": "11"})


def test_a_record_is_read_back(cache: Path) -> None:
    RECORD.save(DIGESTS)
    assert records.find("tensorrt", "unet", DIGESTS) == RECORD
    assert RECORD.folder == cache / "kandinsky22-deploy" / "tensorrt" / "entry"
    assert f"{RECORD.command} {RECORD.options}" == (
        "k22 build my bundle --engine tensorrt --precision fp16 --height 512:768:1024 --width 512:768:1024"
        " --batch 1:1:4"
    )


def test_the_last_one_counts(cache: Path) -> None:
    RECORD.save(DIGESTS)
    replace(RECORD, entry="other").save(DIGESTS)
    found = records.find("tensorrt", "unet", DIGESTS)
    assert found is not None
    assert found.entry == "other"


@pytest.mark.parametrize(
    ("engine", "component", "digests"),
    [
        ("onnxruntime", "unet", DIGESTS),
        ("tensorrt", "movq_decoder", DIGESTS),
        ("tensorrt", "unet", DIGESTS | {"weights": "c" * 64}),
        ("tensorrt", "unet", {"graph": "a" * 64}),
        ("tensorrt", "../unet", DIGESTS),
    ],
)
def test_no_record_of_anything_else(engine: str, component: str, digests: dict[str, str], cache: Path) -> None:
    RECORD.save(DIGESTS)
    assert records.find(engine, component, digests) is None


def test_a_component_cannot_escape_the_folder(cache: Path) -> None:
    replace(RECORD, component="../../../escaped").save(DIGESTS)
    assert {path.parent for path in cache.rglob("*.json")} == {cache / "kandinsky22-deploy" / "built" / "tensorrt"}


def test_forgotten(cache: Path) -> None:
    RECORD.save(DIGESTS)
    for _ in range(2):
        records.forget("tensorrt", "unet", DIGESTS)
        assert records.find("tensorrt", "unet", DIGESTS) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda data: "",
        lambda data: "{",
        lambda data: "[]",
        lambda data: json.dumps(data | {"extra": 1}),
        lambda data: json.dumps({key: value for key, value in data.items() if key != "entry"}),
        lambda data: json.dumps(data | {"profiles": [{}]}),
        lambda data: json.dumps(data).replace('"min": 64', '"min": 640'),
    ],
)
def test_a_record_that_cannot_be_read(
    change: Callable[[dict[str, Any]], str], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RECORD.save(DIGESTS)
    (file,) = cache.rglob("*.json")
    file.write_text(change(json.loads(file.read_text())))
    assert records.find("tensorrt", "unet", DIGESTS) is None
    (message,) = caplog.messages
    assert message.startswith(f"the record {file} of a build cannot be read (")


def test_a_cache_folder_that_is_no_folder(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert records.find("tensorrt", "unet", DIGESTS) is None
    assert not caplog.messages


@pytest.mark.parametrize("accessible", [False, True])
def test_a_cache_folder_of_another_user(
    accessible: bool, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A home that cannot be entered has no builds of this user's; a file that cannot be read is reported."""
    RECORD.save(DIGESTS)

    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # root may read everything
    monkeypatch.setattr("os.access", lambda *_: accessible)
    assert records.find("tensorrt", "unet", DIGESTS) is None
    assert len(caplog.messages) == accessible


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert records.find("tensorrt", "unet", DIGESTS) is None
    with pytest.raises(UsageError, match="no folder to keep built engines in: set XDG_CACHE_HOME to one"):
        RECORD.save(DIGESTS)
