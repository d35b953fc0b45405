"""How an engine runs a graph: device, threads, precision, and the memory for compiled shapes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kandinsky_runtime.bundle.precision import PRECISIONS, Precision
from kandinsky_runtime.checks import choice, whole_number
from kandinsky_runtime.engines.cpu_quota import available_cpus
from kandinsky_runtime.errors import UsageError


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs a graph.

    Attributes:
        device: the device's name for the engine: "cpu" for each, "cuda" or "cuda:N" for an NVIDIA GPU.
        threads: the number of threads within one operation; None for every core that the process may use, within the
            CPU quota of its container.
        precision: the precision to compute in, one of the engine's; its name is enough.
        shape_memory: the bytes that compiled shapes of all graphs of the process may take together; None for a share
            of the free memory. Only for engines that keep compiled shapes.

    Raises:
        UsageError: a value is invalid.
    """

    device: str = "cpu"
    threads: int | None = None
    precision: Precision = Precision.FP32
    shape_memory: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.device, str):
            raise UsageError(f"device is {self.device!r}; expected a name such as 'cpu'")
        if self.threads is not None:
            whole_number("threads", self.threads, 1)
        if self.shape_memory is not None:
            whole_number("shape_memory", self.shape_memory, 1)
        choice("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "precision", Precision(self.precision))

    @property
    def thread_count(self) -> int:
        """The number of threads that the library is to use."""
        if self.threads is not None:
            return int(self.threads)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return available_cpus(cores)
