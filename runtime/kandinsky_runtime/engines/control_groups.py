"""The Linux control groups that the process runs in, whose files have the limits of a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of the process's control groups and of the groups around them, and the version, 1 or 2, of each.

    Args:
        root: the root of the file system.
        controller: the controller whose groups of version 1 are wanted, such as "cpu"; version 2 has one for all.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if not controllers:
                yield root / "sys/fs/cgroup" / group, 2
            elif controller in controllers.split(","):
                yield root / "sys/fs/cgroup" / controllers / group, 1
