"""A bundle of dummy files and an engine of a few numpy lines, installed the way another package installs one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kandinsky_runtime.bundle import Bundle
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.manifest import Component, FileEntry, Manifest, Variant
from kandinsky_runtime.spec import GraphSpec, Range, TensorSpec

CHANNELS, FACTOR, UNIT, WIDTH = 4, 8, 2, 6
MULTIPLE = FACTOR * UNIT
COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
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
Outputs = dict[str, np.ndarray]


class FakeEngine(Engine):
    """Works on every sample by itself, elementwise: a sample's result is the same to the bit alone and in a batch."""

    name = "fake"
    library = "numpy"
    distribution = "numpy"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "fake-fp32", "bf16": "fake-bf16"}
    roles = ("graph",)
    devices = ("cpu", "fake:1")

    runs: ClassVar[list[tuple[str, Arrays]]] = []
    """(component, feeds) of every run; the feeds are those given, not copies."""
    loaded: ClassVar[list[str]] = []
    released: ClassVar[list[str]] = []
    alter: ClassVar[Callable[[str, int, Outputs], Outputs]] = staticmethod(lambda component, run, outputs: outputs)
    """Changes what a component returns in its run of that number, from 0."""

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
    latents, kept, keep = sample[:, :CHANNELS], sample[:, CHANNELS:-1], sample[:, -1:]
    level = (timestep / np.float32(1000))[:, None, None, None]
    steer = image_embeds.sum(axis=1)[:, None, None, None]
    noise = np.float32(0.5) * latents + np.float32(0.25) * (kept + keep) + np.float32(0.1) * steer * level
    return {"noise_pred": np.concatenate([noise, np.tanh(latents)], axis=1)}


def movq_encoder(image: np.ndarray) -> Outputs:
    batch, _, height, width = image.shape
    cells = image.reshape(batch, 3, height // FACTOR, FACTOR, width // FACTOR, FACTOR).mean(axis=(3, 5))
    return {"latents": np.concatenate([cells, cells[:, :1]], axis=1)}


def movq_decoder(latents: np.ndarray) -> Outputs:
    return {"image": np.tanh(latents[:, :3]).repeat(FACTOR, axis=2).repeat(FACTOR, axis=3)}


GRAPHS: Mapping[str, Callable[..., Outputs]] = {
    "unet": unet,
    "movq_encoder": movq_encoder,
    "movq_decoder": movq_decoder,
}


def signatures(channels: int = CHANNELS, out_channels: int = 2 * CHANNELS) -> dict[str, GraphSpec]:
    def tensor(name: str, *dims: int | str) -> TensorSpec:
        return TensorSpec(name, "float32", ("batch", *dims))

    def ranges(multiple: int) -> dict[str, Range]:
        side = Range(min=multiple, multiple=multiple)
        return {"batch": Range(), "height": side, "width": side}

    side = "height", "width"
    return {
        "unet": GraphSpec(
            (tensor("sample", 2 * channels + 1, *side), tensor("timestep"), tensor("image_embeds", WIDTH)),
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


def manifest(
    *,
    scheduler: Mapping[str, Any] = DDPM,
    variants: Mapping[str, str] | None = None,
    specs: Mapping[str, GraphSpec] | None = None,
) -> Manifest:
    """A manifest whose graphs are the files that `write` writes. `variants`: the precision of each."""
    precisions = {"fake-fp32": "fp32"} if variants is None else variants
    return Manifest(
        components={
            name: Component(
                spec, {item: Variant(precision, {"graph": path_of(name)}) for item, precision in precisions.items()}
            )
            for name, spec in (specs or signatures()).items()
        },
        scheduler=scheduler,
        files={
            path_of(name): FileEntry(len(content(name)), hashlib.sha256(content(name)).hexdigest())
            for name in COMPONENTS
        },
        source={"name": "a-checkpoint", "form": "diffusers"},
        written_by={"kandinsky22-deploy": "0.1.0"},
        parity={
            "engines": {"fake": {"components": {"unet": 1.5e-6}, "trajectory": {"steps": 10, "image": 2.5e-5}}},
            "passed": True,
        },
    )


def path_of(component: str) -> str:
    return f"{component}/graph.txt"


def content(component: str) -> bytes:
    return f"{component} graph".encode()


def write(folder: Path, described: Manifest | None = None) -> Path:
    """Write the bundle's files and manifest."""
    for name in COMPONENTS:
        file = folder / path_of(name)
        file.parent.mkdir(parents=True)
        file.write_bytes(content(name))
    (folder / "manifest.json").write_text((described or manifest()).to_json())
    return folder


def write_onnx(folder: Path, precisions: tuple[str, ...] = ("fp32", "fp16")) -> Path:
    """Write a bundle of ONNX variants, each a graph and a weights file of its own."""
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
            variants[f"onnx-{precision}"] = Variant(precision, roles)
        components[name] = Component(component.spec, variants)
    (folder / "manifest.json").write_text(replace(described, components=components, files=files).to_json())
    return folder


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
    """What pip leaves of a package with engines: put `folder` on sys.path to have them."""
    points = {"fake": "tests.runtime.fake_bundle:FakeEngine"} if engines is None else engines
    info = folder / "fake_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[kandinsky22.engines]\n{lines}")
    return folder
