"""`k22 triton` without Triton: what it writes and what it refuses."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from kandinsky_runtime.cli import main
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.triton.parameters import read_parameters
from tests.served_bundles import Bundles

_PARAMETER = re.compile(r'parameters { key: ("[^"]*") value { string_value: ("(?:[^"\\]|\\.)*") } }')


def parameters(config: str) -> dict[str, str]:
    return {json.loads(key): json.loads(value) for key, value in _PARAMETER.findall(config)}


def test_every_option_is_a_parameter_that_is_read_back(bundles: Bundles, tmp_path: Path) -> None:
    out = tmp_path / "models"
    options = (
        "--engine onnxruntime --precision fp32 --device cpu --threads 2 --low-memory --shape-memory 2G --tiles"
        " --trust-bundle --size 64x64 --size 128x96 --max-jobs 3 --max-queue-seconds 5.5 --max-pixels 5000"
        " --max-steps 9 --time-limit 7 --drain-seconds 8 --share-steps 2"
    )
    assert main(["triton", f"hats={bundles.inpaint}", "--out", str(out), "--quiet", *options.split()]) == 0
    ast.parse((out / "hats" / "1" / "model.py").read_text())
    read = read_parameters(parameters((out / "hats" / "config.pbtxt").read_text()))
    assert read.bundle == str(bundles.inpaint)
    assert read.options == {
        "engine": "onnxruntime", "precision": "fp32", "device": "cpu", "threads": 2, "low_memory": True,
        "shape_memory": "2G", "trust_bundle": True, "tiles": True, "progress": False,
    }  # fmt: skip
    settings = read.settings
    assert settings.size == ((64, 64), (128, 96))
    assert (settings.max_jobs, settings.max_queue_seconds, settings.max_pixels) == (3, 5.5, 5000)
    assert (settings.max_steps, settings.time_limit, settings.drain_seconds) == (9, 7.0, 8.0)
    assert settings.share_steps == 2


def test_the_path_that_the_server_sees(bundles: Bundles, tmp_path: Path) -> None:
    path = '/bundles/a "b"/ü'
    assert main(["triton", str(bundles.plain), "--out", str(tmp_path), "--bundle-path", path]) == 0
    config = (tmp_path / "plain" / "config.pbtxt").read_text()
    assert parameters(config) == {"bundle": path, "engine": "auto"}
    assert '"MASK"' not in config


def test_no_repository_in_a_bundle_whose_path_has_an_equals_sign(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "size=64"
    bundle.symlink_to(bundles.plain)
    assert main(["triton", str(bundle), "--out", str(bundle / "models")]) == 2
    assert "is in the folder of the bundle" in capsys.readouterr().err
    assert not (bundle / "models").exists()


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        ("a/b={}", [], "'a/b' cannot be a model's name"),
        ("..={}", [], "'..' cannot be a model's name"),
        ("{}", ["--max-jobs", "0"], "max_jobs is 0"),
        ("nothing", [], "nothing"),
    ],
)
def test_nothing_is_written_if_something_is_wrong(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: str, options: list[str], message: str
) -> None:
    out = tmp_path / "models"
    arguments = [f"good={bundles.plain}", bundle.format(bundles.inpaint), "--out", str(out), *options]
    assert main(["triton", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_model_that_is_there_is_kept(bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inpaint").mkdir()
    assert main(["triton", str(bundles.inpaint), "--out", str(tmp_path)]) == 2
    assert "is there already; remove it" in capsys.readouterr().err
    assert not any((tmp_path / "inpaint").iterdir())


def test_all_places_are_checked_before_the_first_model_is_written(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    command = ["triton", f"a={bundles.inpaint}", f"b={bundles.plain}", "--out", str(tmp_path)]
    assert main(command) == 2
    assert "is there already; remove it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "b").rmdir()
    assert main(command) == 0


@pytest.mark.parametrize("out", ["file", "file/models"])
def test_a_repository_that_is_a_file(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").write_text("text")
    assert main(["triton", str(bundles.inpaint), "--out", str(tmp_path / out)]) == 2
    assert "is a file; choose a folder" in capsys.readouterr().err


def test_control_characters_are_protobufs_escapes(bundles: Bundles, tmp_path: Path) -> None:
    path = '/a\x01\n"\\é'
    assert main(["triton", str(bundles.plain), "--out", str(tmp_path), "--bundle-path", path]) == 0
    config = (tmp_path / "plain" / "config.pbtxt").read_text(encoding="utf-8")
    assert r'string_value: "/a\001\012\"\\é"' in config


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "the parameter bundle is missing"),
        ({"bundle": "b", "threads": "two"}, "two"),
        ({"bundle": "b", "tiles": "maybe"}, "expected true or false"),
        ({"bundle": "b", "port": "80"}, "there is no parameter port"),
        ({"bundle": "b", "size": "64"}, "size is '64'"),
    ],
)
def test_parameters_that_cannot_be_read(texts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=r"^config.pbtxt: ") as caught:
        read_parameters(texts)
    assert message in str(caught.value)
