"""The TensorRT library: its version, and its log."""

from __future__ import annotations

import functools
import logging
import re
from collections import deque
from typing import Any

from kandinsky_runtime.errors import EngineError, EngineUnavailable

DISTRIBUTION = "tensorrt"
MIN_VERSION = (10, 3)
"""The oldest version with every call that this package makes; it is part of JetPack 6.1."""

_MAX_ERRORS = 4

_log = logging.getLogger(__name__)


def tensorrt() -> Any:
    """Import the module.

    Raises:
        EngineUnavailable: it is not installed, cannot be loaded, or is too old.
    """
    try:
        import tensorrt as library
    except (ImportError, OSError) as error:
        raise EngineUnavailable(f"tensorrt cannot be imported ({error}): pip install {DISTRIBUTION}") from error
    found = tuple(int(part) for part in re.findall(r"[0-9]+", library.__version__)[:2])
    if found < MIN_VERSION:
        raise EngineUnavailable(
            f"TensorRT is {library.__version__}; expected {'.'.join(map(str, MIN_VERSION))} or newer:"
            f" pip install --upgrade {DISTRIBUTION}"
        )
    return library


@functools.cache
def log_of(library: Any) -> Any:
    """The only log of the module, for everything that is made with it.

    Warnings go to Python's log, at its level of information; errors are stored for `failure`.
    """

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_MAX_ERRORS)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                self.errors.append(msg)
            elif severity == library.ILogger.WARNING:
                _log.info("TensorRT: %s", msg)

    return Log()


def failure(log: Any, what: str) -> EngineError:
    """The error for a call that failed, with the reasons that the library logged."""
    reasons = "; ".join(dict.fromkeys(log.errors)) or "TensorRT gives no reason"
    log.errors.clear()
    remedy = ": the GPU has too little memory free" if re.search("out ?of ?memory", reasons, re.IGNORECASE) else ""
    return EngineError(f"{what}{remedy} ({reasons})")
