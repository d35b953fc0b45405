"""OpenVINO: a graph is compiled for each shape at its first use, on the CPU, or on a GPU or NPU that is requested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.compile_cache import compile_cached, ensure_entry, whole_entry
from kandinsky_runtime.engines.openvino.built_shapes import BuiltShapes
from kandinsky_runtime.engines.openvino.compiled_shapes import CompiledShapes
from kandinsky_runtime.engines.openvino.compiler import CompiledGraph, Compiler, Shapes
from kandinsky_runtime.engines.openvino.float32_waves import split_waves, wave_name
from kandinsky_runtime.engines.openvino.linked_weights import readable_files
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.engines.openvino.resident import drop_mapped_pages
from kandinsky_runtime.engines.records import cache_subfolder
from kandinsky_runtime.errors import EngineError, EngineUnavailable, Kandinsky22Error, UsageError
from kandinsky_runtime.files import cache_folder

# The devices whose shapes are kept on disk when they are first compiled. On the CPU this takes gigabytes, and longer
# than compiling. So it must be requested there, by `k22 build`.
CACHED_DEVICES = frozenset({"GPU", "NPU"})

# OpenVINO numbers devices of one kind: GPU.0, GPU.1. AUTO is its name for a choice, which `_automatic` makes.
_DEVICE = re.compile(r"(cpu|gpu|npu)(\.[0-9]{1,3})?")
_AUTOMATIC = "auto"

_ELEMENT_TYPES = {Precision.BF16: "bf16", Precision.FP32: "f32", Precision.FP16: "f16"}
# OpenVINO's names for the precisions that a device computes in.
_CAPABILITIES = {Precision.FP32: "FP32", Precision.BF16: "BF16", Precision.FP16: "FP16"}


class _CompiledShape(NamedTuple):
    """The inference request of a compiled shape, and the objects whose memory it may read."""

    request: Any
    keep_alive: list[Any]


class OpenVinoEngine(Engine):
    """Runs `onnx-fp32` or `onnx-fp16` through `openvino` in the requested precision.

    A shape that is fixed before compiling runs about twice as fast as a dynamic one. Shapes stay compiled within
    `EngineOptions.shape_memory` (`compiled_shapes.py`). Compiling reads the weights through a memory map, whose pages
    do not stay in memory. The timestep's embedding is computed in float32 in every precision. On the CPU the graph is
    rewritten before it is compiled (`rewrite_for_cpu`); a shape that `build` has kept is loaded instead.
    """

    name = "openvino"
    library = "openvino"
    distribution = "openvino"
    variants: ClassVar[Mapping[str, str]] = {
        Precision.FP32: "onnx-fp32",
        Precision.BF16: "onnx-fp32",
        Precision.FP16: "onnx-fp16",
    }
    # For bf16, weights stored in fp16 are rounded again. For float32 they are not a substitute.
    fallback_variants: ClassVar[Mapping[str, str]] = {Precision.BF16: "onnx-fp16", Precision.FP16: "onnx-fp32"}
    roles = ("graph", "weights")
    keeps_shapes = True
    devices = ("cpu", "gpu", "npu")

    @classmethod
    def device_name(cls, device: str) -> str:
        """OpenVINO's name in lower case: "GPU.1" is "gpu.1". "AUTO" is the first GPU that it reports, else "cpu"."""
        name = device.lower()
        if name == _AUTOMATIC:
            return _automatic()
        return name if _DEVICE.fullmatch(name) else device

    @classmethod
    def check_device(cls, device: str) -> None:
        """Raise UsageError for a name that is none of OpenVINO's devices."""
        if _DEVICE.fullmatch(device) is None:
            raise UsageError(
                f"engine {cls.name} runs on {', '.join(cls.devices)}, one of several such as gpu.1, and auto; got"
                f" device {device!r}; OpenVINO finds {', '.join(_found()) or 'none'} here"
            )

    @classmethod
    def preferred_precisions(cls, device: str) -> tuple[Precision, ...]:
        """On the CPU bf16, if the processor has it, then float32. Elsewhere float32, or fp16 on a device without it.

        On a device with float32, fp16 must be requested: its range is smaller.
        """
        if device == cls.devices[0]:
            return (Precision.BF16, Precision.FP32) if has_bf16() else (Precision.FP32,)
        able = _capabilities(device)
        only_fp16 = _CAPABILITIES[Precision.FP16] in able and _CAPABILITIES[Precision.FP32] not in able
        return (Precision.FP16,) if only_fp16 else (Precision.FP32,)

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        import openvino

        core, self._device = openvino.Core(), options.device.upper()
        found = core.available_devices
        # GPU is another name of GPU.0, and the CPU has no number.
        if self._device not in {*found, *(name.partition(".")[0] for name in found)}:
            listed = ", ".join(found) or "none"
            raise EngineUnavailable(f"OpenVINO finds no device {options.device!r} here; it finds {listed}")
        able = core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        if _CAPABILITIES[options.precision] not in able:  # OpenVINO would silently compute in another precision
            others = [precision for precision, name in _CAPABILITIES.items() if name in able]
            remedy = f"precision {' or '.join(others)}" if others else "another device"
            raise EngineUnavailable(f"device {options.device} does not compute in {options.precision}: choose {remedy}")
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[options.precision],
        }
        if _kind(self._device) == "CPU":
            settings["INFERENCE_NUM_THREADS"] = options.thread_count
        self._files = readable_files({role: files[role] for role in self.roles})
        # A damaged graph is found now, not at the first run. The model is kept for that run's shape.
        model = core.read_model(self._files["graph"])
        self._compiler = Compiler(
            core,
            self._device,
            options.precision,
            settings,
            self._files,
            self.digests,
            tuple(spec.name for spec in self.spec.inputs),
            openvino.get_version(),
            model,
        )
        self._waves = None
        if not options.precision.is_float32 and (parts := split_waves(model.clone())) is not None:
            waves, rest = parts
            self._waves = core.compile_model(waves, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
            self._early, self._late = ({port.any_name for port in part.inputs} for part in (waves, rest))
        self._compiled: CompiledShapes[_CompiledShape] = CompiledShapes(
            self.component,
            options.shape_memory,
            self._files["weights"].stat().st_size,
            measurable=_kind(self._device) == "CPU",
        )

    def build(self, shapes: Shapes) -> bool:
        """Compile the graph for inputs of these shapes, in the signature's order, and keep it on disk for later runs.

        Returns:
            Whether it had to be compiled.

        Raises:
            EngineError: OpenVINO cannot compile it, or writes nothing to disk.
            OSError: it cannot be written.
            UsageError: there is no folder to keep it in.
        """
        folder = cache_subfolder(self.name)
        with self._lock, drop_mapped_pages(self._files["weights"]):
            try:
                if _kind(self._device) not in CACHED_DEVICES:
                    return BuiltShapes(self._compiler, folder).build(shapes)
                name = self._compiler.fingerprint(shapes)
                missing = ensure_entry(folder, name, lambda draft: self._compile_in(draft, shapes))
            except (Kandinsky22Error, OSError):
                raise
            except Exception as error:  # vendors raise nearly anything
                raise EngineError(f"{self.component} cannot be built by {self.name}: {error}") from error
        if missing and whole_entry(folder, name) is None:
            raise EngineError(f"{self.component}: OpenVINO wrote nothing to disk for device {self._device}")
        return missing

    def _run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        request = self._request(tuple(feeds[spec.name].shape for spec in self.spec.inputs))
        results = request.infer(self._inputs(feeds), share_inputs=True, share_outputs=False)
        return {spec.name: results[spec.name] for spec in self.spec.outputs}

    def _inputs(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The compiled graph's inputs: the feeds, with the waves in place of what they are computed from."""
        if self._waves is None:
            return dict(feeds)
        waves = self._waves.infer({name: feeds[name] for name in self._early}, share_inputs=True, share_outputs=False)
        known = {name: feeds[name] for name in self._late if name in feeds}
        return known | {wave_name(number): wave for number, wave in enumerate(waves.values())}

    def _request(self, shapes: Shapes) -> Any:
        """The inference request for these shapes, which are compiled now if they are not compiled yet."""
        return self._compiled.get(shapes, lambda: self._compile(shapes)).request

    def _compile(self, shapes: Shapes) -> _CompiledShape:
        with drop_mapped_pages(self._files["weights"]):
            compiled = self._obtain(shapes)
        return _CompiledShape(compiled.model.create_infer_request(), compiled.keep_alive)

    def _obtain(self, shapes: Shapes) -> CompiledGraph:
        """The graph compiled for these shapes, from the disk if it was kept there."""
        cache = cache_folder()
        folder = None if cache is None else cache / self.name
        if _kind(self._device) in CACHED_DEVICES:
            name = "" if folder is None else self._compiler.fingerprint(shapes)
            return compile_cached(folder, name, lambda entry: self._compile_in(entry, shapes))
        built = None if folder is None else BuiltShapes(self._compiler, folder).load(shapes)
        return self._compiler.compile(shapes) if built is None else built

    def _compile_in(self, entry: Path | None, shapes: Shapes) -> CompiledGraph:
        """The graph compiled with OpenVINO's own cache in a folder, if one is given."""
        if entry is None:
            return self._compiler.compile(shapes)
        # The other mode, OPTIMIZE_SIZE, writes a small file that is never loaded if the weights are in a file of their
        # own, as for these ONNX graphs (2026.4.1).
        return self._compiler.compile(shapes, CACHE_DIR=str(entry), CACHE_MODE="OPTIMIZE_SPEED")

    def _free_scratch_memory(self) -> None:
        for compiled in self._compiled.values():
            compiled.request.get_compiled_model().release_memory()

    def _release(self) -> None:
        self._compiled.clear()
        del self._compiler


def _kind(device: str) -> str:
    """The kind of a device, without its number."""
    return device.partition(".")[0]


def _found() -> list[str]:
    """OpenVINO's names for the devices of this machine; none if the library cannot say."""
    try:
        import openvino

        return list(openvino.Core().available_devices)
    except Exception:  # vendors raise nearly anything; loading the graph reports what is wrong
        return []


def _automatic() -> str:
    """The device that AUTO stands for. One device is chosen, so that its precision is known before a graph is compiled.

    OpenVINO's own AUTO would begin on the CPU and change to another device, and another precision, within a run.
    """
    return next((name.lower() for name in _found() if _kind(name) == "GPU"), "cpu")


def _capabilities(device: str) -> frozenset[str]:
    """OpenVINO's names for what a device computes in; none if OpenVINO cannot say."""
    try:
        import openvino

        return frozenset(openvino.Core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES"))
    except Exception:  # vendors raise nearly anything; loading the graph reports what is wrong
        return frozenset()
