"""Where OpenVINO's time goes in one UNet step, by kind of layer, from its own counters.

    python benchmarks/openvino_layers.py BUNDLE [--height 512 --width 512] [--precision fp32] [--steps 6]

Guidance batch of 2. A layer that OpenVINO fused of several counts as attention where a softmax is among them, else as
what its first kind in the list below is. "Constant over the loop" are layers that depend on the image embeddings alone:
the same in every step, part of the kinds above. A first step, which brings memory in, is not in the means. The rate of
the convolutions is what their shapes ask for, 2 operations to a multiplication, over their time.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from graph_inputs import graph_inputs

from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.engines.openvino.compiler import rewrite_for_cpu

ELEMENT_TYPES = {"fp32": "f32", "bf16": "bf16"}
# The types of the layers that OpenVINO was given, and the purpose of the time spent on them; the first match counts.
KINDS = {
    "attention": {"Softmax"},
    "convolution": {"Convolution"},
    "matrix product": {"MatMul", "FullyConnected"},
    "normalisation": {"MVN", "ReduceMean", "ReduceL2"},
    "layout": {"Transpose", "Reshape", "Reorder", "Concat", "Split", "VariadicSplit"},
}
OTHER = "other"


def kind_of(types: Iterable[str]) -> str:
    found = set(types)
    return next((kind for kind, known in KINDS.items() if known & found), OTHER)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import openvino

    graph, feeds = graph_inputs(args.bundle, "unet", args.height, args.width)
    model = openvino.Core().read_model(graph)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    _kept = rewrite_for_cpu(model, args.precision)  # as the engine has it; what comes back must outlive the last step
    operations = sum(
        2.0 * np.prod(node.get_output_shape(0)) * np.prod(node.get_input_shape(1)[1:])
        for node in model.get_ops()
        if node.get_type_name() == "Convolution"
    )
    constant = depending_on(model, {"image_embeds"}) - depending_on(model, set(feeds) - {"image_embeds"})
    types = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    settings = {"INFERENCE_PRECISION_HINT": ELEMENT_TYPES[args.precision], "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.compile_model(model, "CPU", settings | {"PERF_COUNT": True})
    origins = {
        node.get_friendly_name(): str(node.get_rt_info()["originalLayersNames"].value).split(",")
        for node in compiled.get_runtime_model().get_ops()
        if "originalLayersNames" in node.get_rt_info()
    }
    request = compiled.create_infer_request()
    request.infer(feeds)
    first = {entry.node_name: entry.real_time.total_seconds() for entry in request.profiling_info}
    for _ in range(args.steps):
        request.infer(feeds)
    seconds, layers, total = Counter[str](), Counter[str](), 0.0
    for entry in request.profiling_info:
        # The counters are means over all steps of the request, the first one included.
        spent = ((args.steps + 1) * entry.real_time.total_seconds() - first[entry.node_name]) / args.steps
        names = origins.get(entry.node_name, [entry.node_name])
        known = [types[name] for name in names if name in types] or [entry.node_type]
        kind = kind_of([*known, entry.node_type])
        seconds[kind] += spent
        layers[kind] += spent > 0
        total += spent
        if all(name in constant for name in names):
            seconds["constant over the loop"] += spent
    return {
        "environment": environment(),
        "openvino": openvino.get_version(),
        "precision": args.precision,
        "height": args.height,
        "width": args.width,
        "steps": args.steps,
        "total": total,
        "seconds": dict(seconds.most_common()),
        "convolution_tflop_per_s": operations / seconds["convolution"] / 1e12,
        "layers": dict(layers),
    }


def depending_on(model: Any, inputs: set[str]) -> set[str]:
    """The names of the layers that depend on the model's inputs."""
    reached: set[str] = set()
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        sources = {value.get_node().get_friendly_name() for value in node.input_values()}
        if (node.get_type_name() == "Parameter" and name in inputs) or sources & reached:
            reached.add(name)
    return reached


def as_text(data: dict[str, Any]) -> str:
    lines = ["| layers | number | seconds | share |", "| --- | ---: | ---: | ---: |"]
    for kind, seconds in data["seconds"].items():
        lines.append(f"| {kind} | {data['layers'].get(kind, '')} | {seconds:.3f} | {seconds / data['total']:.1%} |")
    lines.append(f"| all | | {data['total']:.3f} | |")
    return "\n".join([*lines, "", f"Convolutions: {data['convolution_tflop_per_s']:.3f} TFLOP/s."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--precision", choices=ELEMENT_TYPES, default="fp32")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = measure(args)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    print(as_text(data))


if __name__ == "__main__":
    main()
