"""Pack the files that `benchmarks/gpu/run.py` needs on a machine without this project: a few MB, without weights.

    python benchmarks/gpu/pack.py BUNDLE CHECKPOINT OUT.tar.gz [--seed 0]

BUNDLE is the bundle of CHECKPOINT, a checkpoint with random weights (`k22-export checkpoint --size full --seed N`).
There:

    tar xf OUT.tar.gz && cd k22-gpu && python run.py
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parent.parent.parent
FOLDER = "k22-gpu"
SCRIPTS = Path(__file__).parent
# The most bytes that may remain of the weights: headers, padding, and the few tensors that an export computes.
MOST_REST = 64 << 20
# A package as pip records it: it makes PyTorch an engine of the runtime.
DIST_INFO = "k22_gpu_torch-1.0.dist-info"
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: k22-gpu-torch\nVersion: 1.0\n",
    "entry_points.txt": (
        "[kandinsky22.engines]\ntorch = torch_engine:TorchEager\ntorch-compile = torch_engine:TorchCompiled\n"
    ),
}


def pack(bundle: Path, checkpoint: Path, out: Path, seed: int) -> int:
    """Write the archive; its size in bytes.

    Raises:
        SystemExit: the weights are not those of the seed.
    """
    from benchmarks.gpu.weightless import external_tensors, split
    from kandinsky_export.random_weights.seeded import seeded_tensor

    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    placed: dict[str, dict[str, Any]] = {}
    for component, entry in manifest["components"].items():
        prefix = f"{'unet' if component == 'unet' else 'movq'}."
        for path in {variant["files"].get("graph") for variant in entry["variants"].values()} - {None}:
            graph = onnx.load(bundle / path, load_external_data=False)
            for location, tensor in external_tensors(graph, prefix):
                file = str((Path(path).parent / location).as_posix())
                placed.setdefault(file, {})[tensor.name] = tensor
    weights, contents = {}, {}
    for path, tensors in placed.items():
        made, rest = split(bundle / path, tensors.values(), seeded_tensor, seed)
        if len(rest) > MOST_REST:
            raise SystemExit(
                f"{path}: only {len(made)} of {len(tensors)} tensors are those of seed {seed}; pack the bundle of a"
                " checkpoint made by `k22-export checkpoint`, and give its --seed"
            )
        weights[path] = [tensor.to_json() for tensor in made]
        contents[f"rest/{path}"] = rest
    files = {f"bundle/{path}": bundle / path for path in manifest["files"] if path not in weights}
    files["bundle/manifest.json"] = bundle / "manifest.json"
    files |= {f"configs/{name}.json": checkpoint / name / "config.json" for name in ("unet", "movq")}
    files |= {path.name: path for path in SCRIPTS.glob("*.py") if path.name not in ("pack.py", "__init__.py")}
    files["seeded.py"] = ROOT / "export" / "kandinsky_export" / "random_weights" / "seeded.py"
    package = ROOT / "runtime"
    files |= {
        path.relative_to(ROOT).as_posix(): path for path in package.rglob("*") if path.suffix in (".py", ".typed")
    }
    contents |= {f"{DIST_INFO}/{name}": text.encode() for name, text in METADATA.items()}
    contents["pack.json"] = json.dumps({"seed": seed, "weights": weights}).encode()
    with tarfile.open(out, "w:gz") as archive:
        for name, file in sorted(files.items()):
            archive.add(file, f"{FOLDER}/{name}", filter=_without_owner)
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.stat().st_size


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="its config.json files describe the models to PyTorch")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="seed of the checkpoint (default: 0)")
    args = parser.parse_args()
    size = pack(args.bundle, args.checkpoint, args.out, args.seed)
    print(f"wrote {args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "runtime")]
    main()
