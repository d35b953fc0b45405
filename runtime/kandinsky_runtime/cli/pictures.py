"""Result pictures of the command line: their paths, and the reports on stdout."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.cli_support import print_done, print_output
from kandinsky_runtime.decoder.output import InpaintOutput, PipelineOutput
from kandinsky_runtime.decoder.pipeline import DecoderPipeline
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.limits import MAX_RESULTS
from kandinsky_runtime.observers import add_up
from kandinsky_runtime.pictures.saving import check_output_path, check_output_size, save_image

_READ = ("image_embeds", "negative_image_embeds", "replay_noise")
_WRITTEN = ("record_noise",)


class Results:
    """The pictures of one command."""

    def __init__(self, args: argparse.Namespace, inputs: Iterable[str]) -> None:
        """Check the options before anything is read.

        Args:
            args: the parsed arguments.
            inputs: options whose files are read, in addition to the common ones.

        Raises:
            InputError, UsageError: an option with an invalid value.
        """
        self._args, self._inputs, self._start = args, (*inputs, *_READ), time.perf_counter()
        self._paths: list[Path] = []
        self._outputs: list[PipelineOutput] = []
        self._left_out: list[str] = []
        check_output_path(args.out, args.quality)
        whole_number("--num-images", args.num_images_per_prompt, 1, MAX_RESULTS)
        if args.replay_noise and (args.seed is not None or args.noise):
            raise UsageError("--replay-noise takes the place of --seed and --noise; give one of them")

    def plan(self, prompts: int) -> None:
        """Choose the paths of the results of so many prompts; none may replace an input.

        Raises:
            InputError, UsageError: a path that cannot be written to, or would replace a file that is read.
        """
        out, count = self._args.out, prompts * self._args.num_images_per_prompt
        self._paths = [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]
        for path in self._paths:
            check_output_path(path)
        check_overwriting(self._args, self._paths, self._inputs)

    def check_sizes(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Check before a run that its results, (width, height) each, fit the format of --out.

        Raises:
            InputError: the format has no room for a result.
        """
        for size in sizes:
            check_output_size(self._args.out, size)

    def write(self, output: PipelineOutput) -> None:
        """Write the pictures of a run and, without --json, report them; the runs of a command come in their order.

        Raises:
            Kandinsky22Error: a picture cannot be written.
        """
        done = sum(len(earlier.seeds) for earlier in self._outputs)
        for path, picture, seed in zip(self._paths[done:], output.images, output.seeds, strict=False):
            self._left_out += save_image(picture, path, self._args.quality)
            if not self._args.json:
                print_done(f"wrote {path}" + (f" (seed {seed})" if seed is not None else ""))
        self._outputs.append(replace(output, images=None))

    def report(self, pipeline: DecoderPipeline) -> None:
        """With --json, report all pictures on stdout.

        Raises:
            Kandinsky22Error: the pictures are written, but something else could not be done.
        """
        if self._args.json:
            self._print(pipeline)
        if failures := [failure for output in self._outputs for failure in output.failures]:
            raise Kandinsky22Error(
                f"{'; '.join(failures)}; the pictures are written: make room or choose another path, and run the"
                " command again"
            )

    def _print(self, pipeline: DecoderPipeline) -> None:
        seconds = add_up(output.seconds for output in self._outputs)
        seconds["total"] = time.perf_counter() - self._start
        notes = [*(note for output in self._outputs for note in output.notes), *self._left_out]
        result: dict[str, Any] = {
            "images": [str(path) for path in self._paths],
            "seeds": [seed for output in self._outputs for seed in output.seeds],
            "engine": pipeline.selection.engine.name,
            "precision": pipeline.selection.precision,
            "notes": list(dict.fromkeys(notes)),
            "seconds": {part: round(value, 4) for part, value in seconds.items()},
        }
        inpainted = [output for output in self._outputs if isinstance(output, InpaintOutput)]
        if inpainted:
            result["masks"] = [asdict(report) for output in inpainted for report in output.masks]
        print_output(json.dumps(result, indent=1))


def check_overwriting(args: argparse.Namespace, written: Iterable[Path], inputs: Iterable[str]) -> None:
    """Refuse to replace an input, or to write two results into one file.

    Args:
        args: the parsed arguments.
        written: the paths of --out.
        inputs: options whose files are read.

    Raises:
        UsageError: the message names both options.
    """
    taken: dict[str, str] = {}
    for option in inputs:
        given = getattr(args, option)
        for path in given if isinstance(given, list) else [given]:
            if path is not None:
                taken[os.path.realpath(path)] = f"--{option.replace('_', '-')}"
    for picture in args.prompts or []:
        if isinstance(picture, Path):
            taken[os.path.realpath(picture)] = "--prompt-image"
    for option in _WRITTEN:
        if (path := getattr(args, option, None)) is not None:
            _claim(taken, f"--{option.replace('_', '-')}", path)
    for path in written:
        if other := taken.get(os.path.realpath(path)):
            raise UsageError(f"--out {path} would replace the file of {other}; choose another path")


def _claim(taken: dict[str, str], name: str, path: Path) -> None:
    if other := taken.get(os.path.realpath(path)):
        raise UsageError(f"{name} {path} would replace the file of {other}; choose another path")
    taken[os.path.realpath(path)] = name
