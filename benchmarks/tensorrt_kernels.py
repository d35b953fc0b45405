"""What NVIDIA's builder makes of a bundle's graphs: seconds, memory, size, and the kernels of each engine by kind.

    python benchmarks/tensorrt_kernels.py BUNDLE [--precision fp16] [--target sm89] [--components unet,movq_decoder]
        [--height 512:768:1024] [--width 512:768:1024] [--batch 1:1:4] [--names] [--json FILE]

Needs no GPU, and the environment `rtx` of scripts/test. Each graph is compiled in a process of its own, so that its
peak memory is its own. Nothing is run: this counts kernels, and only a GPU shows how long they take. The engines are
removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tensorrt_rtx"))  # the harness is the tests'

import onnx
from builder import TARGETS, Job, build, missing
from engine_program import ATTENTION, KINDS, by_kind, programs

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.profiles import Profile, Span, graph_profiles
from kandinsky_runtime.engines.tensorrt_rtx.options import profile_options


def measure(args: argparse.Namespace) -> dict[str, Any]:
    bundle = Bundle.open(args.bundle)
    profiles = [Profile(*(Span.parse(text) for text in (args.height, args.width, args.batch)))]
    geometry = Geometry.of(bundle.manifest, bundle.subject)
    results: dict[str, Any] = {}
    for name, component in bundle.manifest.components.items():
        variant = component.variants.get(f"onnx-{args.precision}")
        if variant is None or (args.components and name not in args.components.split(",")):
            continue
        options = profile_options(component.spec, graph_profiles(name, component.spec, geometry, profiles))
        graph = bundle.paths(variant)["graph"]
        nodes = onnx.load(graph, load_external_data=False).graph.node
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            (built,) = build([Job(graph, Path(folder) / name, args.target, options)])
            results[name] = {
                "seconds": built.seconds,
                "peak_bytes": built.peak_bytes,
                "faults": built.faults(),
                "attentions": sum(node.op_type == "Softmax" for node in nodes),
            }
            if built.engines and not built.error:
                found = programs(built.engines[0])[0]
                results[name] |= {
                    "bytes": sum(engine.stat().st_size for engine in built.engines),
                    "kernels": [asdict(kernel) | {"kind": kernel.kind, "label": kernel.label} for kernel in found],
                    "by_kind": by_kind(found),
                }
        print(f"{name}: {built.seconds:.1f} s", *built.faults(), sep="\n  ", file=sys.stderr)
    return {
        "target": args.target,
        "precision": args.precision,
        "profiles": [str(profile) for profile in profiles],
        "graphs": results,
    }


def as_text(data: dict[str, Any], names: bool) -> str:
    lines = [
        f"{data['precision']}, {data['target']}, {'; '.join(data['profiles'])}",
        "",
        f"| graph | s | peak GB | engine MB | kernels | {' | '.join(KINDS)} |",
        "| --- |" + " ---: |" * (len(KINDS) + 4),
    ]
    for name, item in data["graphs"].items():
        if "kernels" not in item:
            lines.append(f"| {name} | {item['seconds']:.1f} | {item['peak_bytes'] / 1e9:.1f} | not built |")
            continue
        counts = " | ".join(
            str(item["by_kind"][kind]) + (f" of {item['attentions']}" if kind == ATTENTION else "") for kind in KINDS
        )
        lines.append(
            f"| {name} | {item['seconds']:.1f} | {item['peak_bytes'] / 1e9:.1f} | {item['bytes'] / 1e6:.1f}"
            f" | {len(item['kernels'])} | {counts} |"
        )
    if names:
        for name, item in data["graphs"].items():
            lines += ["", f"| {name}: number | kind | kernel |", "| ---: | --- | --- |"]
            counted = Counter((kernel["kind"], kernel["label"]) for kernel in item.get("kernels", ()))
            in_order = sorted(counted.items(), key=lambda entry: (KINDS.index(entry[0][0]), -entry[1]))
            lines += [f"| {number} | {kind} | {label} |" for (kind, label), number in in_order]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--target", choices=TARGETS, default="sm89")
    parser.add_argument("--components", help="separated by commas (default: all)")
    parser.add_argument("--height", default=str(Profile().height))
    parser.add_argument("--width", default=str(Profile().width))
    parser.add_argument("--batch", default=str(Profile().batch))
    parser.add_argument("--names", action="store_true", help="also list the kernels by name")
    parser.add_argument("--scratch", type=Path, help="a folder for the engines (default: the system's)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    data = measure(args)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    print(as_text(data, args.names))


if __name__ == "__main__":
    main()
