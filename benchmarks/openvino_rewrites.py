"""What each rewrite of a graph for OpenVINO on the CPU gains and costs: one run with it and without, in turn.

    python benchmarks/openvino_rewrites.py BUNDLE [--component unet] [--precision bf16] [--height 512 --width 512]

The error is against the converter's graph in float32, whose timestep is the same. "both" is what the engine takes in
bf16 on AMX; elsewhere it takes the convolutions alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from graph_inputs import graph_inputs

from kandinsky_export.decibels import decibels
from kandinsky_runtime.bench_report import environment
from kandinsky_runtime.engines.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.doubled_convolutions import convolve_before_doubling
from kandinsky_runtime.engines.float32_waves import split_waves, wave_name

ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16"}
PLAIN = "as converted"
REWRITES: dict[str, tuple[Callable[[Any], int], ...]] = {
    PLAIN: (),
    "convolutions before doubling": (convolve_before_doubling,),
    "channels-last norms": (keep_channels_last,),
    "both": (convolve_before_doubling, keep_channels_last),
}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import openvino

    graph, feeds = graph_inputs(args.bundle, args.component, args.height, args.width)

    def run_of(precision: str, rewrites: tuple[Callable[[Any], int], ...]) -> Callable[[], np.ndarray]:
        """What runs the graph once."""
        model = openvino.Core().read_model(graph)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        known = feeds
        parts = split_waves(model)
        if parts is not None:
            waves, model = parts
            computed = openvino.compile_model(waves, "CPU")({"timestep": feeds["timestep"]}).values()
            known = feeds | {wave_name(number): np.array(wave) for number, wave in enumerate(computed)}
        for rewrite in rewrites:
            print(f"{rewrite.__name__}: {rewrite(model)}")
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.compile_model(model, "CPU", settings)
        request, names = compiled.create_infer_request(), [port.any_name for port in compiled.inputs]

        def run() -> np.ndarray:
            (output,) = request.infer({name: known[name] for name in names}).values()
            return np.array(output)

        return run

    want = run_of("f32", ())()
    runs, above, largest = {}, {}, {}
    for name, rewrites in REWRITES.items():
        runs[name] = run_of(ELEMENT_TYPES[args.precision], rewrites)
        got = runs[name]()  # this also warms up
        above[name], largest[name] = decibels(want, got), float(np.abs(got - want).max())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {
        "environment": environment(),
        "openvino": openvino.get_version(),
        "component": args.component,
        "precision": args.precision,
        "height": args.height,
        "width": args.width,
        "seconds": seconds,
        "decibels": above,
        "largest error": largest,
    }


def as_text(data: dict[str, Any]) -> str:
    lines = [
        f"| {data['component']}, {data['width']}x{data['height']} px, {data['precision']} | run, s"
        " | as converted / this | power over error, dB | largest error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    plain = data["seconds"][PLAIN]
    for name, times in data["seconds"].items():
        ratios = [old / new for old, new in zip(plain, times, strict=True)]
        spread = "" if name == PLAIN else f"{median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        lines.append(
            f"| {name} | {median(times):.3f} | {spread}"
            f" | {data['decibels'][name]:.1f} | {data['largest error'][name]:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--component", choices=("unet", "movq_encoder", "movq_decoder"), default="unet")
    parser.add_argument("--precision", choices=ELEMENT_TYPES, default="bf16")
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = measure(args)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    print(as_text(data))


if __name__ == "__main__":
    main()
