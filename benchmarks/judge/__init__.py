"""The judge: a small network that reads from a picture which things are there, in which colour, and where.

It was trained on drawings of its own: other seeds, line widths, proportions and poses than the checkpoint's.
"""

from benchmarks.judge.judge import Judge
from benchmarks.judge.reading import Reading, Seen
from benchmarks.judge.world import JUDGE_STYLE

__all__ = ["JUDGE_STYLE", "Judge", "Reading", "Seen"]
