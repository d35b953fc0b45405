"""Checkpoints that come with the package are found by name, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kandinsky_export.cli import main
from kandinsky_export.hub import looks_like_hub_name
from kandinsky_export.hub.shipped import DECODER, PRIOR, shipped_checkpoint


@pytest.mark.parametrize("name", [DECODER, PRIOR])
def test_they_are_there(name: str) -> None:
    folder = shipped_checkpoint(name)
    assert folder is not None
    assert looks_like_hub_name(name)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"].startswith("KandinskyV22")
    assert (folder.parent / "README.md").exists()


def test_other_names_are_not_theirs() -> None:
    assert shipped_checkpoint("owner/drawn-cats") is None
    assert shipped_checkpoint("drawn") is None


@pytest.mark.parametrize("name", ["drawn-cats", "drawn-cats/other", "Drawn_Cats/prior", "drawn-cats/prior/"])
def test_names_that_are_nearly_theirs_are_asked_of_no_hub(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bundle", name, "--out", str(tmp_path / "bundle")]) == 2
    assert f"there is no checkpoint {name}; with this package come {DECODER} and {PRIOR}" in capsys.readouterr().err


def test_options_of_hubs_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for option in (["--hub", "paddle"], ["--revision", "main"]):
        assert main(["bundle", DECODER, "--out", str(tmp_path / "bundle"), *option]) == 2
        assert "comes with this package" in capsys.readouterr().err
