"""The pack for a GPU machine: everything but random weights, which come back bit for bit."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.gpu import pack as packing
from benchmarks.gpu.report import markdown
from benchmarks.gpu.weightless import Placed, external_tensors, join, split, values
from kandinsky_export.random_weights.seeded import seeded_tensor
from kandinsky_runtime.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def unpacked(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    size = packing.pack(tiny_bundle, tiny_checkpoint, folder / "pack.tar.gz", 0)
    assert size == (folder / "pack.tar.gz").stat().st_size
    with tarfile.open(folder / "pack.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "k22-gpu"


def test_weights_are_left_out(unpacked: Path, tiny_bundle: Path) -> None:
    weights = [path for path in Bundle.open(tiny_bundle).manifest.files if "weights" in path]
    assert weights
    for path in weights:
        assert not (unpacked / "bundle" / path).exists()
        assert (unpacked / "rest" / path).stat().st_size < (tiny_bundle / path).stat().st_size / 10


def test_the_bundle_comes_back(unpacked: Path, tiny_bundle: Path) -> None:
    packed = json.loads((unpacked / "pack.json").read_text())
    for path, tensors in packed["weights"].items():
        placed = [Placed.from_json(item) for item in tensors]
        join(unpacked / "bundle" / path, placed, (unpacked / "rest" / path).read_bytes(), seeded_tensor, packed["seed"])
    for path in Bundle.open(tiny_bundle).manifest.files:
        assert (unpacked / "bundle" / path).read_bytes() == (tiny_bundle / path).read_bytes(), path


def test_merged_weights_come_back(tiny_lower_bundle: Path) -> None:
    """Queries, keys and values of an attention are one tensor in the 16-bit files."""
    graph = onnx.load(tiny_lower_bundle / "unet" / "model-fp16.onnx", load_external_data=False)
    tensors = [tensor for _, tensor in external_tensors(graph, "unet.")]
    assert sum("+" in tensor.name for tensor in tensors) == 2 * 10  # weights and biases of ten attentions
    made, _ = split(tiny_lower_bundle / "unet" / "weights-fp16.pdiparams", tensors, seeded_tensor, 0)
    assert {tensor.name for tensor in tensors} == {tensor.name for tensor in made}


def test_the_pack_has_all_that_the_script_imports(unpacked: Path) -> None:
    for name in (
        "run.py",
        "machine.py",
        "report.py",
        "torch_engine.py",
        "torch_graph.py",
        "weightless.py",
        "seeded.py",
    ):
        compile((unpacked / name).read_text(), name, "exec")
    assert (unpacked / "runtime" / "kandinsky_runtime" / "decoder" / "inpaint.py").is_file()
    assert (unpacked / "configs" / "unet.json").is_file()


def test_other_weights_are_refused(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST_REST", 1 << 20)
    with pytest.raises(SystemExit, match=r"only 0 of \d+ tensors are those of seed 1; pack the bundle of a checkpoint"):
        packing.pack(tiny_bundle, tiny_checkpoint, tmp_path / "pack.tar.gz", 1)
    assert not (tmp_path / "pack.tar.gz").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_precisions(dtype: str, tmp_path: Path) -> None:
    """Rounded to the nearest."""
    shape = (300, 200)
    tensor = Placed("unet.a.weight", shape, dtype, 64, 300 * 200 * (4 if dtype == "float32" else 2))
    wanted = seeded_tensor(3, "unet.a.weight", shape[::-1]).T
    made = values(seeded_tensor, 3, tensor)
    if dtype == "bfloat16":  # the upper half of float32
        got = (np.frombuffer(made, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    else:
        got = np.frombuffer(made, dtype).astype(np.float32).reshape(shape)
    digits = {"float32": 24, "float16": 11, "bfloat16": 8}[dtype]
    # float16 has fewer digits below its normal range
    error = np.abs(got - wanted)
    assert (error <= np.maximum(np.abs(wanted) * 2.0**-digits, 2.0**-25)).all()
    assert dtype == "float32" or error.max() > 0

    file = tmp_path / "weights"
    content = b"h" * 64 + made + b"tail"
    file.write_bytes(content)
    tensors, rest = split(file, [tensor], seeded_tensor, 3)
    assert (tensors, rest) == ([tensor], b"h" * 64 + b"tail")
    join(tmp_path / "again", tensors, rest, seeded_tensor, 3)
    assert (tmp_path / "again").read_bytes() == content


def test_tensors_that_are_not_of_the_seed_are_kept(tmp_path: Path) -> None:
    first, second = (Placed(f"unet.{name}.bias", (8,), "float32", offset, 32) for name, offset in (("a", 4), ("b", 40)))
    content = b"head" + values(seeded_tensor, 0, first) + b"pads" + bytes(range(32)) + b"end"
    (tmp_path / "weights").write_bytes(content)
    tensors, rest = split(tmp_path / "weights", [second, first], seeded_tensor, 0)
    assert tensors == [first]
    assert rest == b"head" + b"pads" + bytes(range(32)) + b"end"
    join(tmp_path / "again", tensors, rest, seeded_tensor, 0)
    assert (tmp_path / "again").read_bytes() == content


def test_report() -> None:
    shape = {"component": "unet", "size": 768, "batch": 2, "precision": "fp16"}
    times = [
        {**shape, "engine": "torch", "seconds": [0.2, 0.3, 0.4], "floor": 0.05, "memory": 6_000_000_000},
        {**shape, "engine": "onnxruntime", "seconds": [0.1, 0.1, 0.2], "floor": 0.05, "memory": None},
    ]
    text = markdown(
        {
            "date": "2026-01-02",
            "machine": {
                "gpu": "A GPU",
                "processor": "A CPU",
                "driver": "1.2",
                "cuda": "13.0",
                "versions": {"torch": "2.9"},
            },
            "peer": "diffusers 1.0's modules",
            "limits": {"operations": {"fp16": 5.5e14}, "bandwidth": 3.2e12},
            "steps": 20,
            "parity": [
                {
                    "component": "unet",
                    "engine": "onnxruntime",
                    "precision": "fp16",
                    "max_abs": 1e-2,
                    "psnr": 38.25,
                    "passed": False,
                }
            ],
            "times": times,
            "jobs": [
                {
                    "size": 768,
                    "batch": 2,
                    "engine": "onnxruntime",
                    "precision": "fp16",
                    "seconds": [4.0, 5.0],
                    "host_share": 0.0123,
                    "memory": 4_500_000_000,
                }
            ],
            "left_out": ["tensorrt fp16: not installed"],
        }
    )
    for line in (
        "2026-01-02, A GPU, driver 1.2, CUDA 13.0; torch 2.9. PyTorch runs diffusers 1.0's modules. Seeded weights.",
        "Measured in the same run: 550 TFLOP/s in fp16, 3.2e+03 GB/s.",
        "| unet | onnxruntime | fp16 | 1.0e-02 | 38.2 | FAILED |",
        "| unet | 768 | 2 | torch | fp16 | 300.00 (200.00-400.00) | 6.0 | 1.00 | 6.00 |",
        "| unet | 768 | 2 | onnxruntime | fp16 | 100.00 (100.00-200.00) | 2.0 | 3.00 |  |",
        "| | 768 | 2 | onnxruntime | fp16 | 4.50 (4.00-5.00) | 1.2% | 4.50 |",
        "- tensorrt fp16: not installed",
    ):
        assert line in text.splitlines(), line
