"""The difference of MoVQ in tiles from MoVQ on the whole picture, and whether the borders of tiles show.

    python benchmarks/tiles.py BUNDLE [--height 1024] [--width 1024] [--engine openvino]

Two pictures: the demo's hills, which are smooth, and uniform noise. "Seam" is the largest mean step of the error
between two neighbouring rows or columns at the borders of tiles, over the largest anywhere else: above 1 a border
shows. Random weights react differently from trained ones; measure yours.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.decoder.tiles import Tiling, tile_spans
from kandinsky_runtime.pictures.image import to_model

sys.path.append(str(Path(__file__).parents[1]))
from scripts.demo_picture import picture  # of the checkout


def seam(error: np.ndarray, tiling: Tiling, cell: int) -> float:
    """The largest mean step of an error map (1, C, H, W) at a tile's border over the largest elsewhere, on any axis."""
    found = []
    for axis in (2, 3):
        spans = tile_spans(error.shape[axis] // cell, tiling.size, tiling.overlap)
        if len(spans) == 1:
            continue
        borders = [edge * cell for span in spans for edge in (span.start, span.stop)]
        steps = np.abs(np.diff(error, axis=axis)).mean(axis=tuple({0, 1, 2, 3} - {axis}))  # (H - 1,) or (W - 1,)
        at = np.zeros(len(steps), bool)
        at[[border - 1 for border in borders if 0 < border < error.shape[axis]]] = True
        found.append(steps[at].max() / steps[~at].max())
    return float(max(found, default=np.nan))


def compare(
    name: str, graph: Callable[[np.ndarray, str], np.ndarray], whole: np.ndarray, tiling: Tiling, encodes: bool
) -> np.ndarray:
    """Print one row; returns the graph's output for the whole map."""
    start = time.perf_counter()
    want = graph(whole, "")
    middle = time.perf_counter()
    got = (tiling.encode if encodes else tiling.decode)(graph, whole, "")
    end = time.perf_counter()
    border = seam(got - want, tiling, 1 if encodes else tiling.factor)
    print(
        f"| {name} | {tiling.size * tiling.factor}/{tiling.overlap * tiling.factor} | {np.abs(got - want).max():.3f}"
        f" | {np.abs(got - want).mean():.4f} | {want.std():.3f}"
        f" | {decibels(want, got, float(np.ptp(want))):.1f} | {border:.2f}"
        f" | {middle - start:.1f} | {end - middle:.1f} |",
        flush=True,
    )
    return want


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--height", type=int, default=1024, help="picture size in pixels (default: 1024)")
    parser.add_argument("--width", type=int, default=1024, help="picture size in pixels (default: 1024)")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--overlaps", default="", help="in latent cells, such as 8,16,32 (default: the pipeline's)")
    parser.add_argument("--pictures", default="smooth,noise")
    args = parser.parse_args()
    with InpaintPipeline.load(args.bundle, args.engine, args.precision) as pipeline:
        usual = Tiling.of(pipeline.geometry)
        encoder, decoder = pipeline.engine("movq_encoder"), pipeline.engine("movq_decoder")
        sources = {
            "smooth": lambda: to_model([picture(max(args.height, args.width)).crop((0, 0, args.width, args.height))]),
            "noise": lambda: (
                np.random.default_rng(0).uniform(-1, 1, (1, 3, args.height, args.width)).astype(np.float32)
            ),
        }
        print(f"{args.width}x{args.height} px, {args.engine} {args.precision}")
        print("| | tile/overlap, px | max-abs | mean-abs | deviation | PSNR, dB | seam | whole, s | tiles, s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for kind in args.pictures.split(","):
            pixels = sources[kind]()
            for overlap in [int(item) for item in args.overlaps.split(",")] if args.overlaps else [usual.overlap]:
                tiling = replace(usual, overlap=overlap)
                latents = compare(
                    f"encode, {kind}", lambda x, _: encoder.run({"image": x})["latents"], pixels, tiling, True
                )
                compare(f"decode, {kind}", lambda x, _: decoder.run({"latents": x})["image"], latents, tiling, False)


if __name__ == "__main__":
    main()
