"""This project and its alternatives: UNet step, MoVQ decode, whole job; rounds in turn in one run.

    python benchmarks/peers/compare.py BUNDLE --size full --torch-python PYTHON [--height 768 --width 768]
           [--rounds 5] [--works unet,decode,job] [--peers "torch eager bf16,onnxruntime fp32"]
           [--ours openvino:bf16] [--json F] [--plot F.png]

Each contestant is a process in an environment of its own. One peer at a time is loaded, next to ours: in every round
ours works, then the peer, then the machine's limit is taken, a large matrix product in bf16 and in float32 in PyTorch;
a round before them does not count (it compiles). Ratios are taken round by round. PyTorch and eager ppdiffusers run the
published configs with weights of their own; Paddle Inference (which needs the bundle's variant `paddle`) and ONNX
Runtime run the bundle's graphs. The job is measured over 5 whole steps and the first, with both MoVQ passes, and
extrapolated to `--job-steps`. A peer that cannot run here is left out by name, with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from contestants import LIMIT, PEERS, Contestant, Entry, LeftOut
from report import as_text, extrapolated, save_plot

from kandinsky_export.random_weights.configs import SIZES, sized
from kandinsky_runtime.bench.report import environment
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.engines.registry import select

WORKS = ("unet", "decode", "job")
WHOLE_STEPS = 5


def versus(
    peer: str, pythons: dict[str, str], ours: Contestant, limit: Contestant, job: dict[str, Any], plan: dict[str, Any]
) -> dict[str, Any]:
    """Every round of a peer against ours, by work."""
    entry = PEERS[peer]
    rounds: dict[str, list[dict[str, float]]] = {work: [] for work in plan["works"]}
    with Contestant(entry, pythons[entry.environment], job) as theirs:
        for work in plan["works"]:
            for number in range(plan["rounds"] + 1):
                got = {"ours": ours.run(work), "peer": theirs.run(work)}
                figures = {name: extrapolated(answer, plan["job_steps"]) for name, answer in got.items()}
                figures |= {name: limit.run(name)["seconds"] for name in ("product-bf16", "product-fp32")}
                if number:
                    rounds[work].append(figures)
                    print(f"{peer}, {work}, round {number}: {figures['peer'] / figures['ours']:.2f}", file=sys.stderr)
        return {"versions": theirs.versions, "rounds": rounds}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    bundle = Bundle.open(args.bundle)
    geometry = Geometry.of(bundle.manifest)
    configs = {name: sized(name, args.size) for name in ("unet", "movq", "scheduler")}
    if configs["unet"]["encoder_hid_dim"] != geometry.embed_width:
        raise SystemExit(f"the bundle is not of size {args.size}: its embeddings are {geometry.embed_width} wide")
    for side in ("height", "width"):
        if getattr(args, side) % geometry.multiple:
            raise SystemExit(f"--{side} must be a multiple of {geometry.multiple}, which all contestants take")
    engine, _, precision = args.ours.partition(":")
    chosen = select(bundle.manifest, engine, precision or None)
    kind = f"{chosen.engine.name}:{chosen.precision}"
    job = {
        "bundle": str(bundle.root),
        "configs": configs,
        "height": args.height,
        "width": args.width,
        "embed_width": geometry.embed_width,
        "factor": geometry.factor,
        "steps": WHOLE_STEPS + 1,
        "product": args.product,
    }
    plan = {"works": args.works.split(","), "rounds": args.rounds, "job_steps": args.job_steps}
    pythons = {
        "torch": args.torch_python,
        "paddle": args.paddle_python or sys.executable,
        "ort": args.ort_python or sys.executable,
    }
    results, left_out = {}, {}
    with (
        Contestant(Entry("ours.py", "", kind), sys.executable, job) as ours,
        Contestant(Entry("matrix_product.py", "torch"), args.torch_python, job) as limit,
    ):
        for peer in args.peers.split(",") if args.peers else PEERS:
            try:
                results[peer] = versus(peer, pythons, ours, limit, job, plan)
            except LeftOut as error:
                left_out[peer] = str(error)
                print(f"{peer} is left out: {error}", file=sys.stderr)
        versions = {"ours": ours.versions, LIMIT: limit.versions}
    return {
        "environment": environment(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ours": kind,
        "size": args.size,
        "height": args.height,
        "width": args.width,
        "product": args.product,
        "plan": plan,
        "versions": versions,
        "peers": results,
        "left_out": left_out,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--torch-python", required=True, help="an interpreter that has torch and diffusers")
    parser.add_argument("--paddle-python", help="one that has paddlepaddle and ppdiffusers (default: this one)")
    parser.add_argument("--ort-python", help="one that has onnxruntime (default: this one)")
    parser.add_argument("--size", choices=SIZES, required=True, help="size of the bundle's model")
    parser.add_argument("--ours", default="openvino", help="ENGINE or ENGINE:PRECISION (default: openvino, its own)")
    parser.add_argument("--peers", help=f"with commas, of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job-steps", type=int, default=150, help="steps that a job is extrapolated to (default: 150)")
    parser.add_argument("--product", type=int, default=4096, help="side of the matrices (default: 4096)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="a .png; needs matplotlib")
    args = parser.parse_args()
    if unknown := [peer for peer in (args.peers.split(",") if args.peers else []) if peer not in PEERS]:
        parser.error(f"no such peer: {', '.join(unknown)}; choose from {', '.join(PEERS)}")
    if unknown := [work for work in args.works.split(",") if work not in WORKS]:
        parser.error(f"no such work: {', '.join(unknown)}; choose from {', '.join(WORKS)}")
    if args.rounds < 1 or args.job_steps <= WHOLE_STEPS:
        parser.error(f"--rounds must be at least 1 and --job-steps more than {WHOLE_STEPS}")
    data = compare(args)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    print(as_text(data))
    if args.plot:
        save_plot(data, args.plot)


if __name__ == "__main__":
    main()
