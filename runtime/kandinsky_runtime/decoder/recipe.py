"""How the results of a run were made, for the metadata of their files."""

from __future__ import annotations

import os
from typing import Any

from kandinsky_runtime.batch import as_list
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.distribution import installed
from kandinsky_runtime.pictures.metadata import describe
from kandinsky_runtime.prior.prompts import Mix


def describe_results(images: Any, run: Run, bundle: Bundle) -> None:
    """Put into each result's `info` how it was made; not into arrays, or pictures that came back as they were."""
    options, request = run.options, run.request
    if not options.metadata or options.output_type != "pil" or request.keeps_everything:
        return
    repeats = options.num_images_per_prompt
    prompts = [None] if options.prompt is None else as_list("prompt", options.prompt)
    negatives = as_list("negative_prompt", options.negative_prompt)
    for sample, (image, seed) in enumerate(zip(images, run.noise.seeds, strict=True)):
        negative = _of_sample(negatives, sample // repeats)
        describe(
            image,
            {
                "prompt": _shown(_of_sample(prompts, sample // repeats)),
                "negative_prompt": None if negative is None else _shown(negative),
                "steps": options.num_inference_steps,
                "scheduler": options.scheduler or bundle.manifest.scheduler.get("_class_name"),
                "guidance_scale": options.guidance_scale,
                "seed": seed,
                "size": f"{image.width}x{image.height}",
                "bundle": bundle.root.name,
                "source": bundle.manifest.source.get("name"),
                "version": " ".join(installed()),
                "task": options.title,
            },
        )


def _of_sample(items: list[Any], index: int) -> Any:
    return items[index if len(items) > 1 else 0]


def _shown(prompt: Any) -> str:
    """A prompt as text; a mix with its weights, as `(a text:0.3) (a picture:0.7)`."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Mix):
        return " ".join(
            f"({_shown(part)}:{weight:g})" for part, weight in zip(prompt.parts, prompt.weights, strict=True)
        )
    if prompt is None:
        return "image embeddings"
    return f"picture {os.path.basename(prompt)}" if isinstance(prompt, os.PathLike) else "a picture"  # noqa: PTH119
