"""Masks: reading of every source, resizing, the latent grid and pasting, against oracles written here."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures.mask import (
    box_mask,
    fit_mask,
    is_all_keep,
    largest_value,
    latent_keep_mask,
    paste_pixels,
    read_mask,
    understand_mask,
)

RNG = np.random.default_rng(22)
BINARY = RNG.integers(0, 2, (6, 9)).astype(np.float32)
LEVELS = np.arange(256, dtype=np.uint8).reshape(8, 32)


def decide(source: object, **options) -> np.ndarray:
    """The binary mask of a source at its own size."""
    mask = read_mask(source, **options)
    return fit_mask(mask, *mask.size)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


class TestPictures:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F"])
    def test_white_repaints_in_every_mode(self, mode: str) -> None:
        grey = Image.fromarray((BINARY * 255).astype(np.uint8))
        if mode == "I;16":
            image = Image.fromarray((BINARY * 65535).astype(np.uint16))
        elif mode == "I;16B":
            image = Image.frombytes("I;16B", grey.size, (BINARY * 65535).astype(">u2").tobytes())
        elif mode == "I":
            image = Image.fromarray((BINARY * 65535).astype(np.int32))
        elif mode == "F":
            image = Image.fromarray(BINARY)
        else:
            image = grey.convert("RGB" if mode in ("CMYK", "RGBA") else "L").convert(mode)
        assert image.mode == mode
        got = decide(image)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, BINARY)
        np.testing.assert_array_equal(decide(image, invert=True), 1 - BINARY)

    @pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "F"])
    def test_levels_of_one_half_and_more_repaint(self, mode: str) -> None:
        if mode == "I;16":
            image = Image.fromarray(LEVELS.astype(np.uint16) * 257)
        elif mode == "F":
            image = Image.fromarray(LEVELS.astype(np.float32) / 255)
        else:
            image = Image.fromarray(LEVELS).convert(mode)
        np.testing.assert_array_equal(decide(image), LEVELS / 255 >= 0.5)

    def test_sixteen_bits_are_not_clipped(self) -> None:
        levels = np.array([[0, 300, 32767, 32768, 65535]], np.uint16)
        for source in (Image.fromarray(levels), encoded(Image.fromarray(levels))):
            np.testing.assert_array_equal(decide(source), [[0, 0, 0, 1, 1]])

    def test_colours_are_decided_by_luminance(self) -> None:
        image = Image.fromarray(np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]], np.uint8))
        np.testing.assert_array_equal(decide(image), [[0, 1, 0, 1]])

    @pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F"])
    @pytest.mark.parametrize("as_file", [True, False])
    def test_zero_and_one_are_the_array_of_zero_and_one(self, mode: str, as_file: bool) -> None:
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray(BINARY.astype(kinds.get(mode, np.uint8)))
        if mode == "P":
            image = image.convert("P")
        elif mode not in kinds:
            image = image.convert(mode)
        source = encoded(image, "TIFF" if mode in "IF" else "PNG") if as_file else image
        mask = understand_mask(source)
        np.testing.assert_array_equal(fit_mask(mask.image, *mask.image.size), decide(BINARY.astype(np.uint8)))
        expected = (
            () if mode == "F" else ("mask has no value above 1: its values are taken as 0 and 1, and 1 as white",)
        )
        assert mask.notes == expected

    def test_sixteen_bit_files_hold_the_range_of_arrays(self) -> None:
        levels = LEVELS.astype(np.uint16)
        mask = understand_mask(encoded(Image.fromarray(levels)))
        np.testing.assert_array_equal(fit_mask(mask.image, *mask.image.size), decide(levels))
        assert mask.notes == ("mask has 16 bits, and no value is above 255: its values are taken as 0 to 255",)

    @pytest.mark.parametrize(("levels", "largest"), [([[0, 0]], 0), ([[0, 127]], 127), ([[2, 0]], 2), ([[0, 1]], 255)])
    def test_the_largest_value_is_known(self, levels: list[list[int]], largest: int) -> None:
        image = Image.fromarray(np.array(levels, np.uint8))
        for source in (image, encoded(image), encoded(image.convert("RGB"))):
            assert largest_value(understand_mask(source).image) == largest

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparent_white_is_not_painted(self, mode: str) -> None:
        white = Image.new("RGBA" if mode == "RGBA" else "LA", (256, 1), "white")
        white.putalpha(Image.fromarray(LEVELS.reshape(1, 256)))
        assert white.mode == mode
        np.testing.assert_array_equal(decide(encoded(white)), LEVELS.reshape(1, 256) >= 128)

    def test_transparent_palette_entry_is_not_painted(self) -> None:
        image = Image.new("P", (3, 1))
        image.putpalette([0, 0, 0, 255, 255, 255, 255, 255, 255])
        image.putdata([0, 1, 2])
        np.testing.assert_array_equal(decide(encoded(image)), [[0, 1, 1]])
        for transparency in (1, bytes([255, 0, 255])):
            np.testing.assert_array_equal(decide(encoded(image, transparency=transparency), mode="white"), [[0, 0, 1]])

    def test_transparent_grey_level_is_not_painted(self) -> None:
        image = Image.fromarray(np.array([[0, 200, 255]], np.uint8))
        np.testing.assert_array_equal(decide(encoded(image, transparency=200), mode="white"), [[0, 0, 1]])

    def test_orientation_is_applied_with_the_pictures(self, tmp_path: Path) -> None:
        tags = Image.Exif()
        tags[0x0112] = 6
        stored = np.rot90(BINARY)
        path = tmp_path / "mask.png"
        Image.fromarray((stored * 255).astype(np.uint8)).save(path, exif=tags)
        np.testing.assert_array_equal(decide(path), BINARY)
        np.testing.assert_array_equal(decide(str(path)), BINARY)
        np.testing.assert_array_equal(decide(read_mask(path)), BINARY)  # not turned a second time

    def test_source_is_neither_changed_nor_shared(self) -> None:
        for mode in ("1", "L", "RGB", "RGBA"):
            source = Image.fromarray(LEVELS).convert(mode)
            before = source.tobytes()
            mask = read_mask(source, invert=True)
            read_mask(source).paste(mask)
            assert source.tobytes() == before

    def test_the_error_for_a_missing_file_names_the_mask(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"mask .*no\.png does not exist"):
            read_mask(tmp_path / "no.png")

    def test_too_many_pixels_are_refused(self) -> None:
        with pytest.raises(InputError, match="mask is 32x8 pixels; expected at most 255 in all"):
            read_mask(LEVELS, max_pixels=255)


class TestArrays:
    @pytest.mark.parametrize(
        "dtype", [bool, np.uint8, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64]
    )
    def test_zero_and_one_in_every_dtype_and_shape(self, dtype: type) -> None:
        array = BINARY.astype(dtype)
        before = array.copy()
        for view in (array, array[..., None], array[None], np.asfortranarray(array)):
            np.testing.assert_array_equal(decide(view), BINARY)
            np.testing.assert_array_equal(decide(view, invert=True), 1 - BINARY)
        np.testing.assert_array_equal(array, before)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
    def test_integers_of_eight_bits(self, dtype: type) -> None:
        np.testing.assert_array_equal(decide(LEVELS.astype(dtype)), LEVELS >= 128)

    def test_integers_of_sixteen_bits(self) -> None:
        array = np.array([[0, 255, 256, 32767, 32768, 65535]], np.uint16)
        np.testing.assert_array_equal(decide(array), [[0, 0, 0, 0, 1, 1]])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_are_divided_exactly_at_one_half(self, dtype: type) -> None:
        half = dtype(0.5)
        array = np.array([[0, np.nextafter(half, dtype(0)), half, np.nextafter(half, dtype(1)), 1]], dtype)
        np.testing.assert_array_equal(decide(array), [[0, 0, 1, 1, 1]])

    def test_read_only_arrays_are_accepted(self) -> None:
        array = BINARY.copy()
        array.flags.writeable = False
        np.testing.assert_array_equal(decide(array), BINARY)

    @pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf])
    def test_floats_out_of_range_are_refused(self, value: float) -> None:
        array = BINARY.copy()
        array[3, 3] = value
        with pytest.raises(InputError, match=r"mask is an array of float32 values .*must be in \[0, 1\]"):
            read_mask(array)

    @pytest.mark.parametrize(("dtype", "value"), [(np.int16, -1), (np.int32, 256), (np.uint32, 65535)])
    def test_integers_out_of_range_are_refused(self, dtype: type, value: int) -> None:
        array = BINARY.astype(dtype)
        array[3, 3] = value
        with pytest.raises(InputError, match=rf"{np.dtype(dtype)} values from .*integer masks must be in 0\.\.1"):
            read_mask(array)

    @pytest.mark.parametrize("shape", [(), (6,), (0, 9), (6, 0), (6, 9, 3), (2, 6, 9), (1, 1, 6, 9), (1, 0, 9)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=rf"shape {re.escape(str(shape))}; expected \(H, W\)"):
            read_mask(np.zeros(shape, np.float32))

    @pytest.mark.parametrize("dtype", [np.complex64, object, "U1", "datetime64[s]"])
    def test_other_dtypes_are_refused(self, dtype: object) -> None:
        with pytest.raises(InputError, match="expected bool, float in"):
            read_mask(np.zeros((6, 9), dtype))

    @pytest.mark.parametrize("source", [None, 1, [BINARY]])
    def test_other_sources_are_refused(self, source: object) -> None:
        with pytest.raises(InputError, match=f"mask is a {type(source).__name__}; expected a path"):
            read_mask(source)


class TestFit:
    @pytest.mark.parametrize("level", [0, 255])
    @pytest.mark.parametrize("mode", ["1", "L", "RGB"])
    def test_all_keep_and_all_repaint_are_unchanged(self, mode: str, level: int) -> None:
        mask = fit_mask(read_mask(Image.new("L", (33, 20), level).convert(mode)), 96, 64)
        assert mask.shape == (64, 96)
        assert mask.dtype == np.float32
        assert (mask == (level == 255)).all()
        assert is_all_keep(mask) == (level == 0)

    @pytest.mark.parametrize("size", [(1, 1), (3, 50), (96, 64), (18, 12)])
    def test_every_source_of_the_same_mask_resizes_alike(self, size: tuple[int, int]) -> None:
        expected = fit_mask(read_mask(BINARY), *size)
        assert set(np.unique(expected)) <= {0, 1}
        eight = (BINARY * 255).astype(np.uint8)
        grey = Image.fromarray(eight)
        for source in (BINARY.astype(bool), eight, eight.astype(np.uint16) * 257, grey, grey.convert("RGBA")):
            np.testing.assert_array_equal(fit_mask(read_mask(source), *size), expected)

    def test_doubling_keeps_the_position_of_an_edge(self) -> None:
        half = np.zeros((32, 32), bool)
        half[:, 12:] = True
        np.testing.assert_array_equal(fit_mask(read_mask(half), 64, 64), np.kron(half, np.ones((2, 2))))

    def test_mode_1_is_resized_by_nearest_neighbour(self) -> None:
        dots = Image.fromarray((np.indices((4, 4)).sum(0) % 2 * 255).astype(np.uint8)).convert("1")
        expected = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((3, 3)))
        np.testing.assert_array_equal(fit_mask(read_mask(dots), 12, 12), expected)


def keep_by_loops(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The latent mask of one (H, W) mask, cell by cell."""
    keep = np.empty((height, width), np.float32)
    for i in range(height):
        for j in range(width):
            row = int(np.float32(i) * (np.float32(mask.shape[0]) / np.float32(height)))
            column = int(np.float32(j) * (np.float32(mask.shape[1]) / np.float32(width)))
            keep[i, j] = 1 - mask[min(row, mask.shape[0] - 1), min(column, mask.shape[1] - 1)]
    grown = keep.copy()
    for i, j in np.argwhere(keep == 0):
        for down, right in ((-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)):
            if 0 <= i + down < height and 0 <= j + right < width:
                grown[i + down, j + right] = 0
    return grown


