"""The CPU quota of the container that the process runs in, which the number of cores does not show.

Linux limits a control group to `quota` microseconds of CPU time in every `period` (kernel documentation, "Control Group
v2", cpu.max, and "CFS Bandwidth Control", cpu.cfs_quota_us).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kandinsky_runtime.engines.control_groups import control_groups


def available_cpus(cores: int, root: Path = Path("/")) -> int:
    """The CPUs that the process can keep busy: `cores`, or fewer under a quota; at least 1.

    A quota of 1.5 CPUs gives 1, as `std::thread::available_parallelism` of Rust has it: a second thread would be
    stopped half of the time, and the first would wait for it.

    Args:
        cores: the cores that the process may run on.
        root: the root of the file system.
    """
    return max(1, int(min([float(cores), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in CPUs of the process's control groups and of the groups around them."""
    for folder, version in control_groups(root, "cpu"):
        if version == 2:
            yield from _quota(folder / "cpu.max")
        else:
            yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _quota(*files: Path) -> Iterator[float]:
    """The quota that these files give; none if they are missing, say "max", or make no sense."""
    try:
        words = " ".join(file.read_text(encoding="utf-8") for file in files).split()
        quota, period = (int(word) for word in words)
    except (OSError, ValueError):  # `max`, in version 2, is no limit
        return
    if quota > 0 and period > 0:  # -1, in version 1, is no limit
        yield quota / period
