"""The figures of one result, and what many of them come to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.comparison import measures
from kandinsky_export.comparison.cases import Case
from kandinsky_export.comparison.runs import Outcome
from kandinsky_runtime.pictures.mask import paste_pixels

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """The figures of one result; those against a reference are None for the reference itself.

    Attributes:
        seconds: the time of the run, without that of loading graphs.
        latents: PSNR in dB of the latents after each step, within the area that is generated; of the last ones alone
            if the reference has another number of steps.
        picture: PSNR in dB of the pictures in the mask, or of whole ones without a mask.
        ssim: structural similarity there, up to 1.
        edge_inside: mean absolute difference from the reference in the band inside the mask's edge, in levels of 255.
        edge_outside: that of the decoder's picture from the input in the band outside, before anything is pasted.
    """

    seconds: float
    latents: tuple[float, ...] | None
    picture: float | None
    ssim: float | None
    edge_inside: float | None
    edge_outside: float | None

    @classmethod
    def of(cls, case: Case, got: Outcome, want: Outcome | None = None) -> Figures:
        """Measure a result, against a reference if there is one."""
        area = inside = outside = None
        mask, picture = case.pictures.mask, case.pictures.picture
        if mask is not None:
            area = mask > 0
            inside, outside = measures.edge_bands(mask)
        edge_outside = None
        if outside is not None and picture is not None:
            edge_outside = measures.difference(picture, got.picture, outside)
        if want is None:
            return cls(got.seconds, None, None, None, None, edge_outside)
        if len(got.latents) == len(want.latents):
            pairs = list(zip(want.latents, got.latents, strict=True))
        else:
            pairs = [(want.latents[-1], got.latents[-1])]
        return cls(
            got.seconds,
            tuple(measures.latents_psnr(*pair, want.cells) for pair in pairs),
            measures.picture_psnr(want.picture, got.picture, area),
            measures.ssim(shown(case, want.picture), shown(case, got.picture), area),
            None if inside is None else measures.difference(want.picture, got.picture, inside),
            edge_outside,
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures for JSON: those that there are; a dB of null means equal."""
        latents = {} if self.latents is None else {"latents_db": [_rounded(value) for value in self.latents]}
        return latents | _present(
            picture_db=self.picture,
            ssim=self.ssim,
            edge_inside=self.edge_inside,
            edge_outside=self.edge_outside,
            seconds=self.seconds,
        )


@dataclass(frozen=True)
class Summary:
    """The figures of a setting: medians over its results, and the lowest PSNR of a picture.

    The first result's time does not count, since engines compile while they make it; a single result has no time.
    """

    seconds: float | None
    latents: float | None
    picture: float | None
    lowest_picture: float | None
    ssim: float | None
    edge_inside: float | None
    edge_outside: float | None

    @classmethod
    def of(cls, figures: Sequence[Figures]) -> Summary:
        """Sum up at least one result's figures."""
        pictures = [item.picture for item in figures if item.picture is not None]
        return cls(
            _median(item.seconds for item in figures[1:]),
            _median(item.latents[-1] for item in figures if item.latents),
            _median(pictures),
            min(pictures, default=None),
            _median(item.ssim for item in figures),
            _median(item.edge_inside for item in figures),
            _median(item.edge_outside for item in figures),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures for JSON: those that there are; a dB of null means equal."""
        return _present(
            latents_db=self.latents,
            picture_db=self.picture,
            lowest_picture_db=self.lowest_picture,
            ssim=self.ssim,
            edge_inside=self.edge_inside,
            edge_outside=self.edge_outside,
            seconds=self.seconds,
        )


def shown(case: Case, picture: Array) -> Array:
    """What a user sees: the decoder's picture (H, W, 3), pasted into the input if there is a mask."""
    if case.pictures.mask is None or case.pictures.picture is None:
        return picture
    return paste_pixels(case.pictures.picture, picture, case.pictures.mask)


def decibel_text(value: float | None) -> str:
    """A PSNR for a table."""
    if value is None:
        return "-"
    return f"{value:.1f}" if math.isfinite(value) else "equal"


def number_text(value: float | None, digits: int) -> str:
    """A figure for a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None


def _present(**figures: float | None) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in figures.items() if value is not None}


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
