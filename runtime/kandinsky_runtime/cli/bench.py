"""`k22 bench`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kandinsky_runtime.cli.options import ENGINES, add_bundle, add_device_options
from kandinsky_runtime.cli_support import Parser


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="how fast this machine runs a bundle",
        description="Time every graph and whole runs with made-up inputs: UNet on a guidance batch of 2, MoVQ encode"
        " and decode,\nN steps of inpainting, a cold start in a fresh process. Several engines take turns in every"
        " round.",
        epilog="examples:\n"
        "  k22 bench bundle\n"
        "  k22 bench bundle --engine openvino --engine onnxruntime --precision fp32 --repeats 10 --json times.json\n"
        "  k22 bench bundle --height 768 --width 768 --steps 50 --plot times.png",
    )
    add_bundle(parser)
    work = parser.add_argument_group("what is run")
    work.add_argument("--height", type=int, default=512, metavar="PX", help="of the picture (default: 512)")
    work.add_argument("--width", type=int, default=512, metavar="PX", help="of the picture (default: 512)")
    work.add_argument("--steps", type=int, default=10, metavar="N", help="of a whole run (default: 10)")
    work.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds that count (default: 5)")
    work.add_argument("--warmup", type=int, default=1, metavar="N", help="rounds before them (default: 1)")
    work.add_argument("--no-cold-start", action="store_true", help="start no fresh process for each engine")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        action="append",
        metavar="NAME",
        help=f"{ENGINES}, or auto (default); several times for a comparison with the first",
    )
    engine.add_argument("--precision", metavar="P", help="fp32, fp16 or bf16 (default: each engine's)")
    add_device_options(engine)
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="F", help="write everything that was measured to a JSON file")
    output.add_argument("--plot", type=Path, metavar="F", help="draw it: .png, .svg or .pdf; needs matplotlib")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bench import measure, report
    from kandinsky_runtime.bundle.bundle import Bundle

    report.check_paths(args.json, args.plot)
    plan = measure.Plan(
        engines=tuple(args.engine or measure.Plan.engines),
        precision=args.precision,
        device=args.device,
        threads=args.threads,
        height=args.height,
        width=args.width,
        steps=args.steps,
        repeats=args.repeats,
        warmup=args.warmup,
        cold_start=not args.no_cold_start,
    )
    data = report.as_data(measure.run(Bundle.open(args.bundle), plan, progress=not args.quiet))
    if args.json:
        report.save_text(json.dumps(data, indent=1) + "\n", args.json)
    if args.plot:
        report.save_plot(data, args.plot)
    sys.stdout.write(report.as_text(data) + "\n")
    return 0
