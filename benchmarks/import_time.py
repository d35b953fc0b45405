"""The import time of the runtime, compared with numpy's: medians of fresh processes, taken in turn.

python benchmarks/import_time.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = ("import numpy", "import numpy, kandinsky_runtime", "import numpy, kandinsky_runtime.decoder.inpaint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for statement in STATEMENTS * (rounds + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times[statement].append(1000 * (time.perf_counter() - start))
    base = statistics.median(times[STATEMENTS[0]][1:])
    for statement, values in times.items():
        median = statistics.median(values[1:])
        print(f"{statement:42} {median:7.1f} ms, {median - base:+7.1f} ms over numpy")


if __name__ == "__main__":
    main()
