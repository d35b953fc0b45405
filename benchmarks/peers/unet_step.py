"""One UNet step of the full model, ours beside PyTorch's eager mode, rounds taken in turn in one run.

    python benchmarks/peers/unet_step.py BUNDLE --torch-python PYTHON [--cells 64] [--rounds 5]

Every contestant is a process of its own that loads, warms up with one step, and then waits its turn; only one of them
computes at a time. PyTorch runs diffusers' module from the published config with weights of its own: the time of a step
does not depend on their values. The machine's own limit, a large matrix product in PyTorch, is taken in every
round, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

PRODUCT = 4096
CONTESTANTS = ("ours-bf16", "torch-bf16", "ours-fp32", "torch-fp32", "product-bf16")
WIDTH = 1280


def ours(kind: str, bundle: Path, cells: int) -> Callable[[], object]:
    """A step on OpenVINO."""
    from kandinsky_runtime import InpaintPipeline

    unet = InpaintPipeline.load(bundle, engine="openvino", precision=kind.partition("-")[2]).engine("unet")
    rng = np.random.default_rng(0)
    feeds = {
        "sample": rng.standard_normal((2, 9, cells, cells), np.float32),
        "timestep": np.full(2, 501, np.float32),
        "image_embeds": rng.standard_normal((2, WIDTH), np.float32),
    }
    return lambda: unet.run(feeds)


def peer(kind: str, config: Path, cells: int) -> Callable[[], object]:
    """A step of diffusers' module in PyTorch, or the matrix product."""
    import torch

    torch.set_grad_enabled(False)
    what, _, precision = kind.partition("-")
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    if what == "product":
        left, right = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
        return lambda: left @ right
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(json.loads(config.read_text())).eval().to(dtype)
    sample, embeds = torch.randn(2, 9, cells, cells).to(dtype), torch.randn(2, WIDTH).to(dtype)
    return lambda: unet(sample, torch.tensor(501), None, added_cond_kwargs={"image_embeds": embeds})


def work(step: Callable[[], object]) -> None:
    """Warm up, then time a step for each line on stdin."""
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def compare(bundle: Path, torch_python: str, cells: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round by contestant."""
    config = Path(str(resources.files("kandinsky_export"))) / "configs" / "unet.json"
    workers = {}
    for kind in CONTESTANTS:
        mine = kind.startswith("ours")
        command = [sys.executable if mine else torch_python, __file__, str(bundle if mine else config)]
        workers[kind] = subprocess.Popen(
            [*command, "--cells", str(cells), "--worker", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        answer(workers[kind], kind)
    seconds: dict[str, list[float]] = {kind: [] for kind in CONTESTANTS}
    for _ in range(rounds):
        for kind, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("step\n")
            worker.stdin.flush()
            seconds[kind].append(float(answer(worker, kind)))
    for worker in workers.values():
        worker.terminate()
    return seconds


def answer(worker: subprocess.Popen[str], kind: str) -> str:
    """The worker's next line."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{kind} ended without an answer")
    return line


def report(seconds: dict[str, list[float]], cells: int) -> None:
    """Medians, spreads, and ratios taken round by round."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, batch 2, {cells}² latents")
    base = seconds["ours-bf16"]
    for kind, values in seconds.items():
        ratios = [value / mine for value, mine in zip(values, base, strict=True)]
        rate = f", {2 * PRODUCT**3 / statistics.median(values) / 1e12:.2f} TFLOP/s" if kind == "product-bf16" else ""
        print(
            f"{kind:13} {statistics.median(values):7.3f} s ({min(values):.3f}-{max(values):.3f}),"
            f" {statistics.median(ratios):5.2f} times ours-bf16 ({min(ratios):.2f}-{max(ratios):.2f}){rate}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--torch-python", help="an interpreter that has torch and diffusers")
    parser.add_argument("--cells", type=int, default=64, help="latent height and width (default: 64, 512 px)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        make = ours if args.worker.startswith("ours") else peer
        work(make(args.worker, args.bundle, args.cells))
    elif not args.torch_python:
        parser.error("--torch-python is needed")
    else:
        report(compare(args.bundle, args.torch_python, args.cells, args.rounds), args.cells)


if __name__ == "__main__":
    main()
