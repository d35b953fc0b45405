"""Weights behind a link that leaves their folder, as in the Hugging Face cache: OpenVINO does not read them there.

It reads them from a folder of the user's cache that has a copy of the graph and a hard link to the weights, which takes
no space of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kandinsky_runtime.engines.records import cache_subfolder
from kandinsky_runtime.errors import EngineError, UsageError
from kandinsky_runtime.files import file_sha256, fingerprint

_FOLDER = "openvino-links"


def readable_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """The paths of a graph and its weights at which OpenVINO reads both.

    Args:
        files: the paths by role, "graph" and "weights".

    Raises:
        EngineError: the weights are behind a link, and a hard link to them cannot be made.
    """
    graph, weights = files["graph"], files["weights"]
    if graph.parent != weights.parent or weights.resolve().is_relative_to(graph.parent.resolve()):
        return dict(files)
    try:
        folder = _linked(graph, weights)
    except (OSError, UsageError) as error:
        raise EngineError(
            f"OpenVINO does not read {weights}, a link that leaves its folder, and there can be no hard link to it:"
            f" {error}; copy the bundle with cp -rL, or download it with local_dir, or choose engine onnxruntime"
        ) from error
    return {**files, "graph": folder / graph.name, "weights": folder / weights.name}


def _linked(graph: Path, weights: Path) -> Path:
    """The folder with both files, made if it is not there."""
    place = cache_subfolder(_FOLDER)
    stat, digest = weights.stat(), file_sha256(graph)
    folder = place / fingerprint({"graph": digest, "weights": [stat.st_dev, stat.st_ino, weights.name]})

    def whole() -> bool:
        copy, link = folder / graph.name, folder / weights.name
        return copy.exists() and file_sha256(copy) == digest and link.exists() and link.samefile(weights)

    if whole():
        return folder
    place.mkdir(parents=True, exist_ok=True)
    _remove_orphans(place)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=place, ignore_cleanup_errors=True) as made:
        draft = Path(made) / "files"
        draft.mkdir()
        shutil.copyfile(graph, draft / graph.name)
        os.link(weights.resolve(), draft / weights.name)
        try:
            draft.rename(folder)
        except OSError:  # it is there: damaged, or another process was first and may be reading it
            if not whole():
                shutil.rmtree(folder)
                draft.rename(folder)
    return folder


def _remove_orphans(place: Path) -> None:
    """Remove folders whose weights were removed everywhere else: they would keep the disk space."""
    for folder in place.iterdir():
        with contextlib.suppress(OSError):  # another process removes it, too
            files = [file for file in folder.iterdir() if file.is_file() and file.suffix != ".onnx"]
            if any(file.stat().st_nlink == 1 for file in files):
                shutil.rmtree(folder)
