"""`k22 build`: every graph of a bundle for one engine, on this machine."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.build_job import Built, Job, LeftOut
from kandinsky_runtime.engines.profiles import Profile, graph_profiles
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.limits import MAX_PIXELS, MAX_RESULTS, MIN_SIZE

# Engine → the module whose `build(job)` builds a graph for it.
_BUILDERS = {
    "tensorrt": "tensorrt.build",
    "openvino": "openvino.build",
    "onnxruntime": "loading_build",
    "paddle": "loading_build",
}
_WITH_WORKSPACE = ("tensorrt",)


def build_bundle(
    bundle: Bundle,
    engine: str,
    profiles: Sequence[Profile],
    *,
    name: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    workspace: int | None = None,
    progress: bool = False,
) -> list[Built]:
    """Build every graph of a bundle that has not been built in the same way.

    Args:
        bundle: an opened bundle.
        engine: its name; not "auto".
        profiles: at least one.
        name: the bundle's path as messages are to show it; None for its folder.
        precision: None for the engine's default among those in the bundle.
        device: as the engine names it; None for the engine's own.
        workspace: bytes of the GPU's memory that a layer may use; None for all. TensorRT only.
        progress: show bars on stderr.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: an engine that builds nothing, or sizes that the graphs do not take.
        EngineUnavailable: the engine, its library or its device is not here.
        EngineError: a graph could not be built.
    """
    build = _builder(engine)
    if workspace is not None and engine not in _WITH_WORKSPACE:
        raise UsageError(f"a workspace is for engine {', '.join(_WITH_WORKSPACE)} only; got engine {engine}")
    for profile in profiles:
        _check_sizes(profile)
    selection = registry.to_build(bundle.manifest, engine, precision, device)
    geometry = Geometry.of(bundle.manifest, bundle.subject)
    components = bundle.manifest.components
    wanted = {key: graph_profiles(key, entry.spec, geometry, profiles) for key, entry in components.items()}
    bundle.check_content([entry.variants[selection.variant] for entry in components.values()], progress=progress)
    done = []
    for key, entry in components.items():
        variant = entry.variants[selection.variant]
        job = Job(
            selection.engine,
            key,
            entry.spec,
            bundle.paths(variant),
            bundle.manifest.digests(variant),
            name or str(bundle.root),
            wanted[key],
            EngineOptions(selection.device, precision=selection.precision),
            workspace,
            progress,
        )
        start = time.perf_counter()
        built, left_out = False, None
        try:
            built = build(job)
        except LeftOut as reason:
            left_out = str(reason)
        except OSError as error:
            raise Kandinsky22Error(f"what is built of {key} cannot be kept: {error}") from error
        done.append(Built(key, built, time.perf_counter() - start, left_out))
    return done


def _check_sizes(profile: Profile) -> None:
    """Refuse what no run may have."""
    if min(profile.height.min, profile.width.min) < MIN_SIZE:
        raise UsageError(f"{profile}: results have at least {MIN_SIZE}x{MIN_SIZE} pixels")
    if profile.height.max * profile.width.max > MAX_PIXELS:
        raise UsageError(f"{profile}: results have at most {MAX_PIXELS:,} pixels")
    if profile.batch.max > MAX_RESULTS:
        raise UsageError(f"{profile}: a run has at most {MAX_RESULTS} results")


def _builder(engine: str) -> Callable[[Job], bool]:
    if engine not in _BUILDERS:
        raise UsageError(f"nothing is built for engine {engine!r}; engines to build for: {', '.join(_BUILDERS)}")
    build: Callable[[Job], bool] = importlib.import_module(f"kandinsky_runtime.engines.{_BUILDERS[engine]}").build
    return build
