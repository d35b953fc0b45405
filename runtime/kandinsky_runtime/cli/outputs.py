"""Files that commands write: their paths, and that no bundle is among them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from kandinsky_runtime.cli_support import path_argument
from kandinsky_runtime.errors import UsageError

STDOUT = Path("-")

_OUTPUTS = ("out", "record_noise", "json", "plot")


def output_file(text: str) -> Path:
    """The path of a file to write, from the command line; `Path` alone would drop a slash at its end."""
    if Path(text).name and os.path.basename(text) in ("", "."):  # noqa: PTH119 (see above)
        raise argparse.ArgumentTypeError(f"{text!r} does not end in the name of a file; add one, or remove the slash")
    return path_argument(text)


def check_outside_bundle(args: argparse.Namespace) -> None:
    """Refuse outputs in the folder of the command's bundle, where they would replace its files or be faults of it.

    Raises:
        UsageError: the message names the option.
    """
    given = {option: getattr(args, option, None) for option in _OUTPUTS}
    outputs = {option: path for option, path in given.items() if isinstance(path, Path) and path != STDOUT}
    for bundle in _bundles(args) if outputs else ():
        root = Path(os.path.realpath(bundle))
        for option, path in outputs.items():
            # a link at the path itself is replaced, not followed
            place = Path(os.path.realpath(path.parent)) / path.name
            if place == root or root in place.parents:
                raise UsageError(
                    f"--{option.replace('_', '-')} {path} is in the folder of the bundle {bundle}, which holds the"
                    " bundle's own files only; choose a path outside of it"
                )


def _bundles(args: argparse.Namespace) -> Iterable[Path]:
    """The folders of the command's bundles."""
    if getattr(args, "bundle", None) is not None:
        return [args.bundle]
    from kandinsky_runtime.serving.models import named_bundles

    return named_bundles(getattr(args, "bundles", None) or []).values()