SIZES = st.integers(1, 64)


class TestLatents:
    @settings(max_examples=150, deadline=None, database=None)
    @given(SIZES, SIZES, st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0]), st.integers(0, 2**32 - 1))
    @example(1, 64, 0.1, 0)
    @example(64, 1, 0.1, 0)
    @example(1, 1, 1.0, 0)
    def test_growth_equals_a_loop_over_cells(self, height: int, width: int, density: float, seed: int) -> None:
        mask = (np.random.default_rng(seed).random((2, height, width)) < density).astype(np.float32)
        before = mask.copy()
        got = latent_keep_mask(mask, height, width)
        assert got.shape == (2, 1, height, width)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got[0, 0], keep_by_loops(mask[0], height, width))
        np.testing.assert_array_equal(got[1, 0], keep_by_loops(mask[1], height, width))
        np.testing.assert_array_equal(mask, before)

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.integers(1, 130), st.integers(1, 130), SIZES, SIZES, st.integers(0, 2**32 - 1))
    @example(64, 512, 8, 64, 0)
    @example(100, 130, 13, 17, 0)
    def test_any_ratio_equals_a_loop_over_cells(
        self, height: int, width: int, rows: int, columns: int, seed: int
    ) -> None:
        mask = (np.random.default_rng(seed).random((1, height, width)) < 0.05).astype(np.float32)
        got = latent_keep_mask(mask, rows, columns)
        np.testing.assert_array_equal(got[0, 0], keep_by_loops(mask[0], rows, columns))

    def test_one_cell_grows_to_six_neighbours(self) -> None:
        mask = np.zeros((1, 40, 40), np.float32)
        mask[0, 16:24, 16:24] = 1
        expected = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1]])
        np.testing.assert_array_equal(latent_keep_mask(mask, 5, 5)[0, 0], expected)

    @pytest.mark.parametrize("level", [0, 1])
    def test_all_keep_and_all_repaint_stay_uniform(self, level: int) -> None:
        keep = latent_keep_mask(np.full((3, 64, 72), level, np.float32), 8, 9)
        assert keep.shape == (3, 1, 8, 9)
        assert (keep == 1 - level).all()


