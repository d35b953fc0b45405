"""Run Kandinsky 2.2 from a bundle of compiled graphs.

Names load their modules when they are first used: importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.decoder.generate import GeneratePipeline
    from kandinsky_runtime.decoder.inpaint import InpaintPipeline
    from kandinsky_runtime.decoder.options import GenerateOptions, InpaintOptions
    from kandinsky_runtime.decoder.output import GenerateOutput, InpaintOutput
    from kandinsky_runtime.errors import Kandinsky22Error
    from kandinsky_runtime.observers import RunObserver
    from kandinsky_runtime.prior.pipeline import PriorOutput, PriorPipeline
    from kandinsky_runtime.prior.prompts import Mix
    from kandinsky_runtime.sampling.noise import RecordingNoise, ReplayNoise
    from kandinsky_runtime.sampling.schedulers import SCHEDULERS

__all__ = [
    "SCHEDULERS",
    "Bundle",
    "GenerateOptions",
    "GenerateOutput",
    "GeneratePipeline",
    "InpaintOptions",
    "InpaintOutput",
    "InpaintPipeline",
    "Kandinsky22Error",
    "Mix",
    "PriorOutput",
    "PriorPipeline",
    "RecordingNoise",
    "ReplayNoise",
    "RunObserver",
    "__version__",
]

_HOMES = {
    "Bundle": "kandinsky_runtime.bundle.bundle",
    "GenerateOptions": "kandinsky_runtime.decoder.options",
    "GenerateOutput": "kandinsky_runtime.decoder.output",
    "GeneratePipeline": "kandinsky_runtime.decoder.generate",
    "InpaintOptions": "kandinsky_runtime.decoder.options",
    "InpaintOutput": "kandinsky_runtime.decoder.output",
    "InpaintPipeline": "kandinsky_runtime.decoder.inpaint",
    "Kandinsky22Error": "kandinsky_runtime.errors",
    "Mix": "kandinsky_runtime.prior.prompts",
    "PriorOutput": "kandinsky_runtime.prior.pipeline",
    "PriorPipeline": "kandinsky_runtime.prior.pipeline",
    "RecordingNoise": "kandinsky_runtime.sampling.noise",
    "ReplayNoise": "kandinsky_runtime.sampling.noise",
    "RunObserver": "kandinsky_runtime.observers",
    "SCHEDULERS": "kandinsky_runtime.sampling.schedulers",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from kandinsky_runtime.distribution import installed

        return installed()[1]
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
