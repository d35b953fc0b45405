"""TensorRT engines: a graph of a bundle, compiled for this GPU and the sizes of its profiles.

The network is strongly typed: it computes in the types of the ONNX graph. The engine is stripped of its weights, which
stay in the bundle. The times of the kernels are kept for the next build (the timing cache).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from kandinsky_runtime.engines.build_job import BuildJob
from kandinsky_runtime.engines.compile_cache import ensure_entry
from kandinsky_runtime.engines.records import cache_subfolder
from kandinsky_runtime.engines.tensorrt.cuda_memory import Gpu
from kandinsky_runtime.engines.tensorrt.engine import PLAN, made_with
from kandinsky_runtime.engines.tensorrt.library import failure, log_of, tensorrt
from kandinsky_runtime.errors import EngineError, Kandinsky22Error
from kandinsky_runtime.files import fingerprint, write_whole
from kandinsky_runtime.progress import ProgressBar

_log = logging.getLogger(__name__)


def build(job: BuildJob) -> bool:
    """Build an engine, unless the same one was built before, and record it.

    Returns:
        Whether it had to be built.

    Raises:
        EngineUnavailable: TensorRT is not installed or too old, or there is no GPU.
        EngineError: TensorRT cannot build it; the text has the reason.
        OSError: it cannot be written.
        KeyboardInterrupt: the build was interrupted.
    """
    library, gpu = tensorrt(), Gpu.open(job.options.device)
    machine = made_with(library, gpu)
    name = fingerprint(
        {
            "files": dict(job.digests),
            "shapes": [{tensor.name: profile.shapes(tensor) for tensor in job.spec.inputs} for profile in job.profiles],
            "precision": job.options.precision,
            "workspace": job.workspace,
            **machine,
        }
    )
    folder = cache_subfolder(job.engine.name)
    timing = cache_subfolder("tensorrt-timing") / fingerprint(machine)
    missing = ensure_entry(folder, name, lambda draft: (draft / PLAN).write_bytes(_compiled(library, job, timing)))
    job.record(name, machine).save(job.digests)
    return missing


def _compiled(library: Any, job: BuildJob, timing: Path) -> Any:
    """The engine's bytes; what the library raises becomes an EngineError."""
    try:
        return _compile(library, job, timing)
    except (Kandinsky22Error, OSError):
        raise
    except Exception as error:  # the bindings raise nearly anything
        raise failure(log_of(library), f"TensorRT cannot build the engine of {job.component}: {error}") from error


def _compile(library: Any, job: BuildJob, timing: Path) -> Any:
    log = log_of(library)
    builder = library.Builder(log)
    # TensorRT 11 has no other networks; TensorRT 10 needs the flag.
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(job.files["graph"])):
        raise _parse_failure(parser, log, job.component)
    config = _config(library, builder, job)
    cache = _timing_cache(config, timing)
    monitor = _monitor(library, job.component, job.progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise failure(log, f"TensorRT cannot build the engine of {job.component}")
    _keep_timings(cache, timing)
    return plan


def _config(library: Any, builder: Any, job: BuildJob) -> Any:
    config = builder.create_builder_config()
    for flag in (library.BuilderFlag.STRIP_PLAN, library.BuilderFlag.REFIT_IDENTICAL):
        config.set_flag(flag)
    if job.options.precision.is_float32:
        config.clear_flag(library.BuilderFlag.TF32)  # on by default: its mantissa has ten bits, float32's 23
    if job.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, job.workspace)
    for item in job.profiles:
        profile = builder.create_optimization_profile()
        for tensor in job.spec.inputs:
            profile.set_shape(tensor.name, *item.shapes(tensor))
        if config.add_optimization_profile(profile) < 0:
            raise failure(log_of(library), f"TensorRT does not take the profile {item.profile} of {job.component}")
    return config


def _timing_cache(config: Any, file: Path) -> Any:
    """The builder's cache of kernel times, with those of earlier builds on this machine if they can be read."""
    try:
        content = file.read_bytes()
    except OSError:
        content = b""
    for data in (content, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        _log.info("the timing cache %s cannot be used: starting an empty one", file)
    raise EngineError("TensorRT cannot make a timing cache, not even an empty one")


def _keep_timings(cache: Any, file: Path) -> None:
    """Write the kernel times for the next build, which takes longer without them."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda stream: stream.write(cache.serialize()))
    except OSError as error:
        _log.info("the timing cache cannot be written to %s: %s", file, error)


def _parse_failure(parser: Any, log: Any, component: str) -> EngineError:
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    reasons = "; ".join(f"node {error.node_name()} ({error.node_operator()}): {error.desc()}" for error in errors)
    if not reasons:
        return failure(log, f"TensorRT cannot read the graph of {component}")
    log.errors.clear()
    return EngineError(
        f"TensorRT cannot read the graph of {component} ({reasons}): k22-export check BUNDLE lists what it cannot take"
    )


def _monitor(library: Any, component: str, progress: bool) -> Any:
    """A bar for each phase of a build, inner phases below outer ones. It also stops the build on Ctrl-C."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._bars: dict[str, ProgressBar] = {}
            self._lock = threading.Lock()  # TensorRT calls from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._bars[phase_name] = ProgressBar(
                    total=num_steps, desc=f"{component}: {phase_name}", position=len(self._bars), leave=False,
                    disable=not progress,
                )  # fmt: skip

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                with self._lock:
                    bar = self._bars[phase_name]
                    bar.update(step + 1 - bar.n)
            except KeyboardInterrupt:  # it cannot pass through TensorRT
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._bars.pop(phase_name).close()

    return Monitor()
