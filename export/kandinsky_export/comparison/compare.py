"""A bundle run with a baseline and with candidates, on the same cases and the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_export.comparison.cases import Case
from kandinsky_export.comparison.figures import Figures, Summary, shown
from kandinsky_export.comparison.runs import (
    OpenPipeline,
    Outcome,
    Pipeline,
    open_pipeline,
    prepared,
    run_case,
    step_count,
)
from kandinsky_export.comparison.settings import Setting
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import Kandinsky22Error
from kandinsky_runtime.pictures.opening import float_to_eight_bit
from kandinsky_runtime.progress import ProgressBar

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SettingResult:
    """A setting's figures and pictures, one of each for every case; of a setting that failed, those before that.

    Attributes:
        setting: what was run.
        runs_on: the engine, the precision that it computed in, and the variant that it read.
        figures: the figures.
        pictures: (H, W, 3), what a user sees; empty if they were not asked for.
        steps: the number of steps of a result; 0 if there is none.
        failed: the reason why there are no more of them; None for a setting that has all.
    """

    setting: Setting
    runs_on: tuple[str, str, str]
    figures: tuple[Figures, ...]
    pictures: tuple[Pixels, ...] = ()
    steps: int = 0
    failed: str | None = None

    @property
    def summary(self) -> Summary:
        """What the figures come to; there must be all of them."""
        return Summary.of(self.figures)

    @property
    def failure(self) -> str | None:
        """Why it failed, for a table, in one line; None if it did not."""
        return None if self.failed is None else "failed: " + self.failed.partition("\n")[0]


@dataclass(frozen=True)
class Comparison:
    """The results of a baseline and of its candidates."""

    bundle: Bundle
    cases: tuple[Case, ...]
    baseline: SettingResult
    candidates: tuple[SettingResult, ...]

    @property
    def results(self) -> tuple[SettingResult, ...]:
        """The baseline, then the candidates."""
        return (self.baseline, *self.candidates)

    @property
    def names(self) -> tuple[str, ...]:
        """What tables call the results."""
        return ("baseline", *(f"candidate {number}" for number in range(1, 1 + len(self.candidates))))


def compare(
    bundle: Bundle,
    baseline: Setting,
    candidates: Sequence[Setting],
    cases: Sequence[Case],
    *,
    pictures: bool = False,
    progress: bool = False,
    opened: OpenPipeline = open_pipeline,
) -> Comparison:
    """Run every case with the baseline, then with each candidate. Everything is checked before the first run.

    A candidate that fails, such as one that overflows in fp16, is a result, and the next one follows.

    Args:
        bundle: the bundle.
        baseline: the setting that the others are compared with.
        candidates: the other settings, at least one.
        cases: prompts, seeds and pictures, at least one.
        pictures: whether to keep the pictures.
        progress: whether to show a bar of all steps on stderr.
        opened: opens the pipeline of a setting.

    Raises:
        EngineError, NonFiniteError: the baseline's graph could not be loaded or run, or returned no finite numbers.
        InputError, UsageError: an input or a setting cannot be used.
    """
    steps = check_settings(bundle, [baseline, *candidates], cases, opened)
    with ProgressBar(total=steps, desc="steps", unit="step", disable=not progress) as bar:
        wanted: list[Outcome] = []
        bar.set_description("baseline")
        first = run_setting(bundle, baseline, cases, None, pictures=pictures, bar=bar, opened=opened, keep=wanted)
        others = []
        for number, setting in enumerate(candidates, 1):
            bar.set_description(f"candidate {number}")
            others.append(run_setting(bundle, setting, cases, wanted, pictures=pictures, bar=bar, opened=opened))
    return Comparison(bundle, tuple(cases), first, tuple(others))


def check_settings(
    bundle: Bundle, settings: Sequence[Setting], cases: Sequence[Case], opened: OpenPipeline = open_pipeline
) -> int:
    """Open every setting's engine and check its options, and every prompt with the first; no graph is loaded or run.

    Returns:
        The steps that all settings take with all cases.
    """
    steps = 0
    prompts = list({id(case.conditioning): case for case in cases}.values())  # seeds cannot be wrong
    for number, setting in enumerate(settings):
        with setting.named_in_errors(), opened(bundle, setting) as pipeline:
            runs = [prepared(pipeline, setting, case) for case in (prompts if number == 0 else cases[:1])]
            steps += len(cases) * step_count(runs[0])
    return steps


def run_setting(
    bundle: Bundle,
    setting: Setting,
    cases: Sequence[Case],
    wanted: Sequence[Outcome] | None,
    *,
    pictures: bool,
    bar: ProgressBar,
    opened: OpenPipeline = open_pipeline,
    keep: list[Outcome] | None = None,
) -> SettingResult:
    """Run every case with one setting and measure the results.

    A candidate's failure is in the result; the baseline's is raised.

    Args:
        bundle, setting, cases, pictures, opened: see `compare`.
        wanted: the baseline's outcomes, one for each case; None for the baseline itself.
        bar: counts the steps.
        keep: takes the outcomes.
    """
    figures: list[Figures] = []
    seen: list[Pixels] = []
    failed, steps = None, 0
    with setting.named_in_errors(), opened(bundle, setting) as pipeline:
        try:
            for number, case in enumerate(cases):
                outcome = run_case(pipeline, setting, case, bar.update)
                steps = len(outcome.latents)
                figures.append(Figures.of(case, outcome, None if wanted is None else wanted[number]))
                if pictures:
                    seen.append(float_to_eight_bit(shown(case, outcome.picture)))
                if keep is not None:
                    keep.append(outcome)
        except (Kandinsky22Error, MemoryError) as error:
            if wanted is None:
                raise
            failed = str(error) if isinstance(error, Kandinsky22Error) else f"out of memory ({error})"
        return SettingResult(setting, _runs_on(pipeline), tuple(figures), tuple(seen), steps, failed)


def _runs_on(pipeline: Pipeline) -> tuple[str, str, str]:
    selection = pipeline.selection
    return selection.engine.name, str(selection.precision), selection.variant
