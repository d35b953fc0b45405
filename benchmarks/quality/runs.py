"""Every row of the grid, one after the other: a result file for each, and finished ones are skipped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.quality import tasks as drawn
from benchmarks.quality.frechet import Gaussian, frechet_distance
from benchmarks.quality.grid import BASELINE, COMMON, Item
from benchmarks.quality.judging import Judge, Verdict, accuracy, look_at
from benchmarks.quality.opening import opener
from benchmarks.quality.reference import Reference, read_arrays, reference_of, shortened
from kandinsky_export.comparison.cases import Case
from kandinsky_export.comparison.figures import Figures, Summary, shown
from kandinsky_export.comparison.runs import Outcome, run_case
from kandinsky_export.comparison.settings import Setting
from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.bundle.bundle import MANIFEST, Bundle
from kandinsky_runtime.bundle.manifest import INPAINT
from kandinsky_runtime.decoder import movq
from kandinsky_runtime.errors import EngineUnavailable, Kandinsky22Error, UsageError
from kandinsky_runtime.files import file_sha256, fingerprint, write_whole
from kandinsky_runtime.observers import Clock
from kandinsky_runtime.pictures.opening import float_to_eight_bit
from kandinsky_runtime.units import do_all

REVISION = 2
"""Raised when a measure changes, so that older results are made again."""
SHEET_ROWS = 8
"""Results whose pictures are kept for contact sheets."""
_FLOOR = "floor"
_SUFFIX = ".json"
_LONGEST_NAME = 255  # bytes, of a file on Linux, macOS and Windows


@dataclass(frozen=True)
class Plan:
    """What every row has in common.

    Attributes:
        bundle: the bundle.
        folder: where results are written.
        tasks: what the model is asked to do.
        seeds: results of each task.
        judge: reads the results; None for measures without a judge alone.
        baseline: the row that the others are compared with.
        common: settings that are added to every row's; a row's own values win.
        progress: whether to show bars.
    """

    bundle: Bundle
    folder: Path
    tasks: Sequence[drawn.Task]
    seeds: int
    judge: Judge | None
    baseline: Item = BASELINE
    common: str = COMMON
    progress: bool = True

    @property
    def inpainting(self) -> bool:
        """Whether the bundle repaints drawings; else it makes pictures from prompts alone."""
        return INPAINT in self.bundle.manifest.tasks

    def setting(self, item: Item) -> Setting:
        """The row's setting, and what all rows have of which it says nothing."""
        return setting_of(item.text, self.common)

    def cases(self, item: Item) -> list[Case]:
        """The row's cases."""
        prompts = drawn.shuffled_prompts(self.tasks) if item.shuffled else None
        return drawn.cases_for(self.tasks, self.seeds, inpainting=self.inpainting, prompts=prompts)

    @cached_property
    def held_out(self) -> Gaussian:
        """The features of as many held-out drawings as there are tasks, as the judge sees them."""
        if self.judge is None:
            raise ValueError("there is no judge, so there are no features")
        drawings = drawn.held_out_drawings(len(self.tasks), self.tasks[0].picture.shape[0])
        return Gaussian.of(look_at(self.judge, drawings)[1])

    def name(self, item: Item) -> str:
        """Changes if anything does that the row's figures depend on."""
        return fingerprint(
            {
                "revision": REVISION,
                "bundle": file_sha256(self.bundle.root / MANIFEST),
                "tasks": drawn.digest(self.tasks),
                "seeds": self.seeds,
                "judge": None if self.judge is None else self.judge.name,
                "baseline": [self.baseline.label, self.common],
                "item": item.label,
            }
        )

    def file(self, item: Item) -> Path:
        """The row's result file; the end of a name that is too long for a file is a digest."""
        name = f"{item.group}-{re.sub(r'[^a-z0-9.+]+', '-', item.label.lower())}"
        if len(name) + len(_SUFFIX) > _LONGEST_NAME:
            digest = hashlib.sha256(item.label.encode()).hexdigest()[:16]
            name = f"{name[: _LONGEST_NAME - len(_SUFFIX) - 1 - len(digest)]}-{digest}"
        return self.folder / (name + _SUFFIX)


