"""Every error that the runtime raises on purpose.

    Kandinsky22Error            carries `exit_status`, the command line's exit code
    ├── UsageError              an option or argument is invalid (also a ValueError); exit status 2
    │   ├── InputError          a picture, mask, embedding or latents array cannot be used
    │   └── SchedulerError      a scheduler config or a number of steps cannot be used
    ├── BundleError             a bundle is missing, damaged or too new; lists every fault
    ├── EngineError             an engine failed while it loaded or ran a graph
    │   └── EngineUnavailable   the engine's library is not installed, is too old, or lacks what is needed
    │       └── EngineNotBuilt  the engine runs only what `k22 build` made, and this bundle was not built
    ├── TensorError             a tensor does not fit a graph: name, got, expected, remedy
    ├── NonFiniteError          a graph returned NaN or infinity; names step, component and tensor
    └── Cancelled               the caller stopped the run between two steps

The export package adds its own below Kandinsky22Error.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import Any


class Kandinsky22Error(Exception):
    """Base of all errors raised on purpose. The text is one clear sentence for the user."""

    exit_status = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the text and the attributes: a subclass's `__init__` may take other arguments than the text."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(Kandinsky22Error, ValueError):
    """An option or argument is invalid."""

    exit_status = 2


class InputError(UsageError):
    """A picture, mask, embedding or latents array cannot be used."""


class SchedulerError(UsageError):
    """A scheduler config or a number of steps cannot be used."""


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
    """A bundle is missing, damaged, or written by a newer version."""


class EngineError(Kandinsky22Error):
    """An inference engine failed while it loaded or ran a graph."""


class EngineUnavailable(EngineError):
    """An engine's library is not installed, is too old, or lacks what is needed."""


class EngineNotBuilt(EngineUnavailable):
    """An engine runs only what `k22 build` made, and this bundle was not built on this machine."""


class TensorError(Kandinsky22Error, ValueError):
    """A tensor does not fit a graph's signature."""


class NonFiniteError(Kandinsky22Error):
    """A graph returned NaN or infinity."""


class Cancelled(Kandinsky22Error):
    """The caller stopped the run between two steps."""