class TestPaste:
    def test_kept_pixels_are_bit_identical(self) -> None:
        original, generated = (RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8) for _ in range(2))
        result = paste_pixels(original, generated, BINARY)
        np.testing.assert_array_equal(result[BINARY == 0], original[BINARY == 0])
        np.testing.assert_array_equal(result[BINARY == 1], generated[BINARY == 1])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
    def test_arrays_keep_their_dtype(self, dtype: type) -> None:
        original, generated = np.zeros((2, 6, 9, 3), dtype), np.ones((2, 6, 9, 3), dtype)
        masks = np.stack([BINARY, 1 - BINARY])
        result = paste_pixels(original, generated, masks)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, np.repeat(masks[..., None], 3, axis=3))
        assert not original.any()
        assert generated.all()


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((250, 0, -250, 250), slice(0, 250), slice(250, -250)),
        ((0, 0, 768, 512), slice(None), slice(None)),
        ((-1, -1, 768, 512), slice(-1, None), slice(-1, None)),
    ],
)
def test_a_box_repaints_its_rectangle(box: tuple[int, int, int, int], rows: slice, columns: slice) -> None:
    want = np.zeros((512, 768), np.uint8)
    want[rows, columns] = 255
    np.testing.assert_array_equal(np.asarray(box_mask(768, 512, box)), want)


@pytest.mark.parametrize("box", [(5, 0, 5, 9), (0, 9, 5, 3), (0, 0, 65, 9), (0, 0, 9, -64), (-65, 0, 9, 9)])
def test_invalid_boxes_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="expected left before right, top before bottom, within 64x64 pixels"):
        box_mask(64, 64, box)
