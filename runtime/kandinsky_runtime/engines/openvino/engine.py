"""OpenVINO: a graph specialised for each shape at its first use; on the CPU, and on GPU and NPU by device name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.compile_cache import compile_cached, ensure_entry, whole_entry
from kandinsky_runtime.engines.openvino.built_shapes import KeptShapes
from kandinsky_runtime.engines.openvino.compiler import Compiled, Compiler, Shapes
from kandinsky_runtime.engines.openvino.float32_waves import split_waves, wave_name
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.engines.openvino.resident import kept_out_of_memory
from kandinsky_runtime.engines.records import engine_folder
from kandinsky_runtime.errors import EngineError, EngineUnavailable, Kandinsky22Error
from kandinsky_runtime.files import cache_folder

# A compiled shape holds its own copy of the weights as the processor likes them: 3.2 GB of the full UNet in bf16.
KEPT_SHAPES = 2
# The devices whose shapes are kept on disk when they are first compiled. On the CPU that takes gigabytes, and longer
# than the compiling: it is done when it is asked for, by `k22 build`.
CACHED_DEVICES = frozenset({"GPU", "NPU"})

_ELEMENT_TYPES = {"bf16": "bf16", "fp32": "f32", "fp16": "f16"}


class _Ready(NamedTuple):
    """A shape that is compiled: what runs it, and what it may read the memory of."""

    request: Any
    outlived: list[Any]


class OpenVinoEngine(Engine):
    """Runs `onnx-fp32` or `onnx-fp16` through `openvino`, computing in the precision asked for.

    A shape that is fixed before compiling runs about twice as fast as a dynamic one. The last `KEPT_SHAPES` shapes stay
    compiled. Compiling reads the weights through a memory map; their pages do not stay resident. In bf16 and fp16 the
    timestep's embedding is computed in float32 all the same. On the CPU the graph is rewritten before it is compiled
    (`rewrite_for_cpu`); what `build` has kept of it is loaded instead.
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

        core, self._device = openvino.Core(), options.device.upper()
        if self._device not in {name.partition(".")[0] for name in core.available_devices}:
            found = ", ".join(name.lower() for name in core.available_devices) or "none"
            raise EngineUnavailable(f"OpenVINO finds no device {options.device!r} here; it finds {found}")
        able = core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        if options.precision.upper() not in able:  # it would quietly compute in another one
            raise EngineUnavailable(
                f"this {options.device} has no {options.precision}; it has"
                f" {', '.join(name for name in self.variants if name.upper() in able)}"
            )
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[options.precision],
        }
        if self._device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = options.thread_count
        self._files = {role: files[role] for role in self.roles}
        # A damaged graph is found now, not at the first run, for whose shape the model is kept.
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
        if options.precision != "fp32" and (parts := split_waves(model.clone())) is not None:
            waves, rest = parts
            self._waves = core.compile_model(waves, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
            self._early, self._late = ({port.any_name for port in part.inputs} for part in (waves, rest))
        self._compiled: OrderedDict[Shapes, _Ready] = OrderedDict()

    def build(self, shapes: Shapes) -> bool:
        """Compile the graph for inputs of these shapes, in the signature's order, and keep it on disk for later runs.

        Returns:
            Whether it was not kept yet.

        Raises:
            EngineError: OpenVINO cannot compile it, or keeps nothing.
            OSError: it cannot be written.
            UsageError: there is no folder to keep it in.
        """
        folder = engine_folder(self.name)
        with self._lock, kept_out_of_memory(self._files["weights"]):
            try:
                if self._device not in CACHED_DEVICES:
                    return KeptShapes(self._compiler, folder).build(shapes)
                name = self._compiler.fingerprint(shapes)
                missing = ensure_entry(folder, name, lambda draft: self._compile_in(draft, shapes))
            except (Kandinsky22Error, OSError):
                raise
            except Exception as error:  # vendors raise nearly anything
                raise EngineError(f"{self.component} cannot be built by {self.name}: {error}") from error
        if missing and whole_entry(folder, name) is None:
            raise EngineError(f"{self.component}: OpenVINO kept nothing of what it compiled for {self._device}")
        return missing

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
            compiled = self._obtain(shapes)
        self._compiled[shapes] = _Ready(compiled.model.create_infer_request(), compiled.outlived)
        return self._compiled[shapes].request

    def _obtain(self, shapes: Shapes) -> Compiled:
        """The graph compiled for these shapes, from the disk where it is kept there."""
        cache = cache_folder()
        folder = None if cache is None else cache / self.name
        if self._device in CACHED_DEVICES:
            name = "" if folder is None else self._compiler.fingerprint(shapes)
            return compile_cached(folder, name, lambda entry: self._compile_in(entry, shapes))
        built = None if folder is None else KeptShapes(self._compiler, folder).load(shapes)
        return self._compiler.compile(shapes) if built is None else built

    def _compile_in(self, entry: Path | None, shapes: Shapes) -> Compiled:
        """The graph compiled by way of OpenVINO's own cache in a folder, if one is given."""
        if entry is None:
            return self._compiler.compile(shapes)
        # The other mode, OPTIMIZE_SIZE, writes a small file that is never loaded where the weights lie in a file of
        # their own, as ONNX has it (2026.4.1).
        return self._compiler.compile(shapes, CACHE_DIR=str(entry), CACHE_MODE="OPTIMIZE_SPEED")

    def _trim(self) -> None:
        for compiled in self._compiled.values():
            compiled.request.get_compiled_model().release_memory()

    def _release(self) -> None:
        self._compiled.clear()
        del self._compiler
