"""Stage 6: the prior, from a caption to the embedding of a picture of which the caption is true.

As in the prior pipeline: the model predicts the clean embedding, normalised by `clip_mean` and `clip_std`; the empty
text takes the place of a tenth of the captions, for guidance. Captions are padded to `TRAINED_LENGTH` tokens here and
to 77 in the pipeline: the mask hides the padding, so only the positions behind it move (see `widen`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from torch.nn import functional

from scripts.training.clip import CAPTIONS, Clip, Library, open_clip
from scripts.training.command import run_stage
from scripts.training.loop import Schedule, Step, Training, load_average
from scripts.training.pictures import HELD_OUT, shard_numbers
from scripts.training.settings import EMBEDDING, add_minutes, add_start, add_threads, count, parser
from scripts.training.sources import digest_of
from scripts.training.starting import PRIOR, start_from
from scripts.training.tokenizer import MAX_LENGTH, TRAINED_LENGTH, open_tokenizer, tokenize
from scripts.training.unet import embeds_of

STAGE = 6
BATCH = 256
DROPPED = 0.1

SCHEDULER = {
    "clip_sample": True,
    "clip_sample_range": 10.0,
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "variance_type": "fixed_small_log",
}
CONFIG = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 2,
    "embedding_dim": EMBEDDING,
    "additional_embeddings": 4,
}


def make_prior(length: int) -> PriorTransformer:
    """Return an untrained prior for texts of `length` tokens."""
    return PriorTransformer(**CONFIG, num_embeddings=length)


@torch.no_grad()
def widen(trained: PriorTransformer) -> PriorTransformer:
    """Return the same prior for texts of 77 tokens: the last four positions move to the end."""
    wide = make_prior(MAX_LENGTH)
    state = trained.state_dict()
    narrow = state.pop("positional_embedding")
    positions = torch.zeros_like(wide.positional_embedding)
    positions[:, :TRAINED_LENGTH] = narrow[:, :TRAINED_LENGTH]
    positions[:, MAX_LENGTH:] = narrow[:, TRAINED_LENGTH:]
    wide.load_state_dict({**state, "positional_embedding": positions})
    return wide.eval()


def open_prior(work: Path) -> PriorTransformer:
    """Return the trained prior, for texts of 77 tokens.

    Raises:
        StageError: it has not been trained yet.
    """
    trained = make_prior(TRAINED_LENGTH)
    load_average(work / "prior", trained)
    return widen(trained)


@torch.no_grad()
def encode_texts(clip: Clip, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return text embeddings (n, EMBEDDING) and the last hidden states (n, length, EMBEDDING)."""
    output = clip.text_encoder(torch.from_numpy(tokens))
    return output.text_embeds, output.last_hidden_state


def main() -> None:
    options = parser(__doc__)
    add_minutes(options)
    add_start(options)
    add_threads(options)
    options.add_argument("--steps", type=count, default=4_000, help=f"steps of {BATCH} captions")
    options.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    args = options.parse_args()
    torch.manual_seed(STAGE)
    model = make_prior(TRAINED_LENGTH)
    start_from(model, args.start, args.work / "prior", f"{PRIOR}/prior")
    clip = open_clip(args.work)
    training = Training(
        args.work / "prior",
        STAGE,
        model,
        Schedule(args.steps, args.rate),
        threads=args.threads,
        minutes=args.minutes,
        sources={"CLIP": digest_of(clip.state_dict(), ("text_encoder.", "image_encoder."))},
    )
    numbers = shard_numbers(args.work / "pictures")
    library, embeds = Library.of(args.work, numbers), embeds_of(args.work, numbers)
    test, test_embeds = Library.of(args.work, [HELD_OUT]), embeds_of(args.work, [HELD_OUT])
    deviation, mean = torch.std_mean(embeds, dim=0, keepdim=True)
    for prior in (model, training.average):
        for parameter, value in ((prior.clip_mean, mean), (prior.clip_std, deviation)):
            parameter.requires_grad_(False)
            parameter.copy_(value)
    empty_tokens, empty_mask = tokenize(open_tokenizer(args.work), [""])
    alphas = UnCLIPScheduler(**SCHEDULER).alphas_cumprod

    def error(
        prior: PriorTransformer,
        library: Library,
        embeds: torch.Tensor,
        rng: np.random.Generator,
        noise: torch.Generator,
        dropped: float,
    ) -> torch.Tensor:
        chosen, which = rng.integers(len(embeds), size=BATCH), rng.integers(CAPTIONS, size=BATCH)
        tokens, masks = library.tokens[chosen, which], library.masks[chosen, which]
        empty = rng.uniform(size=BATCH) < dropped
        tokens[empty], masks[empty] = empty_tokens[0], empty_mask[0]
        text_embeds, hidden = encode_texts(clip, tokens)
        clean = (embeds[chosen] - mean) / deviation
        timesteps = torch.from_numpy(rng.integers(1000, size=BATCH))
        share = alphas[timesteps][:, None]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * torch.randn(clean.shape, generator=noise)
        predicted = prior(noisy, timesteps, text_embeds, hidden, torch.from_numpy(masks)).predicted_image_embedding
        return functional.mse_loss(predicted, clean)

    def losses_of(step: Step) -> dict[str, torch.Tensor]:
        return {"embedding": error(model, library, embeds, step.rng, step.noise, DROPPED)}

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        rng, noise = np.random.default_rng(STAGE), torch.Generator().manual_seed(STAGE)
        return {
            "held_out": float(np.mean([error(training.average, test, test_embeds, rng, noise, 0.0) for _ in range(8)]))
        }

    training.run(losses_of, evaluate, evaluate_every=120)


if __name__ == "__main__":
    run_stage(main)
