"""Golden pictures of diffusers' pipelines on the checkpoints that come with the package: trained weights, whole runs.

    python -m scripts.goldens.drawn_cats tests/golden       with torch, diffusers and transformers

It writes drawn_cats.npz. The tests import the cases and the pictures from here, so that both sides run the same.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.drawings import box_above_eyes, draw, random_scene

CHECKPOINTS = Path(__file__).resolve().parents[2] / "export" / "kandinsky_export" / "drawn_cats"
SEED, SIZE = 7, 192
DRAWING = 771_003_003  # the seed of the cat, which no training has
PRIOR_STEPS, GUIDANCE, PRIOR_GUIDANCE = 25, 4.0, 4.0


@dataclass(frozen=True)
class Case:
    """A prompt, a solver by its name here, and its number of steps."""

    prompt: str
    scheduler: str
    steps: int


CASES: Mapping[str, Case] = {
    "hat": Case("a red top hat", "ddpm", 50),
    "crown": Case("a yellow crown", "dpm++", 25),
    "nothing": Case("no hat", "ddim", 20),
}
CLASSES = {"ddpm": "DDPMScheduler", "dpm++": "DPMSolverMultistepScheduler", "ddim": "DDIMScheduler"}


def picture(name: str) -> Image.Image:
    """A cat; it has a hat only if the case takes one away."""
    scene = random_scene(np.random.default_rng(DRAWING))
    if name != "nothing":
        scene = replace(scene, hat=None)
    return Image.fromarray(draw(scene, SIZE).pixels)


def mask() -> Image.Image:
    """White above its eyes."""
    return Image.fromarray(box_above_eyes(random_scene(np.random.default_rng(DRAWING)), SIZE))


def weights_digest() -> str:
    """A name that changes if any of the weights do."""
    found = hashlib.sha256()
    for path in sorted(CHECKPOINTS.rglob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _run(prior: Any, decoder: Any, name: str, case: Case) -> dict[str, npt.NDArray[Any]]:
    """The embeddings, the latents after every step, and the picture in [0, 1]."""
    import diffusers
    import torch

    generator = torch.Generator("cpu").manual_seed(SEED)
    embeds = prior(case.prompt, num_inference_steps=PRIOR_STEPS, guidance_scale=PRIOR_GUIDANCE, generator=generator)
    decoder.scheduler = getattr(diffusers, CLASSES[case.scheduler]).from_config(decoder.scheduler.config)
    latents: list[npt.NDArray[Any]] = []

    def on_step_end(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents.append(values["latents"].numpy().copy())
        return {}

    images = decoder(
        image_embeds=embeds.image_embeds, negative_image_embeds=embeds.negative_image_embeds, image=picture(name),
        mask_image=mask(), height=SIZE, width=SIZE, num_inference_steps=case.steps, guidance_scale=GUIDANCE,
        generator=generator, output_type="np", callback_on_step_end=on_step_end,
    ).images  # fmt: skip
    return {"embeds": embeds.image_embeds.numpy(), "latents": np.stack(latents), "image": images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    import diffusers
    import torch

    prior = diffusers.KandinskyV22PriorPipeline.from_pretrained(CHECKPOINTS / "prior", torch_dtype=torch.float32)
    decoder = diffusers.KandinskyV22InpaintPipeline.from_pretrained(
        CHECKPOINTS / "decoder-inpaint", torch_dtype=torch.float32
    )
    for pipeline in (prior, decoder):
        pipeline.set_progress_bar_config(disable=True)
    found: dict[str, Any] = {
        "versions": np.array([diffusers.__version__, torch.__version__]),
        "weights": np.array(weights_digest()),
    }
    with torch.no_grad():
        for name, case in CASES.items():
            found |= {f"{name}/{key}": value for key, value in _run(prior, decoder, name, case).items()}
    np.savez_compressed(args.out / "drawn_cats.npz", **found)


if __name__ == "__main__":
    main()
