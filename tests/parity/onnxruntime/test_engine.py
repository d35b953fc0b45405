"""ONNX Runtime on the CPU: errors and memory. Its numbers are compared in the other tests of this folder's parent."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.onnxruntime.arena import SharedArena
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.errors import EngineError


def test_a_damaged_graph(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=re.escape("unet cannot be loaded by onnxruntime: [ONNXRuntimeError] : ")):
        OnnxRuntimeEngine("unet", GraphSpec((), (), {}), {"graph": graph, "weights": graph}, EngineOptions())


_MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

bundle = Bundle.open(sys.argv[1])
entry = bundle.component("movq_decoder")
files = bundle.paths(entry.variants["onnx-fp32"])
engine = OnnxRuntimeEngine("movq_decoder", entry.spec, files, EngineOptions(threads=1))
channels = entry.spec.inputs[0].dims[1]
latents = {"latents": np.ones((1, channels, 64, 64), np.float32)}
loaded, first = resident(), engine.run(latents)
peak = resident()
engine.free_scratch_memory()
freed, again = resident(), engine.run(latents)
assert all(np.array_equal(first[name], again[name]) for name in first)
print(loaded, peak, freed)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_falls_back_after_a_run(tiny_bundle: Path) -> None:
    """At 512 px the intermediate results take far more than the weights; freed, they are gone, and a run works."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(tiny_bundle)], capture_output=True, text=True, check=True)
    loaded, peak, freed = map(int, done.stdout.split())
    assert peak > loaded + 100, "in MB: there is something to free"
    assert freed < loaded + (peak - loaded) / 4


def test_a_library_that_refuses_the_shared_arena(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are loaded as usual, with memory of their own that stays at its peak."""

    def refused(*arguments: object) -> None:
        raise RuntimeError("an allocator of this kind exists")

    monkeypatch.setattr(onnxruntime, "create_and_register_allocator", refused)
    monkeypatch.setattr(SharedArena, "_made", None)
    monkeypatch.setattr(SharedArena, "_refused", False)
    bundle = Bundle.open(tiny_bundle)
    entry = bundle.component("movq_decoder")
    files = bundle.paths(entry.variants["onnx-fp32"])
    with OnnxRuntimeEngine("movq_decoder", entry.spec, files, EngineOptions()) as engine:
        engine.free_scratch_memory()
        channels = entry.spec.inputs[0].dims[1]
        assert engine.run({"latents": np.zeros((1, channels, 8, 8), np.float32)})
