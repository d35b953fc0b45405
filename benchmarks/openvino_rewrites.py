"""The gain and cost of each rewrite of a graph for OpenVINO on the CPU: one run with it and one without, in turn.

    python benchmarks/openvino_rewrites.py BUNDLE [--component unet] [--precision bf16] [--height 512 --width 512]

One rewrite at a time runs in turn with the converter's graph. The first, "nothing", is the same graph compiled again:
what it is from 1 is an error of all ratios, which depend on where in memory a graph happens to lie. The last, "all of
them", is what the engine takes on this processor in this precision. The error is against the converter's graph in
float32, whose timestep is the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from graph_inputs import graph_inputs

from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.engines.openvino.attention_rows import read_rows_in_place
from kandinsky_runtime.engines.openvino.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.openvino.compiler import rewrite_for_cpu
from kandinsky_runtime.engines.openvino.doubled_convolutions import convolve_before_doubling
from kandinsky_runtime.engines.openvino.float32_waves import split_waves, wave_name
from kandinsky_runtime.engines.openvino.split_convolutions import split_badly_cut_convolutions

ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16"}
REWRITES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda _: None,
    "convolutions before doubling": convolve_before_doubling,
    "rows read in place": read_rows_in_place,
    "split convolutions": split_badly_cut_convolutions,
    "channels-last norms": keep_channels_last,
}
ALL = "all of them"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import openvino

    graph, feeds = graph_inputs(args.bundle, args.component, args.height, args.width)

    def run_of(precision: str, rewrite: Callable[[Any], Any] | None = None) -> Callable[[], np.ndarray]:
        """A function that runs the graph once."""
        model = openvino.Core().read_model(graph)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        known = feeds
        parts = split_waves(model)
        if parts is not None:
            waves, model = parts
            computed = openvino.compile_model(waves, "CPU")({"timestep": feeds["timestep"]}).values()
            known = feeds | {wave_name(number): np.array(wave) for number, wave in enumerate(computed)}
        weights = rewrite(model) if rewrite is not None else None
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.compile_model(model, "CPU", settings)
        request, names = compiled.create_infer_request(), [port.any_name for port in compiled.inputs]

        def run(weights: object = weights) -> np.ndarray:  # as long as it runs, its weights stay
            (output,) = request.infer({name: known[name] for name in names}).values()
            return np.array(output)

        return run

    precision = ELEMENT_TYPES[args.precision]
    want = run_of("f32")()
    plain = run_of(precision)
    results = {"as converted": _error(want, plain())}  # this also warms up
    for name, rewrite in (REWRITES | {ALL: partial(rewrite_for_cpu, precision=args.precision)}).items():
        run = run_of(precision, rewrite)
        results[name] = _error(want, run())
        rounds = [(_seconds(plain), _seconds(run)) for _ in range(args.rounds)]
        results[name] |= {"as converted, s": [old for old, _ in rounds], "this, s": [new for _, new in rounds]}
        del run
    return {
        "environment": environment(),
        "openvino": openvino.get_version(),
        "component": args.component,
        "precision": args.precision,
        "height": args.height,
        "width": args.width,
        "results": results,
    }


def _error(want: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    return {"decibels": decibels(want, got), "largest error": float(np.abs(got - want).max())}


def _seconds(run: Callable[[], np.ndarray]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def as_text(data: dict[str, Any]) -> str:
    lines = [
        f"| {data['component']}, {data['width']}x{data['height']} px, {data['precision']} | as converted, s | this, s"
        " | as converted / this | power over error, dB | largest error |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in data["results"].items():
        columns = ["", "", ""]
        if "this, s" in result:
            ratios = [old / new for old, new in zip(result["as converted, s"], result["this, s"], strict=True)]
            columns = [f"{median(result[column]):.3f}" for column in ("as converted, s", "this, s")]
            columns.append(f"{median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
        lines.append(f"| {name} | {' | '.join(columns)} | {result['decibels']:.1f} | {result['largest error']:.1e} |")
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
