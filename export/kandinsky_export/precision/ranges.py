"""The range of every value of a bundle's graphs over a whole trajectory, measured in float32.

A graph gets one more output, the largest magnitudes of its values, and an engine that collects them; the runtime's own
pipeline drives it. Only the weights that a node needs are widened to float32, when it needs them: the scan takes the
memory of the stored weights and no more.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from kandinsky_export.graphs.rewrites.element_types import FLOAT, value_types
from kandinsky_export.random_weights.sample_picture import sample_picture
from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_runtime.batch import seeds_for
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import (
    COMPONENTS,
    INPAINT,
    PICTURE_PROMPT,
    PRIOR_COMPONENTS,
    PROMPT,
    Component,
    FileEntry,
    Manifest,
    PriorEntry,
    Variant,
)
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.onnxruntime.library import FATAL_ONLY, onnxruntime_library
from kandinsky_runtime.engines.registry import Selection
from kandinsky_runtime.errors import EngineUnavailable
from kandinsky_runtime.files import file_sha256
from kandinsky_runtime.limits import MIN_SIZE
from kandinsky_runtime.observers import Clock, RunObserver
from kandinsky_runtime.prior.pipeline import STEPS as PRIOR_STEPS
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.sampling.noise import RunNoise
from kandinsky_runtime.units import do_all

Array = npt.NDArray[np.float32]

STEPS = 10
CELLS = 32
GUIDANCE_SCALE = 4.0
SCHEDULER = "ddpm"
# Their results consist of values of their first input, in the same or another order.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Split", "Slice", "Gather"})
# Prompts for a prior: a few words, and more words than any prior takes, so that all its positions are measured.
PROMPTS = ("a hat", "a red cat with a green hat in the snow " * 20)
NEGATIVE_PROMPT = "low quality"
# The manifest's description of the runs of a prior's graphs.
_PRIOR_RUNS: Mapping[str, Mapping[str, int]] = {
    "text_encoder": {"texts": len(PROMPTS) + 2},
    "image_encoder": {"pictures": 1},
    "prior": {"steps": PRIOR_STEPS, "texts": len(PROMPTS)},
}
_SEED = 0
_RANGES = "ranges"
_VARIANT = "scan"


@dataclass(frozen=True)
class GraphRun:
    """One run of a graph: its inputs by name, and its outputs in the signature's order."""

    feeds: Mapping[str, npt.NDArray[Any]]
    outputs: Sequence[Array]


@dataclass(frozen=True)
class Measured:
    """The measurements of one graph over a trajectory, which `trajectory` describes.

    Attributes:
        reach: the largest magnitude of each value, inputs included, weights and constants not.
        runs: the graph's runs in float32, in their order.
    """

    reach: Mapping[str, float]
    runs: Sequence[GraphRun]
    trajectory: Mapping[str, Any]


def watch_ranges(model: onnx.ModelProto) -> dict[str, int]:
    """Give a float32 graph one more output, "ranges", with the largest magnitudes of its float32 values.

    The result of a node that only moves a value, such as a `Reshape`, has the range of the value and is not measured
    again. A value is measured directly after the node that makes it, so that it need not stay in memory.

    Returns:
        The index in that output of each float32 value that is not a weight or a constant.
    """
    graph, types = model.graph, value_types(model)
    places: dict[str, int] = {}
    nodes: list[onnx.NodeProto] = []
    items: list[str] = []

    def watch(name: str) -> None:
        places[name] = len(items)
        magnitude, largest, item = (f"{_RANGES}/{part}/{name}" for part in ("magnitude", "largest", "item"))
        items.append(item)
        nodes.extend(
            (
                onnx.helper.make_node("Abs", [name], [magnitude], name=magnitude),
                onnx.helper.make_node("ReduceMax", [magnitude], [largest], name=largest, keepdims=0),
                onnx.helper.make_node("Reshape", [largest, f"{_RANGES}/one"], [item], name=item),
            )
        )

    for value in graph.input:
        if types[value.name] == FLOAT:
            watch(value.name)
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            if name and types[name] == FLOAT:
                if node.op_type in _MOVES and node.input[0] in places:
                    places[name] = places[node.input[0]]
                else:
                    watch(name)
    nodes.append(onnx.helper.make_node("Concat", items, [_RANGES], name=_RANGES, axis=0))
    graph.initializer.append(onnx.helper.make_tensor(f"{_RANGES}/one", onnx.TensorProto.INT64, [1], [1]))
    graph.output.append(onnx.helper.make_tensor_value_info(_RANGES, FLOAT, [len(items)]))
    del graph.node[:]
    graph.node.extend(nodes)
    return places


def scanned(components: Collection[str]) -> tuple[str, ...]:
    """Of a bundle's components those that `scan` runs: the decoder's, and a prior's that can be run."""
    runnable = [name for name in components if name == "image_encoder" or _takes_texts(components)]
    return (*COMPONENTS, *(name for name in PRIOR_COMPONENTS if name in runnable))


def check_installed(components: Collection[str]) -> None:
    """Refuse a scan of these components whose libraries are not here, before any work.

    Raises:
        EngineUnavailable: ONNX Runtime is not installed, or for a prior the tokenizer's library.
    """
    missing = [] if _WatchingEngine.installed() else [_WatchingEngine.distribution]
    if _takes_texts(components) and importlib.util.find_spec("tokenizers") is None:
        missing.append("tokenizers")
    if missing:
        raise EngineUnavailable(
            "fp16 and bf16 graphs need a measured trajectory, and a library for it is not installed:"
            f" pip install {' '.join(missing)}"
        )


