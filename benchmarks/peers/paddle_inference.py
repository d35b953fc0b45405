"""Paddle Inference on the bundle's `paddle` variant: float32 kernels, oneDNN, oneDNN in bf16."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from graph_feeds import feeds
from paddle import inference
from paddle.base import core
from worker import Job, Work, sequence, serve


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind`: "fp32", "onednn" or "onednn-bf16"."""
    given = feeds(job)
    predictors = {name: _predictor(Path(job["bundle"]) / name, job["kind"]) for name in given}

    def run(name: str) -> None:
        predictor = predictors[name]
        for key, array in given[name].items():
            predictor.get_input_handle(key).copy_from_cpu(array)
        predictor.run()
        for key in predictor.get_output_names():
            np.asarray(predictor.get_output_handle(key).copy_to_cpu())

    def encode() -> None:
        run("movq_encoder")

    def unet() -> None:
        run("unet")

    def decode() -> None:
        run("movq_decoder")

    works = {"unet": unet, "decode": decode, "job": lambda: sequence(encode, unet, decode, job["steps"])}
    return {"paddlepaddle": version("paddlepaddle")}, works


def _predictor(folder: Path, kind: str) -> Any:
    config = inference.Config(str(folder / "model.json"), str(folder / "weights-fp32.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(len(os.sched_getaffinity(0)))
    if kind == "fp32":
        config.disable_mkldnn()
    else:
        config.enable_mkldnn()
    if kind == "onednn-bf16":
        if not core.supports_bfloat16():  # it would quietly compute in float32
            raise RuntimeError("Paddle has no bf16 on this processor")
        config.enable_mkldnn_bfloat16()
    return inference.create_predictor(config)


if __name__ == "__main__":
    serve(make)
