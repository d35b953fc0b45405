"""Files as they come: 16 bits, HEIC, damaged TIFF files and very large pictures."""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import tempfile
import threading
import types
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures import quiet
from kandinsky_runtime.pictures.image import read_image, read_picture
from kandinsky_runtime.pictures.mask import fit_mask, understand_mask
from kandinsky_runtime.pictures.opening import picture_suffixes
from tests.runtime.pipes import fed_pipe

RNG = np.random.default_rng(18)
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # PNG's colour types


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(values: np.ndarray, colour_type: int, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG file of 16 bits for each channel, written by hand."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    extra = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def deep_tiff(values: np.ndarray, order: str) -> bytes:
    """A plain TIFF file of 16 bits for each of three channels, written by hand."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200)]
    tags += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]
    body = struct.pack(f"{order}3H", 16, 16, 16) + bytes(2)
    ifd = struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        ifd += struct.pack(f"{order}HHI", tag, kind, count) + packed
    magic = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 16)
    return (magic + body + ifd + bytes(4)).ljust(200, b"\0") + data


def rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values / 257.0).astype(np.uint8)


@pytest.mark.parametrize("colour_type", CHANNELS)
@pytest.mark.parametrize("as_path", [True, False])
def test_sixteen_bits_of_every_kind_are_rounded(colour_type: int, as_path: bool, tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (33, 70, CHANNELS[colour_type])).astype(np.uint16)
    values[0, :4] = np.array([0, 128, 129, 65535])[:, None]
    source: bytes | Path = deep_png(values, colour_type)
    if as_path:
        (tmp_path / "deep.png").write_bytes(source)
        source = tmp_path / "deep.png"
    image = read_picture(source).image
    colours = rounded(values[..., :3] if colour_type in (2, 6) else np.repeat(values[..., :1], 3, axis=2))
    np.testing.assert_array_equal(image.convert("RGB"), colours)
    if colour_type in (4, 6):
        np.testing.assert_array_equal(image.getchannel("A"), rounded(values[..., -1]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff(order: str) -> None:
    ramp = np.arange(33 * 70 * 3).reshape(33, 70, 3).astype(np.uint16) * 9
    np.testing.assert_array_equal(read_image(deep_tiff(ramp, order)), rounded(ramp))


def test_a_transparent_colour_of_sixteen_bits_is_exact() -> None:
    values = RNG.integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    values[4, 4] = values[0, 0] + np.array([0, 0, 1], np.uint16)  # equal in its upper 8 bits
    alpha = np.asarray(read_picture(deep_png(values, 2, tuple(map(int, values[0, 0])))).image.getchannel("A"))
    assert np.argwhere(alpha == 0).tolist() == [[0, 0]]


@pytest.mark.parametrize("mode", ["auto", "alpha", "white", "black"])
@pytest.mark.parametrize("transparent", [0, 255, 200])
def test_a_grey_mask_of_sixteen_bits_is_its_eight_bit_form(mode: str, transparent: int) -> None:
    levels = np.array([[0, 200, 255, 0, 255, 100, 128, 3]] * 2, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", transparency=transparent)
    deep = deep_png(levels[..., None].astype(np.uint16) * 257, 0, (transparent * 257,))
    shallow, deeper = (understand_mask(source, mode=mode) for source in (buffer.getvalue(), deep))
    np.testing.assert_array_equal(fit_mask(deeper.image, 8, 2), fit_mask(shallow.image, 8, 2))
    assert (deeper.rule, deeper.notes) == (shallow.rule, shallow.notes)


# -- HEIC --

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_heic_without_its_plug_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    for source in (HEIC, tmp_path / "IMG_1.HEIC"):
        with pytest.raises(InputError, match="is a HEIC picture: pip install pillow-heif, or convert it to PNG"):
            read_image(source)
    with pytest.raises(InputError, match=r"mask .*IMG_1.HEIC is a HEIC picture"):
        understand_mask(tmp_path / "IMG_1.HEIC")


@pytest.fixture
def heic_picture(monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """What a stand-in of pillow-heif opens. Like the real one, it turns the picture upright by itself."""
    picture = Image.new("RGB", (8, 6), (1, 2, 3))
    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = lambda: monkeypatch.setattr(Image, "open", lambda *_, **__: picture)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    return picture


def test_heic_with_its_plug_in(heic_picture: Image.Image) -> None:
    read = read_picture(HEIC)
    assert read.image.getpixel((0, 0)) == (1, 2, 3)
    assert read.orientation == 1


@pytest.mark.parametrize(("stored", "undone"), [(6, 6), (3, 3), (1, 1), (None, 1), ("6", 1), (9, 1)])
def test_what_the_plug_in_undid_is_known(heic_picture: Image.Image, stored: object, undone: int) -> None:
    """So that a mask of the stored size is turned with the picture, as for a JPEG."""
    heic_picture.info["original_orientation"] = stored
    read = read_picture(HEIC)
    assert (read.image.size, read.orientation) == ((8, 6), undone)


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
def test_a_real_heic_file() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    upright = Image.new("RGB", (64, 48), (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(buffer, "HEIF", exif=exif.tobytes())
    read = read_picture(buffer.getvalue())
    assert (read.image.size, read.orientation) == ((48, 64), 6)


# -- formats --

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("content", [EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<2I", 12, len(EPS)) + EPS])
@pytest.mark.parametrize("name", [None, "picture.png"])
def test_no_program_is_started_for_an_eps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, name: str | None
) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    source: Path | bytes = content
    if name is not None:
        source = tmp_path / name
        source.write_bytes(content)
    for read in (read_picture, understand_mask):
        with pytest.raises(InputError, match="is an EPS file, which is not read; convert it to PNG"):
            read(source)


def test_formats_that_are_left_to_other_programs_are_not_opened() -> None:
    wmf = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 64, 64, 1440, 0, 0) + b"\x01\0\x09\0\0\3"
    with pytest.raises(InputError, match="is not a picture that Pillow knows"):
        read_picture(wmf)
    records = [(3, 20, b"\x40"), (3, 30, b"\x40"), (3, 60, b"\1\0"), (3, 120, b"\5"), (8, 10, EPS)]
    iptc = b"".join(struct.pack(">BBBH", 0x1C, *tag, len(data)) + data for *tag, data in records)
    assert Image.open(io.BytesIO(iptc)).format == "IPTC"  # and its pixels would be opened as any format
    with pytest.raises(InputError, match="is not a picture that Pillow knows"):
        read_picture(iptc)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "QOI"])
def test_formats_that_are_read(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(buffer, kind)
    assert read_picture(buffer.getvalue()).image.size == (64, 64)


# -- the C library's lines --


def damaged_tiffs() -> list[bytes]:
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    found = []
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        buffer = io.BytesIO()
        noise.save(buffer, "TIFF", compression=compression)
        data = buffer.getvalue()
        for start in (60, 300, len(data) // 2):
            found.append(data[:start] + bytes(200) + data[start + 200 :])
            found.append(data[: len(data) - start])
    return found


def test_a_damaged_tiff_is_one_error_and_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    refused = 0
    for data in damaged_tiffs():
        try:
            read_image(data)
        except InputError:
            refused += 1
    assert refused > 5
    assert capfd.readouterr().err == ""


def test_pillows_own_records_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    samples = struct.pack("<HHIHH", 277, 3, 1, 3, 0)
    data = deep_tiff(np.zeros((9, 11, 3), np.uint16), "<")
    assert samples in data
    with pytest.raises(InputError, match="is not a picture that Pillow knows"):
        read_image(data.replace(samples, struct.pack("<HHIHH", 277, 3, 1, 4096, 0)))
    assert not caplog.records
    assert logging.getLogger("PIL").level == logging.NOTSET


def test_lines_of_others_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet.silent_tiff:
        os.write(2, b"ZIPDecode: Decoding error at scanline 0, incorrect data check.\n")
        os.write(2, b"k22: a note of another thread\n")
        os.write(2, b"TIFFReadDirectory: Warning, unknown field\n")
        os.write(2, b"EstimateStripByteCounts: Cannot determine size of unknown tag type 65535.\n")
    assert capfd.readouterr().err == "k22: a note of another thread\n"


def test_threads_share_the_silence() -> None:
    before = os.fstat(2)
    threads = [threading.Thread(target=lambda: [_refused(data) for data in damaged_tiffs()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = os.fstat(2)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)


def _refused(data: bytes) -> None:
    try:
        read_image(data)
    except InputError:
        return


def test_a_tiff_is_read_without_a_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    ramp = np.arange(33 * 70 * 3).reshape(33, 70, 3).astype(np.uint16) * 9
    os.close(before := os.dup(2))
    for _ in range(3):
        np.testing.assert_array_equal(read_image(deep_tiff(ramp, "<")), rounded(ramp))
    os.write(2, b"stderr is still there\n")
    assert capfd.readouterr().err == "stderr is still there\n"
    os.close(after := os.dup(2))
    assert before == after, "a file descriptor was left open"


# -- pipes and names --


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize(
    "data", [deep_png(RNG.integers(0, 65536, (9, 11, 3)).astype(np.uint16), 2), b"no picture", b""]
)
def test_a_pipe_is_read_once(data: bytes, tmp_path: Path) -> None:
    for number, read in enumerate((read_picture, understand_mask)):
        pipe = fed_pipe(tmp_path / f"pipe-{number}", data)
        if not data.startswith(b"\x89PNG"):
            with pytest.raises(InputError, match=r"pipe-. is not a picture that Pillow knows"):
                read(pipe)
            continue
        assert np.array_equal(read(pipe).image, read(data).image)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_without_end_is_refused(tmp_path: Path) -> None:
    pipe = fed_pipe(tmp_path / "pipe", bytes((1 << 26) + 90))
    with pytest.raises(
        InputError, match="pipe is a pipe or a device with more than 67,108,944 bytes; expected less: give a file"
    ):
        read_image(pipe, max_pixels=10)


def test_an_impossible_name_is_no_damaged_picture(tmp_path: Path) -> None:
    for read in (read_picture, understand_mask):
        with pytest.raises(InputError, match=r"n cannot be read: File name too long; give the path of a PNG"):
            read(tmp_path / ("n" * 300))


def test_suffixes_are_those_of_what_can_be_read(tmp_path: Path) -> None:
    suffixes = picture_suffixes()
    assert {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".avif"} <= suffixes
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ".npz", ""} & suffixes


# -- very large pictures --


def test_the_limit_can_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 10_000)).save(path)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"large\.png (has more pixels than Pillow opens|is 20000x10000 pixels)"):
        read_image(path)
    mask = understand_mask(path, max_pixels=200_000_000)
    assert mask.image.size == (20_000, 10_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match="is 20000x10000 pixels; expected at most 199999999 in all: scale it down"):
        understand_mask(path, max_pixels=199_999_999)
