"""Peak memory of a whole run, from the start of the process to the picture on disk.

    python benchmarks/memory.py BUNDLE IMAGE_EMBEDS.npz [--size 768] [--steps 2] [--engine openvino] [--precision bf16]

Runs `k22 inpaint` twice in a process of its own, with and without --low-memory, and reads from Linux every 20 ms what
of the process is resident: all of it, and the part that is not a file's. The parent loads nothing that would count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INTERVAL = 0.02
K22 = "import sys; from kandinsky_runtime.cli import main; sys.exit(main())"
PICTURE = """
import sys
import numpy as np
from PIL import Image
folder, size = sys.argv[1], int(sys.argv[2])
y, x = np.mgrid[:size, :size] / size
Image.fromarray((np.stack([x, y, (x + y) / 2], axis=-1) * 255).astype(np.uint8)).save(f"{folder}/picture.png")
Image.fromarray(((abs(x - 0.5) < 0.25) & (abs(y - 0.5) < 0.25)).astype(np.uint8) * 255).save(f"{folder}/mask.png")
"""


def resident(pid: int) -> tuple[int, int]:
    """The resident bytes of a process: all of them, and those that belong to no file."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    return tuple(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; its seconds and the largest memory seen, in GB of 1e9 bytes."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, text=True)
        most = [0, 0]
        while process.poll() is None:
            try:
                most = [max(pair) for pair in zip(most, resident(process.pid), strict=True)]
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(INTERVAL)
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed")
        output.seek(0)
        seconds = json.load(output)["seconds"]
    return {"resident": most[0] / 1e9, "private": most[1] / 1e9, "total": time.perf_counter() - start, **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("image_embeds")
    parser.add_argument("--size", type=int, default=768, help="picture size in pixels (default: 768)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", help="default: the engine's")
    parser.add_argument("--options", default="", help="further options of k22 inpaint")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", PICTURE, folder, str(args.size)], check=True)
        command = [
            *(sys.executable, "-c", K22, "inpaint", args.bundle, "--image", f"{folder}/picture.png"),
            *("--mask", f"{folder}/mask.png", "--image-embeds", args.image_embeds, "--out", f"{folder}/out.png"),
            *("--num-inference-steps", str(args.steps), "--seed", "0", "--engine", args.engine, "--json", "--quiet"),
            *(["--precision", args.precision] if args.precision else []),
            *args.options.split(),
        ]
        print(f"{args.size} px, {args.steps} steps, {args.engine} {args.precision or ''}, {os.cpu_count()} cores")
        print("| | peak resident, GB | of it private, GB | seconds |")
        print("| --- | ---: | ---: | ---: |")
        for name, extra in (("graphs kept", []), ("--low-memory", ["--low-memory"])):
            got = measure([*command, *extra])
            print(f"| {name} | {got['resident']:.2f} | {got['private']:.2f} | {got['total']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
