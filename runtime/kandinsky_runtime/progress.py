"""Progress bars on stderr."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class ProgressBar(tqdm):  # type: ignore[misc]
    """tqdm's bar, which never ends the work that it shows.

    Without a stderr (`2>&-`, pythonw) there is no bar. Once stderr cannot be written to, because its reader has gone or
    its disk is full, the bar stops.
    """

    def __init__(self, *args: Any, disable: bool = False, **options: Any) -> None:
        """Make a bar; see tqdm for the arguments."""
        super().__init__(*args, disable=disable or sys.stderr is None, **options)

    def display(self, *args: Any, **options: Any) -> bool:
        """Show the bar."""
        try:
            return bool(super().display(*args, **options))
        except OSError:
            self.disable = True
            return False

    def close(self) -> None:
        """Leave the bar as it is, or remove it."""
        try:
            super().close()
        except OSError:
            self.disable = True
