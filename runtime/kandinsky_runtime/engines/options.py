"""How an engine runs a graph: device, threads, precision, and the memory for compiled shapes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from kandinsky_runtime.bundle.precision import PRECISIONS, Precision
from kandinsky_runtime.checks import choice, whole_number
from kandinsky_runtime.engines.cpu_quota import available_cpus
from kandinsky_runtime.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?([KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


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


def memory_size(name: str, value: int | str) -> int:
    """Bytes from a number of bytes, or from a text such as "2G" or "512M", in units of 1024 as for containers.

    Raises:
        UsageError: it is neither, or not above 0.
    """
    if not isinstance(value, str):
        return whole_number(name, value, 1)
    found = _SIZE.fullmatch(value.strip())
    size = 0
    if found is not None:
        whole, part, unit = found.groups()
        size = int(float(f"{whole}.{part or 0}") * _UNITS[unit.upper()])
    if size < 1:
        raise UsageError(f"{name} is {value!r}; expected a size such as 2G or 512M")
    return size
