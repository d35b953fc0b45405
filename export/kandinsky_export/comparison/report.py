"""A comparison as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kandinsky_export.comparison.compare import Comparison, SettingResult
from kandinsky_export.comparison.figures import decibel_text, number_text
from kandinsky_export.comparison.measures import EDGE
from kandinsky_runtime.bench.report import environment

_COLUMNS = ("", "latents dB", "picture dB", "lowest dB", "SSIM", "edge inside", "edge outside", "seconds")


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison for JSON."""
    return {
        "environment": environment(),
        "bundle": str(comparison.bundle.root),
        "edge_pixels": EDGE,
        "cases": [{"prompt": case.label, "seed": case.seed} for case in comparison.cases],
        "baseline": _result(comparison.baseline),
        "candidates": [_result(item) for item in comparison.candidates],
    }


def to_text(comparison: Comparison, *, every_step: bool = False) -> str:
    """The comparison for people: the settings, their figures side by side, and what the figures are.

    Args:
        comparison: the figures.
        every_step: whether to add the PSNR of the latents after every step.
    """
    names = comparison.names
    lines = [
        f"{name}: {item.setting.text} ({', '.join(item.runs_on)})"
        for name, item in zip(names, comparison.results, strict=True)
    ]
    lines += ["", *_table(comparison), ""]
    if every_step:
        lines += [*_steps(comparison), ""]
    count = len(comparison.cases)
    where = "the mask" if comparison.cases[0].pictures.mask is not None else "the picture"
    lines.append(
        f"{count} result{'s' if count > 1 else ''} of each; medians. Decibels and SSIM are those within {where}"
        f" against the baseline: higher is better."
    )
    if comparison.baseline.summary.edge_outside is not None:
        lines.append(
            f"Edges: mean absolute difference of pixels, of 255, in bands of {EDGE} px: inside against the baseline,"
            " outside against the input, before pasting."
        )
    lines.append(
        "Seconds: median time of one result, without loading graphs. The first result of each setting is left out,"
        " because engines compile during it" + ("; there is no other." if count == 1 else ".")
    )
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _table(comparison: Comparison) -> list[str]:
    """The figures of every setting, and the reason of one that failed in their place."""
    width = max(map(len, comparison.names))
    named = [(name.ljust(width), item) for name, item in zip(comparison.names, comparison.results, strict=True)]
    heading, *lines = aligned([_COLUMNS, *(_row(name, item) for name, item in named if item.failed is None)])
    done = iter(lines)
    return [heading, *(next(done) if item.failed is None else f"{name}  {item.failure}" for name, item in named)]


def _row(name: str, item: SettingResult) -> tuple[str, ...]:
    summary = item.summary
    return (
        name,
        decibel_text(summary.latents),
        decibel_text(summary.picture),
        decibel_text(summary.lowest_picture),
        number_text(summary.ssim, 4),
        number_text(summary.edge_inside, 2),
        number_text(summary.edge_outside, 2),
        number_text(summary.seconds, 2),
    )


def _steps(comparison: Comparison) -> list[str]:
    """The PSNR of the first case's latents after every step of the baseline."""
    candidates, names, steps = comparison.candidates, comparison.names[1:], comparison.baseline.steps
    series = [item.figures[0].latents or () if item.figures else () for item in candidates]
    longest = max(map(len, series))
    # A candidate with another number of steps has one figure, that of the last latents.
    padded = [(*[None] * (longest - len(values)), *values) for values in series]
    first = 1 + steps - longest
    rows = [(str(step), *map(decibel_text, row)) for step, row in enumerate(zip(*padded, strict=True), first)]
    return [
        "latents of the first result, dB after each step:",
        *aligned([("step", *names), *rows]),
        f"Steps are matched by their number. A candidate with other than the baseline's {steps} steps has one figure:"
        " its last latents against the baseline's last.",
    ]


def _result(item: SettingResult) -> dict[str, Any]:
    engine, precision, variant = item.runs_on
    return {
        "setting": item.setting.text,
        "engine": engine,
        "precision": precision,
        "variant": variant,
        **({"summary": item.summary.to_dict()} if item.failed is None else {"failed": item.failed}),
        "results": [figures.to_dict() for figures in item.figures],
    }
