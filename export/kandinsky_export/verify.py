"""Source against artifact: every component at several shapes, and one whole trajectory, with eager ppdiffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from kandinsky_runtime import engines
from kandinsky_runtime.bundle import MANIFEST, Bundle
from kandinsky_runtime.errors import EngineUnavailable, UsageError
from kandinsky_runtime.inputs import MIN_SIZE, Geometry
from kandinsky_runtime.noise import NumpyNoise, ReplayNoise
from kandinsky_runtime.pipeline import InpaintPipeline
from kandinsky_runtime.spec import GraphSpec
from PIL import Image, ImageDraw
from tqdm import tqdm

from kandinsky_export.checkpoint import Checkpoint
from kandinsky_export.folders import write_whole
from kandinsky_export.reference import Reference, Trajectory
from kandinsky_export.seeded import seeded_embeds

Array = npt.NDArray[np.float32]

GUIDANCE_SCALE = 4.0
_SEED = 0
# (batch, height, width) in units of the smallest height and width that the bundle's graphs take together.
_SHAPES = ((1, 1, 1), (2, 1, 2), (2, 2, 1), (1, 3, 1), (3, 2, 2))

# Largest absolute difference by precision: of a component's output, and of a trajectory's picture in [0, 1].
# float32 sums in another order leave 1e-6 to 1e-5 of the outputs' deviation of about 1; a trajectory adds its steps up.
TOLERANCES: Mapping[str, tuple[float, float]] = {"fp32": (1e-4, 1e-3)}


@dataclass(frozen=True)
class TrajectoryFigures:
    """How far a bundle's trajectory lies from the eager one with the same noise.

    Attributes:
        steps: of the trajectory.
        encoded: max-abs of the picture's latents.
        unet: by step, max-abs of the UNet's output for the eager run's own inputs.
        latents: by step, max-abs of the latents after it; every step starts from the bundle's own.
        latents_relative: by step, the same over the largest eager value.
        image: max-abs of the picture in [0, 1].
        psnr: of the picture in dB; None where the two are equal.
    """

    steps: int
    encoded: float
    unet: tuple[float, ...]
    latents: tuple[float, ...]
    latents_relative: tuple[float, ...]
    image: float
    psnr: float | None


@dataclass(frozen=True)
class EngineFigures:
    """One engine's figures: max-abs of each component over all shapes, and of the trajectory."""

    version: str
    precision: str
    variant: str
    components: Mapping[str, float]
    trajectory: TrajectoryFigures | None

    def failures(self) -> list[str]:
        """What lies outside the tolerances."""
        component_limit, image_limit = TOLERANCES[self.precision]
        found = [f"{name} {error:.1e} > {component_limit:g}" for name, error in self.components.items() if not error <= component_limit]
        if self.trajectory is not None and not self.trajectory.image <= image_limit:
            found.append(f"trajectory {self.trajectory.image:.1e} > {image_limit:g}")
        return found