def setting_of(text: str, common: str) -> Setting:
    """A setting, with values of `common` for keys of which it says nothing."""

    def key(part: str) -> str:
        return part.partition("=")[0].strip()

    given = set(map(key, text.split(",")))
    more = [part for part in common.split(",") if key(part) not in given]
    return Setting.parse(",".join(filter(None, (text, *more))))


def finished(plan: Plan, item: Item) -> dict[str, Any] | None:
    """The row's result, if it was made of the same bundle, tasks and judge, and has its pictures.

    A row that failed is tried again.
    """
    try:
        data = json.loads(plan.file(item).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    made = isinstance(data, dict) and data.get("name") == plan.name(item) and "failed" not in data
    return data if made and (item.group == _FLOOR or kept_pictures(plan, item) is not None) else None


def kept_pictures(plan: Plan, item: Item) -> np.ndarray | None:
    """The pictures that are kept of a row's first results, (n, H, W, 3) uint8; None if they are gone or damaged."""
    pictures = (read_arrays(_pictures_file(plan, item)) or {}).get("pictures")
    whole = pictures is not None and pictures.dtype == np.uint8 and pictures.ndim == 4
    return pictures if whole and len(pictures) == min(len(plan.tasks), SHEET_ROWS) else None


def _pictures_file(plan: Plan, item: Item) -> Path:
    return plan.file(item).with_suffix(".npz")


def run_grid(plan: Plan, rows: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Every row's result by its label, the baseline's first; rows that cannot run here are reported and left out."""
    results = {plan.baseline.label: _baseline(plan)}
    reference: Reference | None = None
    for number, item in enumerate(rows, 1):
        result = finished(plan, item)
        if result is None:
            if reference is None:
                reference = _reference(plan)
            print(f"{number} of {len(rows)}: {item.label}", flush=True)
            result = _measured(plan, item, reference)
        if result is not None:
            results[_key(item)] = result
    return results


def with_finished(plan: Plan, items: Sequence[Item], results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results of `run_grid` with those of earlier runs, the baseline's first, then in the order of the items."""
    known = {_key(item): found for item in items if (found := finished(plan, item)) is not None} | results
    first = plan.baseline.label
    keys = [first, *(key for key in map(_key, items) if key in known)]
    return {key: known[key] for key in dict.fromkeys(keys)}


def _key(item: Item) -> str:
    return f"{item.group}: {item.label}"


def floors(plan: Plan) -> dict[str, Any]:
    """What no setting can beat: the right drawings, and the same with the repainted part through MoVQ and back."""
    if plan.judge is None:
        return {}
    item = Item(_FLOOR, plan.baseline.text)
    if (known := finished(plan, item)) is not None:
        return known
    targets = np.stack([task.target for task in plan.tasks])
    rebuilt = _through_movq(plan, targets)
    errors = np.square(targets.astype(float) - rebuilt).mean(axis=(1, 2, 3))
    if plan.inpainting:
        masks = np.stack([task.mask for task in plan.tasks])[..., None] > 0
        rebuilt = np.where(masks, rebuilt, targets)
    data = {
        "name": plan.name(item),
        "drawings": _judged(plan, targets, seeds=1),
        "movq": _judged(plan, rebuilt, seeds=1),
        "movq_db": float(np.median(10 * np.log10(255**2 / np.maximum(errors, 1e-9)))),
    }
    write_whole(plan.file(item), json.dumps(data, indent=1) + "\n")
    return data


def _through_movq(plan: Plan, pictures: np.ndarray) -> np.ndarray:
    """Encode and decode pictures (N, H, W, 3) uint8."""
    rebuilt = []
    with (
        opener(plan.baseline, plan.folder)(plan.bundle, plan.setting(plan.baseline)) as pipeline,
        pipeline.graphs.run(),
    ):
        for picture in tqdm(pictures, desc="MoVQ alone", disable=not plan.progress):
            pixels = picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - 1
            latents = do_all(movq.encode(pipeline.graphs, pixels, None, Clock()))
            decoded = do_all(movq.decode(pipeline.graphs, latents, *picture.shape[:2], None, Clock()))
            rebuilt.append(float_to_eight_bit(decoded[0]))
    return np.stack(rebuilt)


def _baseline(plan: Plan) -> dict[str, Any]:
    known = finished(plan, plan.baseline)
    if known is not None and Reference.load(plan.folder / "reference.npz", plan.name(plan.baseline)) is not None:
        return known
    print(f"baseline: {plan.baseline.label}", flush=True)
    result = _measured(plan, plan.baseline, None)
    if result is None or "failed" in result:
        raise UsageError(f"the baseline {plan.setting(plan.baseline).text} cannot run here; see above")
    return result


def _reference(plan: Plan) -> Reference:
    found = Reference.load(plan.folder / "reference.npz", plan.name(plan.baseline))
    if found is None:
        raise UsageError(f"{plan.folder / 'reference.npz'} is gone; run again")
    return found


def _measured(plan: Plan, item: Item, reference: Reference | None) -> dict[str, Any] | None:
    """Run a row and write its result; None if it cannot run on this machine."""
    figures: list[Figures] = []
    pictures: list[np.ndarray] = []
    outcomes: list[Outcome] = []
    cases, runs_on = plan.cases(item), [""]
    data: dict[str, Any] = {"name": plan.name(item), "group": item.group, "label": item.label}
    try:
        for number, outcome in enumerate(_outcomes(plan, item, cases, runs_on)):
            want = None if reference is None else reference.outcome(number)
            figures.append(Figures.of(cases[number], outcome, want))
            pictures.append(float_to_eight_bit(shown(cases[number], outcome.picture)))
            if reference is None:
                outcomes.append(shortened(outcome, number))
    except (EngineUnavailable, UsageError) as error:
        print(f"  left out: {error}", flush=True)
        return None
    except Kandinsky22Error as error:  # such as fp16 whose range is too small: that is a result
        print(f"  failed: {error}", flush=True)
        data |= {"failed": str(error)}
        write_whole(plan.file(item), json.dumps(data, indent=1) + "\n")
        return data
    if reference is None:
        reference_of(plan.name(item), outcomes).save(plan.folder / "reference.npz")
    data |= {"setting": plan.setting(item).text, "runs_on": runs_on, "results": len(cases)}
    data |= {"figures": Summary.of(figures).to_dict(), "latents_by_step": _by_step(figures)}
    data |= _judged(plan, np.stack(pictures), plan.seeds) | {"environment": environment()}
    kept = np.stack(pictures[:: max(1, plan.seeds)][:SHEET_ROWS])
    write_whole(_pictures_file(plan, item), lambda stream: np.savez(stream, pictures=kept))
    write_whole(plan.file(item), json.dumps(data, indent=1) + "\n")  # last: it says that the row is finished
    return data


def _outcomes(plan: Plan, item: Item, cases: Sequence[Case], runs_on: list[str]) -> Iterator[Outcome]:
    """The outcome of every case; `runs_on` takes engine, precision and variant."""
    setting = plan.setting(item)
    with opener(item, plan.folder)(plan.bundle, setting) as pipeline:
        selection = pipeline.selection
        runs_on[:] = [selection.engine.name, str(selection.precision), selection.variant]
        for case in tqdm(cases, unit="picture", disable=not plan.progress):
            yield run_case(pipeline, setting, case)


def _by_step(figures: Sequence[Figures]) -> list[float | None]:
    """The median PSNR of the latents after each step, over the results whose baseline was followed step by step."""
    rows = [item.latents for item in figures if item.latents is not None and len(item.latents) > 1]
    if not rows:
        return []
    return [round(float(value), 3) if np.isfinite(value) else None for value in np.median(np.array(rows), axis=0)]


def _judged(plan: Plan, pictures: np.ndarray, seeds: int) -> dict[str, Any]:
    """Accuracy of pictures, `seeds` of each task, and the distance of as many as there are tasks, by the judge."""
    if plan.judge is None:
        return {}
    readings, features = look_at(plan.judge, pictures)
    asked = [task for task in plan.tasks for _ in range(seeds)]
    verdicts = [
        Verdict.of(task, reading, inpainting=plan.inpainting) for task, reading in zip(asked, readings, strict=True)
    ]
    return {
        "accuracy": accuracy(verdicts),
        "frechet": frechet_distance(Gaussian.of(features[::seeds]), plan.held_out),
    }
