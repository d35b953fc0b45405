"""A plot of the difference between each engine's trajectory and the eager one."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into files, on machines without a screen
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator

from kandinsky_export.verification.report import Report

_FLOOR = 1e-9  # the place of equal runs on a logarithmic axis


def plot_trajectories(report: Report, path: Path) -> None:
    """Draw two panels against the steps: the UNet alone on the eager run's inputs, and the latents of the whole run.

    Args:
        report: a report with trajectories.
        path: the new picture; its suffix chooses the format.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), sharex=True, layout="constrained")
    for name, figures in report.engines.items():
        if figures.trajectory is None:
            continue
        trajectory = figures.trajectory
        steps = range(1, trajectory.steps + 1)
        quality = "equal" if trajectory.psnr is None else f"{trajectory.psnr:.0f} dB"
        for axes, values in ((left, trajectory.unet), (right, trajectory.latents_relative)):
            axes.plot(steps, [max(value, _FLOOR) for value in values], marker=".", label=f"{name} ({quality})")
    left.set(title="UNet on the same inputs", ylabel="largest absolute difference")
    right.set(title="latents of the whole run", ylabel="largest difference, relative to the largest value")
    for axes in (left, right):
        axes.set(xlabel="step", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(title="engine (PSNR of the picture)")
    figure.suptitle(f"Difference from {report.reference}; {_FLOOR:g} stands for none")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
