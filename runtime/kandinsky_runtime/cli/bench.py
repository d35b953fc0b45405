"""`k22 bench`."""

from __future__ import annotations

import argparse
import json

from kandinsky_runtime.cli.options import add_bundle, add_declared
from kandinsky_runtime.cli.outputs import STDOUT, output_file
from kandinsky_runtime.cli_support import Parser, print_done, print_output
from kandinsky_runtime.decoder.load_options import ENGINES, LoadOptions


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast this machine runs a bundle",
        description="Time every graph and whole runs on random inputs: the UNet with a batch of 2, MoVQ's encoder"
        " and decoder, N steps of inpainting, and a cold start in a fresh process. Several engines take turns in every"
        " round.",
        epilog="examples:\n"
        "  k22 bench bundle\n"
        "  k22 bench bundle --engine openvino --engine onnxruntime --precision fp32 --repeats 10 --json times.json\n"
        "  k22 bench bundle --height 768 --width 768 --steps 50 --plot times.png",
    )
    add_bundle(parser)
    work = parser.add_argument_group("work")
    work.add_argument("--height", type=int, default=512, metavar="PX", help="picture's height in pixels (default: 512)")
    work.add_argument("--width", type=int, default=512, metavar="PX", help="picture's width in pixels (default: 512)")
    work.add_argument("--steps", type=int, default=10, metavar="N", help="steps of a whole run (default: 10)")
    work.add_argument("--repeats", type=int, default=5, metavar="N", help="measured rounds (default: 5)")
    work.add_argument("--warmup", type=int, default=1, metavar="N", help="rounds before those (default: 1)")
    work.add_argument("--no-cold-start", action="store_true", help="skip the cold start in a fresh process")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        action="append",
        metavar="NAME",
        help=f"{ENGINES}, or auto (default); give it several times to compare engines with the first",
    )
    engine.add_argument("--precision", metavar="P", help="fp32, fp16 or bf16 (default: each engine's)")
    add_declared(engine, LoadOptions, "device")
    add_declared(engine, LoadOptions, "threads")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        nargs="?",
        type=output_file,
        const=STDOUT,
        metavar="F",
        help="print all measurements as JSON on stdout; with F, write them to a file and print the table",
    )
    output.add_argument(
        "--plot", type=output_file, metavar="F", help="plot of the medians (.png, .svg, .pdf); needs matplotlib"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bench import measure, report
    from kandinsky_runtime.bundle.bundle import Bundle

    to_stdout = args.json == STDOUT
    json_file = None if to_stdout else args.json
    report.check_paths(json_file, args.plot)
    plan = measure.BenchPlan(
        engines=tuple(args.engine or measure.BenchPlan.engines),
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
    as_json = json.dumps(data, indent=1)
    if json_file is not None:
        report.save_text(as_json + "\n", json_file)
    if args.plot:
        report.save_plot(data, args.plot)
    show = print_output if json_file is None else print_done
    show(as_json if to_stdout else report.as_text(data))
    return 0
