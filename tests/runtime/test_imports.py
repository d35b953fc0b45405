"""Lean: importing the runtime loads no engine's library, nor anything else before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

VENDORS = {
    "paddle",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "onnxruntime_ep_nv_tensorrt_rtx",
    "cuda",
    "fastdeploy",
    "torch",
    "ppdiffusers",
    "diffusers",
    "tokenizers",
    "ray",
    "pydantic",
}
MODULES = (
    "decoder.inpaint",
    "decoder.generate",
    "prior.pipeline",
    "inspection",
    "engines.onnxruntime.engine",
    "engines.paddle.engine",
    "prior.tokenizer",
    "prior.clip_image",
    "engines.tensorrt.engine",
    "engines.tensorrt_rtx.engine",
    "engines.fastdeploy",
    "build",
    "sampling.schedulers",
    "sampling.noise",
    "cli",
)


def loaded_by(code: str) -> set[str]:
    """The packages that are there after `code` ran in a fresh process."""
    program = f"import sys\n{code}\nprint(*sys.modules, file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_the_package_alone_loads_nothing() -> None:
    assert not loaded_by("import kandinsky_runtime") & (VENDORS | {"numpy", "PIL", "tqdm"})


def test_its_modules_load_no_vendor() -> None:
    loaded = loaded_by(f"import {', '.join(f'kandinsky_runtime.{name}' for name in MODULES)}")
    assert {"numpy", "PIL", "tqdm"} <= loaded
    assert not loaded & VENDORS


@pytest.mark.parametrize("command", ["[]", "['inpaint']", "['generate']", "['embed']", "['build']", "['inspect']"])
def test_help_loads_nothing(command: str) -> None:
    code = f"from kandinsky_runtime.cli import main\ntry: main([*{command}, '--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & (VENDORS | {"numpy", "PIL", "tqdm"})


def test_names_of_the_package() -> None:
    code = (
        "import kandinsky_runtime\n"
        "assert sorted(kandinsky_runtime.__all__) == dir(kandinsky_runtime)\n"
        "for name in kandinsky_runtime.__all__: assert getattr(kandinsky_runtime, name)\n"
        "from kandinsky_runtime import *\n"
        "try: kandinsky_runtime.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    assert not loaded_by(code) & VENDORS
