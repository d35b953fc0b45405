"""The error of bf16 over a whole trajectory, step by step, compared with float32 on the same engine.

    python benchmarks/bf16_trajectory.py BUNDLE [--size 512] [--steps 20] [--engine openvino] [--json F]

Both runs have the same picture, mask, embeddings and noise, guidance 4 and DDPM. After each step the latents' PSNR is
taken against the span of those in float32; at the end that of the pictures, against 255, whole and where repainted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.bench.inputs import random_inputs
from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.bundle.bundle import Bundle


def trajectory(args: argparse.Namespace, precision: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The latents after each step (1, C, h, w), and the picture (H, W, 3) in 0..255."""
    steps: list[np.ndarray] = []

    def keep(_: object, __: int, ___: float, values: dict[str, Any]) -> None:
        steps.append(values["latents"].copy())

    start = time.perf_counter()
    with InpaintPipeline.load(Bundle.open(args.bundle), args.engine, precision) as pipeline:
        inputs = random_inputs(pipeline.geometry.embed_width, args.size, args.size, 0)
        output = pipeline(
            **inputs,
            num_inference_steps=args.steps,
            output_type="np",
            composite="none",
            callback_on_step_end=keep,
            progress=True,
        )
    print(f"{precision}: {time.perf_counter() - start:.0f} s", flush=True)
    return steps, np.asarray(output.images[0], np.float64) * 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", type=int, default=512, help="picture size in pixels (default: 512)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    (want, picture), (got, lower) = (trajectory(args, precision) for precision in ("fp32", "bf16"))
    values = [decibels(high, low, float(np.ptp(high))) for low, high in zip(got, want, strict=True)]
    mask = random_inputs(1, args.size, args.size, 0)["mask_image"]
    repainted = np.asarray(mask) > 127
    data = {
        "environment": environment(),
        "size": args.size,
        "latents": values,
        "picture": decibels(picture, lower, 255),
        "repainted": decibels(picture[repainted], lower[repainted], 255),
    }
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    print("| after step | latents, dB |\n| ---: | ---: |")
    for number, value in enumerate(values, 1):
        print(f"| {number} | {value:.1f} |")
    print(f"\nPicture: {data['picture']:.1f} dB, its repainted part {data['repainted']:.1f} dB.")


if __name__ == "__main__":
    main()
