"""Pipes as inputs: they give their content once, and a command may need it several times."""

from __future__ import annotations

import argparse
from pathlib import Path

from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.opening import piped_picture


def picture_source(args: argparse.Namespace, path: Path, what: str) -> Path | bytes:
    """The path of a picture; for a pipe such as /dev/stdin its content, which is read at the first call.

    Args:
        args: the parsed arguments, which keep the content.
        path: the path as it was given.
        what: "image" or "mask".

    Raises:
        InputError: the pipe gives more than a picture has.
    """
    held: dict[Path, Path | bytes] = vars(args).setdefault("pipes", {})
    if path not in held:
        most = getattr(args, "max_pixels", MAX_PIXELS)
        try:
            content = piped_picture(path, f"{what} {path}", most)
        except OSError:  # whoever opens the path reports what is wrong
            return path
        held[path] = content if isinstance(content, bytes) else path
    return held[path]
