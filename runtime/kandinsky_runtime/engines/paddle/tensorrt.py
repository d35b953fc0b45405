"""Paddle Inference's TensorRT mode: a program whose parts are TensorRT engines, made once and kept.

A program in Paddle's new form (`model.json`) is converted beforehand by `paddle.tensorrt`, which runs it at given
inputs to learn the range of every shape; `Config.enable_tensorrt_engine` and the file of `collect_shape_range_info` are
for the old form only. https://www.paddlepaddle.org.cn/inference/master/guides/nv_gpu_infer/gpu_trt_infer.html
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.profiles import GraphProfile, Shape
from kandinsky_runtime.engines.records import BuildRecord

_NAME = "tensorrt"
_MODES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}


def converted(paddle: Any, record: BuildRecord, spec: GraphSpec, files: Mapping[str, Path]) -> tuple[Path, Path]:
    """The program and the parameters with TensorRT engines in them, converted now if the record's folder has none.

    Args:
        paddle: the library.
        record: profiles, precision and folder.
        spec: the graph's signature.
        files: `program` and `params`.

    Raises:
        ImportError: paddle was built without TensorRT.
        OSError: the folder cannot be written.
    """
    program, params = record.folder / f"{_NAME}.json", record.folder / f"{_NAME}.pdiparams"
    if not (program.is_file() and params.is_file()):
        record.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=record.folder) as scratch:
            _convert(paddle, record, spec, files, Path(scratch))
            for file in (params, program):  # the program last: with it, the folder is whole
                (Path(scratch) / file.name).replace(file)
    return program, params


def _convert(paddle: Any, record: BuildRecord, spec: GraphSpec, files: Mapping[str, Path], scratch: Path) -> None:
    from paddle.tensorrt import export

    source = scratch / "source"
    source.mkdir()
    # The converter takes one prefix for both files.
    (source / "model.json").symlink_to(files["program"].resolve())
    (source / "model.pdiparams").symlink_to(files["params"].resolve())
    runs = paddle_shape_ranges(spec, record.profiles)
    settings = export.TensorRTConfig(
        inputs=[
            export.Input(warmup_data=_made_up([run[tensor.name] for run in runs], tensor.dtype), name=tensor.name)
            for tensor in spec.inputs
        ],
        save_model_dir=str(scratch / _NAME),
        precision_mode=getattr(export.PrecisionMode, _MODES[record.precision]),
    )
    paddle.tensorrt.convert(str(source / "model.json"), settings)


def _made_up(shapes: Sequence[Shape], dtype: str) -> tuple[np.ndarray[Any, Any], ...]:
    """Ordinary values, of which only the shapes count; whole numbers stay small, as tokens are."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind in "iub":
        return tuple(np.ones(shape, dtype) for shape in shapes)
    return tuple(rng.random(shape, np.float32).astype(dtype) for shape in shapes)


def paddle_shape_ranges(spec: GraphSpec, profiles: Sequence[GraphProfile]) -> list[dict[str, Shape]]:
    """The input shapes to run a Paddle program at, so that it collects the ranges of all its tensors: every profile's
    MIN, OPT and MAX, each once.

    Paddle keeps one range per tensor: several profiles become one that spans them all.
    """
    runs = [
        {tensor.name: profile.shapes(tensor)[number] for tensor in spec.inputs}
        for profile in profiles
        for number in range(3)
    ]
    return [run for number, run in enumerate(runs) if run not in runs[:number]]
