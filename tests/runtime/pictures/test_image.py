"""Pictures in and out: every mode, format and orientation, and every kind of invalid input."""

from __future__ import annotations

import io
import logging
import os
import random
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.errors import InputError, Kandinsky22Error
from kandinsky_runtime.pictures import opening as module
from kandinsky_runtime.pictures.image import (
    fit,
    from_model,
    pad_to_multiple,
    read_image,
    read_picture,
    to_model,
    to_pil,
)
from kandinsky_runtime.pictures.saving import check_output_path, check_output_size, save_image
from tests.tolerances import FIRST_FRAME, JPEG, JPEG_QUARTERS

RNG = np.random.default_rng(22)
COLOURS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
DEEP[0, :4] = 0, 128, 129, 65535

# EXIF orientation → the stored pixels of a picture whose upright pixels are `a`
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


class TestModes:
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "BMP"])
    @pytest.mark.parametrize("as_path", [True, False])
    def test_rgb_survives_lossless_formats(self, tmp_path: Path, file_format: str, as_path: bool) -> None:
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encoded(Image.fromarray(COLOURS), file_format, **options)
        path = tmp_path / "picture"
        path.write_bytes(data)
        np.testing.assert_array_equal(pixels(read_image(path if as_path else data)), COLOURS)
        np.testing.assert_array_equal(pixels(read_image(str(path))), COLOURS)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
    def test_shallow_modes_equal_pillows_conversion(self, mode: str) -> None:
        image = Image.fromarray(COLOURS).convert("L" if mode == "LA" else "RGB")
        image = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
        np.testing.assert_array_equal(pixels(read_image(image)), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_jpeg_modes(self, mode: str) -> None:
        data = encoded(Image.fromarray(COLOURS).convert(mode), "JPEG")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(pixels(read_image(data)), expected)

    @pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "png", "tiff"])
    def test_sixteen_bits_are_scaled_and_rounded(self, mode: str) -> None:
        if mode == "I;16":
            source = Image.fromarray(DEEP)
        elif mode == "I;16B":
            source = Image.frombytes("I;16B", (7, 5), DEEP.astype(">u2").tobytes())
        elif mode == "I":
            source = Image.fromarray(DEEP.astype(np.int32))
        else:
            source = encoded(Image.fromarray(DEEP), mode.upper())
        if isinstance(source, Image.Image):
            assert source.mode == mode
        expected = np.rint(DEEP / 257.0).astype(np.uint8)
        np.testing.assert_array_equal(pixels(read_image(source)), np.repeat(expected[..., None], 3, axis=2))

    def test_float_picture_is_scaled_and_rounded(self) -> None:
        values = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
        expected = np.rint(values * np.float32(255)).astype(np.uint8)
        np.testing.assert_array_equal(pixels(read_image(Image.fromarray(values)))[..., 1], expected)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
    def test_float_picture_out_of_range_is_refused(self, value: float) -> None:
        values = np.full((4, 4), 0.5, np.float32)
        values[1, 2] = value
        with pytest.raises(InputError, match=r"mode F\); expected 0 to 1: rescale it"):
            read_image(Image.fromarray(values))

    @pytest.mark.parametrize("value", [-1, 65536])
    def test_integer_picture_out_of_range_is_refused(self, value: int) -> None:
        with pytest.raises(InputError, match=rf"{value} .*mode I\); expected 0 to 65535"):
            read_image(Image.fromarray(np.full((4, 4), value, np.int32)))

    def test_result_is_a_copy_and_source_is_unchanged(self) -> None:
        source = Image.fromarray(COLOURS)
        source.info["comment"] = "own"
        result = read_image(source)
        result.paste((1, 2, 3), (0, 0, 7, 5))
        np.testing.assert_array_equal(np.asarray(source), COLOURS)
        assert source.info == {"comment": "own"}
        assert result.info == {}


