"""The picture of a verification's trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kandinsky_export.verification.plot import plot_trajectories
from kandinsky_export.verification.report import EngineFigures, Report, TrajectoryFigures


def figures(unet: tuple[float, ...], psnr: float | None) -> EngineFigures:
    trajectory = TrajectoryFigures(len(unet), 0.0, unet, unet, unet, max(unet), psnr)
    return EngineFigures("1", "fp32", "paddle", {"unet": max(unet)}, trajectory)


def colours(path: Path) -> int:
    with Image.open(path) as plot:
        return len(np.unique(np.asarray(plot.convert("RGB")).reshape(-1, 3), axis=0))


def test_every_engine_with_a_trajectory_is_drawn(tmp_path: Path) -> None:
    one = {"equal": figures((0.0, 0.0, 0.0), None)}
    two = one | {"other:bf16": figures((1e-2, 3e-2, 2e-2), 41.0)}
    without = {"components only": EngineFigures("1", "fp32", "paddle", {"unet": 0.0}, None)}
    for name, engines in (("one", one), ("two", two), ("with-one-more", one | without)):
        plot_trajectories(Report("eager", {}, engines), tmp_path / f"{name}.png")
    assert colours(tmp_path / "two.png") > colours(tmp_path / "one.png")
    assert (tmp_path / "with-one-more.png").read_bytes() == (tmp_path / "one.png").read_bytes()
