"""ONNX Runtime on the CPU: errors. Its numbers are compared in the other tests of this folder's parent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.errors import EngineError


def test_a_damaged_graph(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=re.escape("unet cannot be loaded by onnxruntime: [ONNXRuntimeError] : ")):
        OnnxRuntimeEngine("unet", GraphSpec((), (), {}), {"graph": graph, "weights": graph}, EngineOptions())
