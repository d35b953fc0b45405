"""A bundle of dummy files and an engine of a few numpy lines, installed in the way of another package.

Its prior takes E = 6 wide embeddings, pictures of 8 x 8, and up to 12 tokens of a vocabulary of letters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import string
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import (
    IMAGE_TO_IMAGE,
    INPAINT,
    PICTURE_PROMPT,
    PROMPT,
    TEXT_TO_IMAGE,
    Component,
    FileEntry,
    Manifest,
    PriorEntry,
    Variant,
)
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions

CHANNELS, FACTOR, UNIT, WIDTH = 4, 8, 2, 6
MULTIPLE = FACTOR * UNIT
COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
PRIOR_COMPONENTS = ("text_encoder", "image_encoder", "prior")
TEXT_WIDTH, SIDE, TOKENS = 5, 8, 12
DDPM = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
UNCLIP = {"_class_name": "UnCLIPScheduler", "clip_sample_range": 10.0, "prediction_type": "sample"}
START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase), "at</w>", "hat</w>"]
VOCABULARY = {token: number for number, token in enumerate([*LETTERS, START, END])}
VOCABULARY_FILE, MERGES_FILE = "tokenizer/vocab.json", "tokenizer/merges.txt"
CONSTANTS_FILE = "prior_constants.npz"
CONSTANTS = {
    "clip_mean": np.linspace(-0.5, 0.5, WIDTH, dtype=np.float32)[None],
    "clip_std": np.linspace(0.5, 1.5, WIDTH, dtype=np.float32)[None],
    "negative_image_embeds": np.linspace(0.3, -0.2, WIDTH, dtype=np.float32)[None],
}
PRIOR = PriorEntry(
    scheduler=UNCLIP,
    tokenizer={"vocabulary": VOCABULARY_FILE, "merges": MERGES_FILE},
    tokenizer_config={"model_max_length": TOKENS},
    eos_token_id=2,
    image_processor={"size": {"shortest_edge": SIDE}, "crop_size": SIDE},
    constants=CONSTANTS_FILE,
)
Outputs = dict[str, np.ndarray]


class FakeEngine(Engine):
    """Computes each sample elementwise: its result is the same bit for bit, alone and in a batch."""

    name = "fake"
    library = "numpy"
    distribution = "numpy"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "fake-fp32", "bf16": "fake-bf16"}
    roles = ("graph",)
    devices = ("cpu", "fake:1")

    runs: ClassVar[list[tuple[str, Arrays]]] = []
    """(component, feeds) of every run; the feeds are the arrays that were given, not copies."""
    loaded: ClassVar[list[str]] = []
    released: ClassVar[list[str]] = []
    alter: ClassVar[Callable[[str, int, Outputs], Outputs]] = staticmethod(lambda component, run, outputs: outputs)
    """Changes the outputs of a component in a run, given by its index."""

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        assert files["graph"].read_text() == f"{self.component} graph"
        self._busy = threading.Lock()
        self.loaded.append(self.component)

    def _run(self, feeds: Arrays) -> Outputs:
        assert self._busy.acquire(blocking=False), "two runs at the same time"
        number = sum(component == self.component for component, _ in self.runs)
        self.runs.append((self.component, feeds))
        outputs = GRAPHS[self.component](**feeds)
        self._busy.release()
        return type(self).alter(self.component, number, outputs)

    def _release(self) -> None:
        self.released.append(self.component)


def unet(sample: np.ndarray, timestep: np.ndarray, image_embeds: np.ndarray) -> Outputs:
    latents = sample[:, :CHANNELS]
    original, keep = (sample[:, CHANNELS:-1], sample[:, -1:]) if sample.shape[1] > CHANNELS else (0, 0)
    level = (timestep / np.float32(1000))[:, None, None, None]
    steer = image_embeds.sum(axis=1)[:, None, None, None]
    noise = np.float32(0.5) * latents + np.float32(0.25) * (original + keep) + np.float32(0.1) * steer * level
    return {"noise_pred": np.concatenate([noise, np.tanh(latents)], axis=1)}


def movq_encoder(image: np.ndarray) -> Outputs:
    batch, _, height, width = image.shape
    cells = image.reshape(batch, 3, height // FACTOR, FACTOR, width // FACTOR, FACTOR).mean(axis=(3, 5))
    return {"latents": np.concatenate([cells, cells[:, :1]], axis=1)}


def movq_decoder(latents: np.ndarray) -> Outputs:
    return {"image": np.tanh(latents[:, :3]).repeat(FACTOR, axis=2).repeat(FACTOR, axis=3)}


def text_encoder(input_ids: np.ndarray, pool_mask: np.ndarray) -> Outputs:
    """A token's state depends on the token and its position only: tokens behind it, such as padding, change nothing."""
    place = np.arange(input_ids.shape[1], dtype=np.float32)[None, :, None]
    states = np.sin(input_ids[:, :, None] * np.linspace(0.1, 0.9, TEXT_WIDTH, dtype=np.float32) + place)  # (B, T, D)
    states = states.astype(np.float32)
    pooled = (pool_mask[:, :, None] * states).sum(axis=1)
    return {"text_hidden_states": states, "text_embeds": np.concatenate([pooled, pooled[:, :1] - 1], axis=1)}


