"""`k22-export` with a prior, as users and scripts meet it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.cli import main
from kandinsky_runtime.bundle.bundle import Bundle

Captured = pytest.CaptureFixture[str]


def run(*arguments: object, capfd: Captured) -> tuple[int, str, str]:
    try:
        status = main([str(item) for item in arguments])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        status = ended.code
    out, err = capfd.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (2, ["checkpoint", "--out", "x", "--vocabulary", "y"], "--vocabulary goes with --prior"),
        (2, ["checkpoint", "--out", "x", "--prior", "--decoder", "plain"], "got --decoder and --prior, which make"),
        (2, ["checkpoint", "--out", "missing/x", "--prior"], "is not a folder; create it first"),
        (1, ["checkpoint", "--out", "x", "--prior", "--vocabulary", "missing"], "missing/vocab.json is missing"),
        (2, ["bundle", "{checkpoint}", "--out", "x", "--without", "prior"], "can only be left out of a bundle with a"),
        (2, ["bundle", "a/b", "--out", "x", "--prior", "c/d", "--without", "movq"], "movq cannot be left out; choose"),
        (2, ["bundle", "a/b", "--out", "x", "--prior-revision", "main"], "and --prior-weights go with --prior"),
        (2, ["bundle", "a/b", "--out", "x", "--prior-weights", "fp16"], "and --prior-weights go with --prior"),
        (2, ["bundle", "a/b", "--out", "x", "--prior-lora", "f"], "--prior-lora goes with --prior"),
        (2, ["bundle", "a/b", "--out", "x", "--lora", "f.safetensors:0.5"], "f.safetensors: no such file; give the"),
        (2, ["bundle", "a/b", "--out", "x", "--prior", "c/d", "--prior-lora", "f"], "f: no such file; give the"),
        (2, ["bundle", "a/b", "--out", "x", "--prior", "{prior}", "--prior-revision", "main"], "not with the folder"),
        (2, ["bundle", "{checkpoint}", "--out", "x", "--prior", "{prior}", "--hub", "paddle"], "not with the folder"),
        (1, ["bundle", "{checkpoint}", "--out", "x", "--prior", "./missing"], "missing: no such folder"),
        (1, ["bundle", "{checkpoint}", "--out", "x", "--prior", "{checkpoint}"], "this is a decoder, and a prior"),
        (1, ["bundle", "{prior}", "--out", "x", "--prior", "{prior}"], "this is a prior, and a decoder"),
        (1, ["bundle", "{checkpoint}", "--out", "x", "--prior", "{prior}", "--prior-weights", "q"], "has no q weights"),
        (2, ["verify", "{bundle}", "{checkpoint}", "--prior", "{prior}", "--steps", "0"], "has no prior: leave out"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)  # fmt: skip
def test_refused(
    status: int,
    arguments: Sequence[str],
    message: str,
    micro_checkpoint: Path,
    micro_prior: Path,
    micro_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"{checkpoint}": str(micro_checkpoint), "{prior}": str(micro_prior), "{bundle}": str(micro_bundle)}
    got, out, err = run(*(places.get(item, item) for item in arguments), "--quiet", capfd=capfd)
    assert (got, out) == (status, "")
    assert message in err
    assert err.startswith("k22-export")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_checkpoint(micro_prior: Path, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "new"
    arguments = ("checkpoint", "--prior", "--vocabulary", micro_prior / "tokenizer", "--out", out)
    status, said, err = run(*arguments, "--json", "--quiet", capfd=capfd)
    assert (status, err) == (0, "")
    assert json.loads(said) == {"prior": str(out)}
    assert PriorCheckpoint.open(out).components["prior"].form == "ppdiffusers"


def test_bundle(micro_checkpoint: Path, micro_prior: Path, tmp_path: Path, capfd: Captured) -> None:
    out = tmp_path / "new"
    arguments = ("bundle", micro_checkpoint, "--prior", micro_prior, "--without", "image_encoder,text_encoder")
    status, said, err = run(*arguments, "--variants", "paddle", "--out", out, capfd=capfd)
    assert status == 0
    assert said.startswith(f"wrote {out}: paddle, ")
    assert "exporting: 100%" in err
    assert {"prior"} == set(Bundle.open(out).manifest.components) & {"prior", "text_encoder", "image_encoder"}


def test_what_is_not_used_is_in_the_report(micro_checkpoint: Path, tmp_path: Path, capfd: Captured) -> None:
    checkpoint = shutil.copytree(micro_checkpoint, tmp_path / "checkpoint")
    (checkpoint / "unet" / "old.safetensors").touch()
    arguments = ("bundle", checkpoint, "--variants", "paddle", "--out", tmp_path / "new", "--json", "--quiet")
    status, said, _ = run(*arguments, capfd=capfd)
    assert status == 0
    assert json.loads(said)["notes"] == [f"{checkpoint}: not used: unet/old.safetensors"]


def test_hub_names(
    micro_checkpoint: Path, micro_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    """Each with its own revision and variant, and the folders that a prior has."""
    asked: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> Path:
        asked.append({**options, "name": name})
        return micro_checkpoint if name == "owner/decoder" else micro_prior

    monkeypatch.setattr("kandinsky_export.hub.fetch_checkpoint", fetch)
    monkeypatch.chdir(tmp_path)
    arguments = ["bundle", "owner/decoder", "--revision", "one", "--prior", "owner/prior", "--prior-revision", "two"]
    arguments += ["--without", "image_encoder,text_encoder,prior", "--variants", "paddle", "--out", "new", "--quiet"]
    assert run(*arguments, capfd=capfd)[0] == 0
    decoder, prior = asked
    assert (decoder["name"], decoder["revision"]) == ("owner/decoder", "one")
    assert (prior["name"], prior["revision"], prior["hub"]) == ("owner/prior", "two", "huggingface")
    assert set(prior["components"]) == {"text_encoder", "image_encoder", "prior", "tokenizer", "image_processor"}
    source = Bundle.open(tmp_path / "new").manifest.source
    assert (source["name"], source["prior"]["name"]) == ("owner/decoder", "owner/prior")
