"""Every error that the runtime raises on purpose.

    Kandinsky22Error            carries `exit_status`, the command line's exit code
    ├── UsageError              an option or argument that cannot be meant (also a ValueError); exit status 2
    │   ├── InputError          a picture, mask, embedding or latents that cannot be used
    │   └── SchedulerError      a scheduler config or step count that cannot be used
    ├── BundleError             a bundle that is missing, damaged or too new; lists every fault
    ├── EngineError             an engine failed while it loaded or ran
    │   └── EngineUnavailable   its library is not installed, too old, or lacks what was asked for
    │       └── EngineNotBuilt  it runs only what `k22 build` made, which is not there for this bundle
    ├── TensorError             a tensor that does not fit a graph: name, got, expected, remedy
    ├── NonFiniteError          a graph returned NaN or infinity; names step, component and tensor
    └── Cancelled               the caller stopped the run between two steps

The export package adds its own below Kandinsky22Error.
"""

from __future__ import annotations

from collections.abc import Sequence


class Kandinsky22Error(Exception):
    """Base of all errors raised on purpose; its text is one clear sentence for the user."""

    exit_status = 1


class UsageError(Kandinsky22Error, ValueError):
    """An option or argument that cannot be meant."""

    exit_status = 2


class InputError(UsageError):
    """A picture, mask, embedding or latents array that cannot be used."""


class SchedulerError(UsageError):
    """A scheduler config or a number of steps that cannot be used."""


class FaultList(Kandinsky22Error):
    """An error that reports several faults at once, in `faults`, one sentence each."""

    def __init__(self, subject: str, faults: Sequence[str]) -> None:
        self.subject = subject
        self.faults = tuple(faults)
        if len(self.faults) == 1:
            message = f"{subject}: {self.faults[0]}"
        else:
            message = f"{subject}: {len(self.faults)} faults:" + "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(message)


class BundleError(FaultList):
    """A bundle that is missing, damaged, or written by a newer version."""


class EngineError(Kandinsky22Error):
    """An inference engine failed while it loaded or ran a graph."""


class EngineUnavailable(EngineError):
    """An engine's library is not installed, too old, or lacks what was asked for."""


class EngineNotBuilt(EngineUnavailable):
    """An engine that runs only what `k22 build` made, and nothing was made of this bundle here."""


class TensorError(Kandinsky22Error, ValueError):
    """A tensor that does not fit a graph's signature."""


class NonFiniteError(Kandinsky22Error):
    """A graph returned NaN or infinity."""


class Cancelled(Kandinsky22Error):
    """The caller stopped the run between two steps."""
