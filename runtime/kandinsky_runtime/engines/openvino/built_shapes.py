"""What `k22 build` keeps of a graph for OpenVINO on the CPU: its weights once, and each compiled shape without them.

The weights are in a file of OpenVINO's intermediate representation, in the precision that they are computed in. A
compiled shape refers to them by their position in that file, and contains only the weights that the rewrites changed.
Loading it takes less than half as long as compiling, which goes through the whole graph many times.
"""

from __future__ import annotations

import errno
import logging
import mmap
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines.compile_cache import compile_cached, ensure_entry, sealed_sha256
from kandinsky_runtime.engines.openvino.compiler import CompiledGraph, Compiler, Shapes
from kandinsky_runtime.engines.openvino.doubled_convolutions import reads_doubled_map
from kandinsky_runtime.engines.openvino.resident import drop_mapped_pages
from kandinsky_runtime.engines.openvino.rounded_weights import round_weights

_GRAPH, _WEIGHTS, _SHAPE = "graph.xml", "graph.bin", "shape.blob"
# OpenVINO's setting for a compiled graph without weights.
_WITHOUT_WEIGHTS = {"CACHE_MODE": "OPTIMIZE_SIZE"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltShapes:
    """The compiled shapes of one graph in a folder, as entries of `compile_cache`."""

    compiler: Compiler
    folder: Path

    def build(self, shapes: Shapes) -> bool:
        """Compile the graph for inputs of these shapes and keep the result.

        Returns:
            Whether it had to be compiled.

        Raises:
            OSError: it cannot be written.
        """
        weights = self._weights()

        def write(draft: Path) -> None:
            self._compile(shapes, weights, draft)
            self._load(shapes, weights, draft)  # if this version of OpenVINO cannot, fail now, not at every start

        return ensure_entry(self.folder, self._name(shapes, weights), write)

    def load(self, shapes: Shapes) -> CompiledGraph | None:
        """The graph that was built for inputs of these shapes; None if none was built, or it cannot be loaded.

        Damaged entries are rebuilt.
        """
        if not (self.folder / self.compiler.source_fingerprint()).exists():
            return None
        try:
            weights = self._weights()
            name = self._name(shapes, weights)
            if not (self.folder / name).exists():
                return None
            return compile_cached(self.folder, name, lambda entry: self._obtain(entry, shapes, weights))
        except Exception as error:  # vendors raise nearly anything, and the disk may be full
            _log.warning("a built graph cannot be loaded and is compiled instead: %s", error)
            return None

    def _weights(self) -> Path:
        """The entry of the graph with its weights, made if it is missing or damaged."""
        name = self.compiler.source_fingerprint()
        ensure_entry(self.folder, name, self._write_weights)
        return self.folder / name

    def _write_weights(self, folder: Path) -> None:
        import openvino

        self._check_space(folder)
        model = self.compiler.read()
        if self._rounds_weights:
            # Kernels that a rewrite may sum up are rounded after that, as they are without a cache.
            round_weights(model, lambda node: not reads_doubled_map(node))
        openvino.save_model(model, folder / _GRAPH, compress_to_fp16=False)

    def _check_space(self, folder: Path) -> None:
        """Raise OSError if the weights do not fit into a folder; OpenVINO would notice it only at the end."""
        least = self.compiler.files["weights"].stat().st_size // (2 if self._rounds_weights else 1)
        if (free := shutil.disk_usage(folder).free) < least:
            raise OSError(
                errno.ENOSPC, f"it takes {least / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free", str(self.folder)
            )

    @property
    def _rounds_weights(self) -> bool:
        """Whether weights are kept in half of the bytes, as OpenVINO computes with them in bf16."""
        return self.compiler.precision == Precision.BF16

    def _name(self, shapes: Shapes, weights: Path) -> str:
        return self.compiler.fingerprint(shapes, weights=sealed_sha256(weights, _WEIGHTS))

    def _obtain(self, entry: Path | None, shapes: Shapes, weights: Path) -> CompiledGraph:
        """The compiled graph, loaded from an entry; if the entry is still empty, compiled and written there."""
        if entry is None:
            return self.compiler.compile(shapes)
        return (self._load if (entry / _SHAPE).exists() else self._compile)(shapes, weights, entry)

    def _compile(self, shapes: Shapes, weights: Path, entry: Path) -> CompiledGraph:
        compiler = self.compiler
        with drop_mapped_pages(weights / _WEIGHTS):
            model, keep_alive = compiler.specialised(compiler.core.read_model(weights / _GRAPH), shapes)
            if self._rounds_weights:
                round_weights(model)  # the weights that the rewrites made
            compiled = compiler.core.compile_model(model, compiler.device, {**compiler.settings, **_WITHOUT_WEIGHTS})
            (entry / _SHAPE).write_bytes(compiled.export_model().getbuffer())
        return CompiledGraph(compiled, keep_alive)

    def _load(self, shapes: Shapes, weights: Path, entry: Path) -> CompiledGraph:
        import openvino

        compiler = self.compiler
        with (entry / _SHAPE).open("rb") as file:
            # A copy on write: OpenVINO takes writable arrays only, but writes nothing.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        tensor = openvino.Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
        settings = {**compiler.settings, **_WITHOUT_WEIGHTS, "WEIGHTS_PATH": str(weights / _WEIGHTS)}
        with drop_mapped_pages(weights / _WEIGHTS):
            compiled = compiler.core.import_model(tensor, compiler.device, settings)
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # pages that are needed again come back from the file
        compiler.model = None  # it was read to be compiled
        return CompiledGraph(compiled, [tensor, mapped])
