"""The figures of a verification, their tolerances, and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Largest absolute difference by precision: of a component's output, and of a trajectory's picture in [0, 1].
# Sums in another order change float32 outputs of about 1 by 1e-6 to 1e-5; a trajectory adds up its steps' differences.
# Other precisions are measured and printed, not judged: an acceptable loss depends on the weights and on the user.
TOLERANCES: Mapping[str, tuple[float, float]] = {"fp32": (1e-4, 1e-3)}


@dataclass(frozen=True)
class TrajectoryFigures:
    """The differences between a bundle's trajectory and the eager one with the same noise.

    Attributes:
        steps: the number of steps.
        encoded: max-abs of the picture's latents; None for a trajectory without a picture.
        unet: max-abs of the UNet's output for the eager run's own inputs, by step.
        latents: max-abs of the latents after each step; every step starts from the bundle's own.
        latents_relative: the same, divided by the largest eager value.
        image: max-abs of the pixels in [0, 1].
        psnr: the picture's PSNR in dB; None if the two are equal.
    """

    steps: int
    encoded: float | None
    unet: tuple[float, ...]
    latents: tuple[float, ...]
    latents_relative: tuple[float, ...]
    image: float
    psnr: float | None


@dataclass(frozen=True)
class EngineFigures:
    """One engine's figures: max-abs of each component over all shapes, and of the trajectory."""

    version: str
    precision: str
    variant: str
    components: Mapping[str, float]
    trajectory: TrajectoryFigures | None

    def failures(self) -> list[str]:
        """The figures outside their tolerances; none in a precision without tolerances."""
        component_limit, image_limit = TOLERANCES.get(self.precision, (math.inf, math.inf))
        found = [
            f"{name} {error:.1e} > {component_limit:g}"
            for name, error in self.components.items()
            if not error <= component_limit
        ]
        if self.trajectory is not None and not self.trajectory.image <= image_limit:
            found.append(f"trajectory {self.trajectory.image:.1e} > {image_limit:g}")
        return found


@dataclass(frozen=True)
class Report:
    """The figures of a verification.

    Attributes:
        reference: the name and version of the reference.
        shapes: the shape of the first input in each run, by component.
        engines: the figures, by engine.
        note: another possible cause of a difference, or None.
    """

    reference: str
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    engines: Mapping[str, EngineFigures]
    note: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every figure is within its tolerance."""
        return not any(figures.failures() for figures in self.engines.values())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON and in the manifest."""
        return asdict(self) | {"passed": self.passed}

    def table(self, *, every_step: bool = False) -> str:
        """The report as text."""
        lines = [f"max-abs difference from {self.reference}"]
        for name, figures in self.engines.items():
            lines.append(f"{name} {figures.version}, {figures.precision}")
            lines += [f"  {component:22}{error:.2e}" for component, error in figures.components.items()]
            if figures.trajectory is not None:
                lines += _trajectory_lines(figures.trajectory, every_step)
            lines += [f"  outside the tolerance: {failure}" for failure in figures.failures()]
            lines += [] if figures.precision in TOLERANCES else [f"  {figures.precision} has no tolerance: not judged"]
        lines += [self.note] if self.note else []
        return "\n".join([*lines, "passed" if self.passed else "FAILED"])


def _trajectory_lines(figures: TrajectoryFigures, every_step: bool) -> list[str]:
    psnr = "equal" if figures.psnr is None else f"PSNR {figures.psnr:.1f} dB"
    lines = [f"  {f'{figures.steps} steps':22}{figures.image:.2e}  picture, {psnr}"]
    if every_step:
        lines += ["    step      UNet   latents  relative"]
        lines += [
            f"    {i + 1:4}  {unet:.2e}  {latents:.2e}  {relative:.2e}"
            for i, (unet, latents, relative) in enumerate(
                zip(figures.unet, figures.latents, figures.latents_relative, strict=True)
            )
        ]
    return lines
