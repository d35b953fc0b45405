"""Run Kandinsky 2.2 inpainting from a bundle of compiled graphs.

Names load their modules when they are first used: importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kandinsky_runtime.bundle import Bundle
    from kandinsky_runtime.errors import Kandinsky22Error
    from kandinsky_runtime.output import InpaintOutput
    from kandinsky_runtime.pipeline import InpaintPipeline

__all__ = ["Bundle", "InpaintOutput", "InpaintPipeline", "Kandinsky22Error", "__version__"]

_HOMES = {
    "Bundle": "kandinsky_runtime.bundle",
    "InpaintOutput": "kandinsky_runtime.output",
    "InpaintPipeline": "kandinsky_runtime.pipeline",
    "Kandinsky22Error": "kandinsky_runtime.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kandinsky22-deploy")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
