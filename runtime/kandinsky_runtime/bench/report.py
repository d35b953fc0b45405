"""A measurement as data for JSON, as a table, and as a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from kandinsky_runtime.bench.measure import HOST, MEASURES, WHOLE, EngineTimes, Measured, percentiles, ratios
from kandinsky_runtime.checks import writable_path
from kandinsky_runtime.distribution import installed
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.errors import InputError, Kandinsky22Error
from kandinsky_runtime.files import write_whole

PLOT_FORMATS = (".png", ".svg", ".pdf")

_LABELS = {"movq_encoder": "MoVQ encode", "unet": "UNet, batch 2", "movq_decoder": "MoVQ decode", WHOLE: "whole run"}
_LABELS[HOST] = "host, a step"
_WIDTH = 16


def as_data(measured: Measured) -> dict[str, Any]:
    """Plan, environment, and every engine's figures and single times; all times are in seconds, for JSON."""
    first = measured.engines[0]
    return {
        "environment": environment(),
        "plan": asdict(measured.plan),
        "shapes": {
            name: {key: list(shape) for key, shape in arrays.items()} for name, arrays in measured.shapes.items()
        },
        "peak_resident_bytes": measured.peak_bytes,
        "engines": {item.name: _engine(item, first) for item in measured.engines},
    }


def environment() -> dict[str, Any]:
    """The machine and the versions of what was measured."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": EngineOptions().thread_count,
        "system": platform.platform(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **dict([installed()]),
    }


def processor() -> str:
    """The processor's name, or its architecture if the system does not report a name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def as_text(data: Mapping[str, Any]) -> str:
    """`as_data`'s data for a person to read."""
    here, plan, engines = data["environment"], data["plan"], data["engines"]
    lines = [
        f"{here['processor']}, {here['cores']} cores, Python {here['python']}, numpy {here['numpy']}",
        f"{plan['width']}x{plan['height']} px, {plan['steps']} steps, {plan['repeats']} rounds after"
        f" {plan['warmup']} to warm up",
    ]
    first = next(iter(engines))
    for name, item in engines.items():
        heads = "".join(f"{head:>10}" for head in ("min", "p50", "p90", "p99"))
        against = f"{f'/ {first}':>20}" if name != first else ""
        lines += ["", f"{name} {item['version']}, {item['precision']}", f"  {'':{_WIDTH}}{heads}{against}"]
        for measure, figures in item["measures"].items():
            cells = "".join(f"{_time(figures[key]):>10}" for key in ("min", "p50", "p90", "p99"))
            spread = figures.get("ratio_to_first")
            text = f"{spread['p50']:.2f} ({spread['min']:.2f}-{spread['max']:.2f})" if spread else ""
            lines.append(f"  {_LABELS[measure]:{_WIDTH}}{cells}{text:>20}".rstrip())
        lines.append(f"  {'load':{_WIDTH}}{_time(item['load_seconds']):>10}")
        if cold := item["cold_start"]:
            begins, ends = (_time(cold[key]) for key in ("first_step_begins", "first_step_ends"))
            peak = _gigabytes(cold["peak_bytes"])
            lines.append(f"  {'cold start':{_WIDTH}}{begins:>10} to the first step, {ends} to its end; peak {peak}")
    if len(engines) > 1:
        lines += ["", f"/ {first}: the time over {first}'s in the same round, p50 (min-max); below 1 is faster"]
    lines += ["", f"peak resident memory of the measuring process: {_gigabytes(data['peak_resident_bytes'])}"]
    return "\n".join(lines)


def check_paths(json_path: Path | None, plot_path: Path | None) -> None:
    """Check before any work that the results can be written.

    Raises:
        InputError: a path that cannot be written to, one path for both, or an unknown format of the plot.
        Kandinsky22Error: a plot is wanted and matplotlib is not installed.
    """
    for option, path in (("--json", json_path), ("--plot", plot_path)):
        if path is not None:
            writable_path(option, path)
    if plot_path is None:
        return
    if plot_path.suffix.lower() not in PLOT_FORMATS:
        raise InputError(
            f"--plot {plot_path} has the suffix '{plot_path.suffix}'; expected one of {', '.join(PLOT_FORMATS)}"
        )
    if json_path is not None and os.path.realpath(json_path) == os.path.realpath(plot_path):
        raise InputError(f"--json and --plot are both {plot_path}; choose two paths")
    if find_spec("matplotlib") is None:
        raise Kandinsky22Error("--plot needs matplotlib: pip install 'kandinsky22-deploy[bench]'")


def save_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all.

    Raises:
        Kandinsky22Error: it cannot be written.
    """
    _save(path, text)


def save_plot(data: Mapping[str, Any], path: Path) -> None:
    """Draw every engine's medians, with bars from the fastest round to p90.

    Args:
        data: the result of `as_data`.
        path: the plot's file; its suffix, one of `PLOT_FORMATS`, names the format.

    Raises:
        Kandinsky22Error: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Kandinsky22Error(f"--plot needs matplotlib ({error}): pip install 'kandinsky22-deploy[bench]'") from error
    engines, here, plan = data["engines"], data["environment"], data["plan"]
    measures = [measure for measure in MEASURES if measure != HOST]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(measures))  # one each: their times differ by orders of magnitude
    for axis, measure in zip(axes, measures, strict=True):
        figures = [item["measures"][measure] for item in engines.values()]
        middle = [item["p50"] for item in figures]
        below = [max(item["p50"] - item["min"], 0.0) for item in figures]  # rounding may leave less than nothing
        above = [max(item["p90"] - item["p50"], 0.0) for item in figures]
        colours = [f"C{number % 10}" for number in range(len(figures))]
        axis.bar(range(len(figures)), middle, yerr=[below, above], capsize=4, color=colours)
        axis.set_xticks(range(len(figures)), list(engines), rotation=30, ha="right")
        axis.set_title(_LABELS[measure], fontsize=10)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("seconds: p50, from min to p90")
    figure.suptitle(
        f"{here['processor']}, {here['cores']} cores: {plan['width']}x{plan['height']} px, {plan['steps']} steps",
        fontsize=11,
    )
    file_format = path.suffix.lower().lstrip(".")
    _save(path, lambda stream: figure.savefig(stream, format=file_format, dpi=150))


def _engine(item: EngineTimes, first: EngineTimes) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for measure, seconds in item.seconds.items():
        measures[measure] = {**percentiles(seconds), "rounds": seconds}
        if item is not first:
            against = ratios(seconds, first.seconds[measure])
            spread = {"p50": float(np.median(against)), "min": min(against), "max": max(against)}
            measures[measure]["ratio_to_first"] = {**spread, "rounds": against}
    return {
        "version": item.version,
        "precision": item.precision,
        "measures": measures,
        "load_seconds": item.loads,
        "cold_start": None if item.cold is None else asdict(item.cold),
    }


def _save(path: Path, content: str | Callable[[IO[bytes]], object]) -> None:
    try:
        write_whole(path, content)
    except (OSError, ValueError) as error:
        raise Kandinsky22Error(f"{path} cannot be written: {error}") from error


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.{1 if seconds >= 0.1 else 2}f} ms"


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.2f} GB"
