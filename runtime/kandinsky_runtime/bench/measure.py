"""How fast a bundle runs here: every graph and a whole run, on one engine or on several in turn.

Legend: B samples · E embedding width · h, w latent height and width · H, W height and width (padded)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kandinsky_runtime.bench import cold_start
from kandinsky_runtime.bench.cold_start import ColdStart, Job
from kandinsky_runtime.bench.inputs import made_up_inputs
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines.registry import AUTO
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.limits import MAX_PIXELS, MIN_SIZE

COMPONENTS = ("movq_encoder", "unet", "movq_decoder")
WHOLE = "inpaint"
HOST = "host_per_step"
MEASURES = (*COMPONENTS, WHOLE, HOST)
SHARES = (50, 90, 99)
# [negative, positive]: what one step of one picture with guidance runs
UNET_BATCH = 2


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        engines: names, each once; "auto" is the one that it stands for. Ratios are to the first.
        precision: None for each engine's default.
        device, threads: as `InpaintPipeline.load` takes them.
        height, width: of the picture, in pixels.
        steps: denoising steps of a whole run.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        cold_start: also measure each engine in a fresh process.
        seed: of the made-up inputs.

    Raises:
        UsageError: a value that cannot be meant.
    """

    engines: tuple[str, ...] = (AUTO,)
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
    height: int = 512
    width: int = 512
    steps: int = 10
    repeats: int = 5
    warmup: int = 1
    cold_start: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.engines:
            raise UsageError("name an engine to measure, or auto")
        for name in ("height", "width"):
            whole_number(name, getattr(self, name), MIN_SIZE)
        if self.height * self.width > MAX_PIXELS:
            raise UsageError(f"the picture would be {self.width}x{self.height}; expected at most {MAX_PIXELS:,} pixels")
        whole_number("steps", self.steps, 1)
        whole_number("repeats", self.repeats, 1)
        whole_number("warmup", self.warmup, 0)
        whole_number("seed", self.seed, 0)


@dataclass
class EngineTimes:
    """What one engine did.

    Attributes:
        name, version, precision: of the engine.
        seconds: every round's, by measure: one run of a component, `inpaint` for a whole run, `host_per_step` for what
            the loop spends outside the engine in one step of it.
        loads: seconds to load the three graphs.
        cold: of a process of its own.
    """

    name: str
    version: str
    precision: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {measure: [] for measure in MEASURES})
    loads: float = 0.0
    cold: ColdStart | None = None


