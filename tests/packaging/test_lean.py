"""What serving costs: the size of the runtime with one engine, and what importing it loads."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

import pytest

MAX_MEGABYTES = 250
VENDORS = ("paddle", "ppdiffusers", "onnx", "onnxruntime", "openvino", "tensorrt", "torch")


def closure(name: str, extra: str) -> set[str]:
    """The distributions that installing `name[extra]` brings, by their normalised names."""
    found: set[str] = set()
    waiting = [(name, extra)]
    while waiting:
        current, current_extra = waiting.pop()
        key = re.sub(r"[-_.]+", "-", current).lower()
        if key in found:
            continue
        found.add(key)
        for requirement in metadata.requires(key) or []:
            wanted, _, marker = requirement.partition(";")
            in_extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", marker)
            if in_extra is None or in_extra[1] == current_extra:
                match = re.match(r"\s*([\w.-]+)", wanted)
                assert match is not None
                if marker_holds(marker):
                    waiting.append((match[1], ""))
    return found


def marker_holds(marker: str) -> bool:
    """Whether a requirement's marker, its extra aside, holds here."""
    return not re.search(r"""(platform_system|sys_platform)\s*==\s*["'](win32|Windows|darwin)["']""", marker)


def test_runtime_with_an_engine_is_small() -> None:
    brought = closure("kandinsky22-deploy", "ort")
    assert {"numpy", "pillow", "tqdm", "onnxruntime"} <= brought
    sizes = {
        name: sum(path.stat().st_size for file in metadata.files(name) or [] if (path := file.locate()).is_file())
        for name in brought
    }
    assert sum(sizes.values()) < MAX_MEGABYTES * 1e6, sizes


@pytest.mark.parametrize("module", ["kandinsky_runtime", "kandinsky_runtime.cli", "kandinsky_runtime.pipeline"])
def test_import_loads_no_vendor(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{n.partition('.')[0] for n in sys.modules}} & set({VENDORS!r})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_import_loads_nothing_that_it_does_not_need_yet() -> None:
    code = "import sys, kandinsky_runtime; print({'numpy', 'PIL', 'tqdm'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_lean_environment_has_no_exporter() -> None:
    installed = {re.sub(r"[-_.]+", "-", item.metadata["Name"]).lower() for item in metadata.distributions()}
    assert not installed & {"paddlepaddle", "ppdiffusers", "paddle2onnx", "onnx", "torch"}
