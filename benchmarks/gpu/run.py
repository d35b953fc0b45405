"""Parity and speed on a machine with a GPU: this project's engines and PyTorch, and both against the GPU's limits.

    tar xf k22-gpu.tar.gz && cd k22-gpu && python run.py            an hour or so; see --help to shorten it
    python run.py --device cpu --sizes 64 --batches 1 --rounds 2 --steps 2      a dry run, for a pack of the tiny model

Needs PyTorch, numpy, Pillow, tqdm and onnx; onnxruntime-gpu, tensorrt, paddlepaddle-gpu and diffusers where they are
installed. Nothing is downloaded. `pack.py` makes the archive.

Every contestant runs behind the same interface: numpy arrays in, numpy arrays out, so that each pays for its copies to
and from the device, and each result is complete when it is timed. They take turns by whole contestants, so that one at
a time is in the GPU's memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "runtime")]

import machine  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch_engine  # noqa: E402
from report import markdown  # noqa: E402
from seeded import seeded_tensor  # noqa: E402
from weightless import Placed, join  # noqa: E402

from kandinsky_runtime import InpaintPipeline  # noqa: E402
from kandinsky_runtime.bench.inputs import random_inputs  # noqa: E402
from kandinsky_runtime.bundle.geometry import HALVES, role_of  # noqa: E402
from kandinsky_runtime.engines import registry  # noqa: E402
from kandinsky_runtime.errors import Kandinsky22Error  # noqa: E402

COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
OURS = ("tensorrt", "onnxruntime", "paddle")
WHOLE = "whole job"
REFERENCE, COMPILED = "torch", "torch-compile"
# Largest difference from PyTorch in float32, as a share of the largest value; least ratio of it to the mean error, dB.
# In float32 the order of sums differs; 11 and 8 digits leave about 50 and 34 dB after a few hundred roundings.
LARGEST_DIFFERENCE = {"fp32": 1e-3}
LEAST_PSNR = {"fp16": 40.0, "bf16": 24.0}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Contestant:
    """An engine in a precision."""

    engine: str
    precision: str


@dataclass
class Session:
    """The measurements so far, and what could not be measured."""

    bundle: Path
    args: argparse.Namespace
    limits: machine.Limits
    parity: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    references: dict[str, np.ndarray] = field(default_factory=dict)
    operations: dict[tuple[str, int], int] = field(default_factory=dict)

    def attempt(self, what: str, action: Callable[[], None]) -> None:
        """Do it, or note why it could not be done."""
        print(what, file=sys.stderr, flush=True)
        try:
            action()
        except (Kandinsky22Error, RuntimeError, OSError) as error:  # PyTorch's own are RuntimeErrors
            reason = " ".join(str(error).split())[:400]
            print(f"  left out: {reason}", file=sys.stderr, flush=True)
            self.left_out.append(f"{what}: {reason}")


def restore(folder: Path) -> Path:
    """Write the weights that the pack left out; the bundle's own hashes prove them when it is opened."""
    packed = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    for path, tensors in packed["weights"].items():
        file, rest = folder / "bundle" / path, (folder / "rest" / path).read_bytes()
        placed = [Placed.from_json(item) for item in tensors]
        if not file.exists() or file.stat().st_size != len(rest) + sum(item.length for item in placed):
            print(f"making the weights of {path}", file=sys.stderr, flush=True)
            join(file, placed, rest, seeded_tensor, packed["seed"])
    return folder / "bundle"


def feeds_of(pipeline: InpaintPipeline, component: str, size: int, batch: int) -> Feeds:
    """Random inputs of a run for so many results; the UNet's batch has both halves of the guidance."""
    side = size // pipeline.geometry.pixels_per_unit(component)
    sizes = {"batch": (HALVES if role_of(component).guided else 1) * batch, "height": side, "width": side}
    rng = np.random.default_rng(0)
    spec = pipeline.bundle.component(component).spec
    feeds = {tensor.name: rng.standard_normal(tensor.shape(sizes), np.float32) for tensor in spec.inputs}
    if component == "unet":
        feeds["timestep"].fill(501)
    if component == "movq_encoder":
        np.clip(feeds["image"], -1, 1, out=feeds["image"])
    return feeds


