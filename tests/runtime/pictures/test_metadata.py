"""How a picture was made, read back from its file as other tools read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.pictures.metadata import describe, parameters
from kandinsky_runtime.pictures.saving import check_output_path, save_image

RECORD = {
    "prompt": "a hat, 4k\nwith größe 帽子",
    "negative_prompt": "dogs",
    "steps": 20,
    "scheduler": "dpm++karras",
    "guidance_scale": 4.0,
    "seed": 2**64 - 1,
    "size": "64x80",
    "bundle": "my, bundle",
    "source": None,
}
TEXT = (
    "a hat, 4k\nwith größe 帽子\nNegative prompt: dogs\n"
    'Steps: 20, Sampler: dpm++karras, CFG scale: 4, Seed: 18446744073709551615, Size: 64x80, Model: "my, bundle"'
)
# How AUTOMATIC1111's web UI takes the last line apart
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def made(size: tuple[int, int] = (64, 80)) -> Image.Image:
    image = Image.new("RGB", size, (9, 99, 199))
    describe(image, RECORD)
    return image


def test_the_text_is_that_of_common_tools() -> None:
    assert parameters({name: value for name, value in RECORD.items() if value is not None}) == TEXT
    pairs = dict(PAIR.findall(TEXT.splitlines()[-1]))
    assert pairs["Steps"] == "20"
    assert json.loads(pairs["Model"]) == "my, bundle"


def test_png(tmp_path: Path) -> None:
    save_image(made(), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["parameters"] == TEXT
        assert json.loads(written.info["k22"]) == {name: value for name, value in RECORD.items() if value is not None}


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_exif(suffix: str, tmp_path: Path) -> None:
    save_image(made(), tmp_path / f"out.{suffix}")
    with Image.open(tmp_path / f"out.{suffix}") as written:
        comment = written.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == TEXT


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp"])
def test_without_a_record_nothing_is_written(suffix: str, tmp_path: Path) -> None:
    save_image(Image.new("RGB", (64, 80)), tmp_path / f"out.{suffix}")
    with Image.open(tmp_path / f"out.{suffix}") as written:
        assert not {"parameters", "k22"} & set(written.info)
        assert not written.getexif().get_ifd(0x8769)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp"])
@pytest.mark.parametrize("prompt", ["x" * 200_000, "half a pair \ud800", "nul \0 inside", "👒" * 40_000])
def test_any_prompt_is_written(suffix: str, prompt: str, tmp_path: Path) -> None:
    image = made()
    describe(image, RECORD | {"prompt": prompt})
    save_image(image, tmp_path / f"out.{suffix}")
    with Image.open(tmp_path / f"out.{suffix}") as written:
        assert written.size == (64, 80)


def test_quality(tmp_path: Path) -> None:
    noise = Image.effect_noise((128, 128), 80).convert("RGB")
    for suffix in ("jpg", "webp"):
        sizes = []
        for quality in (5, 60, 100):
            save_image(noise, tmp_path / f"out.{suffix}", quality)
            sizes.append((tmp_path / f"out.{suffix}").stat().st_size)
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2] / 2
    for path, quality, text in (
        ("out.png", 90, "quality is for JPEG and WebP files; leave it out, or choose their suffix"),
        ("out.jpg", 0, "quality is 0; expected a whole number from 1 to 100"),
        ("out.jpg", 101, "quality is 101; expected a whole number from 1 to 100"),
    ):
        with pytest.raises(UsageError, match=text):
            check_output_path(tmp_path / path, quality)
