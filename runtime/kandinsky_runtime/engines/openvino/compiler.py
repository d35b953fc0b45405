"""How OpenVINO compiles a graph for fixed shapes: rewritten on the CPU, and told apart by a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kandinsky_runtime.engines.openvino.attention_rows import read_rows_in_place
from kandinsky_runtime.engines.openvino.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.openvino.doubled_convolutions import convolve_before_doubling
from kandinsky_runtime.engines.openvino.float32_waves import split_waves
from kandinsky_runtime.engines.openvino.processor import has_amx
from kandinsky_runtime.engines.openvino.split_convolutions import split_badly_cut_convolutions
from kandinsky_runtime.files import file_sha256, fingerprint, stamp

Shapes = tuple[tuple[int, ...], ...]
"""Of a graph's inputs, in the signature's order."""

# What OpenVINO tells of a device that another device of the same kind may have different.
_DEVICE_PROPERTIES = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES")


class Compiled(NamedTuple):
    """An `openvino.CompiledModel`, and what must outlive it because it may read its memory."""

    model: Any
    outlived: list[Any]


@dataclass
class Compiler:
    """Compiles one graph on one device.

    Attributes:
        core: an `openvino.Core`.
        device: as OpenVINO calls it.
        precision: "fp32", "fp16" or "bf16", in which the graph is computed.
        settings: for every compilation.
        files: the graph's and the weights'.
        digests: the files' sha256, where they are known.
        inputs: the inputs' names, in the signature's order.
        version: OpenVINO's.
        model: the graph, if it was read and is yet to be compiled.
    """

    core: Any
    device: str
    precision: str
    settings: Mapping[str, Any]
    files: Mapping[str, Path]
    digests: Mapping[str, str]
    inputs: tuple[str, ...]
    version: str
    model: Any = None

    def read(self) -> Any:
        """The graph, of any shape, as an `openvino.Model` that may be changed."""
        model, self.model = self.model, None
        return self.core.read_model(self.files["graph"]) if model is None else model

    def compile(self, shapes: Shapes, **settings: str) -> Compiled:
        """Compile the graph of the bundle for inputs of these shapes; `settings` are added to those for all."""
        model, outlived = self.specialised(self.read(), shapes)
        return Compiled(self.core.compile_model(model, self.device, {**self.settings, **settings}), outlived)

    def specialised(self, model: Any, shapes: Shapes) -> tuple[Any, list[Any]]:
        """What is compiled of a graph for inputs of these shapes, and what must outlive it; the graph is taken apart.

        Without the waves, but in float32; on the CPU, rewritten.
        """
        model.reshape(dict(zip(self.inputs, shapes, strict=True)))
        parts = None if self.precision == "fp32" else split_waves(model)
        if parts is not None:
            model = parts[1]
        return model, rewrite_for_cpu(model, self.precision) if self.device == "CPU" else []

    def source_fingerprint(self) -> str:
        """Differs wherever the graph, or what this package and OpenVINO make of one in this precision, might."""
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
        """Differs wherever a compiled graph might, or one of the `parts`.

        How many threads run it is told when it is loaded.
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
                "amx": has_amx(),
            }
        )


def rewrite_for_cpu(model: Any, precision: str) -> list[Any]:
    """Write what the processor computes faster in another form, in place, in an `openvino.Model` of static shapes.

    Returns:
        Constants that must outlive the model and what is compiled of it.
    """
    convolve_before_doubling(model)
    read_rows_in_place(model)
    if precision != "bf16" or not has_amx():
        return []
    weights = split_badly_cut_convolutions(model)
    keep_channels_last(model)
    return weights


@cache
def _code() -> list[str]:
    """The sha256 of the files of this package that make something of a graph."""
    return [file_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))]
