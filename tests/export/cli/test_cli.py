"""`k22-export` as users and scripts meet it: exit statuses, one sentence for an error, clean stdout and stderr.

Covers every module of `cli`; `tensorrt/test_check.py` runs `k22-export check`, `test_cli_prior.py` the priors.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_export import cli, folders
from kandinsky_export.cli import main
from kandinsky_runtime.bundle.bundle import Bundle

Captured = pytest.CaptureFixture[str]


def run(*arguments: object, capfd: Captured) -> tuple[int, str, str]:
    """The exit status, stdout and stderr, of Python and of the C++ libraries alike."""
    try:
        status = main([str(item) for item in arguments])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        status = ended.code
    out, err = capfd.readouterr()
    return status, out, err


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A process of its own, which loads everything again."""
    program = "import sys; from kandinsky_export.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


class TestHelp:
    def test_no_vendor_is_loaded(self) -> None:
        program = (
            "import sys\nfrom kandinsky_export.cli import main\n"
            "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
            "vendors = {'paddle', 'ppdiffusers', 'paddle2onnx', 'onnx', 'numpy', 'onnxruntime', 'huggingface_hub'}\n"
            "sys.exit(', '.join(vendors & set(sys.modules)) or 0)"
        )
        commands = ("bundle", "check", "checkpoint", "verify")
        for arguments in (["--help"], *([command, "--help"] for command in commands), []):
            subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)

    def test_it_comes_at_once(self) -> None:
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            process = start("--help")
            out, err = process.communicate()
            seconds.append(time.perf_counter() - begin)
            assert process.returncode == 0
            assert "k22-export bundle tiny --out bundle" in out
            assert err == ""
        assert min(seconds) < 0.5

    @pytest.mark.parametrize("command", ["checkpoint", "bundle", "verify", "check"])
    def test_every_command_shows_an_example(self, command: str, capfd: Captured) -> None:
        status, out, err = run(command, "--help", capfd=capfd)
        assert status == 0
        assert err == ""
        example = re.search(rf"^(?:example: |  )(k22-export {command} .+)$", out, re.MULTILINE)
        assert example
        arguments = example[1].split()[1:]
        cli._parser().parse_args(arguments)  # it can be typed as it stands


