"""ONNX Runtime with its defaults on the bundle's `onnx-fp32` variant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
from graph_feeds import feeds
from worker import Job, Work, sequence, serve


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind` has no meaning here."""
    given = feeds(job)
    sessions = {
        name: onnxruntime.InferenceSession(
            str(Path(job["bundle"]) / name / "model-fp32.onnx"), providers=["CPUExecutionProvider"]
        )
        for name in given
    }

    def runs(name: str) -> Work:
        return lambda: sessions[name].run(None, given[name]) and None

    unet, decode = runs("unet"), runs("movq_decoder")
    works = {
        "unet": unet,
        "decode": decode,
        "job": lambda: sequence(runs("movq_encoder"), unet, decode, job["steps"]),
    }
    return {"onnxruntime": onnxruntime.__version__}, works


if __name__ == "__main__":
    serve(make)
