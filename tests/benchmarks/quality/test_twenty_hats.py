"""The sheet of twenty hats: every cat with its own seed, and errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import twenty_hats


class _Pipeline:
    """Stands for a bundle's pipeline: returns the picture that it is given, and keeps what it was asked."""

    asked: list[dict[str, Any]]

    def __enter__(self) -> _Pipeline:
        self.asked = []
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, prompt: str, **options: Any) -> Any:
        self.asked.append({"prompt": prompt, **options})
        return type("Output", (), {"images": [options["image"]]})


def test_every_cat_is_another_with_noise_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pipeline = _Pipeline()
    monkeypatch.setattr(twenty_hats.InpaintPipeline, "load", lambda bundle: pipeline)
    assert twenty_hats.main(["bundle", "--out", str(tmp_path / "sheet.png"), "--steps", "3"]) == 0
    asked = pipeline.asked
    assert [item["seed"] for item in asked] == list(range(20))
    assert len({np.asarray(item["image"]).tobytes() for item in asked}) == 20
    assert {item["num_inference_steps"] for item in asked} == {3}
    assert all(0.03 < (np.asarray(item["mask_image"]) > 0).mean() < 0.5 for item in asked)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 5 * 192
        assert sheet.height > 4 * 192


def test_a_folder_that_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert twenty_hats.main([str(tmp_path), "--out", str(tmp_path / "sheet.png")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("twenty_hats: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "sheet.png").exists()


def test_a_name_that_is_no_picture_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(twenty_hats.InpaintPipeline, "load", lambda bundle: pytest.fail("the bundle was opened"))
    assert twenty_hats.main(["bundle", "--out", str(tmp_path / "sheet.txt")]) == 2
    assert "sheet.txt" in capsys.readouterr().err
