"""The results as tables in Markdown, as JSON, and as contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.grid import Item
from benchmarks.quality.runs import SHEET_ROWS, Plan, finished, kept_pictures
from benchmarks.quality.tasks import shuffled_prompts
from kandinsky_export.comparison.measures import EDGE
from kandinsky_export.comparison.sheet import contact_sheet, input_shown
from kandinsky_runtime.pictures.saving import save_image

_JUDGED = ("thing", "thing and colour", "place", "gone", "Fréchet")
_MEASURED = ("picture dB", "lowest dB", "SSIM", "latents dB", "edge inside", "edge outside", "seconds")
_SHEET_COLUMNS = 8


def markdown(plan: Plan, results: Mapping[str, Mapping[str, Any]], floors: Mapping[str, Any]) -> str:
    """All tables.

    Args:
        plan: what was run.
        results: every row's result, the baseline's first.
        floors: what `runs.floors` returned.
    """
    baseline = next(iter(results.values()))
    machine, side = baseline["environment"], plan.tasks[0].picture.shape[0]
    seeds = f"{plan.seeds} seed{'s' if plan.seeds > 1 else ''}"
    common = f", and `{plan.common}` if it has no such value of its own" if plan.common else ""
    lines = [
        "# Quality",
        "",
        f"Each setting has {len(plan.tasks)} prompts, {seeds}, {side} px, the baseline's noise{common}."
        f" {machine['time'][:10]}, {machine['processor']}, {machine['cores']} cores.",
        "",
        "Baseline: `"
        + plan.baseline.label
        + "`. Picture, SSIM and latents are compared with the baseline's within the mask:"
        f" medians. Edges are mean absolute differences, of 255, in bands of {EDGE} px: inside against the baseline,"
        " outside against the input, before pasting. Pictures above 100 dB are equal for any purpose.",
    ]
    if plan.judge is None:
        lines += ["", "No judge: accuracy and Fréchet distances are missing. `scripts/train judge` makes its weights."]
    else:
        lines += ["", *_floor_lines(plan, floors, baseline)]
    for group in dict.fromkeys(result["group"] for result in results.values()):
        rows = [result for result in results.values() if result["group"] == group]
        lines += ["", f"## {group.capitalize()}", "", *_table(plan, rows if group == "baseline" else [baseline, *rows])]
    return "\n".join(lines) + "\n"


def write_sheets(plan: Plan, rows: Sequence[Item]) -> list[Path]:
    """Write a contact sheet for each group, of large groups several, with as many pictures as are kept."""
    paths = []
    for group in dict.fromkeys(item.group for item in rows):
        columns = [(item, kept) for item in rows if item.group == group and (kept := _kept(plan, item)) is not None]
        first = _kept(plan, plan.baseline)
        for start in range(0, len(columns), _SHEET_COLUMNS):
            chosen = columns[start : start + _SHEET_COLUMNS]
            if first is not None:
                chosen = [(plan.baseline, first), *chosen]
            number = f"-{start // _SHEET_COLUMNS + 1}" if len(columns) > _SHEET_COLUMNS else ""
            paths.append(plan.folder / f"{group}{number}.png")
            _write_sheet(plan, chosen, paths[-1])
    return paths


def _write_sheet(plan: Plan, columns: Sequence[tuple[Item, np.ndarray]], path: Path) -> None:
    cases = plan.cases(plan.baseline)[:: plan.seeds][:SHEET_ROWS]
    other = shuffled_prompts(plan.tasks) if any(item.shuffled for item, _ in columns) else []
    inputs = [input_shown(case) for case in cases]
    has_inputs = inputs[0] is not None
    rows = []
    for number, case in enumerate(cases):
        label = case.label + (f"\nshuffled: {other[number]}" if other else "")
        pictures = [kept[number] for _, kept in columns]
        rows.append((label, [inputs[number], *pictures] if has_inputs else pictures))
    labels = [item.label for item, _ in columns]
    save_image(contact_sheet(["input", *labels] if has_inputs else labels, rows), path)


def _kept(plan: Plan, item: Item) -> np.ndarray | None:
    """The first results' pictures of a finished row, (n, H, W, 3) uint8."""
    return None if finished(plan, item) is None else kept_pictures(plan, item)


def _floor_lines(plan: Plan, floors: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    judged = baseline["accuracy"]
    what = "their repainted part" if plan.inpainting else "they"
    rows = {
        "the right drawings": floors["drawings"],
        f"{what} through MoVQ and back (whole drawings: {floors['movq_db']:.1f} dB)": floors["movq"],
        "the baseline's results": baseline,
    }
    return [
        f"Things to add: {judged['added']}; to take away: {judged['removed']}, whose share that is gone is `gone`."
        " Fréchet distances are to held-out drawings.",
        "",
        "| | " + " | ".join(_JUDGED) + " |",
        "| --- |" + " ---: |" * len(_JUDGED),
        *(f"| {label} | " + " | ".join(_judged(row)) + " |" for label, row in rows.items()),
    ]


def _table(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [*(() if plan.judge is None else _JUDGED), *_MEASURED]
    lines = ["| setting | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['label']} | failed: {row['failed'].splitlines()[0]} |" + " |" * (len(columns) - 1))
            continue
        cells = [*(() if plan.judge is None else _judged(row)), *_measured(row["figures"])]
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    return lines


def _judged(row: Mapping[str, Any]) -> list[str]:
    shares = [row["accuracy"][name] for name in ("thing", "thing_and_colour", "place", "gone")]
    return [*("-" if share is None else f"{100 * share:.1f}%" for share in shares), f"{row['frechet']:.2f}"]


def _measured(figures: Mapping[str, Any]) -> list[str]:
    """The cells of figures; a dB that is there and null means equal."""

    def cell(name: str, digits: int) -> str:
        if name not in figures:
            return "-"
        return "equal" if figures[name] is None else f"{figures[name]:.{digits}f}"

    return [
        cell("picture_db", 1),
        cell("lowest_picture_db", 1),
        cell("ssim", 4),
        cell("latents_db", 1),
        cell("edge_inside", 2),
        cell("edge_outside", 2),
        cell("seconds", 2),
    ]
