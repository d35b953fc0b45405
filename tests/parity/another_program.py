"""Inpaint with a bundle as another program would: docs/running-a-bundle.md in numpy, Pillow and ONNX Runtime.

Nothing here comes from the packages of this project. Float32, one picture at its own size, guidance on, the scheduler
of the published checkpoint (DDPM).

Legend: E embedding width · T tokens · h, w latent height and width · n steps
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

Array = npt.NDArray[Any]


class Noise:
    """torch.Generator("cpu").manual_seed(seed), for draws of 16 numbers or more."""

    def __init__(self, seed: int) -> None:
        self._mt19937 = np.random.RandomState(seed & 0xFFFFFFFF)

    def draw(self, *shape: int) -> Array:
        """Standard normal float32 numbers."""
        count = math.prod(shape)
        assert count >= 16
        normal = np.empty(count, np.float32)
        integers, whole = self._integers(count), count // 16 * 16
        normal[:whole] = self._blocks(integers[:whole])
        if whole < count:
            normal[-16:] = self._blocks(self._integers(16))
        return normal.reshape(shape)

    def _integers(self, count: int) -> Array:
        return self._mt19937.randint(0, 2**32, count, np.uint32)

    @staticmethod
    def _blocks(integers: Array) -> Array:
        uniform = (integers & 0xFFFFFF).astype(np.float32).reshape(-1, 2, 8) * np.float32(2**-24)
        radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - uniform[:, 0]))
        angle = uniform[:, 1] * np.float32(2 * math.pi)
        return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1).reshape(-1)


class Schedule:
    """The coefficients of n steps: sample → sample·a + x0·b + noise·s, where x0 = sample·p + output·q."""

    def __init__(self, timesteps: Array, bar: Array, p: Array, q: Array, one_minus_beta: Array) -> None:
        """`bar` is ᾱ at the timesteps and after the last, (n + 1,); `one_minus_beta` that of each step, (n,)."""
        now, after = bar[:-1], bar[1:]
        beta = 1 - one_minus_beta
        self.timesteps, self.p, self.q = timesteps, p, q
        self.a = np.sqrt(one_minus_beta) * (1 - after) / (1 - now)
        self.b = np.sqrt(after) * beta / (1 - now)
        self.s = np.sqrt(np.maximum((1 - after) / (1 - now) * beta, 1e-20))
        self.signal, self.spread = np.sqrt(now), np.sqrt(1 - now)

    @classmethod
    def of_decoder(cls, config: dict[str, Any], steps: int) -> Schedule:
        """DDPM with linear betas, "leading" spacing and a fixed variance."""
        first, last, count = (config[key] for key in ("beta_start", "beta_end", "num_train_timesteps"))
        start, stop = np.float32(first), np.float32(last)
        stride, place = np.float64((stop - start) / np.float32(count - 1)), np.arange(count)
        rising, falling = np.float64(start) + stride * place, np.float64(stop) - stride * (count - 1 - place)
        betas = np.where(place < count // 2, rising, falling).astype(np.float32)
        bars = np.cumprod(1 - betas, dtype=np.float64).astype(np.float32).astype(np.float64)
        timesteps = np.arange(steps)[::-1] * (count // steps) + config["steps_offset"]
        bar = np.append(bars[timesteps], 1.0)
        ratio = (bar[:-1] / bar[1:]).astype(np.float32).astype(np.float64)
        signal, spread = np.sqrt(bar[:-1]), np.sqrt(1 - bar[:-1])
        return cls(timesteps, bar, 1 / signal, -spread / signal, ratio)

    @classmethod
    def of_prior(cls, config: dict[str, Any], steps: int) -> Schedule:
        """UnCLIP: the cosine schedule, the output is x0."""
        count = config["num_train_timesteps"]
        cosine = [math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(count + 1)]
        betas = np.array([min(1 - cosine[t + 1] / cosine[t], 0.999) for t in range(count)], np.float32)
        bars = np.cumprod(1 - betas, dtype=np.float64).astype(np.float32).astype(np.float64)
        timesteps = (np.arange(steps) * ((count - 1) / (steps - 1))).round()[::-1].astype(np.int64)
        bar = np.append(bars[timesteps], 1.0)
        skipping = (1 - (bar[:-1] / bar[1:]).astype(np.float32).astype(np.float64)).astype(np.float32)
        neighbours = np.append(timesteps[1:], -1) == timesteps - 1
        beta = np.where(neighbours, betas[timesteps], skipping).astype(np.float64)
        return cls(timesteps, bar, np.zeros(steps), np.ones(steps), 1 - beta)


class Program:
    """A bundle's ONNX graphs, each in a session."""

    def __init__(self, bundle: Path, threads: int = 1) -> None:
        self.bundle = bundle
        self.manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        self.sessions = {
            name: onnxruntime.InferenceSession(
                str(bundle / component["variants"]["onnx-fp32"]["files"]["graph"]),
                settings,
                providers=["CPUExecutionProvider"],
            )
            for name, component in self.manifest["components"].items()
        }

    def embeddings(self, prompt: str, noise: Noise, steps: int = 25, scale: float = 4.0) -> tuple[Array, Array]:
        """Image embeddings of a prompt, and those of no picture, each (1, E)."""
        prior = self.manifest["prior"]
        constants = np.load(self.bundle / prior["constants"])
        rows = [self._tokens(text) for text in ("", prompt)]  # [negative, positive]
        longest = max(map(len, rows))
        length = next(size for size in (8, 16, 24, 32, 48, 64, 77) if size >= longest)
        mask = np.array([[1.0] * len(row) + [0.0] * (length - len(row)) for row in rows], np.float32)
        pad = rows[0][-1]  # the end token, which CLIP's tokenizer pads with
        ids = np.array([row + [pad] * (length - len(row)) for row in rows], np.int64)  # (2, T)
        pooled = np.eye(length, dtype=np.float32)[ids.argmax(axis=1)]  # `eos_token_id` 2: the first largest token
        hidden, embeds = self.sessions["text_encoder"].run(
            ["text_hidden_states", "text_embeds"], {"input_ids": ids, "pool_mask": pooled}
        )
        schedule = Schedule.of_prior(prior["scheduler"], steps)
        bound, width = prior["scheduler"]["clip_sample_range"], constants["clip_mean"].shape[1]
        latents = noise.draw(1, width)
        for i, timestep in enumerate(schedule.timesteps):
            (output,) = self.sessions["prior"].run(
                ["predicted_image_embeds"],
                {
                    "latents": np.concatenate([latents, latents]),
                    "timestep": np.full(2, timestep, np.float32),
                    "text_embeds": embeds,
                    "text_hidden_states": hidden,
                    "text_mask": mask,
                },
            )
            x0 = np.clip(guided(output, scale, width), -bound, bound)
            latents = latents * np.float32(schedule.a[i]) + x0 * np.float32(schedule.b[i])
            if timestep > 0:
                latents += noise.draw(1, width) * np.float32(schedule.s[i])
        return latents * constants["clip_std"] + constants["clip_mean"], constants["negative_image_embeds"]

    def inpaint(
        self, picture: Image.Image, mask: Image.Image, embeds: tuple[Array, Array], noise: Noise, steps: int
    ) -> Image.Image:
        """The picture (RGB) repainted where the mask (L) is white."""
        original, repaint = np.asarray(picture), np.asarray(mask) >= 128  # (H, W, 3), (H, W)
        bottom, right = -repaint.shape[0] % 64, -repaint.shape[1] % 64
        pixels = original.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1)
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="edge")
        (kept,) = self.sessions["movq_encoder"].run(["latents"], {"image": pixels})  # (1, 4, h, w)
        keep = keep_cells(np.pad(repaint, ((0, bottom), (0, right)), mode="edge"), *kept.shape[2:])

        schedule = Schedule.of_decoder(self.manifest["scheduler"], steps)
        first = noise.draw(*kept.shape)
        latents, channels = first, kept.shape[1]
        for i, timestep in enumerate(schedule.timesteps):
            sample = np.concatenate([latents, kept * keep, keep], axis=1)
            (output,) = self.sessions["unet"].run(
                ["noise_pred"],
                {
                    "sample": np.concatenate([sample, sample]),
                    "timestep": np.full(2, timestep, np.float32),
                    "image_embeds": np.concatenate([embeds[1], embeds[0]]),  # [negative, positive]
                },
            )
            predicted = guided(output, 4.0, channels)
            # x0 is not limited here, so its two weights go into those of sample and output.
            of_sample, of_output = schedule.a[i] + schedule.b[i] * schedule.p[i], schedule.b[i] * schedule.q[i]
            latents = latents * np.float32(of_sample) + predicted * np.float32(of_output)
            if timestep > 0:
                latents += noise.draw(*kept.shape) * np.float32(schedule.s[i])
            known = kept
            if i + 1 < steps:
                signal, spread = np.float32(schedule.signal[i + 1]), np.float32(schedule.spread[i + 1])
                known = kept * signal + first * spread
            latents = latents * (1 - keep) + known * keep

        (image,) = self.sessions["movq_decoder"].run(["image"], {"latents": latents})
        image = image[0, :, : repaint.shape[0], : repaint.shape[1]].transpose(1, 2, 0)
        made = np.rint(np.clip(image * np.float32(0.5) + np.float32(0.5), 0, 1) * np.float32(255)).astype(np.uint8)
        return Image.fromarray(np.where(repaint[..., None], made, original))

    def _tokens(self, text: str) -> list[int]:
        """The ids of a text, from the start token to the end token."""
        from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
        from tokenizers.models import BPE

        files, config = self.manifest["prior"]["tokenizer"], self.manifest["prior"]["tokenizer_config"]
        vocabulary = json.loads((self.bundle / files["vocabulary"]).read_text(encoding="utf-8"))
        start, end = config["bos_token"], config["eos_token"]
        model = BPE.from_file(
            str(self.bundle / files["vocabulary"]),
            str(self.bundle / files["merges"]),
            end_of_word_suffix="</w>",
            unk_token=config["unk_token"],
        )
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.add_special_tokens([AddedToken(start, special=True), AddedToken(end, special=True)])
        tokenizer.post_processor = processors.RobertaProcessing(
            (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False
        )
        ids: list[int] = tokenizer.encode(text).ids
        most = config["model_max_length"]
        return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def keep_cells(repaint: Array, h: int, w: int) -> Array:
    """The latent cells that are kept, (1, 1, h, w) float32, of the padded pixels (H, W) to repaint."""
    down, across = repaint.shape[0] // h, repaint.shape[1] // w
    seed = repaint[::down, ::across]  # the pixel in each cell's top left corner
    grown = seed.copy()
    for row, column in np.argwhere(seed):
        for neighbour in (
            (row - 1, column - 1),
            (row - 1, column),
            (row, column - 1),
            (row, column + 1),
            (row + 1, column),
            (row + 1, column + 1),
        ):
            if 0 <= neighbour[0] < h and 0 <= neighbour[1] < w:
                grown[neighbour] = True
    return (~grown).astype(np.float32)[None, None]


def guided(output: Array, scale: float, channels: int) -> Array:
    """negative + scale·(positive - negative) of the first channels; `output` is a batch [negative, positive]."""
    negative, positive = output[:1, :channels], output[1:, :channels]
    return (positive - negative) * np.float32(scale) + negative
