"""The figures as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def markdown(results: Mapping[str, Any]) -> str:
    """Tables of parity, of every measured time with its lower bound, and of whole jobs."""
    machine, limits = results["machine"], results["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in limits["operations"].items())
    lines = [
        f"{results['date']}, {machine.get('gpu', machine['processor'])}, driver {machine.get('driver', 'none')}, CUDA"
        f" {machine.get('cuda', 'none')}; {versions}. PyTorch runs {results['peer']}. Seeded weights.",
        "",
        f"Measured in the same run: {rates}, {limits['bandwidth'] / 1e9:.3g} GB/s.",
        "",
        "| parity with PyTorch fp32 | engine | precision | max-abs | PSNR, dB | |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    lines += [
        f"| {row['component']} | {row['engine']} | {row['precision']} | {row['max_abs']:.1e} | {row['psnr']:.1f} |"
        f" {'ok' if row['passed'] else 'FAILED'} |"
        for row in results["parity"]
    ]
    lines += [
        "",
        "| graph | px | results | engine | precision | ms, median (spread) | times the floor |"
        " PyTorch eager / this | memory, GB |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [_time_row(row, results["times"]) for row in results["times"]]
    lines += [
        "",
        f"| whole job, {results['steps']} steps | px | results | engine | precision | s, median (spread) |"
        " host between steps, share of a step | memory, GB |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| | {row['size']} | {row['batch']} | {row['engine']} | {row['precision']} | {_spread(row['seconds'], 1, 2)} |"
        f" {row['host_share']:.1%} | {_gigabytes(row['memory'])} |"
        for row in results["jobs"]
    ]
    if results["left_out"]:
        lines += ["", "Left out:", "", *(f"- {reason}" for reason in results["left_out"])]
    return "\n".join(lines) + "\n"


def _time_row(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    keys = ("component", "size", "batch", "precision")
    eager = [item for item in rows if item["engine"] == "torch" and all(item[key] == row[key] for key in keys)]
    ratio = statistics.median(eager[0]["seconds"]) / statistics.median(row["seconds"]) if eager else None
    over_floor = statistics.median(row["seconds"]) / row["floor"]
    return (
        f"| {row['component']} | {row['size']} | {row['batch']} | {row['engine']} | {row['precision']} |"
        f" {_spread(row['seconds'], 1e3, 2)} | {over_floor:.1f} | {'' if ratio is None else f'{ratio:.2f}'} |"
        f" {_gigabytes(row['memory'])} |"
    )


def _spread(seconds: Sequence[float], unit: float, digits: int) -> str:
    low, middle, high = (unit * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"
