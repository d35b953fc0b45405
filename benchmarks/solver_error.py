"""How far each deterministic solver lies from the exact trajectory, by number of steps.

    python benchmarks/solver_error.py BUNDLE [--steps 10,20,30,50] [--reference-steps 500] [--seeds 3] [--scale 1]
           [--spacing leading,linspace,trailing]

The ODE solvers follow one and the same probability-flow trajectory from given noise: its end is computed with
`--reference-steps` steps of DPM-Solver++ over the whole schedule. The same with half as many, and DDIM with as many,
tell how exact it is.
A solver's timesteps lie as `timestep_spacing` says; the published config has "leading", with which few steps begin
below the noise that they are given. The error is the RMS of
the latents' difference over the RMS of the reference's own, and the median over seeds. Stochastic solvers
(ddpm, dpm++sde, euler-a, unclip) follow no such trajectory and are left out. Everything is repainted, so that
the solver does all of the work. Weights made up from a seed are no denoiser: the order of the solvers carries over to a
trained model, the figures do not.
"""

from __future__ import annotations

import argparse
import os
import platform
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

import numpy as np

from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.bench import made_up_inputs
from kandinsky_runtime.bundle import Bundle

SOLVERS = ("ddim", "euler", "dpm++", "dpm++karras", "unipc")
REFERENCE = "dpm++"


def opened(bundle: str, engine: str, spacing: str) -> InpaintPipeline:
    """The bundle with another spacing of the timesteps."""
    plain = Bundle.open(bundle)
    scheduler = {**plain.manifest.scheduler, "timestep_spacing": spacing}
    return InpaintPipeline.load(replace(plain, manifest=replace(plain.manifest, scheduler=scheduler)), engine, "fp32")


def end(pipeline: InpaintPipeline, scheduler: str, steps: int, seed: int, scale: float, size: int) -> np.ndarray:
    """The last latents (1, C, h, w)."""
    inputs = made_up_inputs(pipeline.geometry.embed_width, size, size, seed)
    inputs |= {"mask_image": np.full((size, size), 255, np.uint8), "guidance_scale": scale}
    output = pipeline(**inputs, scheduler=scheduler, num_inference_steps=steps, output_type="latent")
    images: np.ndarray = output.images
    return images


def error(got: np.ndarray, want: np.ndarray) -> float:
    """RMS of the difference over the RMS of what is wanted."""
    return float(np.sqrt(np.square(got - want, dtype=np.float64).mean() / np.square(want, dtype=np.float64).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--steps", default="10,20,30,50")
    parser.add_argument("--reference-steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the guidance (default: 1, none)")
    parser.add_argument("--size", type=int, default=64, help="of the picture in pixels (default: 64)")
    parser.add_argument("--spacing", default="leading,linspace,trailing")
    parser.add_argument("--engine", default="auto")
    args = parser.parse_args()
    counts = [int(item) for item in args.steps.split(",")]
    with ExitStack() as stack:
        pipelines = {
            spacing: stack.enter_context(opened(args.bundle, args.engine, spacing))
            for spacing in dict.fromkeys(["linspace", *args.spacing.split(",")])
        }

        def run(spacing: str, scheduler: str, steps: int) -> list[np.ndarray]:
            return [
                end(pipelines[spacing], scheduler, steps, seed, args.scale, args.size) for seed in range(args.seeds)
            ]

        exact = run("linspace", REFERENCE, args.reference_steps)

        def median_error(found: list[np.ndarray]) -> float:
            return median(error(got, want) for got, want in zip(found, exact, strict=True))

        half = median_error(run("linspace", REFERENCE, args.reference_steps // 2))
        other = median_error(run("linspace", "ddim", args.reference_steps))
        print(
            f"{pipelines['linspace'].selection.engine.name} fp32, {platform.machine()}, {os.cpu_count()} cores;"
            f" {args.size} px, guidance {args.scale:g}, {args.seeds} seeds; reference {REFERENCE} with"
            f" {args.reference_steps} steps, from which {args.reference_steps // 2} steps lie {half:.1e}, and ddim with"
            f" {args.reference_steps} steps {other:.1e}"
        )
        print(f"| solver | spacing | {' | '.join(f'{count} steps' for count in counts)} |")
        print(f"| --- | --- | {' | '.join('---:' for _ in counts)} |")
        for spacing in args.spacing.split(","):
            for solver in SOLVERS:
                errors = [median_error(run(spacing, solver, count)) for count in counts]
                print(f"| {solver} | {spacing} | {' | '.join(f'{value:.1e}' for value in errors)} |", flush=True)


if __name__ == "__main__":
    main()