class TestWrongArguments:
    """Exit status 2, one sentence, and no work done."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "COMMAND"),
            (["nonsense"], "nonsense"),
            (["checkpoint"], "--out"),
            (["checkpoint", "--out", "x", "--size", "huge"], "huge"),
            (["checkpoint", "--out", "x", "--format", "torch"], "torch"),
            (["checkpoint", "--out", "x", "--seed", "1.5"], "1.5"),
            (["checkpoint", "--out", "x", "--unknown"], "--unknown"),
            (["checkpoint", "--out", "missing/x"], "is not a folder; create it first"),
            (["checkpoint", "--out", "."], "is or contains the current folder"),
            (["bundle", "--out", "x"], "CHECKPOINT"),
            (["bundle", "{checkpoint}"], "--out"),
            (["bundle", "{checkpoint}", "--out", "x", "--variants", "onnx-int4,paddle"], "no variant onnx-int4"),
            (["bundle", "owner/name", "--out", "x", "--variants", "onnx-int4"], "there is no variant onnx-int4"),
            (["bundle", "owner/name", "--out", "x", "--variants", ","], "a bundle needs a variant"),
            (["bundle", "owner/name", "--out", "missing/x"], "is not a folder; create it first"),
            (["bundle", "{checkpoint}", "--out", "x", "--hub", "paddle"], "go with a hub name, not with the folder"),
            (["bundle", "{checkpoint}", "--out", "x", "--revision", "main"], "go with a hub name, not with the folder"),
            (["bundle", "{checkpoint}", "--out", "x", "--hub", "github"], "github"),
            (["bundle", "{checkpoint}", "--out", "{checkpoint}"], "exists; choose another folder"),
            (["bundle", "{checkpoint}", "--out", "{checkpoint}", "--overwrite"], "has no manifest.json in it"),
            (["verify", "{bundle}"], "CHECKPOINT"),
            (["verify", "{bundle}", "{checkpoint}", "--steps", "-1"], "expected a whole number of 0 or more"),
            (["verify", "{bundle}", "{checkpoint}", "--steps", "many"], "expected a whole number of 0 or more"),
            (["verify", "{bundle}", "{checkpoint}", "--steps", "1001"], "the checkpoint's scheduler has 1000"),
            (["verify", "{bundle}", "owner/name", "--plot", "x.png", "--steps", "0"], "--plot draws the trajectory"),
            (["verify", "{bundle}", "owner/name", "--plot", "missing/x.png"], "missing"),
            (["verify", "{bundle}", "owner/name", "--vectors", "x.npy"], "expected a file name that ends in .npz"),
            (["verify", "{bundle}", "owner/name", "--vectors", "missing/x.npz"], "create missing first"),
            (["verify", "{bundle}", "{checkpoint}", "--tensorrt"], "use k22-export check BUNDLE"),
            (["check"], "BUNDLE"),
            (["check", "{bundle}", "--height", "tall"], "--height is 'tall'; expected MIN:OPT:MAX"),
            (["verify", "{bundle}", "owner/name", "--engines", "paddle:int4"], "int4"),
            (["verify", "{bundle}", "owner/name", "--engines", "tensorflow"], "there is no engine 'tensorflow'"),
            (["verify", "{bundle}", "owner/name", "--engines", ","], "got no engine to verify"),
        ],
        ids=lambda item: " ".join(item) if isinstance(item, list) else "",
    )
    def test_refused(
        self,
        arguments: Sequence[str],
        message: str,
        micro_checkpoint: Path,
        micro_bundle: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: Captured,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        places = {"{checkpoint}": str(micro_checkpoint), "{bundle}": str(micro_bundle)}
        status, out, err = run(*(places.get(item, item) for item in arguments), "--quiet", capfd=capfd)
        assert status == 2
        assert out == ""
        assert message in err
        assert err.startswith("k22-export")
        assert err.count("\n") == 1
        assert not list(tmp_path.iterdir())


class TestFailures:
    """Exit status 1 and one sentence; a traceback only with --debug."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["bundle", "./missing", "--out", "x"], "missing: no such folder"),
            (["bundle", "{bundle}", "--out", "x"], "scheduler/scheduler_config.json is missing"),
            (["bundle", "{checkpoint}", "--out", "x", "--weights", "fp16"], "unet has no fp16 weights"),
            (["verify", "./missing", "{checkpoint}"], "missing: there is no such folder"),
            (["verify", "{checkpoint}", "{checkpoint}"], "not a bundle"),
            (["verify", "{bundle}", "./missing"], "missing: no such folder"),
        ],
        ids=lambda item: " ".join(item) if isinstance(item, list) else "",
    )
    def test_one_clear_message(
        self,
        arguments: Sequence[str],
        message: str,
        micro_checkpoint: Path,
        micro_bundle: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: Captured,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        places = {"{checkpoint}": str(micro_checkpoint), "{bundle}": str(micro_bundle)}
        status, out, err = run(*(places.get(item, item) for item in arguments), "--json", "--quiet", capfd=capfd)
        assert status == 1
        assert out == ""
        assert err.startswith("k22-export: error: ")
        assert message in err
        assert "Traceback" not in err
        assert not list(tmp_path.iterdir())

    def test_debug_shows_where(self, tmp_path: Path, capfd: Captured) -> None:
        status, _, err = run("bundle", tmp_path / "missing", "--out", tmp_path / "x", "--debug", capfd=capfd)
        assert status == 1
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("k22-export: error: ")

    def test_a_full_disk(
        self, micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
    ) -> None:
        def full(_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(folders, "_flush", full)
        status, out, err = run("bundle", micro_checkpoint, "--out", tmp_path / "x", "--quiet", capfd=capfd)
        assert (status, out) == (1, "")
        assert err == (
            f"k22-export: error: cannot write {tmp_path / 'x'}: the disk is full; free some space and try again\n"
        )
        assert not list(tmp_path.iterdir())


class TestCheckpoint:
    @pytest.mark.parametrize("form", ["ppdiffusers", "diffusers"])
    def test_text(self, form: str, tmp_path: Path, capfd: Captured) -> None:
        out = tmp_path / "new"
        status, said, err = run("checkpoint", "--out", out, "--format", form, "--seed", "-3", capfd=capfd)
        assert (status, said) == (0, f"wrote {out}\n")
        assert "writing weights: 100%" in err
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        assert 15e6 < size < 17e6  # as --help says

    def test_json(self, tmp_path: Path, capfd: Captured) -> None:
        out = tmp_path / "new"
        status, said, err = run("checkpoint", "--out", out, "--json", "--quiet", capfd=capfd)
        assert (status, err) == (0, "")
        assert json.loads(said) == {"checkpoint": str(out), "image_embeds": str(out / "image_embeds.npz")}
        assert set(np.load(out / "image_embeds.npz")) == {"image_embeds", "negative_image_embeds"}


class TestBundle:
    def test_text_and_bars(self, micro_checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
        out = tmp_path / "bundle"
        status, said, err = run("bundle", micro_checkpoint, "--out", out, "--variants", "paddle", capfd=capfd)
        assert status == 0
        assert re.fullmatch(rf"wrote {re.escape(str(out))}: paddle, \d+\.\d MB\n", said)
        for title in ("exporting: 100%", "unet weights", "hashing bundle", "hashing checkpoint"):
            assert title in err

    def test_the_name_of_a_folder_is_not_its_path(
        self, micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
    ) -> None:
        monkeypatch.chdir(micro_checkpoint)
        out = tmp_path / "bundle"
        assert run("bundle", ".", "--out", out, "--variants", "paddle", "--quiet", capfd=capfd)[0] == 0
        assert Bundle.open(out).manifest.source["name"] == micro_checkpoint.name

    def test_a_hub_name(
        self, micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
    ) -> None:
        asked: dict[str, Any] = {}

        def fetch(name: str, **options: Any) -> Path:
            asked.update(options, name=name)
            return micro_checkpoint

        monkeypatch.setattr("kandinsky_export.hub.fetch_checkpoint", fetch)
        monkeypatch.chdir(tmp_path)
        arguments = ("bundle", "owner/name", "--hub", "paddle", "--out", "bundle", "--variants", "paddle", "--quiet")
        assert run(*arguments, capfd=capfd)[0] == 0
        assert asked == {"name": "owner/name", "hub": "paddle", "revision": None, "variant": None, "progress": False}
        assert Bundle.open(tmp_path / "bundle").manifest.source["name"] == "owner/name"

    def test_a_folder_that_reads_like_a_hub_name_wins(
        self, micro_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
    ) -> None:
        (tmp_path / "owner").mkdir()
        shutil.move(micro_copy, tmp_path / "owner" / "name")
        monkeypatch.chdir(tmp_path)
        arguments = ("bundle", "owner/name", "--out", "bundle", "--variants", "paddle", "--quiet")
        assert run(*arguments, capfd=capfd)[0] == 0


class TestVerify:
    @pytest.fixture
    def bundle(self, micro_bundle: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))

    def test_passed(self, bundle: Path, micro_checkpoint: Path, capfd: Captured) -> None:
        arguments = ("verify", bundle, micro_checkpoint, "--engines", "paddle,onnxruntime", "--steps", "0")
        status, said, err = run(*arguments, capfd=capfd)
        assert status == 0
        assert said.splitlines()[-1] == "passed"
        assert "verifying: 100%" in err

    def test_failed(self, bundle: Path, tmp_path: Path, capfd: Captured) -> None:
        from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
        from tests.export.conftest import MICRO

        write_sample_checkpoint(tmp_path / "other", seed=1, changes=MICRO)
        arguments = ("verify", bundle, tmp_path / "other", "--engines", "paddle", "--steps", "0", "--quiet")
        status, said, err = run(*arguments, capfd=capfd)
        assert (status, err) == (1, "")
        assert said.splitlines()[-1] == "FAILED"
        assert "outside the tolerance: unet" in said
        status, said, err = run(*arguments, "--json", capfd=capfd)
        assert (status, err) == (1, "")
        assert json.loads(said)["passed"] is False

    def test_every_step(self, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
        bundle = shutil.copytree(tiny_bundle, tmp_path / "tiny")
        arguments = ("verify", bundle, tiny_checkpoint, "--engines", "onnxruntime", "--steps", "1", "--trajectory")
        status, said, err = run(*arguments, "--plot", tmp_path / "plot.png", "--quiet", capfd=capfd)
        assert (status, err) == (0, "")
        with Image.open(tmp_path / "plot.png") as plot:
            assert plot.format == "PNG"
            assert plot.convert("L").getextrema() != (255, 255)
        assert re.search(r"^ +step +UNet +latents +relative\n +1 .*\n", said, re.MULTILINE)


class TestProcesses:
    """In processes of their own, where vendors load and speak as they do for users."""

    def test_stdout_is_one_json_object_and_stderr_is_empty(
        self, micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path
    ) -> None:
        bundle = shutil.copytree(micro_bundle, tmp_path / "copy")
        engines = ("--engines", "onnxruntime,paddle")
        processes = {
            "bundle": start("bundle", micro_checkpoint, "--out", tmp_path / "new", "--json", "--quiet"),
            "verify": start("verify", bundle, micro_checkpoint, *engines, "--steps", "0", "--json", "--quiet"),
        }
        said = {}
        for name, process in processes.items():
            out, err = process.communicate()
            assert (process.returncode, err) == (0, "")
            said[name] = json.loads(out)
        assert said["bundle"]["bundle"] == str(tmp_path / "new")
        assert said["bundle"]["variants"] == ["paddle", "onnx-fp32"]
        assert said["bundle"]["notes"] == []
        files = Bundle.open(tmp_path / "new").manifest.files
        assert said["bundle"]["bytes"] == sum(entry.bytes for entry in files.values())
        assert said["verify"]["passed"] is True

    def test_signals(self, micro_checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
        """Killed or interrupted at work, it leaves no bundle; the next run cleans up and succeeds."""
        folder = {number: tmp_path / number.name for number in (signal.SIGKILL, signal.SIGINT)}
        started = {}
        for number, parent in folder.items():
            parent.mkdir()
            started[number] = start("bundle", micro_checkpoint, "--out", parent / "out", "--quiet")
        waiting = set(folder)
        while waiting:
            for number in tuple(waiting):
                if any(folder[number].glob(".out.partial-*")):
                    started[number].send_signal(number)
                    waiting.remove(number)
            time.sleep(0.001)
        for number, process in started.items():
            out, err = process.communicate()
            assert out == ""
            if number == signal.SIGINT:
                assert (process.returncode, err) == (130, "k22-export: interrupted\n")
                assert not list(folder[number].iterdir())
            else:
                assert process.returncode == -number
                assert [path.name.partition("-")[0] for path in folder[number].iterdir()] == [".out.partial"]
        again = run("bundle", micro_checkpoint, "--out", folder[signal.SIGKILL] / "out", "--quiet", capfd=capfd)
        assert again[0] == 0
        assert [path.name for path in folder[signal.SIGKILL].iterdir()] == ["out"]
        Bundle.open(folder[signal.SIGKILL] / "out").check_content()
