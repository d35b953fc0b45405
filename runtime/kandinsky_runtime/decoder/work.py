"""All that one call does: one run, or one for each separate part of a mask, as units of work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kandinsky_runtime.decoder.output import PipelineOutput
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.units import Units

Output = TypeVar("Output", bound=PipelineOutput)


@dataclass(frozen=True)
class Work(Generic[Output]):
    """The checked work of one call; nothing has run yet. It is done once: the noise of its runs is used up then.

    Attributes:
        runs: the runs, done one after the other.
        put_together: a function from the results of each run to the output.
    """

    runs: tuple[Run, ...]
    put_together: Callable[[list[Any]], Output]

    @property
    def steps(self) -> int:
        """The decoder's steps of all runs."""
        return sum(run.steps for run in self.runs if not run.request.keeps_everything)

    def units(self) -> Units[Output]:
        """Do everything, in units of work; errors are those of `Run.units`."""
        results = []
        for run in self.runs:
            results.append((yield from run.units()))
        return self.put_together(results)