class TestAlpha:
    @staticmethod
    def palette(transparency: int | bytes | None) -> bytes:
        image = Image.fromarray(COLOURS).quantize(8)
        return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))

    @staticmethod
    def warned(caplog: pytest.LogCaptureFixture) -> bool:
        assert {record.levelno for record in caplog.records} <= {logging.WARNING}
        return any("transparent" in record.message for record in caplog.records)

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
    def test_hidden_colours_are_used_and_a_warning_logged(
        self, file_format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        alpha = np.full((5, 7, 1), 255, np.uint8)
        alpha[2, 3] = 0
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        path = tmp_path / "hole.picture"
        path.write_bytes(encoded(Image.fromarray(np.concatenate([COLOURS, alpha], axis=2)), file_format, **options))
        np.testing.assert_array_equal(pixels(read_image(path)), COLOURS)
        assert self.warned(caplog)
        assert f"image {path} is partly transparent" in caplog.text

    def test_grey_with_alpha_warns(self, caplog: pytest.LogCaptureFixture) -> None:
        image = Image.new("LA", (3, 2), (77, 5))
        assert (pixels(read_image(encoded(image, "PNG"))) == 77).all()
        assert self.warned(caplog)

    @pytest.mark.parametrize("transparency", [None, 0, bytes([255] * 7 + [9]), bytes([255] * 8)])
    def test_transparent_palette_entries_warn(
        self, transparency: int | bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = np.asarray(Image.open(io.BytesIO(self.palette(None))).convert("RGB"))
        np.testing.assert_array_equal(pixels(read_image(self.palette(transparency))), expected)
        assert self.warned(caplog) == (transparency not in (None, bytes([255] * 8)))

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_opaque_alpha_is_silent(self, mode: str, caplog: pytest.LogCaptureFixture) -> None:
        read_image(Image.fromarray(COLOURS).convert("L").convert(mode))
        assert not caplog.records


class TestOrientation:
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", STORED_AS)
    def test_exif_turns_the_picture_upright(self, orientation: int, file_format: str) -> None:
        upright = np.zeros((24, 40, 3), np.uint8)  # four flat quarters, which JPEG does not blur
        upright[:12, :20], upright[:12, 20:], upright[12:, :20] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
        stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](upright)))
        data = encoded(stored, file_format, exif=exif(orientation))
        got = pixels(read_image(data))
        assert got.shape == upright.shape
        for row in (5, 18):
            for column in (9, 30):
                np.testing.assert_allclose(
                    got[row, column].astype(int), upright[row, column].astype(int), atol=JPEG_QUARTERS
                )

    @pytest.mark.parametrize("orientation", STORED_AS)
    @pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGBA"])
    def test_every_mode_is_turned_upright(self, mode: str, orientation: int) -> None:
        levels = np.linspace(0, 65535, 35).reshape(5, 7).astype(np.uint16)
        eight = np.repeat(np.rint(levels / 257.0).astype(np.uint8)[..., None], 3, axis=2)
        if mode == "1":
            eight = np.where(eight > 127, np.uint8(255), np.uint8(0))
        stored = np.ascontiguousarray(STORED_AS[orientation](eight))
        if mode == "I;16":
            image = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](levels[..., None]))[..., 0])
        else:
            image = Image.fromarray(stored).convert(mode)
        np.testing.assert_array_equal(pixels(read_image(encoded(image, "PNG", exif=exif(orientation)))), eight)

    def test_a_pillow_image_is_taken_as_it_is(self) -> None:
        data = encoded(Image.fromarray(COLOURS), "PNG", exif=exif(6))
        with Image.open(io.BytesIO(data)) as opened:
            for image in (opened, opened.resize((14, 10))):  # a resized picture still has the tag
                taken = read_picture(image)
                np.testing.assert_array_equal(pixels(taken.image), np.asarray(image))
                (note,) = taken.notes
                assert "EXIF orientation 6: it is taken as it is; ImageOps.exif_transpose turns it upright" in note
                assert taken.orientation == 1
        assert read_picture(data).orientation == 6
        assert read_picture(data).notes == ()

    def test_an_unknown_orientation_means_upright(self) -> None:
        assert read_image(encoded(Image.fromarray(COLOURS), "PNG", exif=exif(9))).size == (7, 5)

    def test_faulty_exif_data_is_ignored(self) -> None:
        data = encoded(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
        np.testing.assert_array_equal(pixels(read_image(data)), COLOURS)

    def test_unreadable_exif_data_is_ignored_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        data = encoded(Image.fromarray(COLOURS), "PNG", exif=b"Exif\0\0no TIFF header")
        np.testing.assert_array_equal(pixels(read_image(data)), COLOURS)
        assert "taken as upright" in caplog.text


class TestFrames:
    @pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_first_frame_is_used(self, file_format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
        path = tmp_path / "frames"
        frames[0].save(path, file_format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(pixels(read_image(path)), np.asarray(frames[0]), atol=FIRST_FRAME)
        assert f"image {path} holds several frames: the first one is used" in caplog.text

    def test_the_current_frame_of_a_pillow_image_is_used(self, caplog: pytest.LogCaptureFixture) -> None:
        frames = [Image.new("L", (4, 4), level) for level in (10, 20)]
        data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
        with Image.open(io.BytesIO(data)) as opened:
            opened.seek(1)
            assert (pixels(read_image(opened)) == 20).all()
            assert opened.tell() == 1
        assert not caplog.records


class TestArrays:
    def test_uint8_is_unchanged(self) -> None:
        np.testing.assert_array_equal(pixels(read_image(COLOURS)), COLOURS)
        grey = COLOURS[..., 0]  # not contiguous
        for array in (grey, grey[..., None]):
            np.testing.assert_array_equal(pixels(read_image(array)), np.repeat(grey[..., None], 3, axis=2))

    def test_alpha_is_dropped_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        array = np.concatenate([COLOURS, np.full((5, 7, 1), 255, np.uint8)], axis=2)
        np.testing.assert_array_equal(pixels(read_image(array)), COLOURS)
        assert not caplog.records
        array[0, 0, 3] = 254
        np.testing.assert_array_equal(pixels(read_image(array)), COLOURS)
        assert "partly transparent" in caplog.text

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_float_is_rounded_to_eight_bits(self, dtype: type) -> None:
        array = (COLOURS / 255).astype(dtype)
        np.testing.assert_array_equal(pixels(read_image(array)), COLOURS)
        np.testing.assert_array_equal(pixels(read_image(array[..., :1]))[..., 2], COLOURS[..., 0])

    def test_array_is_neither_changed_nor_shared(self) -> None:
        array = COLOURS.copy()
        image = read_image(array)
        image.paste((0, 0, 0), (0, 0, 7, 5))
        np.testing.assert_array_equal(array, COLOURS)
        image = read_image(array)
        array[:] = 0
        np.testing.assert_array_equal(pixels(image), COLOURS)

    @pytest.mark.parametrize("shape", [(7,), (5, 7, 2), (5, 7, 5), (1, 5, 7, 3), (3, 5, 7), (0, 7, 3), (5, 0), ()])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=rf"shape {re.escape(str(shape))}; expected \(H, W, 3\)"):
            read_image(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("dtype", [bool, np.int32, np.uint16, np.complex64, object])
    def test_other_dtypes_are_refused(self, dtype: type) -> None:
        with pytest.raises(InputError, match=rf"array of {np.dtype(dtype)}; expected uint8 in 0..255 or float"):
            read_image(np.zeros((5, 7, 3), dtype))

    @pytest.mark.parametrize("value", [-1.0, 1.001, 255.0, np.nan, np.inf])
    def test_floats_out_of_range_are_refused(self, value: float) -> None:
        array = np.full((5, 7, 3), 0.5, np.float32)
        array[4, 6, 2] = value
        with pytest.raises(InputError, match=r"must be in \[0, 1\]: rescale \[-1, 1\] by x / 2 \+ 0.5"):
            read_image(array)


class TestRefusals:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"image .*no\.png does not exist; give the path of a PNG"):
            read_image(tmp_path / "no.png")

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=f"image {tmp_path} is a directory; give the path of one"):
            read_image(tmp_path)

    @pytest.mark.parametrize(
        "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
    )
    def test_a_file_that_is_not_a_picture(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "text.png"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"image .*text\.png (is not a picture|cannot be decoded)"):
            read_image(path)

    @pytest.mark.parametrize("path", ["nul\0.png", "x" * 5000])
    def test_an_impossible_path(self, path: str) -> None:
        with pytest.raises(InputError, match=r"cannot be decoded|File name too long"):
            read_image(path)

    def test_a_file_without_read_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Image, "open", refuse)
        (tmp_path / "secret.png").touch()
        with pytest.raises(InputError, match="cannot be read without permission; give this user the right"):
            read_image(tmp_path / "secret.png")

    @pytest.mark.parametrize("source", [None, 3, [COLOURS], {"path": "x.png"}])
    def test_other_sources(self, source: object) -> None:
        with pytest.raises(InputError, match=f"image is a {type(source).__name__}; expected a path"):
            read_image(source)

    def test_an_empty_pillow_image(self) -> None:
        with pytest.raises(InputError, match="image is 0x5 pixels; expected at least 1x1"):
            read_image(Image.new("RGB", (0, 5)))

    def test_a_closed_pillow_image(self) -> None:
        opened = Image.open(io.BytesIO(encoded(Image.fromarray(COLOURS), "PNG")))
        opened.close()
        with pytest.raises(InputError, match="image cannot be decoded"):
            read_image(opened)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
    def test_a_truncated_file(self, file_format: str, tmp_path: Path) -> None:
        noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(noise), file_format)
        path = tmp_path / "cut"
        for length in np.linspace(1, len(data) * 0.9, 12).astype(int):
            path.write_bytes(data[:length])
            with pytest.raises(InputError, match=r"image .*cut (is not a picture|cannot be decoded)"):
                read_image(path)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
    def test_a_corrupt_file_is_read_or_refused(self, file_format: str) -> None:
        data = encoded(Image.fromarray(RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)), file_format, exif=exif(6))
        random_bytes = random.Random(22)
        refused = 0
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(random_bytes.randint(1, 4)):
                damaged[random_bytes.randrange(len(damaged))] = random_bytes.randrange(256)
            try:
                assert read_image(bytes(damaged), max_pixels=10_000).mode == "RGB"
            except InputError:
                refused += 1
        assert refused > 0

    @pytest.mark.parametrize("limit", [900, 400])
    def test_pillows_bomb_warning_and_error(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(Image.new("L", (31, 31)), "PNG")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if limit == 900:  # Pillow only warns, and the limit of this package applies
            assert read_image(data).size == (31, 31)
        else:
            with pytest.raises(InputError, match="image has more pixels than Pillow opens; scale it down"):
                read_image(data)

    def test_too_many_pixels(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.png"
        path.write_bytes(encoded(Image.new("1", (15000, 10000)), "PNG"))
        with pytest.raises(InputError, match=r"bomb\.png is 15000x10000 pixels; expected at most 89478485 in all"):
            read_image(path)
        for source in (Image.new("L", (11, 10)), np.zeros((10, 11), np.uint8)):
            with pytest.raises(InputError, match="image is 11x10 pixels; expected at most 109 in all"):
                read_image(source, max_pixels=109)
            assert read_image(source, max_pixels=110).size == (11, 10)

    def test_a_text_bomb(self) -> None:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("comment", "a" * 80_000_000, zip=True)
        with pytest.raises(InputError, match="cannot be decoded"):
            read_image(encoded(Image.fromarray(COLOURS), "PNG", pnginfo=info))


def test_threads_decode_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together, orientation = threading.Barrier(2, timeout=30), module._orientation

    def wait(*args: Any) -> int:
        together.wait()  # with a lock around decoding, the second thread never arrives
        return orientation(*args)

    monkeypatch.setattr(module, "_orientation", wait)
    data = encoded(Image.fromarray(COLOURS), "PNG")
    done: list[Image.Image] = []
    threads = [threading.Thread(target=lambda: done.append(read_image(data))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for picture in done:
        np.testing.assert_array_equal(pixels(picture), COLOURS)
    assert len(done) == 2


def test_threads_leave_the_warning_filters_alone() -> None:
    data = encoded(Image.fromarray(COLOURS).quantize(8), "PNG", transparency=bytes(8))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read_image(data) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


class TestFit:
    def test_same_size_keeps_the_pixels(self) -> None:
        np.testing.assert_array_equal(pixels(fit(Image.fromarray(COLOURS), 7, 5)), COLOURS)

    @pytest.mark.parametrize("size", [(14, 10), (64, 64), (3, 2), (1, 1), (7, 9)])
    def test_resizes_to_width_by_height(self, size: tuple[int, int]) -> None:
        source = Image.fromarray(COLOURS)
        assert fit(source, *size).size == size
        np.testing.assert_array_equal(pixels(source), COLOURS)

    def test_a_flat_picture_stays_flat(self) -> None:
        assert (pixels(fit(Image.new("RGB", (333, 97), (9, 99, 199)), 64, 128)) == (9, 99, 199)).all()


class TestModelArrays:
    def test_to_model_is_the_formula_in_float32(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        picture = np.stack([levels, levels[::-1], levels.T], axis=2)
        other = 255 - picture
        got = to_model([Image.fromarray(picture), Image.fromarray(other)])
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        levels32 = np.stack([picture, other]).transpose(0, 3, 1, 2).astype(np.float32)
        np.testing.assert_array_equal(got, levels32 / np.float32(127.5) - np.float32(1))
        assert got.min() == -1
        assert got.max() == 1

    def test_from_model_scales_and_clips(self) -> None:
        source = np.linspace(-3, 3, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
        before = source.copy()
        got = from_model(source)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        expected = np.clip(source * np.float32(0.5) + np.float32(0.5), 0, 1).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(source, before)

    def test_to_pil_rounds(self) -> None:
        values = np.array([0, 0.4 / 255, 0.6 / 255, 1], np.float32)
        (image,) = to_pil(np.repeat(values[None, None, :, None], 3, axis=3))
        np.testing.assert_array_equal(pixels(image)[0, :, 0], [0, 0, 1, 255])

    def test_a_round_trip_preserves_every_level(self) -> None:
        picture = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        first, second = to_pil(from_model(to_model([Image.fromarray(picture), Image.fromarray(255 - picture)])))
        np.testing.assert_array_equal(pixels(first), picture)
        np.testing.assert_array_equal(pixels(second), 255 - picture)


class TestPadding:
    @pytest.mark.parametrize("height", [1, 7, 8, 9, 64, 65])
    @pytest.mark.parametrize("width", [3, 8, 63])
    @pytest.mark.parametrize("multiple", [1, 8, 64])
    def test_edges_are_repeated(self, height: int, width: int, multiple: int) -> None:
        source = RNG.normal(size=(2, 3, height, width)).astype(np.float32)
        padded = pad_to_multiple(source, multiple)
        assert padded.dtype == np.float32
        assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
        assert 0 <= padded.shape[2] - height < multiple
        assert 0 <= padded.shape[3] - width < multiple
        rows = np.minimum(np.arange(padded.shape[2]), height - 1)
        columns = np.minimum(np.arange(padded.shape[3]), width - 1)
        np.testing.assert_array_equal(padded, source[:, :, rows[:, None], columns])
        np.testing.assert_array_equal(padded[..., :height, :width], source)


class TestSave:
    @pytest.mark.parametrize("suffix", ["png", "PNG", "webp", "bmp", "tif", "tiff"])
    def test_lossless_suffixes_preserve_every_pixel(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"out.{suffix}"
        save_image(Image.fromarray(COLOURS), path)
        np.testing.assert_array_equal(pixels(read_image(path)), COLOURS)
        assert names(tmp_path) == [path.name]

    @pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
    def test_jpeg_is_close(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"out.{suffix}"
        save_image(Image.new("RGB", (32, 32), (200, 30, 60)), str(path))
        assert path.read_bytes()[:2] == b"\xff\xd8"
        np.testing.assert_allclose(pixels(read_image(path))[8, 8].astype(int), (200, 30, 60), atol=JPEG)

    def test_an_existing_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "out.png"
        path.write_text("old")
        save_image(Image.fromarray(COLOURS), path)
        np.testing.assert_array_equal(pixels(read_image(path)), COLOURS)

    def test_the_longest_name_and_ordinary_permissions(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 251 + ".png")
        save_image(Image.fromarray(COLOURS), path)
        (tmp_path / "plain").touch()
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.parametrize("name", ["out.gif", "out", "out.png.txt", ".png", "out.png/", ""])
    def test_an_unknown_suffix_or_directory_is_refused(self, tmp_path: Path, name: str) -> None:
        if name == "out.png/":
            (tmp_path / "out.png").mkdir()
        with pytest.raises(InputError, match=r"expected one of \.png, .*\.tiff|is a directory; add a file name"):
            check_output_path(f"{tmp_path}/{name}")

    def test_a_name_that_ends_in_a_slash_is_refused(self, tmp_path: Path) -> None:
        for refuse in (check_output_path, lambda path: save_image(Image.fromarray(COLOURS), path)):
            with pytest.raises(InputError, match=r"out\.png/ ends in a slash, as a folder does; remove it, or add a"):
                refuse(f"{tmp_path}/out.png/")
        assert names(tmp_path) == []

    def test_a_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"the folder .*nowhere does not exist; create it first"):
            save_image(Image.fromarray(COLOURS), tmp_path / "nowhere" / "out.png")

    def test_a_folder_without_write_permission_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
        with pytest.raises(InputError, match=f"the folder {tmp_path} is not writable; choose another"):
            check_output_path(tmp_path / "out.png")

    def test_an_impossible_name_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot be written: .*name too long; choose another path"):
            check_output_path(tmp_path / ("n" * 300 + ".png"))

    @pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "bmp", "tif"])
    def test_no_room_for_the_whole_file_leaves_only_the_old_one(self, tmp_path: Path, suffix: str) -> None:
        """The limit on a file's size acts as a full disk does: the last write is short, the next one fails."""
        resource = pytest.importorskip("resource")
        path = tmp_path / f"out.{suffix}"
        path.write_text("old")
        picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        try:
            with pytest.raises(Kandinsky22Error, match=rf"out\.{suffix} cannot be written: .*File too large") as caught:
                save_image(picture, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.exit_status == 1
        assert path.read_text() == "old"
        assert names(tmp_path) == [f"out.{suffix}"]

    @pytest.mark.parametrize(("suffix", "most"), [("webp", 16383), ("jpg", 65500), ("jpeg", 65500)])
    def test_more_pixels_than_the_format_allows_are_refused(self, tmp_path: Path, suffix: str, most: int) -> None:
        path = tmp_path / f"out.{suffix}"
        save_image(Image.new("RGB", (1, most)), path)
        path.unlink()
        for size in ((most + 1, 1), (1, most + 1)):
            for refused in (
                lambda size=size: save_image(Image.new("RGB", size), path),
                lambda size=size: check_output_size(path, size),
            ):
                with pytest.raises(InputError, match=rf"out\.{suffix} .* is {size[0]}x{size[1]} .* at most {most} on"):
                    refused()
        assert names(tmp_path) == []
        check_output_size(tmp_path / "out.png", (most + 1, 1))
