"""Every error that the export raises on purpose, below the runtime's own tree.

Kandinsky22Error        (kandinsky_runtime.errors)
├── ExportError         a step of the export that failed, or whose result failed its check
│   └── DownloadError   a hub that cannot be reached, or a file of it that cannot be fetched or stored
└── FaultList           (kandinsky_runtime.errors)
    └── CheckpointError a checkpoint that is missing, damaged, incomplete or unsafe; lists every fault
"""

from __future__ import annotations

from collections.abc import Sequence

from kandinsky_runtime.errors import FaultList, Kandinsky22Error


class ExportError(Kandinsky22Error):
    """A step of the export that failed, or whose result failed its check."""


class DownloadError(ExportError):
    """A hub that cannot be reached, or a file of it that cannot be fetched or stored."""


class CheckpointError(FaultList):
    """A checkpoint that is missing, damaged, incomplete or unsafe to read.

    `faults` has all of them; the message lists the first `MOST_LISTED`.
    """

    MOST_LISTED = 20

    def __init__(self, subject: str, faults: Sequence[str]) -> None:
        super().__init__(subject, faults)
        if len(faults) > self.MOST_LISTED:
            listed = "".join(f"\n  - {fault}" for fault in faults[: self.MOST_LISTED])
            more = f"\n  - and {len(faults) - self.MOST_LISTED:,} more"
            self.args = (f"{subject}: {len(faults)} faults:{listed}{more}",)
