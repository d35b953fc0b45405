"""ONNX Runtime is imported here, so that every import has the same environment."""

from __future__ import annotations

import os
from typing import Any

ERRORS_ONLY, FATAL_ONLY = 3, 4
"""Levels of the library's log."""

_NO_REPORTS = "ORT_DISABLE_TELEMETRY"


def onnxruntime_library() -> Any:
    """The library, without its usage reports to Microsoft.

    ONNX Runtime 1.32 for Linux sends them, and writes a file into the folder for temporary files. A process that sets
    the environment variable ORT_DISABLE_TELEMETRY to 0 before the first import keeps them.
    """
    os.environ.setdefault(_NO_REPORTS, "1")
    import onnxruntime

    return onnxruntime