def image_encoder(pixel_values: np.ndarray) -> Outputs:
    colours = pixel_values.mean(axis=(2, 3))
    return {"image_embeds": np.concatenate([colours, np.tanh(colours)], axis=1)}


def prior(
    latents: np.ndarray,
    timestep: np.ndarray,
    text_embeds: np.ndarray,
    text_hidden_states: np.ndarray,
    text_mask: np.ndarray,
) -> Outputs:
    states = (text_mask[:, :, None] * text_hidden_states).sum(axis=1)  # (B, D)
    level = (timestep / np.float32(1000))[:, None]
    steer = np.float32(0.5) * text_embeds + np.float32(0.2) * states[:, :1] + level
    return {"predicted_image_embeds": np.tanh(np.float32(0.3) * latents + steer)}


GRAPHS: Mapping[str, Callable[..., Outputs]] = {
    "unet": unet,
    "movq_encoder": movq_encoder,
    "movq_decoder": movq_decoder,
    "text_encoder": text_encoder,
    "image_encoder": image_encoder,
    "prior": prior,
}


def signatures(
    channels: int = CHANNELS, out_channels: int = 2 * CHANNELS, *, plain: bool = False
) -> dict[str, GraphSpec]:
    def tensor(name: str, *dims: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", ("batch", *dims))

    def ranges(multiple: int) -> dict[str, Range]:
        side = Range(min=multiple, multiple=multiple)
        return {"batch": Range(), "height": side, "width": side}

    side, in_channels = ("height", "width"), channels if plain else 2 * channels + 1
    return {
        "unet": GraphSpec(
            (
                tensor("sample", in_channels, *side),
                tensor("timestep"),
                tensor("image_embeds", WIDTH),
            ),
            (tensor("noise_pred", out_channels, *side),),
            ranges(UNIT),
        ),
        "movq_encoder": GraphSpec(
            (tensor("image", 3, *side),),
            (tensor("latents", channels, *(f"{name}/{FACTOR}" for name in side)),),
            ranges(FACTOR),
        ),
        "movq_decoder": GraphSpec(
            (tensor("latents", channels, *side),),
            (tensor("image", 3, *(f"{FACTOR}*{name}" for name in side)),),
            ranges(1),
        ),
    }


def prior_signatures() -> dict[str, GraphSpec]:
    def tensor(name: str, *dims: int | str, dtype: str = "float32") -> TensorSpec:
        return TensorSpec(name, dtype, ("batch", *dims))

    texts = {"batch": Range(), "tokens": Range(max=TOKENS)}
    return {
        "text_encoder": GraphSpec(
            (tensor("input_ids", "tokens", dtype="int64"), tensor("pool_mask", "tokens")),
            (tensor("text_hidden_states", "tokens", TEXT_WIDTH), tensor("text_embeds", WIDTH)),
            texts,
        ),
        "image_encoder": GraphSpec(
            (tensor("pixel_values", 3, SIDE, SIDE),), (tensor("image_embeds", WIDTH),), {"batch": Range()}
        ),
        "prior": GraphSpec(
            (
                tensor("latents", WIDTH),
                tensor("timestep"),
                tensor("text_embeds", WIDTH),
                tensor("text_hidden_states", "tokens", TEXT_WIDTH),
                tensor("text_mask", "tokens"),
            ),
            (tensor("predicted_image_embeds", WIDTH),),
            texts,
        ),
    }


def with_prior(*, without: tuple[str, ...] = (), plain: bool = False, **options: Any) -> Manifest:
    """A manifest of a decoder and a prior, without some graphs of the prior."""
    specs = {name: spec for name, spec in prior_signatures().items() if name not in without}
    prompt = (PROMPT,) if {"text_encoder", "prior"} <= specs.keys() else ()
    picture = (PICTURE_PROMPT,) if "image_encoder" in specs else ()
    return manifest(
        **{
            "specs": signatures(plain=plain) | specs,
            "tasks": (*((TEXT_TO_IMAGE, IMAGE_TO_IMAGE) if plain else (INPAINT,)), *prompt, *picture),
            "prior": PRIOR,
        }
        | options
    )


def manifest(
    *,
    scheduler: Mapping[str, Any] = DDPM,
    variants: Mapping[str, str] | None = None,
    specs: Mapping[str, GraphSpec] | None = None,
    tasks: tuple[str, ...] = (INPAINT,),
    prior: PriorEntry | None = None,
) -> Manifest:
    """A manifest of the files that `write` writes. `variants` has the precision of each variant."""
    specs = specs or signatures()
    paths = [path_of(name) for name in specs]
    paths += [] if prior is None else [VOCABULARY_FILE, MERGES_FILE, CONSTANTS_FILE]
    precisions = {"fake-fp32": "fp32"} if variants is None else variants
    return Manifest(
        components={
            name: Component(
                spec,
                {
                    item: Variant(Precision(precision), {"graph": path_of(name)})
                    for item, precision in precisions.items()
                },
            )
            for name, spec in specs.items()
        },
        scheduler=scheduler,
        files={path: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for path, data in contents(*paths)},
        source={"name": "a-checkpoint", "form": "diffusers"},
        written_by={"kandinsky22-deploy": "0.1.0"},
        parity={
            "engines": {"fake": {"components": {"unet": 1.5e-6}, "trajectory": {"steps": 10, "image": 2.5e-5}}},
            "passed": True,
        },
        tasks=tasks,
        prior=prior,
    )


def path_of(component: str) -> str:
    return f"{component}/graph.txt"


def content(component: str) -> bytes:
    return f"{component} graph".encode()


def contents(*paths: str) -> list[tuple[str, bytes]]:
    """The paths and contents of the bundle's files at these paths."""
    others = {
        VOCABULARY_FILE: json.dumps(VOCABULARY).encode(),
        MERGES_FILE: b"#version: 0.2\na t</w>\nh at</w>\n",
        CONSTANTS_FILE: packed(**CONSTANTS),
    }
    return [(path, others[path] if path in others else content(path.partition("/")[0])) for path in paths]


def packed(**arrays: np.ndarray) -> bytes:
    """Arrays as the bytes of an .npz."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def write(folder: Path, described: Manifest | None = None) -> Path:
    """Write the bundle's files and manifest."""
    described = described or manifest()
    for path, data in contents(*described.files):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (folder / "manifest.json").write_text(described.to_json())
    return folder


def write_onnx(folder: Path, precisions: tuple[str, ...] = ("fp32", "fp16")) -> Path:
    """Write a bundle of ONNX variants, each with a graph file and a weights file."""
    described = manifest()
    files: dict[str, FileEntry] = {}
    components = {}
    for name, component in described.components.items():
        variants = {}
        for precision in precisions:
            roles = {"graph": f"{name}/model-{precision}.onnx", "weights": f"{name}/weights-{precision}.bin"}
            for role, path in roles.items():
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{name} {role} {precision}")
                files[path] = FileEntry(file.stat().st_size, digest(file))
            variants[f"onnx-{precision}"] = Variant(Precision(precision), roles)
        components[name] = Component(component.spec, variants)
    (folder / "manifest.json").write_text(dataclasses.replace(described, components=components, files=files).to_json())
    return folder


def replace(folder: Path, path: str, data: bytes) -> Path:
    """Replace one of the bundle's files, and its entry in the manifest."""
    (folder / path).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return rewrite(folder, lambda manifest: manifest["files"].update({path: entry}))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the manifest's JSON in place."""
    file = folder / "manifest.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return folder


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def opened(folder: Path, **options: Any) -> Bundle:
    return Bundle.open(write(folder, manifest(**options)))


def install(folder: Path, engines: Mapping[str, str] | None = None) -> Path:
    """Write the metadata of an installed package with engines; put `folder` on sys.path to find them."""
    points = {"fake": "tests.runtime.fake_bundle:FakeEngine"} if engines is None else engines
    info = folder / "fake_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[kandinsky22.engines]\n{lines}")
    return folder