def compare(session: Session, contestant: Contestant, component: str, got: np.ndarray) -> None:
    """Compare a result with PyTorch's in float32."""
    wanted = session.references[component].astype(np.float64)
    error, largest = np.abs(got - wanted), float(np.abs(wanted).max())
    spread = math.sqrt(float(np.mean(error**2)))
    psnr = 20 * math.log10(largest / spread) if spread else math.inf
    share = float(error.max()) / largest
    precision = contestant.precision
    passed = share <= LARGEST_DIFFERENCE[precision] if precision == "fp32" else psnr >= LEAST_PSNR[precision]
    session.parity.append(
        {
            "component": component,
            "engine": contestant.engine,
            "precision": precision,
            "max_abs": float(error.max()),
            "psnr": psnr,
            "passed": bool(passed),
        }
    )


def job(session: Session, pipeline: InpaintPipeline, size: int, batch: int) -> Any:
    """A whole run, on a random picture."""
    inputs = random_inputs(pipeline.geometry.embed_width, size, size, 0)
    return pipeline(**inputs, num_inference_steps=session.args.steps, num_images_per_prompt=batch, output_type="np")


def measure_parity(session: Session, contestant: Contestant, pipeline: InpaintPipeline) -> None:
    """Every graph, and a whole job, at the first size."""
    size = session.args.sizes[0]
    results = {}
    for component in COMPONENTS:
        outputs = pipeline.engine(component).run(feeds_of(pipeline, component, size, 1))
        results[component] = next(iter(outputs.values()))
    results[WHOLE] = np.asarray(job(session, pipeline, size, 1).images)
    if contestant == Contestant(REFERENCE, "fp32"):
        session.references = results
    for component, got in results.items():
        compare(session, contestant, component, got)


def measure_graph(
    session: Session, contestant: Contestant, pipeline: InpaintPipeline, component: str, size: int, batch: int
) -> None:
    """Times of one graph at one shape."""
    engine, feeds = pipeline.engine(component), feeds_of(pipeline, component, size, batch)
    with machine.memory_watch(session.args.device) as memory:
        seconds = machine.seconds_of(lambda: engine.run(feeds), session.args.device, session.args.rounds)
    outputs = engine.run(feeds)
    moved = sum(array.nbytes for array in (*feeds.values(), *outputs.values()))
    moved += weight_count(session.bundle, component) * BYTES[contestant.precision]
    session.times.append(
        {
            "component": component,
            "size": size,
            "batch": batch,
            "engine": contestant.engine,
            "precision": contestant.precision,
            "seconds": seconds,
            "floor": session.limits.floor(contestant.precision, batch * session.operations[component, size], moved),
            "memory": memory.peak,
        }
    )


