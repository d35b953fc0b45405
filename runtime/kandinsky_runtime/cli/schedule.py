"""`k22 schedule`."""

from __future__ import annotations

import argparse
import json

from kandinsky_runtime.cli.options import SCHEDULERS, add_bundle
from kandinsky_runtime.cli_support import Parser, add_common_options, print_output


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "schedule",
        help="print the coefficients of every denoising step",
        description="Print the timesteps and coefficients of a scheduler, as a table or as JSON, for programs that run"
        " a bundle themselves.",
        epilog="examples:\n"
        "  k22 schedule bundle --steps 50\n"
        "  k22 schedule bundle --steps 25 --scheduler dpm++ --json > steps.json\n"
        "  k22 schedule bundle --prior --json",
    )
    add_bundle(parser)
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: 100, or 25 with --prior)")
    parser.add_argument("--scheduler", metavar="NAME", help=f"{SCHEDULERS} (default: the checkpoint's)")
    parser.add_argument("--prior", action="store_true", help="the schedule of the prior instead of the decoder's")
    add_common_options(parser)
    parser.set_defaults(run=_schedule)


def _schedule(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.bundle.manifest import PROMPT
    from kandinsky_runtime.checks import whole_number
    from kandinsky_runtime.decoder.options import DecoderOptions
    from kandinsky_runtime.errors import UsageError
    from kandinsky_runtime.prior.pipeline import STEPS
    from kandinsky_runtime.sampling import schedulers
    from kandinsky_runtime.sampling.schedulers.coefficients import as_text, describe

    default = STEPS if args.prior else DecoderOptions.num_inference_steps
    steps = whole_number("--steps", default if args.steps is None else args.steps, 1)
    if args.prior and args.scheduler is not None:
        raise UsageError(
            "--scheduler is the decoder's; the prior has its own: leave one of --scheduler and --prior out"
        )
    bundle = Bundle.open(args.bundle)
    config = bundle.manifest.scheduler
    if args.prior:
        if bundle.manifest.prior is None:
            raise bundle.cannot(PROMPT)
        config = bundle.manifest.prior.scheduler
    data = describe(schedulers.load(config, args.scheduler), steps)
    print_output(json.dumps(data, indent=1) if args.json else as_text(data))
    return 0
