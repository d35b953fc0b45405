"""The memory that the process may still take: what the machine has available, or less within a container's limit.

Linux limits the memory of a control group (kernel documentation, "Control Group v2", memory.max, and "Memory Resource
Controller", memory.limit_in_bytes). Pages of files that nobody used lately count as used there, but are freed first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kandinsky_runtime.engines.control_groups import control_groups

# the files of a group's limit and of what it uses, by the version of control groups
_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}


def free_memory(root: Path = Path("/")) -> int | None:
    """The bytes of memory that the process may still take; None if the system does not report them.

    Args:
        root: the root of the file system.
    """
    available = _counters(root / "proc/meminfo").get("MemAvailable:")
    if available is None:
        return None
    return max(0, min([available * 1024, *_room_in_groups(root)]))


def anonymous_memory(root: Path = Path("/")) -> int | None:
    """The resident bytes of this process that are in no file; None if the system does not report them."""
    resident = _counters(root / "proc/self/status").get("RssAnon:")
    return None if resident is None else resident * 1024


def _room_in_groups(root: Path) -> Iterator[int]:
    """What is left below the limits of the process's control groups and of the groups around them."""
    for folder, version in control_groups(root, "memory"):
        limit, usage = _FILES[version]
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None:
            counters = _counters(folder / "memory.stat")
            yield most - used + counters.get("total_inactive_file", counters.get("inactive_file", 0))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `max`, in version 2, is no limit
        return None


def _counters(file: Path) -> dict[str, int]:
    """The lines of a file that are a name and a whole number, perhaps with a unit; none if it cannot be read."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
