"""This project, on one of its engines; the job is `InpaintPipeline`'s."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from graph_feeds import feeds
from worker import Job, Work, intervals, serve

from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.bench.inputs import random_inputs


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind`: "ENGINE:PRECISION"."""
    engine, _, precision = job["kind"].partition(":")
    pipeline = InpaintPipeline.load(job["bundle"], engine=engine, precision=precision)
    given = feeds(job)
    inputs = random_inputs(job["embed_width"], job["height"], job["width"], 0)

    def whole() -> dict[str, Any]:
        moments: list[float] = []
        pipeline(
            **inputs,
            num_inference_steps=job["steps"],
            callback_on_step_end=lambda *_: moments.append(time.perf_counter()),
        )
        return intervals(moments)

    works = {
        "unet": lambda: pipeline.engine("unet").run(given["unet"]) and None,
        "decode": lambda: pipeline.engine("movq_decoder").run(given["movq_decoder"]) and None,
        "job": whole,
    }
    return {pipeline.selection.engine.distribution: pipeline.selection.engine.version()}, works


if __name__ == "__main__":
    serve(make)