def measure_job(session: Session, contestant: Contestant, pipeline: InpaintPipeline, size: int, batch: int) -> None:
    """Times of whole jobs of one shape."""
    seconds, shares = [], []
    with machine.memory_watch(session.args.device) as memory:
        job(session, pipeline, size, batch)
        for _ in range(max(2, session.args.rounds // 4)):
            start = time.perf_counter()
            output = job(session, pipeline, size, batch)
            seconds.append(time.perf_counter() - start)
            shares.append(1 - output.seconds["unet"] / output.seconds["denoise"])
    session.jobs.append(
        {
            "size": size,
            "batch": batch,
            "engine": contestant.engine,
            "precision": contestant.precision,
            "seconds": seconds,
            "host_share": float(np.median(shares)),
            "memory": memory.peak,
        }
    )


def count_operations(session: Session) -> None:
    """Operations of one result at each size, counted by PyTorch."""
    with InpaintPipeline.load(session.bundle, REFERENCE, session.args.precisions[-1], session.args.device) as pipeline:
        for component in COMPONENTS:
            for size in session.args.sizes:
                feeds = feeds_of(pipeline, component, size, 1)
                session.operations[component, size] = pipeline.engine(component).operations(feeds)  # type: ignore[attr-defined]


def weight_count(bundle: Path, component: str) -> int:
    """The weights that a graph reads."""
    graph = onnx.load(bundle / component / "model-fp32.onnx", load_external_data=False).graph
    return sum(math.prod(tensor.dims) for tensor in graph.initializer)


def build(session: Session, contestant: Contestant) -> None:
    """`k22 build`, for all shapes of the run."""
    sizes, batches = sorted(session.args.sizes), sorted(session.args.batches)
    span = f"{sizes[0]}:{sizes[len(sizes) // 2]}:{sizes[-1]}"
    several = f"{batches[0]}:{batches[0]}:{batches[-1]}"
    command = ["build", str(session.bundle), "--engine", contestant.engine, "--precision", contestant.precision]
    command += ["--height", span, "--width", span, "--batch", several]
    program = "import sys; from kandinsky_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(HERE / "runtime")}
    done = subprocess.run([sys.executable, "-c", program, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"k22 {' '.join(command)}: {done.stderr.strip()}")


def measure(session: Session, contestant: Contestant) -> None:
    """Load, compare, time and release one contestant."""
    args, name = session.args, f"{contestant.engine} {contestant.precision}"
    if registry.engine_class(contestant.engine).name == "tensorrt":
        build(session, contestant)
    with InpaintPipeline.load(session.bundle, contestant.engine, contestant.precision, args.device) as pipeline:
        session.attempt(f"{name}, parity", lambda: measure_parity(session, contestant, pipeline))
        if contestant.precision not in args.timed:
            return
        batches = args.compiled_batches if contestant.engine == COMPILED else args.batches
        for size in args.sizes:
            for batch in batches:
                where = f"{name}, {size} px, {batch} results"
                for component in COMPONENTS:
                    session.attempt(
                        f"{where}, {component}",
                        lambda c=component, s=size, b=batch: measure_graph(session, contestant, pipeline, c, s, b),  # type: ignore[misc]
                    )
                session.attempt(
                    f"{where}, {WHOLE}",
                    lambda s=size, b=batch: measure_job(session, contestant, pipeline, s, b),  # type: ignore[misc]
                )


def contestants(args: argparse.Namespace) -> list[Contestant]:
    """The reference first, then PyTorch, then the engines that were requested."""
    found = [Contestant(REFERENCE, precision) for precision in args.precisions]
    if args.compiled_batches:
        found += [Contestant(COMPILED, precision) for precision in args.timed]
    return found + [Contestant(engine, precision) for engine in args.engines for precision in args.precisions]


def installed() -> tuple[str, ...]:
    """Our engines that can be tried here."""
    names = [name for name in OURS if name in registry.names()]
    return tuple(name for name in names if registry.engine_class(name).installed())


def write(session: Session, out: Path) -> None:
    """`OUT.json` with every round, and `OUT.md`."""
    args = session.args
    results = {
        "date": str(date.today()),
        "machine": machine.describe(args.device),
        "peer": torch_engine.source(),
        "limits": {"operations": session.limits.operations, "bandwidth": session.limits.bandwidth},
        "steps": args.steps,
        "operations": {f"{name} {size}": count for (name, size), count in session.operations.items()},
        "parity": session.parity,
        "times": session.times,
        "jobs": session.jobs,
        "left_out": session.left_out,
    }
    out.with_suffix(".json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(results), encoding="utf-8")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(",") if item)


def _names(text: str) -> tuple[str, ...]:
    return tuple(item for item in text.split(",") if item)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run (default: cuda)")
    parser.add_argument("--engines", type=_names, help=f"of {', '.join(OURS)} (default: those installed)")
    parser.add_argument("--precisions", type=_names, default=("fp32", "fp16"), help="compared (default: fp32,fp16)")
    parser.add_argument("--timed", type=_names, default=("fp16",), help="precisions timed (default: fp16)")
    parser.add_argument("--sizes", type=_numbers, default=(512, 768, 1024), help="in pixels (default: 512,768,1024)")
    parser.add_argument("--batches", type=_numbers, default=(1, 2, 4, 8), help="results (default: 1,2,4,8)")
    parser.add_argument(
        "--compiled-batches",
        type=_numbers,
        default=(1,),
        help="batches for torch.compile, which compiles every shape for minutes; '' skips it (default: 1)",
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of each graph (default: 20)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a whole job (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="OUT.json and OUT.md (default: results)")
    args = parser.parse_args(given)
    args.engines = installed() if args.engines is None else args.engines
    if "fp32" not in args.precisions or not set(args.timed) <= set(args.precisions):
        parser.error("--precisions must have fp32, the reference, and those of --timed")
    return args


def main() -> int:
    args = arguments()
    bundle = restore(HERE)
    on_gpu = args.device != "cpu"
    limits = machine.measure(args.device, args.precisions, 8192 if on_gpu else 1024, 1 << (30 if on_gpu else 26))
    session = Session(bundle, args, limits)
    count_operations(session)
    for contestant in contestants(args):
        name = f"{contestant.engine} {contestant.precision}"
        session.attempt(name, lambda c=contestant: measure(session, c))  # type: ignore[misc]
        write(session, args.out)  # after each, so that an interruption loses little
    print(args.out.with_suffix(".md").read_text(encoding="utf-8"))
    failed = [row for row in session.parity if not row["passed"]]
    for row in failed:
        print(f"parity failed: {row['component']}, {row['engine']} {row['precision']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
