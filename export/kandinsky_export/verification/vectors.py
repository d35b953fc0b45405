"""Conformance vectors: the reference's inputs and outputs, for a program that runs a bundle in another language.

The file is a NumPy .npz archive, which is a zip archive of .npy files, with one more entry: `description.json` explains
each array. Every number comes from eager ppdiffusers but the latent mask and the normal numbers, which are this
project's own and are tested against Paddle and torch.

Legend: B samples · C latent channels · K output channels of the UNet · h, w latent height and width
        H, W picture height and width · E embedding width
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_export.verification.reference import Reference
from kandinsky_export.verification.trajectory import GUIDANCE_SCALE, SEED, eager_trajectory, sample_inputs
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import write_whole
from kandinsky_runtime.pictures.mask import latent_keep_mask
from kandinsky_runtime.sampling import guidance, schedulers
from kandinsky_runtime.sampling.noise import TorchNoise

Array = npt.NDArray[Any]
Runs = Mapping[str, Sequence[Mapping[str, Array]]]

DESCRIPTION = "description.json"
FORMAT = 1
NORMALS = 64
STEPS = 2  # the shortest trajectory whose first step adds noise
SUFFIX = ".npz"
_SCHEDULER = "ddpm"  # the reference's, whatever the checkpoint's is


@dataclass
class Vectors:
    """Arrays by their name in the archive, and what each of them is."""

    arrays: dict[str, Array] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, array: Any, about: str) -> None:
        """Add an array with its explanation."""
        self.arrays[name], self.about[name] = np.ascontiguousarray(array), about


def check_vectors_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that the archive could not be written to, before any work.

    Raises:
        UsageError: it does not end in .npz, it is a folder, or its folder does not exist.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise UsageError(f"--vectors is {target}; expected a file name that ends in {SUFFIX}: add the suffix")
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"--vectors is {target}; expected a file in an existing folder: create {target.parent} first")


def write_vectors(
    path: str | os.PathLike[str], feeds: Runs, outputs: Runs, bundle: Bundle, reference: Reference, geometry: Geometry
) -> None:
    """Write the archive.

    Args:
        path: the new file.
        feeds, outputs: by component, the inputs and outputs of the reference's runs; one run of each is written.
        bundle: the bundle that was compared.
        reference: the decoder's models in eager ppdiffusers.
        geometry: the bundle's.

    Raises:
        OSError: the file cannot be written.
    """
    vectors = Vectors()
    for component in feeds:
        _add_graph(vectors, component, feeds[component], outputs[component])
    timesteps = _add_step(vectors, bundle, reference, geometry)
    if geometry.sees_kept_area:
        _add_mask(vectors, geometry)
    vectors.add(
        "noise/normals",
        TorchNoise(SEED).draw((NORMALS,)),
        f'the first {NORMALS} numbers of torch.randn({NORMALS}) with torch.Generator("cpu").manual_seed(seed)',
    )
    description = {
        "format": FORMAT,
        "made_by": "k22-export verify BUNDLE CHECKPOINT --vectors F.npz",
        "checkpoint": bundle.manifest.source.get("name"),
        "settings": {
            "seed": SEED,
            "guidance_scale": GUIDANCE_SCALE,
            "scheduler": _SCHEDULER,
            "num_inference_steps": STEPS,
            "timesteps": timesteps,
        },
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype), "about": vectors.about[name]}
            for name, array in vectors.arrays.items()
        },
    }
    write_whole(Path(path), _archive(vectors.arrays, json.dumps(description, indent=1)))


def _archive(arrays: Mapping[str, Array], description: str) -> bytes:
    stream = io.BytesIO()
    savez: Any = np.savez
    savez(stream, **arrays)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(DESCRIPTION, description)
    return stream.getvalue()


def _add_graph(
    vectors: Vectors, component: str, feeds: Sequence[Mapping[str, Array]], outputs: Sequence[Mapping[str, Array]]
) -> None:
    """One run of a graph: the one in which a wrong order of axes shows best."""
    chosen = max(range(len(feeds)), key=lambda i: _variety(next(iter(feeds[i].values()))))
    for kind, arrays in (("inputs", feeds[chosen]), ("outputs", outputs[chosen])):
        for name, array in arrays.items():
            about = f"`{name}`, one of the {kind} of the graph `{component}`"
            vectors.add(f"graphs/{component}/{kind}/{name}", array, about)


def _variety(array: Array) -> tuple[bool, int]:
    """Whether the last two sizes differ, and the number of samples."""
    return len(set(array.shape[-2:])) == 2, len(array)


def _add_step(vectors: Vectors, bundle: Bundle, reference: Reference, geometry: Geometry) -> list[int]:
    """The first step of a short trajectory, and its timesteps."""
    eager = eager_trajectory(reference, geometry, STEPS, TorchNoise(SEED))
    sampler = schedulers.load(bundle.manifest.scheduler, _SCHEDULER).sampler(STEPS, eager.latents[0].shape)
    feeds, output = eager.unet_feeds[0], eager.unet_outputs[0]
    first, drawn = eager.noise[:2]
    channels = first.shape[1]
    used = 2 * channels if sampler.learns_variance else channels
    guided = guidance.combine(output, GUIDANCE_SCALE, channels, np.empty((1, used, *first.shape[2:]), np.float32))
    embeds = seeded_embeds(SEED, geometry.embed_width)
    if eager.encoded is not None:
        image, mask = sample_inputs(geometry)
        vectors.add("step/picture", np.asarray(image), "the picture, uint8 (H, W, 3)")
        vectors.add("step/mask", np.asarray(mask), "its mask, uint8 (H, W), 255 to repaint")
        vectors.add("step/picture_latents", eager.encoded, "the MoVQ encoder's latents of the picture, (1, C, h, w)")
        vectors.add(
            "step/keep", feeds["sample"][:1, -1:], "the latent mask of the mask, (1, 1, h, w), 1 to keep, 0 to repaint"
        )
    for name, array in embeds.items():
        vectors.add(f"step/{name}", array, f"`{name}` of the run, (1, E)")
    vectors.add(
        "step/first_noise",
        first,
        "the first draw of the run, (1, C, h, w): the latents before the step, and the noise that the kept latents get",
    )
    for name, array in feeds.items():
        vectors.add(f"step/unet_{name}", array, f"`{name}`, as the step feeds it to the UNet, [negative, positive]")
    vectors.add("step/noise_pred", output, "the UNet's output, (2, K, h, w), [negative, positive]")
    vectors.add(
        "step/guided_prediction",
        guided,
        "negative + guidance_scale · (positive - negative) of the first C channels, (1, C, h, w)"
        + ("; then the C variance channels of the positive half" if sampler.learns_variance else ""),
    )
    vectors.add("step/noise", drawn, "the second draw of the run, (1, C, h, w): the noise that the scheduler adds")
    after = "and after the kept latents are put back" if eager.encoded is not None else "of the scheduler"
    vectors.add("step/latents_after", eager.latents[0], f"the latents after the step {after}, (1, C, h, w)")
    return [int(timestep) for timestep in sampler.timesteps]


def _add_mask(vectors: Vectors, geometry: Geometry) -> None:
    """A mask without symmetry, and the latent cells that it keeps."""
    image, _ = sample_inputs(geometry)
    picture = np.zeros((image.height, image.width), np.uint8)
    picture[image.height // 8 : image.height // 2, image.width // 2 : image.width - 3] = 255
    picture[image.height - 9 :, : image.width // 3] = 255
    keep = latent_keep_mask(
        (picture >= 128).astype(np.float32)[None], image.height // geometry.factor, image.width // geometry.factor
    )
    vectors.add("mask/picture", picture, "a picture mask, uint8 (H, W), 255 to repaint")
    vectors.add("mask/keep", keep, "its latent mask, float32 (1, 1, h, w), 1 to keep, 0 to repaint")