@dataclass(frozen=True)
class Report:
    """The figures of a verification, by engine."""

    reference: str
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    engines: Mapping[str, EngineFigures]

    @property
    def passed(self) -> bool:
        """Whether every figure is within its tolerance."""
        return not any(figures.failures() for figures in self.engines.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON and for the manifest."""
        return asdict(self) | {"passed": self.passed}

    def table(self, *, every_step: bool = False) -> str:
        """For a person to read."""
        lines = [f"max-abs difference from {self.reference}"]
        for name, figures in self.engines.items():
            lines.append(f"{name} {figures.version}, {figures.precision}")
            lines += [f"  {component:14}{error:.2e}" for component, error in figures.components.items()]
            if figures.trajectory is not None:
                lines += _trajectory_lines(figures.trajectory, every_step)
            lines += [f"  outside the tolerance: {failure}" for failure in figures.failures()]
        return "\n".join([*lines, "passed" if self.passed else "FAILED"])


def verify_bundle(
    bundle: Bundle,
    checkpoint: Checkpoint,
    *,
    engine_names: Sequence[str] | None = None,
    steps: int = 10,
    progress: bool = False,
) -> Report:
    """Compare a bundle with eager ppdiffusers and write the figures into its manifest.

    Args:
        bundle: an opened bundle.
        checkpoint: the one that it was made from.
        engine_names: None for every engine that can run the bundle here.
        steps: of the trajectory, 0 for none.
        progress: show a bar.

    Raises:
        CheckpointError, BundleError: one of the two is damaged.
        EngineUnavailable: an engine that was asked for, or every engine, cannot run the bundle.
        UsageError: the number of steps is negative.
    """
    if steps < 0:
        raise UsageError(f"steps is {steps}; it must be at least 0")
    bundle.check_content(progress=progress)
    selected = _selected(bundle, engine_names)
    reference = Reference(checkpoint)
    geometry = Geometry.of(bundle.manifest)
    feeds = {name: _feeds(item.spec, name, geometry) for name, item in bundle.manifest.components.items()}
    with tqdm(total=len(feeds) + (1 if steps else 0) + 2 * len(selected), desc="verifying", disable=not progress) as bar:
        expected = {}
        for name, items in feeds.items():
            bar.set_postfix_str(f"ppdiffusers {name}")
            expected[name] = [reference.run(name, item) for item in items]
            bar.update()
        eager = None
        if steps:
            bar.set_postfix_str("ppdiffusers trajectory")
            eager = _eager_trajectory(reference, geometry, steps)
            bar.update()
        figures = {}
        for name in selected:
            pipeline = InpaintPipeline.load(bundle, engine=name)
            bar.set_postfix_str(f"{name} components")
            components = {key: _component_error(pipeline, key, feeds[key], expected[key]) for key in feeds}
            bar.update()
            bar.set_postfix_str(f"{name} trajectory")
            selection = pipeline.selection
            figures[name] = EngineFigures(
                version=selection.engine.version(),
                precision=selection.precision,
                variant=selection.variant,
                components=components,
                trajectory=None if eager is None else _compare_trajectory(pipeline, eager, geometry),
            )
            pipeline.close()
            bar.update()
    report = Report(
        reference=f"eager ppdiffusers {version('ppdiffusers')} on paddlepaddle {version('paddlepaddle')}",
        shapes={name: tuple(next(iter(item.values())).shape for item in items) for name, items in feeds.items()},
        engines=figures,
    )
    write_whole(bundle.root / MANIFEST, replace(bundle.manifest, parity=report.to_dict()).to_json())
    return report


def _selected(bundle: Bundle, names: Sequence[str] | None) -> list[str]:
    if names is not None:
        return [engines.select(bundle.manifest, name).engine.name for name in names]
    found = []
    for name in engines.names():
        try:
            found.append(engines.select(bundle.manifest, name).engine.name)
        except EngineUnavailable:
            continue
    if not found:
        raise EngineUnavailable("no engine that is installed here can run this bundle")
    return found


def _feeds(spec: GraphSpec, component: str, geometry: Geometry) -> list[dict[str, Array]]:
    """Made-up inputs at the shapes of `_SHAPES`."""
    side = geometry.multiple if component == "movq_encoder" else geometry.multiple // geometry.factor
    rng = np.random.default_rng(_SEED)
    feeds = []
    for batch, height, width in _SHAPES:
        sizes = {"batch": batch, "height": height * side, "width": width * side}
        arrays = {item.name: rng.standard_normal(item.shape(sizes), np.float32) for item in spec.inputs}
        if "image" in arrays:
            arrays["image"] = np.clip(arrays["image"] / 2, -1, 1)
        if "timestep" in arrays:
            arrays["timestep"] = rng.integers(0, 1000, batch).astype(np.float32)
        feeds.append(arrays)
    return feeds


def _component_error(
    pipeline: InpaintPipeline, component: str, feeds: Sequence[Mapping[str, Array]], expected: Sequence[Array]
) -> float:
    engine = pipeline.engine(component)
    (output,) = engine.spec.outputs
    return max(_max_abs(engine.run(item)[output.name], want) for item, want in zip(feeds, expected, strict=True))


def _eager_trajectory(reference: Reference, geometry: Geometry, steps: int) -> Trajectory:
    image, mask = _sample_picture(geometry)
    embeds = seeded_embeds(_SEED, geometry.embed_width)
    return reference.inpaint(
        image,
        mask,
        embeds["image_embeds"],
        embeds["negative_image_embeds"],
        source=NumpyNoise(_SEED),
        steps=steps,
        guidance_scale=GUIDANCE_SCALE,
    )


def _compare_trajectory(pipeline: InpaintPipeline, eager: Trajectory, geometry: Geometry) -> TrajectoryFigures:
    image, mask = _sample_picture(geometry)
    latents: list[Array] = []

    def on_step_end(_: InpaintPipeline, __: int, ___: float, values: dict[str, Array]) -> None:
        latents.append(values["latents"].copy())

    embeds = seeded_embeds(_SEED, geometry.embed_width)
    output = pipeline(
        image,
        mask,
        image_embeds=embeds["image_embeds"],
        negative_image_embeds=embeds["negative_image_embeds"],
        num_inference_steps=len(eager.latents),
        guidance_scale=GUIDANCE_SCALE,
        noise=ReplayNoise(eager.noise),
        output_type="np",
        composite="none",
        callback_on_step_end=on_step_end,
    )
    unet = pipeline.engine("unet")
    errors = [_max_abs(mine, want) for mine, want in zip(latents, eager.latents, strict=True)]
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    mean_square = float(np.mean((output.images.astype(np.float64) - eager.image) ** 2))
    return TrajectoryFigures(
        steps=len(errors),
        encoded=_max_abs(pipeline.engine("movq_encoder").run({"image": pixels})["latents"], eager.encoded),
        unet=tuple(
            _max_abs(unet.run(feeds)["noise_pred"], want)
            for feeds, want in zip(eager.unet_feeds, eager.unet_outputs, strict=True)
        ),
        latents=tuple(errors),
        latents_relative=tuple(
            error / float(np.abs(want).max()) for error, want in zip(errors, eager.latents, strict=True)
        ),
        image=_max_abs(output.images, eager.image),
        psnr=-10 * math.log10(mean_square) if mean_square else None,
    )


def _sample_picture(geometry: Geometry) -> tuple[Image.Image, Image.Image]:
    """A picture of smooth colours and a mask with an ellipse, of a size that neither side pads."""
    side = math.lcm(MIN_SIZE, geometry.multiple, geometry.factor**2)  # ppdiffusers rounds up to factor²
    width, height = 2 * side, side
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 255 * y / height, 127.5 + 127.5 * np.sin(x / 9) * np.cos(y / 7))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=255)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)), mask


def _max_abs(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max())


def _trajectory_lines(figures: TrajectoryFigures, every_step: bool) -> list[str]:
    psnr = "equal" if figures.psnr is None else f"PSNR {figures.psnr:.1f} dB"
    lines = [f"  {f'{figures.steps} steps':14}{figures.image:.2e}  picture, {psnr}"]
    if every_step:
        lines += ["    step      UNet   latents  relative"]
        lines += [
            f"    {i + 1:4}  {unet:.2e}  {latents:.2e}  {relative:.2e}"
            for i, (unet, latents, relative) in enumerate(
                zip(figures.unet, figures.latents, figures.latents_relative, strict=True)
            )
        ]
    return lines
