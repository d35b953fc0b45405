"""The distance of each deterministic solver from the exact trajectory, by number of steps.

    python benchmarks/solver_error.py [BUNDLE] [--steps 10,20,30,50] [--spacing leading,linspace,trailing]
           [--reference-steps 500] [--seeds 3] [--scale 1]

The ODE solvers follow one and the same probability-flow trajectory from given noise. The error is the RMS of the
latents' difference from its end over the RMS of the end itself. Stochastic solvers (ddpm, dpm++sde, euler-a, unclip)
follow no such trajectory and are left out.

Without BUNDLE the model is the exact one of normally distributed latents, whose trajectory is known in closed form.
With it, it is the bundle's UNet, everything is repainted, and the end is that of `--reference-steps` steps of
DPM-Solver++ over the whole schedule; the same with half as many, and DDIM with as many, show how exact it is.

A solver's timesteps lie as `timestep_spacing` says. The published config has "leading", with which few steps begin
below the noise that they are given.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from kandinsky_export.random_weights.configs import published
from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.bench.inputs import random_inputs
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.sampling import schedulers

SOLVERS = ("ddim", "euler", "dpm++", "dpm++karras", "unipc")
REFERENCE = "dpm++"


def opened(bundle: str, engine: str, spacing: str) -> InpaintPipeline:
    """The bundle with another spacing of the timesteps."""
    plain = Bundle.open(bundle)
    scheduler = {**plain.manifest.scheduler, "timestep_spacing": spacing}
    return InpaintPipeline.load(replace(plain, manifest=replace(plain.manifest, scheduler=scheduler)), engine, "fp32")


def end(pipeline: InpaintPipeline, scheduler: str, steps: int, seed: int, scale: float, size: int) -> np.ndarray:
    """The last latents (1, C, h, w)."""
    inputs = random_inputs(pipeline.geometry.embed_width, size, size, seed)
    inputs |= {"mask_image": np.full((size, size), 255, np.uint8), "guidance_scale": scale}
    output = pipeline(**inputs, scheduler=scheduler, num_inference_steps=steps, output_type="latent")
    images: np.ndarray = output.images
    return images


def normal_latents(scheduler: Mapping[str, Any], name: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The last latents of a model that knows that latents are distributed as N(μ, s²), and those of its exact ODE.

    ε̂ = b (x - a μ) / (a² s² + b²) for x = a x₀ + b n, and the ODE keeps (x / a - μ) / √(s² + σ²).
    """
    rng = np.random.default_rng(0)
    shape, spread = (1, 4, 16, 16), 0.3
    mean, noise = (rng.standard_normal(shape, np.float32) for _ in range(2))
    sampler = schedulers.load(scheduler, name).sampler(steps, shape)
    latents = noise * np.float32(sampler.init_noise_sigma)
    for i in range(steps):
        sigma = sampler.sigma(i)
        signal = 1 / np.sqrt(1 + sigma**2)
        x = sampler.scale_model_input(i, latents)
        epsilon = sigma * signal * (x - signal * mean) / (signal**2 * (spread**2 + sigma**2))
        latents = sampler.step(i, epsilon.astype(np.float32), latents)
    most = schedulers.load({**scheduler, "timestep_spacing": "linspace"}, "ddim").sampler(2, shape).sigma(0)
    exact = mean + (noise * np.sqrt(1 + most**2) - mean) * spread / np.sqrt(spread**2 + most**2)
    return latents, exact


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The RMS of the difference, divided by the RMS of the exact values."""
    return float(np.sqrt(np.square(got - want, dtype=np.float64).mean() / np.square(want, dtype=np.float64).mean()))


def table(spacings: list[str], counts: list[int], error_of: Callable[[str, str, int], float]) -> None:
    """Print the errors of (spacing, solver, steps)."""
    print(f"| solver | spacing | {' | '.join(f'{count} steps' for count in counts)} |")
    print(f"| --- | --- | {' | '.join('---:' for _ in counts)} |")
    for spacing in spacings:
        for solver in SOLVERS:
            row = " | ".join(f"{error_of(spacing, solver, count):.1e}" for count in counts)
            print(f"| {solver} | {spacing} | {row} |", flush=True)


def of_bundle(args: argparse.Namespace, spacings: list[str], counts: list[int]) -> None:
    """The table of the bundle's UNet."""
    with ExitStack() as stack:
        pipelines = {
            spacing: stack.enter_context(opened(args.bundle, args.engine, spacing))
            for spacing in dict.fromkeys(["linspace", *spacings])
        }

        def ends(spacing: str, scheduler: str, steps: int) -> list[np.ndarray]:
            return [
                end(pipelines[spacing], scheduler, steps, seed, args.scale, args.size) for seed in range(args.seeds)
            ]

        exact = ends("linspace", REFERENCE, args.reference_steps)

        def error_of(spacing: str, solver: str, steps: int) -> float:
            return median(error(got, want) for got, want in zip(ends(spacing, solver, steps), exact, strict=True))

        print(
            f"{pipelines['linspace'].selection.engine.name} fp32, {platform.machine()}, {os.cpu_count()} cores;"
            f" {args.size} px, guidance {args.scale:g}, {args.seeds} seeds; reference {REFERENCE} with"
            f" {args.reference_steps} steps, from which {args.reference_steps // 2} steps lie"
            f" {error_of('linspace', REFERENCE, args.reference_steps // 2):.1e}, and ddim with"
            f" {args.reference_steps} steps {error_of('linspace', 'ddim', args.reference_steps):.1e}"
        )
        table(spacings, counts, error_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--steps", default="10,20,30,50")
    parser.add_argument("--spacing", default="leading,linspace,trailing")
    parser.add_argument("--reference-steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="guidance scale (default: 1, none)")
    parser.add_argument("--size", type=int, default=64, help="picture size in pixels (default: 64)")
    parser.add_argument("--engine", default="auto")
    args = parser.parse_args()
    spacings, counts = args.spacing.split(","), [int(item) for item in args.steps.split(",")]
    if args.bundle:
        of_bundle(args, spacings, counts)
    else:
        config = published("scheduler")
        table(
            spacings,
            counts,
            lambda spacing, solver, steps: error(
                *normal_latents({**config, "timestep_spacing": spacing}, solver, steps)
            ),
        )


if __name__ == "__main__":
    main()
