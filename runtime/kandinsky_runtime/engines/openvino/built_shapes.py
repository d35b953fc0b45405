"""What is kept on disk of a graph for OpenVINO on the CPU: its weights once, and each compiled shape without them.

The weights lie in OpenVINO's intermediate representation, in the precision that they are computed in. A compiled shape
refers to them by their place in that file; of its own it has what the rewrites made of weights. Loading it takes less
than half as long as compiling, which goes through the whole graph many times.
"""

from __future__ import annotations

import errno
import logging
import mmap
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kandinsky_runtime.engines.compile_cache import compile_cached, ensure_entry, sealed_sha256
from kandinsky_runtime.engines.openvino.compiler import Compiled, Compiler, Shapes
from kandinsky_runtime.engines.openvino.doubled_convolutions import reads_doubled_map
from kandinsky_runtime.engines.openvino.resident import kept_out_of_memory
from kandinsky_runtime.engines.openvino.rounded_weights import round_weights

_GRAPH, _WEIGHTS, _SHAPE = "graph.xml", "graph.bin", "shape.blob"
# OpenVINO's name for a compiled graph without weights.
_WITHOUT_WEIGHTS = {"CACHE_MODE": "OPTIMIZE_SIZE"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptShapes:
    """The compiled shapes of one graph in a folder, whose entries are those of `compile_cache`."""

    compiler: Compiler
    folder: Path

    def build(self, shapes: Shapes) -> bool:
        """Compile the graph for inputs of these shapes and keep it.

        Returns:
            Whether it was not kept yet.

        Raises:
            OSError: it cannot be written.
        """
        weights = self._weights()

        def write(draft: Path) -> None:
            self._compile(shapes, weights, draft)
            self._load(shapes, weights, draft)  # a version of OpenVINO that cannot is found now, not at every start

        return ensure_entry(self.folder, self._name(shapes, weights), write)

    def load(self, shapes: Shapes) -> Compiled | None:
        """What was built for inputs of these shapes; None if nothing was, or nothing can be loaded.

        What is damaged is built anew.
        """
        if not (self.folder / self.compiler.source_fingerprint()).exists():
            return None
        try:
            weights = self._weights()
            name = self._name(shapes, weights)
            if not (self.folder / name).exists():
                return None
            return compile_cached(self.folder, name, lambda entry: self._by_way_of(entry, shapes, weights))
        except Exception as error:  # vendors raise nearly anything, and the disk may be full
            _log.warning("what was built of a graph cannot be loaded, so that it is compiled: %s", error)
            return None

    def _weights(self) -> Path:
        """The entry of the graph with its weights, made if it is not there or not whole."""
        name = self.compiler.source_fingerprint()
        ensure_entry(self.folder, name, self._write_weights)
        return self.folder / name

    def _write_weights(self, folder: Path) -> None:
        import openvino

        self._check_space(folder)
        model = self.compiler.read()
        if self.compiler.precision == "bf16":
            # Kernels that may be summed are rounded after that, as they are where nothing is kept.
            round_weights(model, lambda node: not reads_doubled_map(node))
        openvino.save_model(model, folder / _GRAPH, compress_to_fp16=False)

    def _check_space(self, folder: Path) -> None:
        """Raise OSError if the weights cannot find room in a folder, which OpenVINO would find out in the end."""
        least = self.compiler.files["weights"].stat().st_size // (2 if self.compiler.precision == "bf16" else 1)
        if (free := shutil.disk_usage(folder).free) < least:
            raise OSError(
                errno.ENOSPC, f"it takes {least / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free", str(self.folder)
            )

    def _name(self, shapes: Shapes, weights: Path) -> str:
        return self.compiler.fingerprint(shapes, weights=sealed_sha256(weights, _WEIGHTS))

    def _by_way_of(self, entry: Path | None, shapes: Shapes, weights: Path) -> Compiled:
        """The compiled graph, from an entry or, where nothing is in it yet, compiled and written there."""
        if entry is None:
            return self.compiler.compile(shapes)
        return (self._load if (entry / _SHAPE).exists() else self._compile)(shapes, weights, entry)

    def _compile(self, shapes: Shapes, weights: Path, entry: Path) -> Compiled:
        compiler = self.compiler
        with kept_out_of_memory(weights / _WEIGHTS):
            model, outlived = compiler.specialised(compiler.core.read_model(weights / _GRAPH), shapes)
            if compiler.precision == "bf16":
                round_weights(model)  # what the rewrites made
            compiled = compiler.core.compile_model(model, compiler.device, {**compiler.settings, **_WITHOUT_WEIGHTS})
            (entry / _SHAPE).write_bytes(compiled.export_model().getbuffer())
        return Compiled(compiled, outlived)

    def _load(self, shapes: Shapes, weights: Path, entry: Path) -> Compiled:
        import openvino

        compiler = self.compiler
        with (entry / _SHAPE).open("rb") as file:
            # A copy on write, for OpenVINO takes no array that cannot be written to. It writes nothing.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        tensor = openvino.Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
        settings = {**compiler.settings, **_WITHOUT_WEIGHTS, "WEIGHTS_PATH": str(weights / _WEIGHTS)}
        with kept_out_of_memory(weights / _WEIGHTS):
            compiled = compiler.core.import_model(tensor, compiler.device, settings)
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # what is needed again comes back from the file
        compiler.model = None  # it would be compiled next
        return Compiled(compiled, [tensor, mapped])
