"""What NVIDIA's builder says of a whole bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, graph_profiles
from kandinsky_runtime.engines.tensorrt_rtx.options import profile_options
from tests.tensorrt_rtx.builder import TARGETS, Built, Job, build
from tests.tensorrt_rtx.engine_program import ATTENTION, by_kind, programs

DECODER = ("unet", "movq_encoder", "movq_decoder")
PRIOR = ("text_encoder", "image_encoder", "prior")
PRECISIONS = ("fp32", "fp16", "bf16")


# Float32 adds least: its graphs have no casts, and no attention is fused. It is built of the shallowest and the deepest
# model.
CASES = tuple(
    (blocks, precision)
    for blocks in (1, 2, 3, 4)
    for precision in PRECISIONS
    if precision != "fp32" or blocks in (1, 4)
)
# Every generation once.
PRIOR_CASES = tuple(zip(("fp32", "fp16", "bf16", "fp16"), TARGETS, strict=True))


def cases_of(*blocks: int) -> list[tuple[int, str]]:
    """The cases of models of these numbers of levels."""
    return [case for case in CASES if case[0] in blocks]


def target_of(blocks: int, precision: str) -> str:
    """A GPU generation for each number of blocks and precision, such that every precision meets every generation."""
    return TARGETS[(blocks + PRECISIONS.index(precision)) % len(TARGETS)]


def wide_profile(blocks: int) -> Profile:
    """A span of pictures and batches for a model of `blocks` levels: 64 to 128 cells, as of 512 to 1024 px for 4."""
    factor = 2 ** (blocks - 1)
    sides = Span(64 * factor, 96 * factor, 128 * factor)
    return Profile(sides, sides, Span(1, 2, 8))


def profiles_of(bundle: Bundle, component: str, profiles: Sequence[Profile]) -> tuple[GraphProfile, ...]:
    """The profiles of a graph, as `k22 build` computes them."""
    spec = bundle.manifest.components[component].spec
    return graph_profiles(component, spec, Geometry.of(bundle.manifest, bundle.subject), profiles)


def graph_file(bundle: Bundle, component: str, precision: str) -> Path:
    """The ONNX graph of a component."""
    return bundle.paths(bundle.manifest.components[component].variants[f"onnx-{precision}"])["graph"]


def build_graphs(
    bundle: Bundle, components: Iterable[str], precision: str, target: str, profiles: Sequence[Profile], folder: Path
) -> dict[str, Built]:
    """Build the engines of a bundle's graphs, by component."""
    jobs = {
        name: Job(
            graph_file(bundle, name, precision),
            folder / f"{name}-{precision}-{target}",
            target,
            profile_options(bundle.manifest.components[name].spec, profiles_of(bundle, name, profiles)),
        )
        for name in components
    }
    return dict(zip(jobs, build(list(jobs.values())), strict=True))


def faults_of(built: dict[str, Built]) -> dict[str, list[str]]:
    """What speaks against the engines, by component; empty where nothing does."""
    return {name: faults for name, item in built.items() if (faults := item.faults())}


def attentions(graph: Path, built: Built) -> tuple[int, int]:
    """How many attentions a graph has, and how many its engine computes in one kernel each."""
    model = onnx.load(graph, load_external_data=False)
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
    (program,) = programs(built.engines[0])
    return softmaxes, by_kind(program)[ATTENTION]
