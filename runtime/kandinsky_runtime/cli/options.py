"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

# Named here, so that --help need not load the modules that know them.
ENGINES = "openvino, onnxruntime, paddle"
SCHEDULERS = "ddpm, ddim, dpm++, dpm++karras, dpm++sde, dpm++sde-karras, unipc, euler, euler-a, unclip"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The bundle's folder, the first argument."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The engine, its precision, device and threads."""
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", default="auto", metavar="NAME", help=f"{ENGINES}, or auto (default)")
    group.add_argument("--precision", metavar="P", help="fp32, fp16 or bf16 (default: the engine's)")
    add_device_options(group)
    group.add_argument(
        "--low-memory", action="store_true", help="load each graph when its turn comes and release it afterwards"
    )
    group.add_argument(
        "--tiles", action="store_true", help="MoVQ in tiles of 512 px: less memory for large pictures, other numbers"
    )


def add_device_options(group: argparse._ArgumentGroup) -> None:
    """The device and the threads."""
    group.add_argument("--device", default="cpu", metavar="NAME", help="as the engine names it (default: cpu)")
    group.add_argument("--threads", type=int, metavar="N", help="within one operation (default: every core)")
