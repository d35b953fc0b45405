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

from kandinsky_runtime.bench import cold_start
from kandinsky_runtime.bench.cold_start import ColdStart, ColdStartJob
from kandinsky_runtime.bench.inputs import random_inputs
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines.registry import AUTO
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.limits import MAX_PIXELS, MIN_SIZE
from kandinsky_runtime.progress import ProgressBar

COMPONENTS = ("movq_encoder", "unet", "movq_decoder")
WHOLE = "inpaint"
HOST = "host_per_step"
MEASURES = (*COMPONENTS, WHOLE, HOST)
SHARES = (50, 90, 99)


@dataclass(frozen=True)
class BenchPlan:
    """The options of a measurement.

    Attributes:
        engines: names, each once; "auto" is the engine that it chooses. Ratios are to the first.
        precision: "fp32", "fp16" or "bf16"; None for each engine's default.
        device, threads: see `InpaintPipeline.load`.
        height, width: the picture's size in pixels.
        steps: denoising steps of a whole run.
        repeats: rounds that count.
        warmup: rounds before them that do not count.
        cold_start: whether to measure each engine in a fresh process, too.
        seed: the seed of the random inputs.

    Raises:
        UsageError: an invalid value.
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
    """The times of one engine.

    Attributes:
        name, version, precision: the engine's.
        seconds: the seconds of every round, by measure: one run of a component, `inpaint` for a whole run,
            `host_per_step` for the time that one step spends outside the engine.
        loads: the seconds to load the three graphs.
        cold: the cold start in a process of its own; None if it was not measured.
    """

    name: str
    version: str
    precision: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {measure: [] for measure in MEASURES})
    loads: float = 0.0
    cold: ColdStart | None = None


@dataclass(frozen=True)
class Measured:
    """The plan, the shapes that were run, and every engine's times.

    Attributes:
        peak_bytes: the peak memory of this process, with all engines; None if the system does not report it.
    """

    plan: BenchPlan
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    engines: tuple[EngineTimes, ...]
    peak_bytes: int | None


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`min`, `p50`, `p90` and `p99`, interpolated linearly between the two nearest."""
    values = np.percentile(np.asarray(seconds, np.float64), SHARES)
    return {"min": min(seconds), **{f"p{share}": float(value) for share, value in zip(SHARES, values, strict=True)}}


def ratios(seconds: Sequence[float], first: Sequence[float]) -> list[float]:
    """The engine's time divided by the first engine's, round by round: below 1 is faster than the first."""
    return [mine / other for mine, other in zip(seconds, first, strict=True)]


def run(bundle: Bundle, plan: BenchPlan, *, progress: bool = False) -> Measured:
    """Measure.

    The engines take turns within every round, so that a machine that slows down slows all of them down. Each of them
    runs the encoder, then each runs the UNet, the decoder, and a whole run.

    Args:
        bundle: an opened bundle.
        plan: the options.
        progress: whether to show bars on stderr.

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
        with ProgressBar(total=total, desc="measuring", disable=not progress) as bar:

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
                item.name, item.version, item.precision = _identity(pipeline)  # "auto" may have fallen back to another
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
    plan: BenchPlan,
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
        inputs = random_inputs(pipeline.geometry.embed_width, plan.height, plan.width, plan.seed)
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


def _job(bundle: Bundle, plan: BenchPlan, item: EngineTimes) -> ColdStartJob:
    return ColdStartJob(
        str(bundle.root), item.name, item.precision, plan.device, plan.threads, plan.height, plan.width, plan.seed
    )


def _feeds(bundle: Bundle, geometry: Geometry, plan: BenchPlan) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """Random inputs of every component, at the shapes of a run of one picture with guidance."""
    rng = np.random.default_rng(plan.seed)
    feeds = {}
    for component in COMPONENTS:
        sizes = geometry.sizes(component, plan.height, plan.width)
        feeds[component] = {
            spec.name: rng.standard_normal(spec.shape(sizes), np.float32)
            for spec in bundle.component(component).spec.inputs
        }
    feeds["unet"]["timestep"].fill(500)
    np.clip(feeds["movq_encoder"]["image"], -1, 1, out=feeds["movq_encoder"]["image"])
    return feeds
