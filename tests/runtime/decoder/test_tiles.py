"""Tiles: every place is covered with weights that add up to 1, and no border shows where two meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.tiles import OVERLAP, SIZE, Tiling
from kandinsky_runtime.errors import NonFiniteError, UsageError
from tests.runtime.fake_bundle import FACTOR, WIDTH, FakeEngine, Outputs
from tests.tolerances import TILE, TILED_PICTURE

Array = np.ndarray


class Enlarging:
    """A decoder of sorts: every latent cell becomes `factor` x `factor` pixels. Notes what it was given."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.given: list[tuple[tuple[int, ...], str]] = []

    def __call__(self, latents: Array, during: str) -> Array:
        assert latents.flags.c_contiguous
        self.given.append((latents.shape, during))
        return latents[:, :3].repeat(self.factor, axis=2).repeat(self.factor, axis=3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tiling, int, int]:
    size = draw(st.integers(2, 12))
    tiling = Tiling(draw(st.integers(1, 4)), size, draw(st.integers(1, size - 1)))
    return tiling, draw(st.integers(1, 40)), draw(st.integers(1, 40))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_a_local_graph_in_tiles_is_the_graph_itself(case: tuple[Tiling, int, int]) -> None:
    tiling, height, width = case
    latents = np.random.default_rng(height).standard_normal((1, 4, height, width), np.float32)
    graph = Enlarging(tiling.factor)
    picture = tiling.decode(graph, latents, "result 1 of 1")
    expected = Enlarging(tiling.factor)(latents, "")
    meeting = (-(-tiling.size // (tiling.size - tiling.overlap)) + 1) ** 2  # tiles in a pixel, at most
    tolerance = meeting * TILE * np.abs(expected).max()
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture, expected, rtol=0, atol=tolerance)
    shapes = {shape for shape, _ in graph.given}
    assert shapes == {(1, 4, min(height, tiling.size), min(width, tiling.size))}, "one shape to compile"
    if height <= tiling.size and width <= tiling.size:
        np.testing.assert_array_equal(picture, expected)
        assert [during for _, during in graph.given] == ["result 1 of 1"]

    def shrinking(tile: Array, _: str) -> Array:
        return np.ascontiguousarray(tile[:, :, :: tiling.factor, :: tiling.factor])

    np.testing.assert_allclose(tiling.encode(shrinking, expected, ""), latents[:, :3], rtol=0, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_tiles_that_differ_blend_without_a_border(case: tuple[Tiling, int, int], random: Any) -> None:
    """Each tile comes out in a shade of its own: between neighbouring pixels the shade changes by small steps only."""
    tiling, height, width = case

    def shade(latents: Array, _: str) -> Array:
        sides = (side * tiling.factor for side in latents.shape[2:])
        return np.full((1, 3, *sides), random.random(), np.float32)

    picture = tiling.decode(shade, np.zeros((1, 4, height, width), np.float32), "")
    assert picture.min() >= 0
    assert picture.max() <= 1
    step = 2 / (tiling.factor * tiling.overlap)  # two tiles fade over one overlap; where three meet, twice as fast
    for axis in (2, 3):
        assert np.abs(np.diff(picture, axis=axis)).max(initial=0) <= step + TILED_PICTURE


def test_tiles_are_spread_evenly() -> None:
    graph = Enlarging(8)
    Tiling(8, 64, 16).decode(graph, np.zeros((1, 4, 65, 160), np.float32), "result 2 of 3")
    assert [shape for shape, _ in graph.given] == [(1, 4, 64, 64)] * 6
    assert graph.given[4][1] == "result 2 of 3, tile 5 of 6"


@pytest.mark.parametrize(("multiple", "size"), [(64, 64), (16, 64), (8 * 48, 96)])
def test_tiles_are_what_the_graphs_take(multiple: int, size: int) -> None:
    geometry = Geometry(4, 8, 8, multiple, WIDTH)
    assert Tiling.of(geometry) == Tiling(8, size, OVERLAP)


# -- in the pipeline --

HEIGHT, ACROSS = 144, 1040
RNG = np.random.default_rng(3)
MASK = np.zeros((HEIGHT, ACROSS), np.uint8)
MASK[16:100, 400:700] = 255
SOUND: dict[str, Any] = {
    "image": RNG.integers(0, 256, (HEIGHT, ACROSS, 3), np.uint8),
    "mask_image": MASK,
    "image_embeds": RNG.standard_normal(WIDTH),
    "negative_image_embeds": RNG.standard_normal(WIDTH),
    "num_inference_steps": 2,
    "seed": 5,
    "output_type": "np",
    "composite": "none",
}


@pytest.fixture
def tiled(bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[InpaintPipeline]:
    with InpaintPipeline.load(bundle, "fake", tiles=True) as loaded:
        yield loaded


def test_large_pictures_go_in_tiles(
    tiled: InpaintPipeline, pipeline: InpaintPipeline, fake_engine: type[FakeEngine]
) -> None:
    images = tiled(**SOUND).images
    given = [(name, feeds) for name, feeds in fake_engine.runs if name.startswith("movq")]
    assert [name for name, _ in given] == ["movq_encoder"] * 3 + ["movq_decoder"] * 3
    assert given[0][1]["image"].shape == (1, 3, HEIGHT, SIZE * FACTOR)
    assert given[3][1]["latents"].shape == (1, 4, HEIGHT // FACTOR, SIZE)
    np.testing.assert_allclose(images, pipeline(**SOUND).images, rtol=0, atol=TILED_PICTURE)


def test_small_pictures_do_not(tiled: InpaintPipeline, pipeline: InpaintPipeline) -> None:
    small = SOUND | {"image": SOUND["image"][:, :512], "mask_image": MASK[:, :512]}
    np.testing.assert_array_equal(tiled(**small).images, pipeline(**small).images)


def test_an_error_names_the_tile(
    tiled: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(component: str, run: int, outputs: Outputs) -> Outputs:
        bad = component == "movq_decoder" and run == 1
        return {name: array * np.nan if bad else array for name, array in outputs.items()}

    monkeypatch.setattr(fake_engine, "alter", staticmethod(alter))
    with pytest.raises(NonFiniteError, match="movq_decoder on fake, result 1 of 1, tile 2 of 3: "):
        tiled(**SOUND)


@pytest.mark.parametrize("value", [None, 1, 512])
def test_tiles_is_yes_or_no(bundle: Path, fake_engine: type[FakeEngine], value: Any) -> None:
    with pytest.raises(UsageError, match="tiles is .*; expected True or False"):
        InpaintPipeline.load(bundle, "fake", tiles=value)
