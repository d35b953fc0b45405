"""OpenVINO: a graph specialised for each shape at its first use; on the CPU, and on GPU and NPU by device name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle import cache_folder, file_sha256, fingerprint
from kandinsky_runtime.engines.attention_rows import read_rows_in_place
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.compile_cache import compile_cached
from kandinsky_runtime.engines.doubled_convolutions import convolve_before_doubling
from kandinsky_runtime.engines.float32_waves import split_waves, wave_name
from kandinsky_runtime.engines.processor import has_amx, has_bf16
from kandinsky_runtime.engines.resident import kept_out_of_memory
from kandinsky_runtime.engines.split_convolutions import split_badly_cut_convolutions
from kandinsky_runtime.errors import EngineUnavailable

Shapes = tuple[tuple[int, ...], ...]

# A compiled shape holds its own copy of the weights as the processor likes them: 3.2 GB of the full UNet in bf16.
KEPT_SHAPES = 2
# The devices whose compiled shapes are kept on disk. On the CPU, writing and checking them takes longer than compiling
# (docs/engines.md).
CACHED_DEVICES = frozenset({"GPU", "NPU"})

_ELEMENT_TYPES = {"bf16": "bf16", "fp32": "f32", "fp16": "f16"}
# What OpenVINO tells of a device that another device of the same kind may have different.
_DEVICE_PROPERTIES = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES")


class _Compiled(NamedTuple):
    """A shape that is compiled: what runs it, and constants whose memory it may read."""

    request: Any
    weights: list[Any]


class OpenVinoEngine(Engine):
    """Runs `onnx-fp32` or `onnx-fp16` through `openvino`, computing in the precision asked for.

    A shape that is fixed before compiling runs about twice as fast as a dynamic one. The last `KEPT_SHAPES` shapes stay
    compiled. Compiling reads the weights through a memory map; their pages do not stay resident. In bf16 and fp16 the
    timestep's embedding is computed in float32 all the same. On the CPU the graph is rewritten before it is compiled
    (`rewrite_for_cpu`).
    """

    name = "openvino"
    library = "openvino"
    distribution = "openvino"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "onnx-fp32", "bf16": "onnx-fp32", "fp16": "onnx-fp16"}
    # bf16 rounds weights stored in fp16 once more; nothing stands in for float32, whose weights they are not.
    stand_ins: ClassVar[Mapping[str, str]] = {"bf16": "onnx-fp16", "fp16": "onnx-fp32"}
    roles = ("graph", "weights")
    devices = ("cpu", "gpu", "npu")

    @classmethod
    def preferred_precisions(cls, device: str) -> tuple[str, ...]:
        """bf16 first where the processor has it, float32 elsewhere; fp16 only when asked for."""
        return ("bf16", "fp32") if has_bf16() else ("fp32",)

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        import openvino

        self._core = openvino.Core()
        self._device = options.device.upper()
        if self._device not in {name.partition(".")[0] for name in self._core.available_devices}:
            found = ", ".join(name.lower() for name in self._core.available_devices) or "none"
            raise EngineUnavailable(f"OpenVINO finds no device {options.device!r} here; it finds {found}")
        able = self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        if options.precision.upper() not in able:  # it would quietly compute in another one
            raise EngineUnavailable(
                f"this {options.device} has no {options.precision}; it has"
                f" {', '.join(name for name in self.variants if name.upper() in able)}"
            )
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[options.precision],
        }
        if self._device == "CPU":
            self._settings["INFERENCE_NUM_THREADS"] = options.thread_count
        self._library_version = openvino.get_version()
        self._files = {role: files[role] for role in self.roles}
        # A damaged graph is found now, not at the first run, for whose shape the model is kept.
        self._model = self._core.read_model(self._files["graph"])
        self._precision = options.precision
        self._waves, self._split = None, options.precision != "fp32"
        if self._split and (parts := split_waves(self._model.clone())) is not None:
            waves, rest = parts
            self._waves = self._core.compile_model(
                waves, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
            ).create_infer_request()
            self._early, self._late = ({port.any_name for port in part.inputs} for part in (waves, rest))
        self._compiled: OrderedDict[Shapes, _Compiled] = OrderedDict()

    def compile(self, shapes: Shapes) -> None:
        """Compile the graph for inputs of these shapes, in the signature's order, and keep it where the device does."""
        with self._lock:
            self._request(shapes)

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        request = self._request(tuple(feeds[spec.name].shape for spec in self.spec.inputs))
        results = request.infer(self._inputs(feeds), share_inputs=True, share_outputs=False)
        return {spec.name: results[spec.name] for spec in self.spec.outputs}

    def _inputs(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The compiled graph's inputs: the feeds, but for what the waves take the place of."""
        if self._waves is None:
            return dict(feeds)
        waves = self._waves.infer({name: feeds[name] for name in self._early}, share_inputs=True, share_outputs=False)
        known = {name: feeds[name] for name in self._late if name in feeds}
        return known | {wave_name(number): wave for number, wave in enumerate(waves.values())}

    def _request(self, shapes: Shapes) -> Any:
        """The inference request of these shapes, compiled now if it is not among the kept ones."""
        if shapes in self._compiled:
            self._compiled.move_to_end(shapes)
            return self._compiled[shapes].request
        while len(self._compiled) >= KEPT_SHAPES:
            self._compiled.popitem(last=False)
        with kept_out_of_memory(self._files["weights"]):
            cache = self._cache()
            name = "" if cache is None else self._fingerprint(shapes)  # it reads the graph file
            compiled, weights = compile_cached(cache, name, lambda folder: self._compile(shapes, folder))
        self._compiled[shapes] = _Compiled(compiled.create_infer_request(), weights)
        return self._compiled[shapes].request

    def _compile(self, shapes: Shapes, cache: Path | None) -> tuple[Any, list[Any]]:
        """The graph specialised for these shapes, by way of OpenVINO's own cache in a folder if one is given; and
        constants to keep beside it."""
        settings = dict(self._settings)
        if cache is not None:
            # The other mode, OPTIMIZE_SIZE, writes a small file that is never loaded where the weights lie in a file of
            # their own, as ONNX has it (2026.4.1).
            settings |= {"CACHE_DIR": str(cache), "CACHE_MODE": "OPTIMIZE_SPEED"}
        model, self._model = self._model, None
        if model is None:
            model = self._core.read_model(self._files["graph"])
        model.reshape({spec.name: shape for spec, shape in zip(self.spec.inputs, shapes, strict=True)})
        parts = split_waves(model) if self._split else None
        if parts is not None:
            model = parts[1]
        weights = rewrite_for_cpu(model, self._precision) if self._device == "CPU" else []
        return self._core.compile_model(model, self._device, settings), weights

    def _cache(self) -> Path | None:
        """Where compiled shapes are kept; None where they are not."""
        folder = cache_folder() if self._device in CACHED_DEVICES else None
        return None if folder is None else folder / self.name

    def _fingerprint(self, shapes: Shapes) -> str:
        """Differs wherever a compiled graph might."""
        able = self._core.get_property(self._device, "SUPPORTED_PROPERTIES")
        return fingerprint(
            {
                "graph": file_sha256(self._files["graph"]),
                "weights": _stamp(self._files["weights"]),
                "shapes": shapes,
                "settings": self._settings,
                "float32 waves": self._waves is not None,
                "device": self._device,
                **{name: self._core.get_property(self._device, name) for name in _DEVICE_PROPERTIES if name in able},
                "openvino": self._library_version,
            }
        )

    def _trim(self) -> None:
        for compiled in self._compiled.values():
            compiled.request.get_compiled_model().release_memory()

    def _release(self) -> None:
        self._compiled.clear()
        self._model = None
        del self._core


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


def _stamp(file: Path) -> list[object]:
    """What tells a file from any other and from itself after a change, without reading it."""
    stat = file.stat()
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
