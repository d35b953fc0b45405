"""Several pictures of one command: the graphs are loaded once, and every picture is a run of its own.

Legend: I pictures · P prompts or embeddings
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kandinsky_runtime.cli.options import declared_arguments, load_arguments, noise_arguments
from kandinsky_runtime.cli.pictures import Results
from kandinsky_runtime.cli.prompting import read_conditioning
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.files import is_folder
from kandinsky_runtime.observers import RunObserver
from kandinsky_runtime.pictures.opening import picture_suffixes
from kandinsky_runtime.units import do_all

_NEGATIVE = ("negative_prompt", "negative_image_embeds")


def run_pictures(
    args: argparse.Namespace,
    task: type[InpaintPipeline] | type[GeneratePipeline],
    options: type[Any],
    inputs: Iterable[str],
    sources: Callable[[argparse.Namespace, int], dict[str, Any]],
) -> int:
    """Run a command: one picture with all prompts in one run, or several pictures in a run each.

    Args:
        args: the parsed arguments; `args.image` has the files of the pictures, or is None for text-to-image.
        task: the command's pipeline.
        options: the pipeline's options.
        inputs: the names of the arguments whose files `sources` reads.
        sources: (args, index) → the options that hold the input pictures of a run.

    Returns:
        The exit status.

    Raises:
        Kandinsky22Error: see `Results`, `check_batch` and the pipeline.
    """
    pictures = 1 if args.image is None else len(args.image)
    results = Results(args, inputs)
    conditioning, prompts = read_conditioning(args)
    negatives = next((len(conditioning[name]) for name in _NEGATIVE if conditioning.get(name) is not None), 1)
    results.plan(check_batch(args, pictures, prompts, negatives))
    first = sources(args, 0)  # read before the bundle is opened, which takes longer
    with task.load(args.bundle, **load_arguments(args)) as pipeline:
        shared = declared_arguments(args, options) | noise_arguments(args)
        if pictures == 1:
            work = pipeline.plan(
                options(**first, **shared | conditioning), RunObserver(progress=not args.quiet, title=options.title)
            )
            results.check_sizes(work.runs[0].request.result_sizes)
            results.write(do_all(work.units()))
        else:
            for index in range(pictures):  # everything is checked before the first run
                run = pipeline.prepare(options(**sources(args, index), **shared | _own(args, conditioning, index)))
                results.check_sizes(run.request.result_sizes)
            for index in range(pictures):
                own = _own(args, conditioning, index)
                output = pipeline(**sources(args, index), **shared | own, progress=not args.quiet)
                args.seed = output.seeds[0] if index == 0 else args.seed
                results.write(output)
        results.report(pipeline)
    return 0


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """The paths of pictures, with each folder replaced by the pictures in it, by name; hidden files are none.

    Raises:
        InputError: a folder has no pictures, or cannot be read.
    """
    files: list[Path] = []
    suffixes = picture_suffixes() if any(map(is_folder, paths)) else frozenset()
    for path in paths:
        if not is_folder(path):
            files.append(path)
            continue
        try:
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and _is_picture(file))
        except OSError as error:
            raise InputError(
                f"folder {path} cannot be read: {error.strerror}; give this user the right to read it"
            ) from error
        if not found:
            raise InputError(f"folder {path} has no picture; expected files such as .png, .jpg, .jpeg, .webp")
        files += found
    return files


def _is_picture(file: Path) -> bool:
    """Whether a file with a picture's suffix is one; "._cat.jpg" holds what macOS knows about cat.jpg."""
    return not file.name.startswith(".") and file.is_file()


def mask_files(masks: Sequence[Path], images: Sequence[Path]) -> list[Path]:
    """The mask of each picture: one for all, one for each in their order, or those of the same names in a folder.

    Raises:
        InputError: a picture has no mask in the folder, or there are several.
        UsageError: there is another number of masks than of pictures.
    """
    if len(masks) == 1 and is_folder(masks[0]):
        return [_named(masks[0], image) for image in images]
    if len(masks) not in (1, len(images)):
        raise UsageError(f"got {len(masks)} masks for {len(images)} pictures; give one for all, or one for each")
    return [masks[index % len(masks)] for index in range(len(images))]


def _named(folder: Path, image: Path) -> Path:
    found = [file for file in picture_files([folder]) if file.stem == image.stem]
    if len(found) != 1:
        raise InputError(f"folder {folder} has {len(found)} masks for {image}; expected one file named {image.stem}.*")
    if found[0].samefile(image):
        raise InputError(f"folder {folder} has the picture {image} itself; expected a folder of masks")
    return found[0]


def check_batch(args: argparse.Namespace, pictures: int, prompts: int, negatives: int) -> int:
    """The number of runs, max(I, P), each of one picture and one prompt.

    Args:
        args: the parsed arguments.
        pictures, prompts: I and P.
        negatives: the number of negative prompts or embeddings; 1 for none.

    Raises:
        UsageError: pictures and prompts do not fit together, or an option is for one picture only.
    """
    if pictures > 1:
        kind = "prompts" if args.image_embeds is None else "embeddings"
        for name, count in ((kind, prompts), (f"negative {kind}", negatives)):
            if count not in (1, pictures):
                raise UsageError(f"got {count} {name} for {pictures} pictures; give one for all, or one for each")
        if args.record_noise or args.replay_noise:
            raise UsageError("--record-noise and --replay-noise are for one picture; leave them out")
    return max(pictures, prompts)


def _own(args: argparse.Namespace, conditioning: dict[str, Any], index: int) -> dict[str, Any]:
    """The prompts or embeddings and the seed of one picture, from those of all."""
    return {name: _one_of(value, index) for name, value in conditioning.items()} | {"seed": _seed_of(args, index)}


def _one_of(value: Any, index: int) -> Any:
    if isinstance(value, (list, np.ndarray)) and len(value) > 1:
        return value[index : index + 1]
    return value


def _seed_of(args: argparse.Namespace, index: int) -> int | None:
    """The seed of a picture's first result: the results of a command take one after the other."""
    return None if args.seed is None else args.seed + index * args.num_images_per_prompt