@dataclass(frozen=True)
class Measured:
    """The plan, the shapes that were run, and every engine's times; `peak_bytes` is of this process, of all engines."""

    plan: Plan
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    engines: tuple[EngineTimes, ...]
    peak_bytes: int | None


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`min`, `p50`, `p90` and `p99`, interpolated linearly between the two nearest."""
    values = np.percentile(np.asarray(seconds, np.float64), SHARES)
    return {"min": min(seconds), **{f"p{share}": float(value) for share, value in zip(SHARES, values, strict=True)}}


def ratios(seconds: Sequence[float], first: Sequence[float]) -> list[float]:
    """Round by round, an engine's time over the first engine's: below 1 is faster than the first."""
    return [mine / other for mine, other in zip(seconds, first, strict=True)]


def run(bundle: Bundle, plan: Plan, *, progress: bool = False) -> Measured:
    """Measure.

    The engines take turns within every round, so that a machine that slows down slows all of them down: first each of
    them runs the encoder, then each the UNet, the decoder, and a whole run.

    Args:
        bundle: an opened bundle.
        plan: what to measure.
        progress: show bars on stderr.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: no such engine, precision or device, or an engine twice.
        EngineError: an engine is not installed, or could not load or run a graph.
    """
    with ExitStack() as stack:
        pipelines = []
        for name in plan.engines:
            pipeline = InpaintPipeline.load(bundle, name, plan.precision, plan.device, plan.threads, progress=progress)
            pipelines.append(stack.enter_context(pipeline))
        times = tuple(_times(pipeline) for pipeline in pipelines)
        names = [item.name for item in times]
        if len(set(names)) < len(names):
            raise UsageError(f"the engines are {', '.join(names)}; name each once")
        rounds = plan.warmup + plan.repeats
        total = len(pipelines) * (int(plan.cold_start) + 1 + rounds * (len(COMPONENTS) + 1))
        with tqdm(total=total, desc="measuring", disable=not progress) as bar:

            def note(what: str, item: EngineTimes) -> None:
                bar.set_postfix_str(f"{item.name} {what}")
                bar.update()

            if plan.cold_start:  # first: this process has no graph loaded yet
                for item in times:
                    item.cold = cold_start.measure(_job(bundle, plan, item))
                    note("cold start", item)
            for pipeline, item in zip(pipelines, times, strict=True):
                start = time.perf_counter()
                for name in COMPONENTS:
                    pipeline.engine(name)
                item.loads = time.perf_counter() - start
                item.name, item.version, item.precision = _identity(pipeline)  # "auto" may have gone on to another
                note("load", item)
            feeds = _feeds(bundle, pipelines[0].geometry, plan)
            for number in range(rounds):
                _round(pipelines, times, feeds, plan, number >= plan.warmup, note)
    shapes = {name: {key: array.shape for key, array in arrays.items()} for name, arrays in feeds.items()}
    return Measured(plan, shapes, times, cold_start.peak_memory())


def _round(
    pipelines: Sequence[InpaintPipeline],
    times: Sequence[EngineTimes],
    feeds: Mapping[str, dict[str, npt.NDArray[np.float32]]],
    plan: Plan,
    counts: bool,
    note: Callable[[str, EngineTimes], None],
) -> None:
    for component in COMPONENTS:
        for pipeline, item in zip(pipelines, times, strict=True):
            engine = pipeline.engine(component)
            start = time.perf_counter()
            engine.run(feeds[component])
            seconds = time.perf_counter() - start
            if counts:
                item.seconds[component].append(seconds)
            note(component, item)
    for pipeline, item in zip(pipelines, times, strict=True):
        inputs = made_up_inputs(pipeline.geometry.embed_width, plan.height, plan.width, plan.seed)
        start = time.perf_counter()
        output = pipeline(**inputs, num_inference_steps=plan.steps)
        seconds = time.perf_counter() - start
        if counts:
            item.seconds[WHOLE].append(seconds)
            item.seconds[HOST].append((output.seconds["denoise"] - output.seconds["unet"]) / plan.steps)
        note(WHOLE, item)


def _times(pipeline: InpaintPipeline) -> EngineTimes:
    return EngineTimes(*_identity(pipeline))


def _identity(pipeline: InpaintPipeline) -> tuple[str, str, str]:
    """The engine's name and version, and the precision."""
    selection = pipeline.selection
    return selection.engine.name, selection.engine.version(), selection.precision


def _job(bundle: Bundle, plan: Plan, item: EngineTimes) -> Job:
    return Job(
        str(bundle.root), item.name, item.precision, plan.device, plan.threads, plan.height, plan.width, plan.seed
    )


def _feeds(bundle: Bundle, geometry: Geometry, plan: Plan) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """Made-up inputs of every component, at the shapes of a run of one picture with guidance."""
    rng = np.random.default_rng(plan.seed)
    pixels = {
        "height": -(-plan.height // geometry.multiple) * geometry.multiple,
        "width": -(-plan.width // geometry.multiple) * geometry.multiple,
    }
    cells = {name: size // geometry.factor for name, size in pixels.items()}
    feeds = {}
    for component in COMPONENTS:
        sizes = {"batch": UNET_BATCH if component == "unet" else 1}
        sizes |= pixels if component == "movq_encoder" else cells
        feeds[component] = {
            spec.name: rng.standard_normal(spec.shape(sizes), np.float32)
            for spec in bundle.component(component).spec.inputs
        }
    feeds["unet"]["timestep"].fill(500)
    np.clip(feeds["movq_encoder"]["image"], -1, 1, out=feeds["movq_encoder"]["image"])
    return feeds
