"""What rewrites of a graph in 16 bits save NVIDIA's builder: kernels of the engine without them, and with them.

    python benchmarks/tensorrt_rewrites.py BUNDLE [--component unet] [--target sm89]
        [--height 512:768:1024] [--width 512:768:1024] [--batch 1:1:4] [--numerics]

Needs no GPU, and the environment `rtx` of scripts/test. The rewrites are those of `graph_rewrites.py`; the exporter
does none of them. With --numerics each graph runs in ONNX Runtime on the CPU, too, and is compared with the bundle's
float32 graph: use a tiny bundle that has one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tensorrt_rtx"))  # the harness is the tests'

import numpy as np
import onnx
from builder import TARGETS, Job, build, missing, profile_options
from engine_program import KINDS, by_kind, programs
from graph_inputs import graph_inputs
from graph_rewrites import REWRITES

from kandinsky_export.tensorrt.shapes import walk
from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.profiles import Profile, Span, graph_profiles


def measure(args: argparse.Namespace) -> list[str]:
    bundle = Bundle.open(args.bundle)
    component = bundle.manifest.components[args.component]
    files = bundle.paths(component.variants[f"onnx-{args.precision}"])
    geometry = Geometry.of(bundle.manifest, bundle.subject)
    profile = Profile(*(Span.parse(text) for text in (args.height, args.width, args.batch)))
    profiles = graph_profiles(args.component, component.spec, geometry, [profile])
    options = profile_options(component.spec, profiles)
    model = onnx.load(files["graph"], load_external_data=False)
    opt = {tensor.name: profiles[0].shapes(tensor)[1] for tensor in component.spec.inputs}
    shapes = {
        name: value.shape
        for site in walk(model, opt)
        for name, value in zip(site.node.output, site.outputs, strict=True)
        if value is not None and value.shape is not None
    }
    want = _outputs(args, None) if args.numerics else []
    lines = [
        f"{args.component}, {args.precision}, {args.target}, {profile}",
        "",
        f"| rewrite | places | kernels | {' | '.join(KINDS)} |" + (" dB from float32 |" if args.numerics else ""),
        "| --- |" + " ---: |" * (len(KINDS) + 2 + args.numerics),
    ]
    for title, rewrites in REWRITES.items():
        if args.only and args.only not in title:
            continue
        with tempfile.TemporaryDirectory(dir=args.scratch) as name:
            folder, changed = Path(name), onnx.ModelProto.FromString(model.SerializeToString())
            places = [rewrite(changed, shapes) for rewrite in rewrites]
            os.link(files["weights"], folder / files["weights"].name)
            (folder / "graph.onnx").write_bytes(changed.SerializeToString())
            (built,) = build([Job(folder / "graph.onnx", folder / "engine", args.target, options)])
            if built.error or not built.engines:
                raise SystemExit(f"{title}: {built.faults()}")
            program = programs(built.engines[0])[0]
            counts = by_kind(program).values()
            line = f"| {title} | {' + '.join(map(str, places))} | {len(program)} | {' | '.join(map(str, counts))} |"
            if args.numerics:
                got = _outputs(args, folder / "graph.onnx")
                line += f" {min(map(decibels, want, got)):.1f} |"
        lines.append(line)
        print(line, file=sys.stderr)
    return lines


def _outputs(args: argparse.Namespace, graph: Path | None) -> list[np.ndarray]:
    """The outputs of a graph, or of the bundle's float32 graph, at three timesteps."""
    import onnxruntime

    reference, feeds = graph_inputs(args.bundle, args.component, 256, 256)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph or reference), options, providers=["CPUExecutionProvider"])
    timesteps = (21, 501, 951) if "timestep" in feeds else (0,)
    return [np.asarray(session.run(None, _at(feeds, timestep))[0], np.float32) for timestep in timesteps]


def _at(feeds: Mapping[str, np.ndarray], timestep: int) -> dict[str, np.ndarray]:
    return {name: np.full_like(array, timestep) if name == "timestep" else array for name, array in feeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--component", choices=("unet", "movq_encoder", "movq_decoder"), default="unet")
    parser.add_argument("--precision", choices=("fp16",), default="fp16")
    parser.add_argument("--target", choices=TARGETS, default="sm89")
    parser.add_argument("--height", default=str(Profile().height))
    parser.add_argument("--width", default=str(Profile().width))
    parser.add_argument("--batch", default=str(Profile().batch))
    parser.add_argument("--only", help="only the rewrites with this text in their names")
    parser.add_argument("--numerics", action="store_true")
    parser.add_argument("--scratch", type=Path, help="a folder on the bundle's file system (default: the bundle's)")
    args = parser.parse_args()
    args.scratch = args.scratch or args.bundle.resolve().parent
    if reason := missing():
        raise SystemExit(reason)
    print("\n".join(measure(args)))


if __name__ == "__main__":
    main()
