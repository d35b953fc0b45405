"""Golden embeddings and pictures of diffusers' pipelines that begin with a prompt, on seeded checkpoints.

    python -m scripts.goldens.prior checkpoints FOLDER            with the exporter's environment
    python -m scripts.goldens.prior run FOLDER tests/golden       with torch, diffusers and transformers

The second command writes prior.npz. The tests import the cases and the pictures from here, so that both sides run the
same. Sample i of a case draws from `torch.Generator("cpu").manual_seed(SEED + i)`: first its embedding, then its
picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from scripts.goldens.trajectories import mask, picture

SEED = 7
PRIOR, INPAINT, PLAIN = "prior", "inpaint", "plain"
DECODERS = (INPAINT, PLAIN)

SHORT, EMPTY, OTHER = "a hat", "", "portrait of an old king in the snow, oil on canvas, detailed"
LONG = "a red house by the sea, " * 30
BAD = "low quality, blurry"


@dataclass(frozen=True)
class PriorCase:
    """Prompts and options of the prior, by their names in diffusers."""

    prompt: Sequence[str] = (SHORT,)
    negative_prompt: Sequence[str] | None = None
    num_images_per_prompt: int = 1
    num_inference_steps: int = 5
    guidance_scale: float = 4.0

    @property
    def samples(self) -> int:
        """The number of embeddings."""
        return len(self.prompt) * self.num_images_per_prompt


@dataclass(frozen=True)
class MixCase:
    """A weighted mix of texts and pictures (names of `PICTURES`), with one sample.

    diffusers has two negative prompts here, one for the runs of the texts and one for the result. Both are the same.
    """

    parts: Sequence[str]
    weights: Sequence[float]
    negative_prompt: str | None = None
    num_inference_steps: int = 5
    guidance_scale: float = 4.0

    def prompt(self) -> list[str | Image.Image]:
        """The parts, with pictures in place of their names."""
        return [PICTURES[part]() if part in PICTURES else part for part in self.parts]


@dataclass(frozen=True)
class PictureCase:
    """A picture from a prompt: inpainting; or with the plain decoder, from noise or from another picture (`image`).

    `height` and `width` are the options of diffusers, whose image-to-image pipeline swaps them.
    """

    decoder: str
    prior: PriorCase | MixCase = field(default_factory=PriorCase)
    image: bool = False
    height: int = 64
    width: int = 64
    num_inference_steps: int = 5
    guidance_scale: float = 4.0
    strength: float | None = None


PRIOR_CASES: Mapping[str, PriorCase] = {
    "short": PriorCase(),
    "empty": PriorCase((EMPTY,)),
    "truncated": PriorCase((LONG,)),
    "special_tokens": PriorCase(("a <|endoftext|> hat", "<|startoftext|>hat")),
    "defaults": PriorCase(num_inference_steps=25),
    "two_steps": PriorCase(num_inference_steps=2),
    "negative": PriorCase(negative_prompt=(BAD,)),
    "batch": PriorCase((SHORT, EMPTY, OTHER, LONG)),
    "batch_negative": PriorCase((SHORT, OTHER), (BAD, EMPTY), num_images_per_prompt=2),
    "several_each": PriorCase((SHORT, OTHER), num_images_per_prompt=2),
    "unguided": PriorCase((SHORT, OTHER), guidance_scale=1.0),
    "unguided_negative": PriorCase((SHORT, OTHER), (BAD, OTHER), guidance_scale=1.0),
    "weak_guidance": PriorCase(guidance_scale=1.5),
}

MIX_CASES: Mapping[str, MixCase] = {
    "texts": MixCase((SHORT, OTHER), (0.3, 0.7)),
    "picture": MixCase(("waves",), (1.0,)),
    "texts_and_pictures": MixCase((SHORT, "waves", OTHER, "glass"), (0.3, 0.4, -0.2, 1.5)),
    "negative": MixCase((SHORT, "waves", OTHER), (0.5, 0.5, 0.1), negative_prompt=BAD),
    "unguided": MixCase((SHORT, "waves"), (0.5, 0.5), guidance_scale=1.0),
}

PICTURE_CASES: Mapping[str, PictureCase] = {
    "inpaint": PictureCase(INPAINT, image=True, width=128),
    "inpaint_negative": PictureCase(INPAINT, PriorCase(negative_prompt=(BAD,)), image=True, width=128),
    "inpaint_prior_unguided": PictureCase(INPAINT, PriorCase(guidance_scale=1.0), image=True),
    "inpaint_several": PictureCase(INPAINT, PriorCase((SHORT, OTHER)), image=True),
    "inpaint_mix": PictureCase(INPAINT, MIX_CASES["texts_and_pictures"], image=True),
    "text": PictureCase(PLAIN, width=128),
    "text_negative": PictureCase(PLAIN, PriorCase(negative_prompt=(BAD,))),
    "text_odd_size": PictureCase(PLAIN, height=72, width=100),
    "text_unguided": PictureCase(PLAIN, guidance_scale=1.0),
    "text_several": PictureCase(PLAIN, PriorCase((SHORT, OTHER))),
    "text_mix": PictureCase(PLAIN, MIX_CASES["negative"]),
    "image_weak": PictureCase(PLAIN, image=True, strength=0.3, num_inference_steps=10),
    "image_strong": PictureCase(PLAIN, image=True, strength=0.7, num_inference_steps=10),
    "image_all": PictureCase(PLAIN, image=True, strength=1.0),
    "image_negative": PictureCase(PLAIN, PriorCase(negative_prompt=(BAD,)), image=True, strength=0.7),
    "image_several": PictureCase(PLAIN, PriorCase((SHORT, OTHER)), image=True, strength=0.7),
    "image_wide": PictureCase(PLAIN, image=True, height=128, width=64, strength=0.7),
}


def glass() -> Image.Image:
    """A small picture with transparency."""
    y, x = np.mgrid[0:37, 0:23]
    channels = np.stack([x * 11, y * 6, (x * y) % 256, 255 - (x + y) * 4], axis=-1)
    return Image.fromarray(channels.astype(np.uint8))


PICTURES = {"waves": picture, "glass": glass}


def write_checkpoints(folder: Path) -> None:
    """Write the prior and both decoders in diffusers' form."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    write_sample_prior(folder / PRIOR, seed=SEED, form="diffusers")
    for decoder in DECODERS:
        write_sample_checkpoint(folder / decoder, decoder=decoder, seed=SEED, form="diffusers")


