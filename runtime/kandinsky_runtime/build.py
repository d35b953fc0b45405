"""`k22 build`: compile every graph of a bundle for one engine, on this machine."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.build_job import BuildJob, Built, NotApplicable
from kandinsky_runtime.engines.profiles import Profile, graph_profiles
from kandinsky_runtime.engines.registry import Selection
from kandinsky_runtime.engines.tensorrt_rtx.options import check_weight_memory
from kandinsky_runtime.errors import EngineUnavailable, Kandinsky22Error, UsageError
from kandinsky_runtime.limits import MAX_PIXELS, MAX_RESULTS, MIN_SIZE

# For each engine, the module whose `build(job)` builds a graph for it.
_BUILDERS = {
    "tensorrt-rtx": "tensorrt_rtx.build",
    "tensorrt": "tensorrt.build",
    "openvino": "openvino.build",
    "onnxruntime": "loading_build",
    "paddle": "loading_build",
}
_WITH_WORKSPACE = ("tensorrt", "tensorrt-rtx")
_WITH_WEIGHT_MEMORY = "tensorrt-rtx"


def build_bundle(
    bundle: Bundle,
    engine: str,
    profiles: Sequence[Profile],
    *,
    name: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    workspace: int | None = None,
    weight_memory: str | None = None,
    progress: bool = False,
) -> list[Built]:
    """Build every graph of a bundle that was not built in the same way before.

    Args:
        bundle: an opened bundle.
        engine: the engine's name; not "auto".
        profiles: one or more profiles.
        name: the bundle's path in messages; None for its folder.
        precision: the precision to build for; None for the engine's default among those in the bundle.
        device: the device's name for the engine; None for the engine's default.
        workspace: the bytes of GPU memory that a layer may use; None for all. TensorRT and TensorRT-RTX only.
        weight_memory: the GPU memory that each graph's weights may take when it runs: a size such as "2G", a share such
            as "50%", or "auto". The rest is read from the host's memory in each run. None for all weights. TensorRT-RTX
            only.
        progress: whether bars are shown on stderr.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: nothing can be built for the engine, or the graphs do not take the sizes.
        EngineUnavailable: the engine, its library or its device is not available.
        EngineError: a graph could not be built.
    """
    build = _builder(engine)
    if workspace is not None and engine not in _WITH_WORKSPACE:
        able = ", ".join(_WITH_WORKSPACE)
        raise UsageError(f"a workspace is for engine {able} only; got engine {engine}: leave the workspace out")
    if weight_memory is not None:
        if engine != _WITH_WEIGHT_MEMORY:
            raise UsageError(
                f"weight memory is for engine {_WITH_WEIGHT_MEMORY} only; got engine {engine}: leave it out"
            )
        check_weight_memory(weight_memory)
    for profile in profiles:
        _check_sizes(profile)
    selection = registry.to_build(bundle.manifest, engine, precision, device)
    geometry = Geometry.of(bundle.manifest, bundle.subject)
    components = bundle.manifest.components
    wanted = {key: graph_profiles(key, entry.spec, geometry, profiles) for key, entry in components.items()}
    selections, results = _selections(selection, bundle)
    bundle.check_content(
        [components[key].variants[item.variant] for key, item in selections.items()], progress=progress
    )

    def job(key: str, item: Selection) -> BuildJob:
        variant, options = components[key].variants[item.variant], EngineOptions(item.device, precision=item.precision)
        files, digests = bundle.paths(variant), bundle.manifest.digests(variant)
        path, spec = name or str(bundle.root), components[key].spec
        return BuildJob(
            item.engine, key, spec, files, digests, path, wanted[key], options, workspace, weight_memory, progress
        )

    for key, item in selections.items():
        start = time.perf_counter()
        built, left_out = False, None
        try:
            built = build(job(key, item))
        except NotApplicable as reason:
            left_out = str(reason)
        except OSError as error:
            raise Kandinsky22Error(f"what is built of {key} cannot be written to disk: {error}") from error
        results[key] = Built(key, built, time.perf_counter() - start, left_out)
    return [results[key] for key in components]


def _selections(decoder: Selection, bundle: Bundle) -> tuple[dict[str, Selection], dict[str, Built]]:
    """What a run takes for each graph, and the results for optional graphs that have no variant for the engine."""
    selections, left_out = {}, {}
    for key in bundle.manifest.components:
        try:
            selections[key] = registry.for_component(decoder, bundle.manifest, key)
        except EngineUnavailable as error:
            left_out[key] = Built(key, False, 0.0, str(error))
    return selections, left_out


def _check_sizes(profile: Profile) -> None:
    """Refuse sizes that no run may have."""
    if min(profile.height.min, profile.width.min) < MIN_SIZE:
        raise UsageError(f"{profile}: expected heights and widths of at least {MIN_SIZE} px")
    if profile.height.max * profile.width.max > MAX_PIXELS:
        raise UsageError(f"{profile}: expected results of at most {MAX_PIXELS:,} pixels")
    if profile.batch.max > MAX_RESULTS:
        raise UsageError(f"{profile}: expected a batch of at most {MAX_RESULTS} results")


def _builder(engine: str) -> Callable[[BuildJob], bool]:
    if engine not in _BUILDERS:
        raise UsageError(f"nothing can be built for engine {engine!r}; choose from {', '.join(_BUILDERS)}")
    build: Callable[[BuildJob], bool] = importlib.import_module(f"kandinsky_runtime.engines.{_BUILDERS[engine]}").build
    return build
