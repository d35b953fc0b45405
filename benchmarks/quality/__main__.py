"""Measure the quality of a bundle's pictures: prompts and seeds through every engine, solver and shortcut.

    python -m benchmarks.quality BUNDLE --out FOLDER
    python -m benchmarks.quality BUNDLE --out FOLDER --groups scheduler,interval
    python -m benchmarks.quality BUNDLE --out LARGE --groups prompts --count 1000
    python -m benchmarks.quality BUNDLE --out FOLDER --settings engine=openvino,precision=bf16,steps=25

FOLDER gets quality.md, quality.json, contact sheets, and a result file for each setting. Settings with a result are
skipped, so that an interrupted run goes on where it stopped, and are shown in the tables again; other numbers of
prompts or seeds, another size, bundle or judge need a FOLDER of their own. The drawings and prompts are those of the
drawn world; none took part in any training. Without the judge's weights, accuracy and Fréchet distances are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality import report, runs
from benchmarks.quality.checking import check_settings
from benchmarks.quality.grid import BASELINE, COMMON, GROUPS, Item, grid
from benchmarks.quality.judging import Judge, open_judge
from benchmarks.quality.tasks import SIZE, make_task
from kandinsky_export.comparison.settings import Setting
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import PROMPT
from kandinsky_runtime.cli_support import INTERRUPTED
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.files import write_whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        rows = _rows(args)
        if args.common:
            Setting.parse(args.common)
        for text in dict.fromkeys((args.baseline, *(item.text for item in rows))):
            runs.setting_of(text, args.common)
        bundle = Bundle.open(args.bundle)
        bundle.require(PROMPT)
        multiple = Geometry.of(bundle.manifest).multiple
        if args.size % multiple:
            raise UsageError(f"--size is {args.size}; expected a multiple of {multiple}")
        judge = None if args.without_judge else open_judge(args.judge)
        run(args, bundle, rows, judge)
    except (Kandinsky22Error, OSError) as error:
        sys.stderr.write(f"benchmarks.quality: error: {error}\n")
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"benchmarks.quality: interrupted; finished rows are kept in {args.out}, and the same command goes on from"
            " there\n"
        )
        return INTERRUPTED
    return 0


def run(args: argparse.Namespace, bundle: Bundle, rows: Sequence[Item], judge: Judge | None) -> None:
    """Run the rows and write tables, JSON and sheets."""
    tasks = [make_task(number, args.size) for number in range(args.count)]
    baseline = Item("baseline", args.baseline)
    plan = runs.Plan(bundle, args.out, tasks, args.seeds, judge, baseline, args.common, not args.quiet)
    # A row of grid.py may have a solver or an interval that this bundle or baseline does not: it is left out.
    check_settings(plan, [baseline, *(rows if args.settings else ())])
    args.out.mkdir(parents=True, exist_ok=True)
    results = runs.run_grid(plan, rows)
    shown = list(dict.fromkeys([*grid(args.baseline), *rows]))  # with what earlier runs have finished
    results = runs.with_finished(plan, shown, results)
    floors = runs.floors(plan)
    text = report.markdown(plan, results, floors)
    sheets = report.write_sheets(plan, shown)
    write_whole(args.out / "quality.json", json.dumps({"floors": floors, "results": results}, indent=1) + "\n")
    write_whole(args.out / "quality.md", text)
    print(text)
    print("wrote", ", ".join(str(path) for path in (args.out / "quality.md", args.out / "quality.json", *sheets)))


def _rows(args: argparse.Namespace) -> list[Item]:
    """The rows asked for.

    Raises:
        UsageError: a group that there is not.
    """
    if args.settings:
        return [Item("settings", text) for text in args.settings]
    wanted = [name.strip() for name in args.groups.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in GROUPS]:
        raise UsageError(f"--groups names {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    return [item for item in grid(args.baseline) if item.group in wanted]


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of 1 or more")
    return int(text)


def _count(text: str) -> int:
    if (number := _positive(text)) < 2:
        raise argparse.ArgumentTypeError("got 1; expected 2 or more, which a Fréchet distance needs")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a bundle with a prior")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the results")
    parser.add_argument("--count", type=_count, default=200, metavar="N", help="number of prompts (default: 200)")
    parser.add_argument("--seeds", type=_positive, default=1, metavar="N", help="results of each prompt (default: 1)")
    parser.add_argument(
        "--size", type=_positive, default=SIZE, metavar="PX", help=f"side of pictures (default: {SIZE})"
    )
    parser.add_argument(
        "--baseline",
        default=BASELINE.text,
        metavar="SPEC",
        help=f"the setting that the others are compared with (default: {BASELINE.text})",
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument(
        "--groups", default=",".join(GROUPS), metavar="NAMES", help=f"groups of settings (default: {','.join(GROUPS)})"
    )
    rows.add_argument("--settings", nargs="+", metavar="SPEC", help="other settings instead of those of grid.py")
    parser.add_argument(
        "--common",
        default=COMMON,
        metavar="SPEC",
        help=f"values for settings that have none of their own; may be empty (default: {COMMON})",
    )
    judge = parser.add_mutually_exclusive_group()
    judge.add_argument("--judge", type=Path, metavar="F.npz", help="the judge's weights (default: the shipped ones)")
    judge.add_argument("--without-judge", action="store_true", help="only the measures that need no judge")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())
