"""The checkpoints that a command reads: folders, or names on a hub."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kandinsky_runtime.cli_support import Parser
from kandinsky_runtime.errors import UsageError

if TYPE_CHECKING:
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint


def add_source(parser: Parser) -> None:
    """Add CHECKPOINT and the options of its hub."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a folder, a hub name such as owner/model, or drawn-cats/decoder-inpaint, which comes with the package",
    )
    parser.add_argument(
        "--hub", choices=("huggingface", "paddle"), help="the hub of CHECKPOINT and PRIOR (default: huggingface)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of CHECKPOINT (Hugging Face only; default: main)")
    parser.add_argument(
        "--weights",
        metavar="VARIANT",
        help="variant of CHECKPOINT's weight files, such as fp16 (default: the plain files)",
    )
    _add_loras(parser, "--lora", "UNet")


def add_prior(parser: Parser) -> None:
    """Add the prior of CHECKPOINT."""
    parser.add_argument(
        "--prior",
        metavar="PRIOR",
        help="the prior that goes with CHECKPOINT: a folder, a hub name, or drawn-cats/prior",
    )
    parser.add_argument(
        "--prior-revision", metavar="REVISION", help="branch, tag or commit of PRIOR (Hugging Face only; default: main)"
    )
    parser.add_argument(
        "--prior-weights",
        metavar="VARIANT",
        help="variant of PRIOR's weight files, such as fp16 (default: the plain files)",
    )
    _add_loras(parser, "--prior-lora", "prior")


def _add_loras(parser: Parser, option: str, model: str) -> None:
    parser.add_argument(
        option,
        action="append",
        default=[],
        metavar="F[:SCALE]",
        help=f"LoRA to merge into the {model}, the pytorch_lora_weights.safetensors of diffusers' training scripts or"
        " its folder, and its strength; may be given several times (default scale: 1)",
    )


def open_checkpoint(args: argparse.Namespace) -> tuple[Checkpoint, str]:
    """The checkpoint, fetched if need be, and its name: the hub name or the folder's name."""
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.lora import parse_lora

    _check_hub_options(args)
    loras = tuple(map(parse_lora, args.lora))
    tuple(map(parse_lora, args.prior_lora))  # a wrong name is reported before anything is fetched
    root, name = _fetched(args, args.checkpoint, args.revision, args.weights)
    return replace(Checkpoint.open(root, args.weights), loras=loras), name


def open_prior(args: argparse.Namespace) -> tuple[PriorCheckpoint | None, str]:
    """The prior, fetched if need be, and its name; None without --prior."""
    if args.prior is None:
        return None, ""
    from kandinsky_export.checkpoints.lora import parse_lora
    from kandinsky_export.checkpoints.prior_checkpoint import PRIOR_FOLDERS, PriorCheckpoint

    root, name = _fetched(args, args.prior, args.prior_revision, args.prior_weights, components=PRIOR_FOLDERS)
    loras = tuple(map(parse_lora, args.prior_lora))
    return replace(PriorCheckpoint.open(root, args.prior_weights), loras=loras), name


def _check_hub_options(args: argparse.Namespace) -> None:
    """Refuse options of a hub or of a prior without one."""
    if args.prior is None and (args.prior_revision or args.prior_weights):
        raise UsageError("--prior-revision and --prior-weights go with --prior: add --prior, or leave them out")
    if args.prior is None and args.prior_lora:
        raise UsageError("--prior-lora goes with --prior: add --prior, or leave it out")
    if args.revision and not _is_hub_name(args.checkpoint):
        raise UsageError(
            f"--hub and --revision go with a hub name, not with the folder {args.checkpoint}: leave them out"
        )
    if args.prior_revision and not _is_hub_name(args.prior):
        raise UsageError(
            f"--hub and --prior-revision go with a hub name, not with the folder {args.prior}: leave them out"
        )
    if args.hub and not any(_is_hub_name(name) for name in (args.checkpoint, args.prior) if name is not None):
        raise UsageError(
            f"--hub and --revision go with a hub name, not with the folder {args.checkpoint}: leave them out"
        )


def _is_hub_name(name: str) -> bool:
    from kandinsky_export.hub import looks_like_hub_name

    return looks_like_hub_name(name) and not Path(name).exists()


def _fetched(
    args: argparse.Namespace, name: str, revision: str | None, variant: str | None, **options: Any
) -> tuple[Path, str]:
    """The folder of a checkpoint, fetched with `options` if `name` is a hub name, and its name."""
    from kandinsky_export.hub.shipped import shipped_checkpoint

    if not Path(name).exists() and (shipped := shipped_checkpoint(name)) is not None:
        if args.hub or revision:
            raise UsageError(f"{name} comes with this package: leave out --hub and revisions")
        return shipped, name
    if not _is_hub_name(name):
        return Path(name), Path(name).resolve().name
    import kandinsky_export.vendors  # noqa: F401 (a missing one is reported before gigabytes are fetched)
    from kandinsky_export.hub import fetch_checkpoint

    root = fetch_checkpoint(
        name,
        hub=args.hub or "huggingface",
        revision=revision,
        variant=variant,
        progress=not args.quiet,
        **options,
    )
    return root, name
