"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# Named here, so that --help need not load the modules that know them.
ENGINES = "tensorrt, openvino, onnxruntime, paddle, fastdeploy"
SCHEDULERS = "ddpm, ddim, dpm++, dpm++karras, dpm++sde, dpm++sde-karras, unipc, euler, euler-a, unclip"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The bundle's folder, the first argument."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")


def add_prompt_options(parser: argparse.ArgumentParser, *, embeds: bool = True) -> None:
    """What is to be seen: prompts, and where `embeds`, embeddings in their place."""
    group = parser.add_argument_group("what is to be seen")
    group.add_argument(
        "--prompt",
        dest="prompts",
        action=_AppendPrompt,
        metavar="TEXT",
        help="in words; several make a batch, a result for each",
    )
    group.add_argument(
        "--prompt-image",
        dest="prompts",
        action=_AppendPrompt,
        type=Path,
        metavar="F",
        help="as in a picture, which stands in the row of prompts",
    )
    group.add_argument(
        "--mix",
        type=_weights,
        metavar="W,W,…",
        help="make one prompt of all --prompt and --prompt-image, with a weight for each in their order",
    )
    group.add_argument(
        "--negative-prompt", action="append", metavar="TEXT", help="what not to show; one for all prompts, or for each"
    )
    group.add_argument("--prior-num-inference-steps", type=int, metavar="N", help="steps of the prior (default: 25)")
    group.add_argument(
        "--prior-guidance-scale", type=float, metavar="W", help="of the prior; 1 turns it off (default: 4)"
    )
    if embeds:
        group.add_argument(
            "--image-embeds",
            type=Path,
            metavar="F",
            help="in place of a prompt: .npz with image_embeds and negative_image_embeds, or .npy with the former",
        )
        group.add_argument("--negative-image-embeds", type=Path, metavar="F", help="the negative embeddings' own file")


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
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 0.3,0.7") from None


def add_sampling_options(group: argparse._ArgumentGroup) -> None:
    """The decoder's loop and its noise."""
    group.add_argument(
        "--num-inference-steps", type=int, default=100, metavar="N", help="denoising steps (default: 100)"
    )
    group.add_argument("--guidance-scale", type=float, default=4.0, metavar="W", help="1 turns it off (default: 4)")
    group.add_argument(
        "--guidance-interval",
        type=_interval,
        metavar="LOW:HIGH",
        help="noise levels at which guidance acts, such as 0.3:5; elsewhere a step is half the work (default: all)",
    )
    group.add_argument("--scheduler", metavar="NAME", help=f"{SCHEDULERS} (default: the checkpoint's)")
    add_noise_options(group)
    group.add_argument("--record-noise", type=Path, metavar="F", help="write every draw of the noise to an .npz")
    group.add_argument("--replay-noise", type=Path, metavar="F", help="take the noise from such a file")


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(item) for item in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two noise levels, such as 0.3:5") from None
    return low, high


def add_noise_options(group: argparse._ArgumentGroup) -> None:
    """Seed, number of results, and kind of noise."""
    group.add_argument("--seed", type=int, metavar="N", help="of the noise (default: drawn, and told)")
    group.add_argument("--num-images", type=int, default=1, metavar="N", help="results, with seeds from --seed on")
    group.add_argument(
        "--noise", choices=("torch", "numpy"), help="torch (default): the numbers of torch.Generator('cpu')"
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The engine, its precision, device and threads."""
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", default="auto", metavar="NAME", help=f"{ENGINES}, or auto (default)")
    group.add_argument("--precision", metavar="P", help="fp32, fp16 or bf16 (default: the engine's)")
    add_device_options(group)
    group.add_argument(
        "--low-memory", action="store_true", help="load each graph when its turn comes and release it afterwards"
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """How MoVQ takes large pictures."""
    parser.add_argument(
        "--tiles", action="store_true", help="MoVQ in tiles of 512 px: less memory for large pictures, other numbers"
    )


def add_device_options(group: argparse._ArgumentGroup) -> None:
    """The device and the threads."""
    group.add_argument("--device", metavar="NAME", help="as the engine names it (default: the engine's own)")
    group.add_argument("--threads", type=int, metavar="N", help="within one operation (default: every core)")


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What a pipeline's `load` takes besides the bundle."""
    return {
        "engine": args.engine,
        "precision": args.precision,
        "device": args.device,
        "threads": args.threads,
        "low_memory": args.low_memory,
        "progress": not args.quiet,
    }


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What a call of a decoder's pipeline takes of size, loop and noise.

    Raises:
        InputError: the recording of the noise cannot be used.
    """
    from kandinsky_runtime.sampling.noise import ReplayNoise

    return {
        "height": args.height,
        "width": args.width,
        "num_inference_steps": args.num_inference_steps,
        "guidance_scale": args.guidance_scale,
        "guidance_interval": args.guidance_interval,
        "scheduler": args.scheduler,
        "num_images_per_prompt": args.num_images,
        "seed": args.seed,
        "noise": ReplayNoise(args.replay_noise) if args.replay_noise else args.noise or "torch",
        "record_noise": args.record_noise,
        "progress": not args.quiet,
    }
