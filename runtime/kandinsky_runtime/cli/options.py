"""Options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from kandinsky_runtime.cli.outputs import output_file
from kandinsky_runtime.cli_support import path_argument
from kandinsky_runtime.decoder.declarations import declarations
from kandinsky_runtime.decoder.load_options import LOAD_OPTIONS, LoadOptions
from kandinsky_runtime.decoder.options import DecoderOptions

# Repeated here, so that --help does not load the module that defines them; a test compares them.
SCHEDULERS = "ddpm, ddim, dpm++, dpm++karras, dpm++sde, dpm++sde-karras, unipc, euler, euler-a, unclip"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The bundle's folder, the first argument."""
    parser.add_argument("bundle", type=path_argument, metavar="BUNDLE", help="folder of the bundle")


def add_prompt_options(parser: argparse.ArgumentParser, *, embeds: bool = True) -> None:
    """Prompts; with `embeds`, also embeddings instead of them."""
    group = parser.add_argument_group("prompt")
    group.add_argument(
        "--prompt",
        dest="prompts",
        action=_AppendPrompt,
        metavar="TEXT",
        help="a prompt in words; several make a batch, one result for each",
    )
    group.add_argument(
        "--prompt-image",
        dest="prompts",
        action=_AppendPrompt,
        type=path_argument,
        metavar="F",
        help="a picture as a prompt, in the order of all prompts",
    )
    group.add_argument(
        "--mix",
        type=_weights,
        metavar="W,W,…",
        help="blend all --prompt and --prompt-image into one prompt, with a weight for each in their order",
    )
    group.add_argument(
        "--negative-prompt",
        action="append",
        metavar="TEXT",
        help="what not to show; one for all prompts, or one for each",
    )
    add_group(group, DecoderOptions, "prompt")
    if embeds:
        group.add_argument(
            "--image-embeds",
            type=path_argument,
            metavar="F",
            help="embeddings instead of a prompt: an .npz with image_embeds and negative_image_embeds, or an .npy with"
            " the former",
        )
        group.add_argument(
            "--negative-image-embeds", type=path_argument, metavar="F", help="an .npy or .npz with the negative ones"
        )


class _AppendPrompt(argparse.Action):
    """Collects texts and paths of two options in one list, in the order in which they were given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), values])


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.3,0.7") from None


def add_group(group: argparse._ArgumentGroup, options: type[DecoderOptions], name: str) -> None:
    """All declared options of one group, see `Declaration.group`; a new option appears here by itself."""
    for field, (_, declared) in declarations(options).items():
        if declared.spelling and declared.group == name:
            add_declared(group, options, field)


def add_declared(group: argparse._ActionsContainer, options: type[Any], name: str, *, only_given: bool = False) -> None:
    """A declared option: spelling, type, text and default are those of its declaration.

    Args:
        group: the group of `--help`.
        options: the class that declares it.
        name: the option's name. One whose default is a tuple may be given several times.
        only_given: whether the parsed arguments have it only if it was given; `--help` names the default in any case.
    """
    item, declared = declarations(options)[name]
    default = argparse.SUPPRESS if only_given else item.default
    if isinstance(item.default, bool):
        action = "store_false" if item.default else "store_true"
        group.add_argument(
            declared.spelling, dest=name, action=action, default=default, help=declared.turned_off or declared.text
        )
        return
    several = isinstance(item.default, tuple)
    shown = f"{item.default:g}" if isinstance(item.default, float) else str(item.default)
    group.add_argument(
        declared.spelling,
        dest=name,
        action="append" if several else "store",
        type=_argument(declared.parse),
        choices=declared.choices,
        default=default,
        metavar=declared.metavar,
        help=declared.text + ("" if item.default is None or several else f" (default: {shown})"),
    )


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser for argparse, which shows the text of an ArgumentTypeError only."""
    if parse is int or parse is float:
        return parse

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def add_sampling_options(group: argparse._ArgumentGroup, options: type[DecoderOptions]) -> None:
    """The decoder's loop and its noise."""
    add_group(group, options, "sampling")
    group.add_argument("--scheduler", metavar="NAME", help=f"{SCHEDULERS} (default: the checkpoint's)")
    add_noise_kind(group)
    group.add_argument("--record-noise", type=output_file, metavar="F", help="an .npz file that records all noise")
    group.add_argument(
        "--replay-noise", type=path_argument, metavar="F", help="a file of --record-noise to take the noise from"
    )


def add_noise_options(group: argparse._ArgumentGroup) -> None:
    """Seed, number of results, and kind of noise."""
    add_declared(group, DecoderOptions, "seed")
    add_declared(group, DecoderOptions, "num_images_per_prompt")
    add_noise_kind(group)


def add_noise_kind(group: argparse._ArgumentGroup) -> None:
    """The kind of noise."""
    group.add_argument(
        "--noise", choices=("torch", "numpy"), help="torch (default) draws the numbers of torch.Generator('cpu')"
    )


def add_engine_options(parser: argparse.ArgumentParser, *, only_given: bool = False) -> None:
    """How a bundle is opened: engine, precision, device, threads and memory; see `add_declared`."""
    group = parser.add_argument_group("engine")
    for name in LOAD_OPTIONS:
        if name != "tiles":
            add_declared(group, LoadOptions, name, only_given=only_given)


def add_out(group: argparse._ArgumentGroup) -> None:
    """The file of the result."""
    group.add_argument(
        "--out",
        type=output_file,
        required=True,
        metavar="F",
        help="result file; several get -1, -2, … before the suffix",
    )
    group.add_argument(
        "--quality",
        type=int,
        metavar="N",
        help="quality of a JPEG or WebP file, 1 to 100 (default: 95 for JPEG; WebP is lossless)",
    )


def add_tiles(parser: argparse.ArgumentParser, *, only_given: bool = False) -> None:
    """Tiles for large pictures; see `add_declared`."""
    add_declared(parser, LoadOptions, "tiles", only_given=only_given)


def load_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a pipeline's `load` that the command has, other than the bundle."""
    return {name: getattr(args, name) for name in LOAD_OPTIONS if hasattr(args, name)} | {"progress": not args.quiet}


def declared_arguments(args: argparse.Namespace, options: type[DecoderOptions]) -> dict[str, Any]:
    """The values of a task's declared options."""
    return {name: getattr(args, name) for name, (_, declared) in declarations(options).items() if declared.spelling}


def noise_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Scheduler and noise of a run of the decoder.

    Raises:
        InputError: the recording of the noise cannot be used.
    """
    from kandinsky_runtime.sampling.noise import ReplayNoise

    return {
        "scheduler": args.scheduler,
        "noise": ReplayNoise(args.replay_noise) if args.replay_noise else args.noise or "torch",
        "record_noise": args.record_noise,
    }
