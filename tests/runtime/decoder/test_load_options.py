"""The options with which commands and servers open a bundle are those of `load`."""

from __future__ import annotations

import inspect
from dataclasses import asdict

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.load_options import LoadOptions


def test_names_and_defaults_are_those_of_load() -> None:
    own = inspect.signature(InpaintPipeline.load).parameters
    assert asdict(LoadOptions()) == {name: own[name].default for name in own if name not in ("bundle", "progress")}
