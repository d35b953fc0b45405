"""What every stage shares: sizes, seeds and the folder that holds everything that is made."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

SEED = 17
PICTURE = 192  # pixels a side: latents of 24 × 24
LATENT = PICTURE // 8
CLIP_PICTURE = 96
EMBEDDING = 64  # CLIP's projection
PAIRS_PER_SHARD = 500

ROOT = Path(__file__).resolve().parents[2]


def count(text: str) -> int:
    """Return the value of an option that is a whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def minutes(text: str) -> float:
    """Return the value of an option that is a time.

    Raises:
        argparse.ArgumentTypeError: it is not above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that all stages have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    default = Path(os.environ.get("K22_TRAINING", ROOT / ".cache" / "training"))
    made.add_argument("--work", type=Path, default=default, help="folder of everything made; also K22_TRAINING")
    return made


def add_threads(options: argparse.ArgumentParser) -> None:
    """Add the option of stages that run a model."""
    options.add_argument("--threads", type=count, default=2, help="processor threads; 1 is best on a busy machine")


def add_minutes(options: argparse.ArgumentParser) -> None:
    """Add the option of stages that train a model."""
    options.add_argument(
        "--minutes", type=minutes, default=None, help="save and stop after this many minutes; None: at the end"
    )


def add_start(options: argparse.ArgumentParser) -> None:
    """Add the option of stages that train a model of the export."""
    options.add_argument(
        "--start",
        type=Path,
        default=None,
        help="folder of an export to begin from, for a stage without a state; None: random weights",
    )
