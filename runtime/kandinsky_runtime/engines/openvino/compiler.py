"""How OpenVINO compiles a graph for fixed shapes: rewritten on the CPU, and identified by a fingerprint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.openvino.attention_rows import read_rows_in_place
from kandinsky_runtime.engines.openvino.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.openvino.doubled_convolutions import convolve_before_doubling
from kandinsky_runtime.engines.openvino.float32_waves import split_waves
from kandinsky_runtime.engines.openvino.processor import has_amx
from kandinsky_runtime.engines.openvino.split_convolutions import split_badly_cut_convolutions
from kandinsky_runtime.engines.rewrites import Outcome
from kandinsky_runtime.files import file_sha256, fingerprint, stamp

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of a graph's inputs, in the signature's order."""

# The properties that may differ between devices of the same kind.
_DEVICE_PROPERTIES = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES")

_log = logging.getLogger(__name__)


class CompiledGraph(NamedTuple):
    """An `openvino.CompiledModel`, and the objects whose memory it may read."""

    model: Any
    keep_alive: list[Any]


@dataclass
class Compiler:
    """Compiles one graph on one device.

    Attributes:
        core: an `openvino.Core`.
        device: the device's name for OpenVINO.
        precision: the precision that the graph is computed in.
        settings: OpenVINO's settings for every compilation.
        files: the paths of the graph and its weights.
        digests: the sha256 of the files, if they are known.
        inputs: the inputs' names, in the signature's order.
        version: the version of OpenVINO.
        model: the graph, if it was read and not compiled yet.
    """

    core: Any
    device: str
    precision: Precision
    settings: Mapping[str, Any]
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    inputs: tuple[str, ...]
    version: str
    model: Any = None

    def read(self) -> Any:
        """The graph for any shape, as an `openvino.Model` that may be changed."""
        model, self.model = self.model, None
        return self.core.read_model(self.files["graph"]) if model is None else model

    def compile(self, shapes: Shapes, **settings: str) -> CompiledGraph:
        """Compile the bundle's graph for inputs of these shapes; `settings` are added to `self.settings`."""
        model, keep_alive = self.specialised(self.read(), shapes)
        return CompiledGraph(self.core.compile_model(model, self.device, {**self.settings, **settings}), keep_alive)

    def specialised(self, model: Any, shapes: Shapes) -> tuple[Any, list[Any]]:
        """The part of a graph to compile for inputs of these shapes, and the objects whose memory it may read.

        In less than float32, this is the part after the waves. On the CPU it is rewritten. `model` is taken apart.
        """
        model.reshape(dict(zip(self.inputs, shapes, strict=True)))
        parts = None if self.precision.is_float32 else split_waves(model)
        if parts is not None:
            model = parts[1]
        return model, rewrite_for_cpu(model, self.precision) if self.device == "CPU" else []

    def source_fingerprint(self) -> str:
        """A name for the graph in this precision. It covers graph, weights, OpenVINO's version and our code."""
        weights = self.files["weights"]
        return fingerprint(
            {
                "graph": file_sha256(self.files["graph"]),
                "weights": self.digests.get("weights") or [str(weights.resolve()), *stamp(weights)],
                "precision": self.precision,
                "openvino": self.version,
                "code": _code(),
            }
        )

    def fingerprint(self, shapes: Shapes, **parts: str) -> str:
        """A name for a compiled graph. It covers `parts` and everything that may change the graph.

        It does not cover the number of threads, which is set when the graph is loaded.
        """
        able = self.core.get_property(self.device, "SUPPORTED_PROPERTIES")
        known = {name: self.core.get_property(self.device, name) for name in _DEVICE_PROPERTIES if name in able}
        settings = {key: value for key, value in self.settings.items() if key != "INFERENCE_NUM_THREADS"}
        return fingerprint(
            parts
            | known
            | {
                "source": self.source_fingerprint(),
                "shapes": shapes,
                "settings": settings,
                "device": self.device,
                "amx": self.device == "CPU" and has_amx(),
            }
        )


def rewrite_for_cpu(model: Any, precision: Precision) -> list[Any]:
    """Rewrite an `openvino.Model` of static shapes in place to a form that the processor computes faster.

    Returns:
        Constants whose memory the model, and whatever is compiled of it, may read.
    """
    rewrites = [convolve_before_doubling, read_rows_in_place]
    if precision == Precision.BF16 and has_amx():
        rewrites += [split_badly_cut_convolutions, keep_channels_last]
    outcomes = {rewrite.__name__: rewrite(model) for rewrite in rewrites}
    for name, outcome in outcomes.items():
        _report(name, outcome)
    return [item for outcome in outcomes.values() for item in outcome.keep_alive]


def _report(rewrite: str, outcome: Outcome) -> None:
    _log.debug("%s: %d rewritten, %d left unchanged", rewrite, outcome.rewritten, len(outcome.refusals))
    for refusal in outcome.refusals:
        _log.debug("%s: %s is left unchanged: %s", rewrite, refusal.node, refusal.reason)


@cache
def _code() -> list[str]:
    """The sha256 of each of this package's files, which decide what is compiled."""
    return [file_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
