"""The judge's own world: wider ranges than those of the checkpoint's pictures, around them, and a pose of its own."""

from __future__ import annotations

from benchmarks.drawings.scene import HELD_OUT_POSE, POSES, Style

JUDGE_STYLE = Style(
    line=(5.5, 13.0),
    head=(0.125, 0.20),
    across=(0.35, 0.65),
    down=(0.39, 0.53),
    turn=0.24,
    eyes=(0.8, 1.2),
    build=(0.8, 1.2),
    poses=(*POSES, HELD_OUT_POSE),
)
