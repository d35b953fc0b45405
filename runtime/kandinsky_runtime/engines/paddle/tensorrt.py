"""Paddle Inference's TensorRT mode: a program whose parts are TensorRT engines, converted once and kept.

`paddle.tensorrt` converts a program in Paddle's new form (`model.json`): it runs the program on given inputs to learn
the range of every shape. `Config.enable_tensorrt_engine` and the file of `collect_shape_range_info` are for the old
form only. https://www.paddlepaddle.org.cn/inference/master/guides/nv_gpu_infer/gpu_trt_infer.html
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.engines.profiles import GraphProfile, Shape
from kandinsky_runtime.engines.records import BuildRecord

_NAME = "tensorrt"
_MODES = {Precision.FP32: "FP32", Precision.FP16: "FP16", Precision.BF16: "BF16"}


def converted(paddle: Any, record: BuildRecord, spec: GraphSpec, files: Mapping[str, Path]) -> tuple[Path, Path]:
    """The program and the parameters with TensorRT engines, from the record's folder; converted now if it has none.

    Args:
        paddle: the library.
        record: the profiles, the precision and the folder.
        spec: the graph's signature.
        files: the paths of `program` and `params`.

    Raises:
        ImportError: paddle was built without TensorRT.
        OSError: the folder cannot be written.
    """
    program, params = record.folder / f"{_NAME}.json", record.folder / f"{_NAME}.pdiparams"
    if not (program.is_file() and params.is_file()):
        record.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=record.folder) as scratch:
            _convert(paddle, record, spec, files, Path(scratch))
            for file in (params, program):  # the program last: its presence shows that the folder is whole
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
            export.Input(
                warmup_data=_warm_up_inputs([run[tensor.name] for run in runs], tensor.dtype), name=tensor.name
            )
            for tensor in spec.inputs
        ],
        save_model_dir=str(scratch / _NAME),
        precision_mode=getattr(export.PrecisionMode, _MODES[record.precision]),
    )
    paddle.tensorrt.convert(str(source / "model.json"), settings)


def _warm_up_inputs(shapes: Sequence[Shape], dtype: str) -> tuple[np.ndarray[Any, Any], ...]:
    """Inputs of these shapes. The values do not matter; whole numbers are small, so that they are valid tokens."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind in "iub":
        return tuple(np.ones(shape, dtype) for shape in shapes)
    return tuple(rng.random(shape, np.float32).astype(dtype) for shape in shapes)


def paddle_shape_ranges(spec: GraphSpec, profiles: Sequence[GraphProfile]) -> list[dict[str, Shape]]:
    """The input shapes with which Paddle runs a program to learn the ranges of all its tensors.

    These are MIN, OPT and MAX of every profile, each once. Paddle keeps one range per tensor, which spans all profiles.
    """
    runs = [
        {tensor.name: profile.shapes(tensor)[number] for tensor in spec.inputs}
        for profile in profiles
        for number in range(3)
    ]
    return [run for number, run in enumerate(runs) if run not in runs[:number]]
