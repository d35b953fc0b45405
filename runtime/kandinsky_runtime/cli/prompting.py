"""Prompts and embeddings of the command line, as a pipeline takes them."""

from __future__ import annotations

import argparse
from typing import Any

from kandinsky_runtime.cli.pipes import picture_source
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.prior.prompts import Mix

_FOR_PROMPTS = ("prompts", "mix", "negative_prompt", "prior_num_inference_steps", "prior_guidance_scale")


def read_conditioning(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """A pipeline's arguments for prompts or embeddings, and how many results they ask for.

    Raises:
        InputError: a file of embeddings cannot be read.
        UsageError: neither prompts nor embeddings are given, or both are.
    """
    if args.image_embeds is None:
        if args.negative_image_embeds is not None:
            raise UsageError("--negative-image-embeds goes with --image-embeds; give both")
        if args.prompts is None:
            raise UsageError("there is no prompt; give --prompt TEXT, --prompt-image F or --image-embeds F")
        return read_prompts(args)
    for option in _FOR_PROMPTS:
        if getattr(args, option) is not None:
            given = "--prompt" if option == "prompts" else f"--{option.replace('_', '-')}"
            raise UsageError(f"--image-embeds takes the place of {given}; give one of them")
    from kandinsky_runtime.prior.embeds import read_embeds

    embeds, negative = read_embeds(args.image_embeds, args.negative_image_embeds)
    return {"image_embeds": embeds, "negative_image_embeds": negative}, len(embeds)


def read_prompts(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """A pipeline's arguments for prompts, and how many they are.

    Raises:
        InputError: a pipe gives more than a picture has.
        UsageError: there are none, or not a weight for each.
    """
    if args.prompts is None:
        raise UsageError("there is no prompt; give --prompt TEXT or --prompt-image F")
    given: list[Any] = [part if isinstance(part, str) else picture_source(args, part, "image") for part in args.prompts]
    if args.mix is not None:
        if len(args.mix) != len(given):
            raise UsageError(f"--mix has {len(args.mix)} weights for {len(given)} prompts; give one for each")
        given = [Mix(given, args.mix)]
    return {"prompt": given, "negative_prompt": args.negative_prompt}, len(given)
