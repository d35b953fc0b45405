"""The machine's limits, measured in the same run: matrix products, memory traffic, and memory in use."""

from __future__ import annotations

import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import torch

_TOOLS = ("torch", "diffusers", "onnxruntime-gpu", "onnxruntime", "tensorrt", "paddlepaddle-gpu", "openvino", "numpy")


def synchronize(device: str) -> None:
    """Wait for all work on the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds_of(action: Callable[[], object], device: str, repeats: int) -> list[float]:
    """Wall seconds of each repeat, the device idle before and after; one more run before does not count."""
    action()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times


@dataclass(frozen=True)
class Limits:
    """Operations a second of the largest matrix product, by precision, and bytes a second of a copy on the device."""

    operations: dict[str, float]
    bandwidth: float

    def floor(self, precision: str, operations: float, moved: float) -> float:
        """The least seconds for so many operations and bytes."""
        return max(operations / self.operations[precision], moved / self.bandwidth)


def measure(device: str, precisions: tuple[str, ...], size: int, copied: int) -> Limits:
    """Take the best of several products of two `size`² matrices, and of several copies of `copied` bytes."""
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {}
    for precision in precisions:
        left, right = (torch.randn(size, size, device=device).to(dtypes[precision]) for _ in range(2))
        out = torch.empty_like(left)

        def product(left: Any = left, right: Any = right, out: Any = out) -> None:
            torch.matmul(left, right, out=out)

        rates[precision] = 2 * size**3 / min(seconds_of(product, device, 10))
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / min(seconds_of(lambda: target.copy_(source), device, 10))
    return Limits(rates, bandwidth)


def describe(device: str) -> dict[str, Any]:
    """The machine and the versions, for the report."""
    versions = {}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_memory": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@contextmanager
def memory_watch(device: str) -> Iterator[SimpleNamespace]:
    """`peak`, the most bytes that the device had in use within the block over what it had before; None on the CPU.

    It asks the driver every 5 ms, so that memory of every library counts; something shorter may be missed.
    """
    result = SimpleNamespace(peak=None)
    if not device.startswith("cuda"):
        yield result
        return

    def used() -> int:
        free, total = torch.cuda.mem_get_info(device)
        return int(total - free)

    before, over = used(), threading.Event()
    result.peak = 0

    def watch() -> None:
        while not over.wait(0.005):
            result.peak = max(result.peak, used() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield result
    finally:
        over.set()
        watcher.join()