def scan(
    folder: Path,
    graphs: Mapping[str, tuple[GraphSpec, Path]],
    watched: Mapping[str, Mapping[str, int]],
    scheduler: Mapping[str, Any],
    prior: PriorEntry | None = None,
) -> dict[str, Measured]:
    """Run a whole trajectory on a sample picture, mask and pair of embeddings, and a prior on texts and the picture.

    Args:
        folder: the folder that the bundle is written into.
        graphs: the signature and the ONNX file of each component; `watch_ranges` has changed the graph.
        watched: the result of `watch_ranges` for each component.
        scheduler: the checkpoint's scheduler config.
        prior: the manifest's entry of a prior, whose files are in `folder`; None without a prior.

    Returns:
        The measurements of each component.

    Raises:
        EngineUnavailable: see `check_installed`.
        EngineError: a graph cannot be run.
        NonFiniteError: a graph returns NaN or infinity in float32: the checkpoint cannot be right.
    """
    paths = {name: file.relative_to(folder).as_posix() for name, (_, file) in graphs.items()}
    components = {
        name: Component(spec, {_VARIANT: Variant(Precision.FP32, {"graph": paths[name]})})
        for name, (spec, _) in graphs.items()
    }
    files = [*paths.values(), *(() if prior is None else (*prior.tokenizer.values(), prior.constants))]
    manifest = Manifest(
        components=components,
        scheduler=scheduler,
        files={path: FileEntry((folder / path).stat().st_size, file_sha256(folder / path)) for path in files},
        prior=prior,
    )
    geometry = Geometry.of(manifest)
    bundle = Bundle(folder, replace(manifest, tasks=(*geometry.tasks, PROMPT, PICTURE_PROMPT)))
    side = max(MIN_SIZE, CELLS * geometry.factor)  # 256 px of the published model
    image, mask = sample_picture(width=side, height=side)
    embeds = seeded_embeds(_SEED, geometry.embed_width)
    settings: dict[str, Any] = {
        "image": image,
        "image_embeds": embeds["image_embeds"],
        "negative_image_embeds": embeds["negative_image_embeds"],
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "scheduler": SCHEDULER,
        "seed": _SEED,
        "output_type": "np",
    }
    with Graphs(bundle, Selection(_WatchingEngine, Precision.FP32, _VARIANT, "cpu")) as opened:
        if INPAINT in geometry.tasks:
            InpaintPipeline(opened, geometry, PriorPipeline(opened))(mask_image=mask, **settings)
        else:
            GeneratePipeline(opened, geometry, PriorPipeline(opened))(strength=1.0, **settings)
        if prompts := _prompts(graphs, image):
            _run_prior(PriorPipeline(opened), prompts)
        engines = {name: opened.engine(name) for name in graphs}
    trajectory = {"steps": STEPS, "height": side, "width": side, "scheduler": SCHEDULER}
    return {
        name: Measured(
            {value: float(engine.reach[place]) for value, place in watched[name].items()},
            tuple(engine.seen),
            trajectory if name in COMPONENTS else _PRIOR_RUNS[name],
        )
        for name, engine in engines.items()
        if isinstance(engine, _WatchingEngine)
    }


def _run_prior(prior: PriorPipeline, prompts: Sequence[Any]) -> None:
    """Make embeddings; the plan's note that the long text is cut off is not reported, because it is on purpose."""
    plan = prior.plan(prompts, NEGATIVE_PROMPT if PROMPTS[0] in prompts else None, None, None)
    noise = RunNoise("torch", seeds_for(_SEED, len(prompts)))
    with prior.graphs.run():
        samples = plan.per_sample(len(plan.prompts), 1)
        do_all(prior.embed(plan, samples, noise.samples, RunObserver(title="prior"), Clock()))


def _takes_texts(components: Collection[str]) -> bool:
    return {"text_encoder", "prior"} <= set(components)


def _prompts(components: Collection[str], picture: Image.Image) -> list[Any]:
    """The prompts that a prior with these components takes."""
    return [*(PROMPTS if _takes_texts(components) else ()), *([picture] if "image_encoder" in components else [])]


def run_plainly(file: Path, feeds: Sequence[Mapping[str, npt.NDArray[Any]]]) -> list[list[Array]]:
    """The outputs of a graph for each of `feeds`, computed node by node, with none of them fused or reordered."""
    session = plain_session(file)
    return [session.run(None, dict(item)) for item in feeds]


class _WatchingEngine(Engine):
    """Runs a graph that `watch_ranges` has changed, and keeps its inputs, outputs and ranges."""

    name = "watching"
    library = "onnxruntime"
    distribution = "onnxruntime"
    variants: ClassVar[Mapping[str, str]] = {"fp32": _VARIANT}
    roles = ("graph",)

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        self._session = plain_session(files["graph"])
        self.reach: Array = np.zeros(0, np.float32)
        self.seen: list[GraphRun] = []

    def _run(self, feeds: Arrays) -> dict[str, Array]:
        names = [spec.name for spec in self.spec.outputs]
        *outputs, reach = self._session.run([*names, _RANGES], dict(feeds))
        self.reach = np.maximum(self.reach, reach) if self.seen else reach
        self.seen.append(GraphRun({name: np.array(array) for name, array in feeds.items()}, outputs))
        return dict(zip(names, outputs, strict=True))

    def _release(self) -> None:
        del self._session


def plain_session(file: Path) -> Any:
    """A session of ONNX Runtime that keeps to the graph, and no more memory than the node at work needs."""
    onnxruntime = onnxruntime_library()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # the graph's own, so that no value waits
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may need the cores
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = EngineOptions().thread_count
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
