"""The separate parts of a mask, each with an area of its own, so that two distant spots do not cost the way between.

Legend: H, W pixels · r, c cells of the grid in which parts are found
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.pictures.boxes import Box

Bools = npt.NDArray[np.bool_]
Plan = Callable[[Box], Box]
"""The bounds of a part → the box of the area that is worked on."""

_MOST_CELLS = 512  # along a side of the grid


def clusters(changed: Bools, plan: Plan) -> list[Bools]:
    """The parts of a mask whose areas do not overlap, each as a mask (H, W); one part if a common area is cheaper.

    Args:
        changed: (H, W), the pixels that a run may change.
        plan: the area of a part. Parts whose areas overlap become one.
    """
    cell = max(8, -(-max(changed.shape) // _MOST_CELLS))
    found = list(_components(_cells(changed, cell)))
    bounds = [_bounds(changed, part, cell) for part in found]
    merged = _merged([([label], box, plan(box)) for label, box in enumerate(bounds)], plan)
    if len(merged) < 2 or sum(_size(box) for _, _, box in merged) >= _size(
        plan(_union([group[1] for group in merged]))
    ):
        return [changed]
    return [_mask_of(changed, [found[label] for label in labels], cell) for labels, _, _ in merged]


def _merged(groups: list[tuple[list[int], Box, Box]], plan: Plan) -> list[tuple[list[int], Box, Box]]:
    """Groups of parts whose areas do not overlap."""
    done: list[tuple[list[int], Box, Box]] = []
    waiting = list(groups)
    while waiting:
        labels, bounds, box = waiting.pop()
        touching = [group for group in done if _overlap(group[2], box)]
        if not touching:
            done.append((labels, bounds, box))
            continue
        done = [group for group in done if group not in touching]
        bounds = _union([bounds, *(group[1] for group in touching)])
        waiting.append((labels + [label for group in touching for label in group[0]], bounds, plan(bounds)))
    return sorted(done, key=lambda group: (group[1][1], group[1][0]))


def _cells(changed: Bools, cell: int) -> Bools:
    """The grid (r, c): whether any pixel of a cell is changed."""
    rows = np.logical_or.reduceat(changed, np.arange(0, changed.shape[0], cell), axis=0)
    return np.logical_or.reduceat(rows, np.arange(0, changed.shape[1], cell), axis=1)


def _components(cells: Bools) -> Iterator[npt.NDArray[np.intp]]:
    """The cells of each connected part, (n, 2); cells that touch at a corner are connected."""
    places = [(int(row), int(column)) for row, column in np.argwhere(cells)]
    left = set(places)
    for start in places:
        if start not in left:
            continue
        left.remove(start)
        part, edge = [start], [start]
        while edge:
            row, column = edge.pop()
            for near in ((row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)):
                if near in left:
                    left.remove(near)
                    part.append(near)
                    edge.append(near)
        yield np.array(part)


def _mask_of(changed: Bools, parts: list[npt.NDArray[np.intp]], cell: int) -> Bools:
    mask = np.zeros_like(changed)
    for row, column in np.concatenate(parts) * cell:
        inside = np.s_[row : row + cell, column : column + cell]
        mask[inside] = changed[inside]
    return mask


def _bounds(changed: Bools, part: npt.NDArray[np.intp], cell: int) -> Box:
    """The bounds of the changed pixels of a part."""
    top, left = part.min(axis=0) * cell
    bottom, right = (part.max(axis=0) + 1) * cell
    region = changed[top:bottom, left:right]
    own = _mask_of(region, [part - part.min(axis=0)], cell)
    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1]) + 1, int(top + rows[-1]) + 1


def _union(boxes: list[Box]) -> Box:
    return (
        min(box[0] for box in boxes), min(box[1] for box in boxes),
        max(box[2] for box in boxes), max(box[3] for box in boxes),
    )  # fmt: skip


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _size(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
