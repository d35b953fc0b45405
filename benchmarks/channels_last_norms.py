"""What `engines/channels_last_norms.py` gains: a UNet step in bf16 with it and without, in turn, and the error of both.

    python benchmarks/channels_last_norms.py BUNDLE [--height 512 --width 512] [--rounds 9] [--json F]

Guidance batch of 2, OpenVINO on the CPU. The error is against the same graph in float32, whose timestep is the same.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from unet_step import unet_step

from kandinsky_runtime.bench_report import environment
from kandinsky_runtime.engines.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.float32_waves import split_waves, wave_name


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import openvino

    graph, feeds = unet_step(args.bundle, args.height, args.width)

    def request(precision: str, rewritten: bool) -> Any:
        model = openvino.Core().read_model(graph)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        parts = split_waves(model)
        if parts is None:
            raise SystemExit("the graph has no timestep's embedding: is it a UNet?")
        waves, rest = parts
        computed = openvino.compile_model(waves, "CPU")({"timestep": feeds["timestep"]}).values()
        known = feeds | {wave_name(number): np.array(wave) for number, wave in enumerate(computed)}
        if rewritten:
            print(f"{keep_channels_last(rest)} norms rewritten")
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.compile_model(rest, "CPU", settings)
        made = compiled.create_infer_request()
        names = [port.any_name for port in compiled.inputs]

        def run() -> np.ndarray:
            (output,) = made.infer({name: known[name] for name in names}).values()
            return np.array(output)

        return run

    want = request("f32", False)()
    requests = {"as converted": request("bf16", False), "channels last": request("bf16", True)}
    decibels = {}
    for name, run in requests.items():  # this also warms up
        error = np.square(run() - want, dtype=np.float64).mean()
        decibels[name] = float(10 * np.log10(np.square(want, dtype=np.float64).mean() / error))
    seconds: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(args.rounds):
        for name, run in requests.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {
        "environment": environment(),
        "openvino": openvino.get_version(),
        "height": args.height,
        "width": args.width,
        "seconds": seconds,
        "decibels": decibels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = measure(args)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    before, after = data["seconds"].values()
    ratios = [old / new for old, new in zip(before, after, strict=True)]
    print("| norms | step, s | power over error, dB |\n| --- | ---: | ---: |")
    for name, times in data["seconds"].items():
        print(f"| {name} | {median(times):.3f} | {data['decibels'][name]:.1f} |")
    print(f"\nAs converted / channels last: {median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
