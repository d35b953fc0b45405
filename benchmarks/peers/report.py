"""The comparison with the peers as a table and as a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

# TFLOP of one UNet step with guidance (batch 2) of the published model, by pixels of a side: counted on its graph.
UNET_TFLOP = {512: 2 * 0.856, 768: 2 * 1.993, 1024: 2 * 3.715}
_LABELS = {"unet": "UNet step", "decode": "MoVQ decode", "job": "whole job"}


def extrapolated(answer: dict[str, Any], job_steps: int) -> float:
    """Seconds of a work; a job's first steps are measured, and the rest take what its whole steps took on average.

    Args:
        answer: a worker's. `steps` are the seconds of a job's whole steps: all but the first of those it made.
        job_steps: of the whole job.
    """
    seconds: float = answer["seconds"]
    steps: list[float] = answer.get("steps", [])
    return seconds + (job_steps - len(steps) - 1) * sum(steps) / len(steps) if steps else seconds


def as_text(data: dict[str, Any]) -> str:
    """Markdown: a table of medians and spreads for each work."""
    here = data["environment"]
    versions = {name: text for found in (*data["versions"].values(), *_of_peers(data)) for name, text in found.items()}
    lines = [
        f"{data['finished']}, {here['processor']}, {here['cores']} cores, load average {here['load_average']}; "
        + ", ".join(f"{name} {text}" for name, text in sorted(versions.items())),
        f"Model {data['size']}, {data['width']}x{data['height']} px, ours on {data['ours']}, {data['plan']['rounds']}"
        f" rounds in turn; a job of {data['plan']['job_steps']} steps is extrapolated.",
    ]
    for work in data["plan"]["works"]:
        lines += ["", f"| {_LABELS[work]} | ours, s | peer, s | peer / ours, median (spread) |"]
        lines += ["| --- | ---: | ---: | ---: |"]
        for peer, found in data["peers"].items():
            rounds = found["rounds"][work]
            ours, theirs = ([item[name] for item in rounds] for name in ("ours", "peer"))
            lines.append(f"| {peer} | {median(ours):.3f} | {median(theirs):.3f} | {_spread(_ratios(rounds))} |")
    lines += ["", *_limits(data)]
    lines += [f"Left out: {peer} ({reason})." for peer, reason in data["left_out"].items()]
    return "\n".join(lines)


def save_plot(data: dict[str, Any], path: Path) -> None:
    """Bars of the median ratios, with whiskers from the smallest to the largest round."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    works, peers = data["plan"]["works"], list(data["peers"])
    figure = Figure(figsize=(8, 1.5 + 0.45 * len(peers) * max(1, len(works) / 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    thickness = 0.8 / len(works)
    for number, work in enumerate(works):
        ratios = [_ratios(data["peers"][peer]["rounds"][work]) for peer in peers]
        middles = [median(values) for values in ratios]
        spans = [
            [max(middle - min(values), 0.0) for middle, values in zip(middles, ratios, strict=True)],
            [max(max(values) - middle, 0.0) for middle, values in zip(middles, ratios, strict=True)],
        ]
        places = [index + (number - (len(works) - 1) / 2) * thickness for index in range(len(peers))]
        axis.barh(places, middles, thickness * 0.9, xerr=spans, capsize=3, label=_LABELS[work])
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(peers)), peers)
    axis.invert_yaxis()
    axis.set_xlabel("time, ours = 1: median of rounds in turn, from the smallest to the largest")
    axis.set_title(
        f"{data['environment']['processor']}, {data['environment']['cores']} cores; model {data['size']}, "
        f"{data['width']}x{data['height']} px; ours {data['ours']}",
        fontsize=9,
    )
    axis.legend()
    figure.savefig(path, dpi=150)


def _of_peers(data: dict[str, Any]) -> list[dict[str, str]]:
    return [found["versions"] for found in data["peers"].values()]


def _ratios(rounds: list[dict[str, float]]) -> list[float]:
    return [item["peer"] / item["ours"] for item in rounds]


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _limits(data: dict[str, Any]) -> list[str]:
    """The rate of the matrix products and of our UNet, round by round."""
    rounds = [item for found in data["peers"].values() for items in found["rounds"].values() for item in items]
    if not rounds:
        return []
    work = 2 * data["product"] ** 3 / 1e12
    rates = {name: [work / item[name] for item in rounds] for name in ("product-bf16", "product-fp32")}
    lines = [
        f"A {data['product']}³ matrix product in PyTorch in the same rounds, TFLOP/s: bf16"
        f" {_spread(rates['product-bf16'])}, fp32 {_spread(rates['product-fp32'])}."
    ]
    flops = UNET_TFLOP.get(data["width"]) if data["height"] == data["width"] and data["size"] == "full" else None
    steps = [item for found in data["peers"].values() for item in found["rounds"].get("unet", [])]
    if flops is not None and steps:
        against = "bf16" if data["ours"].endswith("bf16") else "fp32"
        mine = [flops / item["ours"] for item in steps]
        share = [rate / (work / item[f"product-{against}"]) for rate, item in zip(mine, steps, strict=True)]
        lines.append(f"Our UNet: {_spread(mine)} TFLOP/s, {_spread(share)} times the {against} product of its round.")
    return lines
