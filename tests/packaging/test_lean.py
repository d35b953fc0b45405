"""The size of the runtime with one engine, and the modules that its import loads."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_MEGABYTES = 250
VENDORS = ("paddle", "ppdiffusers", "onnx", "onnxruntime", "openvino", "tensorrt", "tokenizers", "torch")


def closure(name: str, extras: set[str]) -> set[str]:
    """The distributions that `name[extras]` requires on this machine, by their normalised names."""
    found: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        current, current_extras = waiting.pop()
        key = canonicalize_name(current)
        if key in found:
            continue
        found.add(key)
        for requirement in map(Requirement, metadata.requires(key) or []):
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in current_extras | {""}
            ):
                waiting.append((requirement.name, requirement.extras))
    return found


@pytest.mark.parametrize("extras", [{"ort"}, {"ort", "prompt"}], ids=["engine", "engine and prompts"])
def test_runtime_with_an_engine_is_small(extras: set[str]) -> None:
    required = closure("kandinsky22-deploy", extras)
    assert {"numpy", "pillow", "tqdm", "onnxruntime"} <= required
    assert ("tokenizers" in required) == ("prompt" in extras)
    sizes = {
        name: sum(path.stat().st_size for file in metadata.files(name) or [] if (path := file.locate()).is_file())
        for name in required
    }
    assert sum(sizes.values()) < MAX_MEGABYTES * 1e6, sizes


@pytest.mark.parametrize("module", ["kandinsky_runtime", "kandinsky_runtime.cli", "kandinsky_runtime.decoder.inpaint"])
def test_import_loads_no_vendor(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{n.partition('.')[0] for n in sys.modules}} & set({VENDORS!r})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_import_loads_no_dependency_before_its_first_use() -> None:
    code = "import sys, kandinsky_runtime; print({'numpy', 'PIL', 'tqdm'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_lean_environment_has_no_exporter() -> None:
    installed = {canonicalize_name(item.metadata["Name"]) for item in metadata.distributions()}
    assert not installed & {"paddlepaddle", "ppdiffusers", "paddle2onnx", "onnx", "torch", "transformers"}
