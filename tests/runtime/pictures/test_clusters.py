"""The separate parts of a mask: they add up to the mask, and their areas do not overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky_runtime.pictures.area import around_masks
from kandinsky_runtime.pictures.boxes import Box, planned_box
from kandinsky_runtime.pictures.clusters import clusters
from kandinsky_runtime.pictures.image import read_image
from kandinsky_runtime.pictures.mask import read_mask

MULTIPLE = 16


def plan_for(mask: np.ndarray, padding: int = 32, size: int | None = None):
    def plan(bounds: Box) -> Box:
        return planned_box(bounds, mask.shape[::-1], multiple=MULTIPLE, height=size, width=size, padding=padding)

    return plan


def spots(height: int, width: int, *places: tuple[int, int], side: int = 12) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for top, left in places:
        mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("places", "count"),
    [
        (((10, 10), (500, 900)), 2),
        (((10, 10), (500, 900), (10, 900)), 3),
        (((10, 10), (10, 30)), 1),  # their areas overlap
        (((10, 10),), 1),
        ((), 1),
    ],
)
def test_distant_spots_are_parts(places: tuple[tuple[int, int], ...], count: int) -> None:
    mask = spots(600, 1000, *places)
    found = clusters(mask, plan_for(mask))
    assert len(found) == count
    np.testing.assert_array_equal(np.sum(found, axis=0), mask)


def test_a_common_area_that_is_cheaper_is_taken() -> None:
    mask = spots(200, 200, (40, 40), (40, 121), (121, 40), (121, 121))
    assert len(clusters(mask, plan_for(mask))) == 1, "four areas of 80 px are no less than one of 160 px"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 580), st.integers(0, 980)), max_size=12), st.integers(0, 60), st.booleans())
def test_parts_add_up_and_areas_are_apart(places: list[tuple[int, int]], padding: int, sized: bool) -> None:
    mask, size = spots(600, 1000, *places), 96 if sized else None
    found = clusters(mask, plan_for(mask, padding, size))
    np.testing.assert_array_equal(np.sum(found, axis=0), mask)
    picture = read_image(np.zeros((600, 1000, 3), np.uint8))
    boxes = [
        around_masks([picture], [read_mask(part)], multiple=MULTIPLE, height=size, width=size, padding=padding)
        .areas[0]
        .box
        for part in found
    ]
    covered = np.zeros((600, 1000), int)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] += 1
    assert covered.max() == 1
    assert covered[mask].all()


def test_a_large_mask_is_quick() -> None:
    mask = spots(9000, 12000, (100, 100), (8000, 11000), side=50)
    assert len(clusters(mask, plan_for(mask))) == 2
    assert len(clusters(np.ones((4000, 4000), bool), plan_for(np.ones((4000, 4000), bool)))) == 1
