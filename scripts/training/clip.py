"""Stage 3: CLIP's text and image encoder, contrastive (Radford et al. 2021, arXiv:2103.00020).

Many captions are true of many pictures, so pairs that are true by chance are left out of the negatives. Heads that read
from the embeddings what there is (`attributes`) and the facts help along; they are thrown away. Without them the image
encoder distinguishes hats and coats and little else: contrasting whole pictures seldom asks for the colour of glasses.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.drawings import caption_of, facts_of_caption, facts_of_scene
from benchmarks.drawings.captions import all_facts
from scripts.training.attributes import ABSENT, ATTRIBUTES, attributes_of
from scripts.training.command import run_stage
from scripts.training.compiling import CheckedCompile
from scripts.training.loop import Schedule, Step, Training, load_average
from scripts.training.pictures import HELD_OUT, read_shard, scenes_of_shard, shard_numbers
from scripts.training.settings import CLIP_PICTURE, EMBEDDING, SEED, add_minutes, add_start, add_threads, count, parser
from scripts.training.sources import digest_of
from scripts.training.starting import PRIOR, start_from
from scripts.training.tokenizer import MAX_LENGTH, open_tokenizer, tokenize

STAGE = 3
CAPTIONS = 6  # for each picture
PAIRS = 64  # in a batch
PATCH = 8  # pixels a side
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

PROCESSOR = {
    "crop_size": {"height": CLIP_PICTURE, "width": CLIP_PICTURE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(_MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "image_std": list(_STD),
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": CLIP_PICTURE},
}


@dataclass(frozen=True)
class Library:
    """Pictures with captions, and which facts hold.

    Attributes:
        pictures: (n, side, side, 3) uint8; the two pictures of a pair are neighbours.
        facts: (n, facts) float32: 1 where a fact holds in the picture.
        attributes: (n, attributes) int64: the value of each attribute, or ABSENT.
        tokens: (n, CAPTIONS, length) int64.
        masks: (n, CAPTIONS, length) bool.
        stated: (n, CAPTIONS, facts) float32: 1 where the caption states the fact.
    """

    pictures: np.ndarray
    facts: np.ndarray
    attributes: np.ndarray
    tokens: np.ndarray
    masks: np.ndarray
    stated: np.ndarray

    @classmethod
    def of(cls, work: Path, numbers: list[int]) -> Library:
        """Read the pictures of shards in CLIP's size and caption them."""
        index = {fact: i for i, fact in enumerate(all_facts())}
        tokenizer = open_tokenizer(work)
        scenes = [scene for number in numbers for scene in scenes_of_shard(number)]
        rng = np.random.default_rng([SEED, STAGE, *numbers])
        texts = [caption_of(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
        facts = np.zeros((len(scenes), len(index)), np.float32)
        stated = np.zeros((len(texts), len(index)), np.float32)
        for row, scene in zip(facts, scenes, strict=True):
            row[[index[fact] for fact in facts_of_scene(scene)]] = 1
        known: dict[str, list[int]] = {}
        for row, text in zip(stated, texts, strict=True):
            if text not in known:
                known[text] = [index[fact] for fact in facts_of_caption(text)]
            row[known[text]] = 1
        tokens, masks = tokenize(tokenizer, texts)
        pictures = np.concatenate([reduced_pictures(work, number) for number in numbers])
        shape = (len(scenes), CAPTIONS, -1)
        attributes = np.array([attributes_of(scene) for scene in scenes])
        return cls(pictures, facts, attributes, tokens.reshape(shape), masks.reshape(shape), stated.reshape(shape))


def reduced_pictures(work: Path, number: int) -> np.ndarray:
    """Return a shard's pictures in CLIP's size (n, side, side, 3) uint8, resized as CLIP's image processor does."""
    folder = work / "pictures"
    path = folder / f"reduced-{number:05d}.npy"
    if not path.exists():
        pictures = read_shard(folder, number).pictures
        flat = pictures.reshape(-1, *pictures.shape[2:])
        size = (CLIP_PICTURE, CLIP_PICTURE)
        made = np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in flat])
        partial = path.with_suffix(".partial.npy")
        np.save(partial, made)
        partial.replace(path)
    made: np.ndarray = np.load(path)
    return made