class _Diffusers:
    """diffusers' pipelines with the checkpoints, and their outputs."""

    def __init__(self, checkpoints: Path) -> None:
        import diffusers
        import transformers
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.versions = [diffusers.__version__, transformers.__version__]
        folder = checkpoints / PRIOR
        self.prior = diffusers.KandinskyV22PriorPipeline(
            prior=diffusers.PriorTransformer.from_pretrained(folder / "prior"),
            image_encoder=transformers.CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder"),
            text_encoder=transformers.CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
            tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            scheduler=diffusers.UnCLIPScheduler.from_pretrained(folder / "scheduler"),
            image_processor=CLIPImageProcessorPil.from_pretrained(folder / "image_processor"),
        )
        self.decoders = {
            name: {
                "unet": diffusers.UNet2DConditionModel.from_pretrained(checkpoints / name / "unet"),
                "movq": diffusers.VQModel.from_pretrained(checkpoints / name / "movq"),
                "scheduler": diffusers.DDPMScheduler.from_pretrained(checkpoints / name / "scheduler"),
            }
            for name in DECODERS
        }
        self.prior.set_progress_bar_config(disable=True)

    def combined(self, case: PictureCase) -> Any:
        """The pipeline from prompt to picture."""
        import diffusers

        if case.decoder == INPAINT:
            kind = diffusers.KandinskyV22InpaintCombinedPipeline
        elif case.image:
            kind = diffusers.KandinskyV22Img2ImgCombinedPipeline
        else:
            kind = diffusers.KandinskyV22CombinedPipeline
        parts = {f"prior_{name}": part for name, part in self.prior.components.items()}
        pipeline = kind(**self.decoders[case.decoder], **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def generators(self, case: PriorCase | MixCase) -> Any:
        """A generator for each sample. A negative prompt is a row of the batch, with the same generator."""
        import torch

        samples = case.samples if isinstance(case, PriorCase) else 1
        made = [torch.Generator("cpu").manual_seed(SEED + sample) for sample in range(samples)]
        if len(made) == 1:
            return made[0]
        return made if case.negative_prompt is None else made * 2

    def embeddings(self, case: PriorCase) -> dict[str, npt.NDArray[Any]]:
        """The prior's output for a case."""
        output = self.prior(
            **_prompts(case),
            num_inference_steps=case.num_inference_steps,
            guidance_scale=case.guidance_scale,
            generator=self.generators(case),
        )
        ids = self.prior.tokenizer(list(case.prompt), padding="max_length", truncation=True, return_tensors="np")
        return _arrays(output) | {"input_ids": ids.input_ids, "attention_mask": ids.attention_mask}

    def mixed(self, case: MixCase, generator: Any) -> Any:
        """The prior's output for a mix."""
        return self.prior.interpolate(
            case.prompt(),
            list(case.weights),
            num_inference_steps=case.num_inference_steps,
            generator=generator,
            negative_prior_prompt=case.negative_prompt,
            negative_prompt=case.negative_prompt or "",
            guidance_scale=case.guidance_scale,
        )

    def picture(self, case: PictureCase) -> dict[str, npt.NDArray[Any]]:
        """The latents after every step, and the picture."""
        latents: list[npt.NDArray[Any]] = []

        def on_step_end(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents.append(values["latents"].numpy().copy())
            return {}

        generator = self.generators(case.prior)
        options: dict[str, Any] = {
            "height": case.height,
            "width": case.width,
            "num_inference_steps": case.num_inference_steps,
            "guidance_scale": case.guidance_scale,
            "generator": generator,
            "output_type": "np",
            "callback_on_step_end": on_step_end,
        }
        if case.image:
            options["image"] = picture()
        if case.decoder == INPAINT:
            options["mask_image"] = mask()
        if case.strength is not None:
            options["strength"] = case.strength
        pipeline = self.combined(case)
        if isinstance(case.prior, MixCase):  # the combined pipelines do not support mixes
            mixed = self.mixed(case.prior, generator)
            images = pipeline.decoder_pipe(
                image_embeds=mixed.image_embeds, negative_image_embeds=mixed.negative_image_embeds, **options
            ).images
        else:
            images = pipeline(
                **_prompts(case.prior),
                prior_num_inference_steps=case.prior.num_inference_steps,
                prior_guidance_scale=case.prior.guidance_scale,
                **options,
            ).images
        return {"latents": np.stack(latents), "image": images.astype(np.float32)}


def _prompts(case: PriorCase) -> dict[str, Any]:
    return {
        "prompt": list(case.prompt),
        "negative_prompt": None if case.negative_prompt is None else list(case.negative_prompt),
        "num_images_per_prompt": case.num_images_per_prompt,
    }


def _arrays(output: Any) -> dict[str, npt.NDArray[Any]]:
    return {name: getattr(output, name).numpy() for name in ("image_embeds", "negative_image_embeds")}


def run(checkpoints: Path, golden: Path) -> None:
    """Run diffusers' pipelines on every case."""
    import torch

    pipelines = _Diffusers(checkpoints)
    arrays: dict[str, npt.NDArray[Any]] = {"versions": np.array([*pipelines.versions, torch.__version__])}
    with torch.no_grad():
        results = {
            **{f"prior/{name}": pipelines.embeddings(case) for name, case in PRIOR_CASES.items()},
            **{
                f"mix/{name}": _arrays(pipelines.mixed(case, pipelines.generators(case)))
                for name, case in MIX_CASES.items()
            },
            **{f"picture/{name}": pipelines.picture(case) for name, case in PICTURE_CASES.items()},
        }
    for name, result in results.items():
        arrays |= {f"{name}/{key}": array for key, array in result.items()}
    np.savez_compressed(golden / "prior.npz", **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("checkpoints", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("golden", type=Path, nargs="?")
    args = parser.parse_args()
    if args.what == "checkpoints":
        write_checkpoints(args.folder)
    else:
        run(args.folder, args.golden)


if __name__ == "__main__":
    main()
