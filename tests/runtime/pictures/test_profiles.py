"""Colour profiles: kept with RGB, used up by other colours. ImageCms is the oracle."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from kandinsky_runtime.pictures.area import whole_pictures
from kandinsky_runtime.pictures.image import fit, read_image, read_picture
from kandinsky_runtime.pictures.profiles import colour_space
from kandinsky_runtime.pictures.saving import save_image

COLOURS = np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space: bytes) -> bytes:
    """A small profile of a printer or a grey screen, written by hand: a table from its colours to Lab."""
    channels = {b"CMYK": 4, b"GRAY": 1}[space]
    if space == b"GRAY":
        curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + int(1.8 * 256).to_bytes(2, "big") + bytes(2)
        white = b"XYZ " + bytes(4) + b"".join(v.to_bytes(4, "big") for v in (63190, 65536, 54061))
        tags = {b"wtpt": white, b"kTRC": curve}
        return icc(space, b"mntr", b"XYZ ", tags)
    grid = [[0, 255] for _ in range(channels)]
    nodes = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, channels) / 255
    ink, black = nodes[:, :3], nodes[:, 3]
    light = (1 - ink.mean(axis=1)) * (1 - black)
    lab = np.stack([light * 255, 128 + 60 * (ink[:, 1] - ink[:, 0]), 128 + 60 * (ink[:, 2] - ink[:, 0])], axis=1)
    identity = bytes(range(256))
    matrix = b"".join(int(v * 65536).to_bytes(4, "big") for v in np.eye(3).ravel())
    table = np.clip(np.rint(lab), 0, 255).astype(np.uint8).tobytes()
    lut = b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + matrix + identity * channels + table + identity * 3
    return icc(space, b"prtr", b"Lab ", {b"A2B0": lut})


def icc(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = 128 + 4 + 12 * len(tags)
    entries, data = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        entries += name + (offset + len(data)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        data += content
    size = (offset + len(data)).to_bytes(4, "big")
    illuminant = b"".join(v.to_bytes(4, "big") for v in (63190, 65536, 54061))
    header = size + bytes(4) + b"\x02\x20\0\0" + kind + space + pcs + bytes(12) + b"acsp" + bytes(28) + illuminant
    return header.ljust(128, b"\0") + len(tags).to_bytes(4, "big") + entries + data


CMYK, GRAY = profile(b"CMYK"), profile(b"GRAY")


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def by_image_cms(image: Image.Image, source: bytes) -> np.ndarray:
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, io.BytesIO(source), srgb, outputMode="RGB"))


@pytest.mark.parametrize(
    ("data", "space"), [(SRGB, "RGB"), (CMYK, "CMYK"), (GRAY, "GRAY"), (b"", ""), (b"x" * 200, "")]
)
def test_the_colour_space_of_a_profile(data: bytes, space: str) -> None:
    assert colour_space(data) == space


MODES = {
    "PNG": ("RGB", "RGBA", "P", "L"),
    "TIFF": ("RGB", "RGBA", "P", "L"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("RGB", "L"),
}


@pytest.mark.parametrize(("file_format", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_an_rgb_profile_goes_to_the_result(mode: str, file_format: str, suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(image, file_format, icc_profile=SRGB, **options)
    picture = read_picture(data)
    assert picture.notes == ()
    np.testing.assert_array_equal(picture.image, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    areas = whole_pictures([picture.image], [Image.new("L", (50, 40))], height=80, width=100)
    worked = np.zeros((1, *areas.working[::-1], 3), np.float32)
    for result in (*areas.finished(worked, "pil", "paste"), *areas.unchanged(1, "pil")):
        save_image(result, tmp_path / f"out.{suffix}")
        with Image.open(tmp_path / f"out.{suffix}") as written:
            assert written.info["icc_profile"] == SRGB


@pytest.mark.parametrize(("mode", "source"), [("CMYK", CMYK), ("L", GRAY)])
@pytest.mark.parametrize("file_format", ["TIFF", "JPEG"])
def test_other_colours_are_converted_by_their_profile(mode: str, source: bytes, file_format: str) -> None:
    data = encoded(Image.fromarray(COLOURS).convert(mode), file_format, icc_profile=source)
    picture = read_picture(data)
    stored = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(picture.image, by_image_cms(stored, source))
    assert (np.asarray(picture.image) != np.asarray(stored.convert("RGB"))).any(), "the profile makes a difference"
    assert picture.image.info == {}
    assert picture.notes == (f"the {mode} colours of image were converted to sRGB by its colour profile",)


def test_grey_with_alpha_is_converted_too() -> None:
    image = Image.fromarray(COLOURS).convert("LA")
    image.putpixel((0, 0), (9, 0))
    picture = read_picture(encoded(image, "PNG", icc_profile=GRAY))
    assert picture.image.mode == "RGBA"
    np.testing.assert_array_equal(picture.image.convert("RGB"), by_image_cms(image.convert("L"), GRAY))


@pytest.mark.parametrize(
    ("mode", "source", "text"),
    [
        ("CMYK", None, "image has CMYK colours without a colour profile: they are converted by a plain formula"),
        ("RGB", CMYK, "the colour profile of image does not fit its colours (RGB): it is left out"),
        ("RGB", b"no profile", "the colour profile of image does not fit its colours (RGB): it is left out"),
        ("CMYK", CMYK[:150].ljust(len(CMYK), b"\0"), "the colour profile of image cannot be used ("),
    ],
)
def test_a_profile_that_cannot_be_used_is_noted(mode: str, source: bytes | None, text: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    picture = read_picture(encoded(image, "TIFF", **({} if source is None else {"icc_profile": source})))
    np.testing.assert_array_equal(picture.image, image.convert("RGB"))
    assert picture.image.info == {}
    (note,) = picture.notes
    assert note.startswith(text)


def test_a_bitmap_has_no_profile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(read_image(encoded(Image.fromarray(COLOURS), "PNG", icc_profile=SRGB)), tmp_path / "out.bmp")
    assert "BMP holds no colour profile; the picture's is left out" in caplog.text


# -- transparency --


def half_transparent() -> np.ndarray:
    alpha = np.random.default_rng(5).integers(0, 256, (40, 50, 1), np.uint8)
    return np.concatenate([COLOURS, alpha], axis=2)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparency_is_kept_outside_the_mask_bit_for_bit(suffix: str, tmp_path: Path) -> None:
    source, mask = half_transparent(), np.zeros((40, 50), np.uint8)
    mask[10:20, 5:30] = 255
    picture = read_picture(encoded(Image.fromarray(source), "PNG", icc_profile=SRGB))
    areas = whole_pictures([picture.image.resize((100, 80), 0)], [Image.fromarray(mask)], height=80, width=100)
    whole = np.asarray(picture.image.resize((100, 80), 0))
    assert areas.crops()[0][0].mode == "RGB"
    (result,) = areas.finished(np.full((1, 80, 100, 3), 0.5, np.float32), "pil", "paste")
    save_image(result, tmp_path / f"out.{suffix}")
    with Image.open(tmp_path / f"out.{suffix}") as written:
        assert written.info["icc_profile"] == SRGB
        pixels = np.asarray(written.convert("RGBA"))
    painted = areas.areas[0].mask == 1
    np.testing.assert_array_equal(pixels[~painted], whole[~painted])
    assert (pixels[painted] == (128, 128, 128, 255)).all()
    (floats,) = areas.finished(np.full((1, 80, 100, 3), 0.5, np.float32), "np", "paste")
    np.testing.assert_array_equal(np.rint(floats * 255), pixels[..., :3])


def test_a_resized_picture_has_the_colours_of_the_opaque_one() -> None:
    image = Image.fromarray(half_transparent())
    resized = fit(image, 96, 64)
    np.testing.assert_array_equal(resized.convert("RGB"), fit(image.convert("RGB"), 96, 64))
    np.testing.assert_array_equal(resized.getchannel("A"), fit(image.getchannel("A"), 96, 64))


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_formats_without_transparency_say_so(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(Image.fromarray(half_transparent()), tmp_path / f"out.{suffix}")
    assert "holds no transparency; the picture's is left out" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