def shifted(pictures: np.ndarray, rng: np.random.Generator, most: int = 6) -> np.ndarray:
    """Move each picture (n, side, side, 3) by up to `most` pixels; the edges are repeated."""
    side = pictures.shape[1]
    padded = np.pad(pictures, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    moves = rng.integers(2 * most + 1, size=(len(pictures), 2))
    return np.stack([picture[y : y + side, x : x + side] for picture, (y, x) in zip(padded, moves, strict=True)])


def pixel_values(pictures: np.ndarray) -> torch.Tensor:
    """Normalise pictures (n, side, side, 3) uint8 as CLIP's image processor does: (n, 3, side, side) float32."""
    mean, std = torch.tensor(_MEAN), torch.tensor(_STD)
    return ((torch.from_numpy(pictures).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


class Clip(nn.Module):
    """Both encoders, the temperature and the heads."""

    def __init__(self, tokens: int, facts: int) -> None:
        super().__init__()
        text = CLIPTextConfig(
            hidden_size=EMBEDDING, intermediate_size=4 * EMBEDDING, num_hidden_layers=4, num_attention_heads=2,
            hidden_act="gelu", max_position_embeddings=MAX_LENGTH, projection_dim=EMBEDDING, vocab_size=tokens,
            bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
        vision = CLIPVisionConfig(
            hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=3, hidden_act="gelu",
            image_size=CLIP_PICTURE, patch_size=PATCH, projection_dim=EMBEDDING,
        )  # fmt: skip
        self.text_encoder = CLIPTextModelWithProjection(text)
        self.image_encoder = CLIPVisionModelWithProjection(vision)
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.text_facts = nn.Linear(EMBEDDING, facts)
        self.image_attributes = nn.Linear(EMBEDDING, sum(ATTRIBUTES.values()))


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, by rows and by columns, of the diagonal; other true pairs take no part.

    Args:
        logits: (n, n).
        true: (n, n) bool: whether the text of the column is true of the picture of the row.
    """
    others = true & ~torch.eye(len(true), dtype=torch.bool)
    logits = logits.masked_fill(others, -1e4)
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def attribute_loss(logits: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
    """Return the mean over the attributes of the cross-entropy of those that a picture has.

    Args:
        logits: (n, sum of the numbers of values).
        attributes: (n, attributes) int64: the values, or ABSENT.
    """
    parts = logits.split(list(ATTRIBUTES.values()), dim=1)
    losses = [
        functional.cross_entropy(part, values, ignore_index=ABSENT)
        for part, values in zip(parts, attributes.T, strict=True)
    ]
    return torch.stack(losses).mean()


def open_clip(work: Path) -> Clip:
    """Return the trained encoders.

    Raises:
        StageError: they have not been trained yet.
    """
    clip = Clip(len(open_tokenizer(work)), len(all_facts()))
    load_average(work / "clip", clip)
    return clip


def image_source(clip: Clip) -> str:
    """Return the digest of the image encoder, from which embeddings are made."""
    return digest_of(clip.state_dict(), ("image_encoder.",))


@torch.no_grad()
def image_embeds(clip: Clip, pictures: np.ndarray) -> torch.Tensor:
    """Return the embeddings of pictures in CLIP's size, (n, EMBEDDING)."""
    return torch.cat(
        [
            clip.image_encoder(pixel_values(part)).image_embeds
            for part in np.array_split(pictures, max(1, len(pictures) // 250))
        ]
    )


def main() -> None:
    options = parser(__doc__)
    add_minutes(options)
    add_start(options)
    add_threads(options)
    options.add_argument("--steps", type=count, default=5_000, help=f"steps of {2 * PAIRS} pictures")
    options.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the model")
    args = options.parse_args()
    torch.manual_seed(STAGE)
    model = Clip(len(open_tokenizer(args.work)), len(all_facts()))
    for part in ("text_encoder", "image_encoder"):
        start_from(model, args.start, args.work / "clip", f"{PRIOR}/{part}", f"{part}.")
    training = Training(
        args.work / "clip",
        STAGE,
        model,
        Schedule(args.steps, args.rate),
        threads=args.threads,
        minutes=args.minutes,
        weight_decay=0.1,
    )
    library = Library.of(args.work, shard_numbers(args.work / "pictures"))
    test = Library.of(args.work, [HELD_OUT])
    print(f"{len(library.pictures)} pictures", flush=True)

    def embeds(pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return (model.image_encoder(pixels).image_embeds,)

    encode_images = CheckedCompile(embeds, model.image_encoder, enabled=args.compile)

    def losses_of(step: Step) -> dict[str, torch.Tensor]:
        pairs = step.rng.integers(len(library.pictures) // 2, size=PAIRS)
        chosen = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()
        which = step.rng.integers(CAPTIONS, size=len(chosen))
        facts = torch.from_numpy(library.facts[chosen])
        stated = torch.from_numpy(library.stated[chosen, which])
        attributes = torch.from_numpy(library.attributes[chosen])
        # The text encoder is causal: the padding behind the longest text changes nothing.
        longest = int(library.masks[chosen, which].sum(axis=1).max())
        pixels = pixel_values(shifted(library.pictures[chosen], step.rng))
        with torch.autocast("cpu", torch.bfloat16):
            (images,) = encode_images(pixels)
        texts = model.text_encoder(torch.from_numpy(library.tokens[chosen, which, :longest])).text_embeds
        images = images.float()
        true = stated @ (1 - facts).T == 0  # [text, picture]
        unit_images, unit_texts = functional.normalize(images, dim=1), functional.normalize(texts, dim=1)
        logits = model.scale.exp().clamp(max=60) * unit_images @ unit_texts.T
        return {
            "contrastive": contrastive_loss(logits, true.T),
            "attributes": 3 * attribute_loss(model.image_attributes(10 * unit_images), attributes),
            "text_facts": 3 * functional.binary_cross_entropy_with_logits(model.text_facts(4 * unit_texts), stated),
            # Embeddings of about unit length and more: the prior and the UNet see them unnormalised.
            "length": 0.01 * (images.norm(dim=1) / EMBEDDING**0.5 - 1).square().mean(),
        }

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        clip = training.average
        images = functional.normalize(image_embeds(clip, test.pictures), dim=1)
        chosen = torch.from_numpy(test.tokens[:, 0])
        texts = functional.normalize(
            torch.cat([clip.text_encoder(part).text_embeds for part in chosen.split(250)]), dim=1
        )
        true = torch.from_numpy(test.stated[:, 0]) @ (1 - torch.from_numpy(test.facts)).T == 0
        similarity = texts @ images.T
        # Is the nearest of all held-out pictures one of which the caption is true? And of the pair, which one?
        nearest = true[torch.arange(len(true)), similarity.argmax(dim=1)].float().mean()
        other = torch.arange(len(true)) ^ 1
        differs = ~true[torch.arange(len(true)), other]
        own = similarity.diagonal() > similarity[torch.arange(len(true)), other]
        parts = clip.image_attributes(10 * images).split(list(ATTRIBUTES.values()), dim=1)
        read = {
            name: float((part.argmax(dim=1) == values)[values != ABSENT].float().mean())
            for name, part, values in zip(ATTRIBUTES, parts, torch.from_numpy(test.attributes).T, strict=True)
        }
        return {
            "retrieval": float(nearest),
            "pairs": float(own[differs].float().mean()),
            **read,
        }

    training.run(losses_of, evaluate, evaluate_every=150)


if __name__ == "__main__":
    run_stage(main)
