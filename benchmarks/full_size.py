"""Export the full-size model here and compare it with eager ppdiffusers; write the figures to benchmarks/RESULTS.md.

    python benchmarks/full_size.py FOLDER        needs 24 GB of memory and 16 GB of disk, about 10 minutes

Makes a seeded full-size checkpoint in each form, exports both, and runs one UNet step at 64x64 latents in eager
ppdiffusers and on every engine. Each stage is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- full size: begin -->", "<!-- full size: end -->"
CELLS = 64


def run_stage(*command: str) -> dict[str, float]:
    """Run a command; its wall seconds and peak resident gigabytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gb": round(usage.ru_maxrss / 1e6, 2)}


def unet_feeds() -> dict[str, np.ndarray]:
    """A guidance batch of 2 at CELLS x CELLS latents."""
    rng = np.random.default_rng(0)
    return {
        "sample": rng.standard_normal((2, 9, CELLS, CELLS), np.float32),
        "timestep": np.full(2, 501, np.float32),
        "image_embeds": rng.standard_normal((2, 1280), np.float32),
    }


def eager_stage(checkpoint: Path, out: Path) -> None:
    """Write eager ppdiffusers' output."""
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.verification.reference import Reference

    np.save(out, Reference(Checkpoint.open(checkpoint)).run("unet", unet_feeds()))


def engine_stage(bundle: Path, engine: str, expected: Path, out: Path) -> None:
    """Write the difference of an engine's output from the eager one, and the seconds to load and to run."""
    from kandinsky_runtime import InpaintPipeline

    pipeline = InpaintPipeline.load(bundle, engine=engine, precision="fp32")
    start = time.perf_counter()
    unet = pipeline.engine("unet")
    loaded = time.perf_counter()
    output = unet.run(unet_feeds())["noise_pred"]
    done = time.perf_counter()
    want = np.load(expected)
    figures = {
        "max_abs": float(np.abs(output - want).max()),
        "deviation": float(want.std()),
        "load_seconds": round(loaded - start, 1),
        "step_seconds": round(done - loaded, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    out.write_text(json.dumps(figures))


def measure(folder: Path) -> dict[str, Any]:
    """Run every stage in `folder`."""
    bin_folder = Path(sys.executable).parent
    export = str(bin_folder / "k22-export")
    figures: dict[str, Any] = {"exports": {}, "engines": {}}
    for form in ("diffusers", "ppdiffusers"):
        checkpoint, bundle = folder / f"checkpoint-{form}", folder / "bundle"
        run_stage(export, "checkpoint", "--size", "full", "--format", form, "--out", str(checkpoint), "--overwrite")
        figures["exports"][form] = run_stage(export, "bundle", str(checkpoint), "--out", str(bundle), "--overwrite")
        if form == "diffusers":
            shutil.rmtree(checkpoint)
    figures["bundle_bytes"] = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    eager = folder / "eager.npy"
    run_stage(sys.executable, __file__, "eager", str(checkpoint), str(eager))
    for engine in ("onnxruntime", "paddle"):
        out = folder / f"{engine}.json"
        run_stage(sys.executable, __file__, "engine", str(bundle), engine, str(eager), str(out))
        figures["engines"][engine] = json.loads(out.read_text())
    return figures


def as_markdown(figures: dict[str, Any]) -> str:
    """The section of benchmarks/RESULTS.md."""
    tools = ", ".join(f"{name} {version(name)}" for name in ("paddlepaddle", "ppdiffusers", "onnxruntime", "numpy"))
    lines = [
        f"{date.today()}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {tools}.",
        f"Seeded weights, 1.25 + 0.07 billion parameters; the bundle has {figures['bundle_bytes'] / 1e9:.2f} GB.",
        "",
        "| checkpoint → bundle (paddle, onnx-fp32) | seconds | peak resident GB |",
        "| --- | ---: | ---: |",
        *(f"| {form} | {item['seconds']} | {item['peak_gb']} |" for form, item in figures["exports"].items()),
        "",
        f"| UNet, batch 2, {CELLS}² latents | max-abs from eager | deviation | load s | first step s | peak GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {item['max_abs']:.1e} | {item['deviation']:.2f} | {item['load_seconds']}"
            f" | {item['step_seconds']} | {item['peak_gb']} |"
            for name, item in figures["engines"].items()
        ),
    ]
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, from Linux."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="FOLDER")
    arguments = parser.parse_args().arguments
    if arguments[0] == "eager":
        eager_stage(Path(arguments[1]), Path(arguments[2]))
    elif arguments[0] == "engine":
        engine_stage(Path(arguments[1]), arguments[2], Path(arguments[3]), Path(arguments[4]))
    else:
        folder = Path(arguments[0])
        folder.mkdir(parents=True, exist_ok=True)
        text = as_markdown(measure(folder))
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
