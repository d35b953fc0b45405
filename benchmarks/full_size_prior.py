"""Export the full-size prior here and compare it with eager ppdiffusers; write the figures to benchmarks/RESULTS.md.

    python benchmarks/full_size_prior.py FOLDER      needs 16 GB of memory and 30 GB of disk, about 15 minutes

Makes a seeded full-size prior, exports it with a tiny decoder of the same embedding width, and runs each of the three
graphs in eager ppdiffusers and on an engine, with a text of 12 tokens. Each stage is a process of its own, so that its
peak memory is its own. What FOLDER holds is removed as soon as it is not needed any more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from full_size import PAGE, processor, run_stage

BEGIN, END = "<!-- full size prior: begin -->", "<!-- full size prior: end -->"
ENGINE = "onnxruntime"
TOKENS = 12
COMPONENTS = ("text_encoder", "image_encoder", "prior")


def make_stage(prior: Path, decoder: Path) -> None:
    """Write the checkpoints."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    write_sample_prior(prior, size="full", form="diffusers", overwrite=True)
    write_sample_checkpoint(decoder, changes={"unet": {"encoder_hid_dim": 1280}}, overwrite=True)


def feeds(component: str) -> dict[str, np.ndarray]:
    """A guidance batch of 2, or one picture."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    if component == "image_encoder":
        return {"pixel_values": normal(1, 3, 224, 224)}
    if component == "text_encoder":
        ids = rng.integers(0, 49407, (2, TOKENS))
        ids[:, -1] = 49407
        return {"input_ids": ids, "pool_mask": np.eye(TOKENS, dtype=np.float32)[[TOKENS - 1] * 2]}
    return {
        "latents": normal(2, 1280),
        "timestep": np.full(2, 501, np.float32),
        "text_embeds": normal(2, 1280),
        "text_hidden_states": normal(2, TOKENS, 1280),
        "text_mask": np.ones((2, TOKENS), np.float32),
    }


def eager_stage(prior: Path, component: str, out: Path) -> None:
    """Write eager ppdiffusers' outputs, at the full text length."""
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
    from kandinsky_export.verification.prior_reference import PriorReference

    (outputs,) = PriorReference(PriorCheckpoint.open(prior)).run(component, [feeds(component)])
    np.savez(out, **outputs)


def engine_stage(bundle: Path, component: str, expected: Path, out: Path) -> None:
    """Write the differences of an engine's outputs from the eager ones, and the seconds to load and to run."""
    from kandinsky_runtime.engines.graphs import Graphs

    graphs = Graphs.open(bundle, ENGINE, "fp32")
    start = time.perf_counter()
    engine = graphs.engine(component)
    loaded = time.perf_counter()
    outputs = engine.run(feeds(component))
    done = time.perf_counter()
    with np.load(expected) as want:
        figures = {
            "max_abs": max(float(np.abs(outputs[name] - want[name]).max()) for name in want.files),
            "deviation": min(float(want[name].std()) for name in want.files),
            "load_seconds": round(loaded - start, 1),
            "run_seconds": round(done - loaded, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }
    out.write_text(json.dumps(figures))


def measure(folder: Path) -> dict[str, Any]:
    """Run every stage in `folder`."""
    this = (sys.executable, __file__)
    prior, decoder, bundle = folder / "prior", folder / "decoder", folder / "bundle"
    run_stage(*this, "make", str(prior), str(decoder))
    command = "import sys; from kandinsky_export.cli import main; sys.exit(main())"
    exported = run_stage(
        *(sys.executable, "-c", command, "bundle", str(decoder), "--prior", str(prior)),
        *("--out", str(bundle), "--overwrite"),
    )
    figures: dict[str, Any] = {"export": exported, "components": {}}
    figures["bytes"] = {name: sum(path.stat().st_size for path in (bundle / name).iterdir()) for name in COMPONENTS}
    for name in COMPONENTS:
        run_stage(*this, "eager", str(prior), name, str(folder / f"{name}.npz"))
    shutil.rmtree(prior)
    for name in COMPONENTS:
        out = folder / f"{name}.json"
        run_stage(*this, "engine", str(bundle), name, str(folder / f"{name}.npz"), str(out))
        figures["components"][name] = json.loads(out.read_text())
    shutil.rmtree(bundle)
    return figures


def as_markdown(figures: dict[str, Any]) -> str:
    """The section of benchmarks/RESULTS.md."""
    tools = ", ".join(f"{name} {version(name)}" for name in ("paddlepaddle", "ppdiffusers", ENGINE, "numpy"))
    export, sizes = figures["export"], figures["bytes"]
    lines = [
        f"{date.today()}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {tools}.",
        f"Seeded weights; all three graphs exported in one go (paddle, onnx-fp32): {export['seconds']} s, peak",
        f"resident {export['peak_gb']} GB, the embeddings of an empty picture included.",
        "",
        f"| graph | GB | inputs | max-abs from eager | deviation | load s | first run s | peak GB on {ENGINE} |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {sizes[name] / 1e9:.2f} | {'1 picture' if name == 'image_encoder' else f'2 x {TOKENS} tokens'}"
            f" | {item['max_abs']:.1e} | {item['deviation']:.2f} | {item['load_seconds']} | {item['run_seconds']}"
            f" | {item['peak_gb']} |"
            for name, item in figures["components"].items()
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="FOLDER")
    arguments = parser.parse_args().arguments
    stages = {"make": make_stage, "eager": eager_stage, "engine": engine_stage}
    if (stage := stages.get(arguments[0])) is not None:
        stage(*(text if text in COMPONENTS else Path(text) for text in arguments[1:]))
        return
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(measure(folder))
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
