"""Prompt to embedding, compared with diffusers on PyTorch: tokens, text encoder, and the prior's 25 steps, in turn.

    python benchmarks/peers/prompt.py BUNDLE --size full --torch-python PYTHON [--prompt TEXT]
           [--rounds 5] [--ours openvino:fp32,onnxruntime:fp32] [--theirs eager:fp32] [--json F]

BUNDLE has a prior; the interpreter has torch, diffusers and transformers. In every round each of ours works, then
PyTorch; a round before them does not count (it compiles). Ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contestants import Contestant, Entry

from kandinsky_export.random_weights.configs import SIZES, sized
from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.bundle.bundle import Bundle

STEPS = 25


def compare(args: argparse.Namespace, tokenizer: Path) -> dict[str, Any]:
    """Seconds of every round, by contestant."""
    bundle = Bundle.open(args.bundle)
    if bundle.manifest.prior is None:
        raise SystemExit("the bundle has no prior: export it with --prior")
    for path in bundle.manifest.prior.tokenizer.values():
        shutil.copy(bundle.root / path, tokenizer)
    configs = {name: sized(name, args.size) for name in ("text_encoder", "prior")}
    job = {
        "bundle": str(bundle.root),
        "tokenizer": str(tokenizer),
        "configs": configs | {"scheduler": dict(bundle.manifest.prior.scheduler)},
        "embed_width": configs["prior"]["embedding_dim"],
        "prompt": args.prompt,
        "steps": STEPS,
    }
    with ExitStack() as stack:
        running = {
            f"ours {kind}": stack.enter_context(Contestant(Entry("our_prior.py", "", kind), sys.executable, job))
            for kind in args.ours.split(",")
        }
        running[f"torch {args.theirs}"] = stack.enter_context(
            Contestant(Entry("torch_prior.py", "torch", args.theirs), args.torch_python, job)
        )
        rounds: list[dict[str, float]] = []
        for number in range(args.rounds + 1):
            seconds = {name: contestant.run("embed")["seconds"] for name, contestant in running.items()}
            print(f"round {number}: {seconds}", file=sys.stderr)
            if number:
                rounds.append(seconds)
        versions = {name: contestant.versions for name, contestant in running.items()}
    return {
        "environment": environment(),
        "size": args.size,
        "prompt": args.prompt,
        "steps": STEPS,
        "versions": versions,
        "rounds": rounds,
    }


def as_text(data: dict[str, Any]) -> str:
    """A Markdown table of medians, spreads, and ratios to the first of ours."""
    names = list(data["rounds"][0])
    lines = ["| | seconds | times ours |", "| --- | ---: | ---: |"]
    for name in names:
        seconds = [each[name] for each in data["rounds"]]
        ratios = [each[name] / each[names[0]] for each in data["rounds"]]
        lines.append(f"| {name} | {_spread(seconds)} | {_spread(ratios)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--torch-python", required=True, help="an interpreter that has torch, diffusers, transformers")
    parser.add_argument("--size", choices=SIZES, required=True, help="of the bundle's prior")
    parser.add_argument("--prompt", default="a hat")
    parser.add_argument("--ours", default="openvino:fp32", help="ENGINE:PRECISION, with commas")
    parser.add_argument("--theirs", default="eager:fp32", choices=("eager:fp32", "eager:bf16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tokenizer:
        data = compare(args, Path(tokenizer))
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    print(as_text(data))


if __name__ == "__main__":
    main()
