"""This project's prior, on one of its engines."""

from __future__ import annotations

from collections.abc import Mapping

from worker import Job, Work, serve

from kandinsky_runtime import PriorPipeline


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind`: "ENGINE:PRECISION"."""
    engine, _, precision = job["kind"].partition(":")
    pipeline = PriorPipeline.load(job["bundle"], engine, precision or None)

    def embed() -> None:
        pipeline(job["prompt"], num_inference_steps=job["steps"], seed=0)

    chosen = pipeline.graphs.selection.engine
    return {chosen.distribution: chosen.version()}, {"embed": embed}


if __name__ == "__main__":
    serve(make)
