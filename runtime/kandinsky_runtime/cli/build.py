"""`k22 build`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from kandinsky_runtime.cli.options import add_bundle
from kandinsky_runtime.cli_support import Parser, add_common_options, print_done, print_output

_GIGABYTE = 10**9


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "build",
        help="compile a bundle's graphs for this machine, once, before they are run",
        description="Compile every graph of a bundle for an engine and a range of sizes. The result is kept in the"
        " user's cache folder,\nwhere the engine finds it. A graph is not built twice in the same way.",
        epilog="examples:\n"
        "  k22 build bundle --engine tensorrt --height 512:768:1024 --width 512:768:1024 --batch 1:2:8\n"
        "  k22 build bundle --engine tensorrt --height 768 --width 768 --batch 1 --precision fp16\n"
        "  k22 build bundle --engine tensorrt-rtx --weight-memory 2G\n"
        "  k22 build bundle --engine onnxruntime --device cuda --height 512:512:768 --width 512:512:768\n"
        "  k22 build bundle --engine openvino --height 768 --width 768 --batch 1",
    )
    add_bundle(parser)
    parser.add_argument(
        "--engine",
        required=True,
        metavar="NAME",
        help="engine to build for: tensorrt-rtx, tensorrt, onnxruntime, paddle (these two with TensorRT inside) or"
        " openvino",
    )
    sizes = parser.add_argument_group(
        "sizes",
        "Give MIN:OPT:MAX, fastest at OPT, or one number for a fixed size. An option that is given several times makes"
        " several profiles.",
    )
    sizes.add_argument(
        "--height", action="append", metavar="PX", help="height of results in pixels (default: 512:768:1024)"
    )
    sizes.add_argument(
        "--width", action="append", metavar="PX", help="width of results in pixels (default: 512:768:1024)"
    )
    sizes.add_argument("--batch", action="append", metavar="N", help="number of results of one run (default: 1:1:4)")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--precision", metavar="P", help="precision: fp32, fp16 or bf16 (default: the engine's best in the bundle)"
    )
    engine.add_argument(
        "--device", metavar="NAME", help="the device's name for the engine, such as cuda:1 (default: the engine's own)"
    )
    engine.add_argument(
        "--workspace",
        type=float,
        metavar="GB",
        help="GPU memory for the build in gigabytes, tensorrt and tensorrt-rtx only (default: all)",
    )
    engine.add_argument(
        "--weight-memory",
        metavar="SIZE",
        help="GPU memory for the weights of each graph when it runs, tensorrt-rtx only: 512M, 2G, 50%% or auto. The"
        " rest is read from the host's memory in every run (default: all weights are in GPU memory)",
    )
    add_common_options(parser)
    parser.set_defaults(run=_build)


def _build(args: argparse.Namespace) -> int:
    from kandinsky_runtime.build import build_bundle
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.engines.profiles import read_profiles
    from kandinsky_runtime.errors import UsageError

    profiles = read_profiles(args.height, args.width, args.batch)
    if args.workspace is not None and not 0 < args.workspace < 10**6:
        raise UsageError(f"--workspace is {args.workspace:g}; expected a number of gigabytes above 0")
    done = build_bundle(
        Bundle.open(args.bundle),
        args.engine,
        profiles,
        name=str(args.bundle),
        precision=args.precision,
        device=args.device,
        workspace=None if args.workspace is None else int(args.workspace * _GIGABYTE),
        weight_memory=args.weight_memory,
        progress=not args.quiet,
    )
    if args.json:
        data = {
            "engine": args.engine,
            "profiles": [profile.to_json() for profile in profiles],
            "graphs": [asdict(item) | {"seconds": round(item.seconds, 3)} for item in done],
        }
        print_output(json.dumps(data, indent=1))
    else:
        for item in done:
            state = f"built in {item.seconds:.1f} s" if item.built else "up to date"
            if item.left_out is not None:
                state = f"left out: {item.left_out}"
            print_done(f"{item.component:14}{state}")
    return 0
