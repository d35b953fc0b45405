"""Golden pixel values: the output of transformers' CLIPImageProcessor for pictures of all modes and shapes.

    python scripts/goldens/clip_images.py tests/golden        with torch, diffusers and transformers

Writes clip_images.npz. The tests import the pictures from here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SMALL: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 40}, "crop_size": {"height": 25, "width": 25}, "resample": 2}
PUBLISHED: dict[str, Any] = {}

SIZES = ((1, 1), (1, 60), (60, 1), (2, 3), (3, 40), (32, 32), (33, 32), (31, 65), (70, 32), (97, 131), (200, 41))
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")


def pixels(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """Bytes without a pattern, (height, width, channels)."""
    place = np.arange(height * width * channels, dtype=np.uint64).reshape(height, width, channels)
    mixed = place * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed ^ (mixed >> np.uint64(29))) >> np.uint64(16)).astype(np.uint8)


def waves(height: int, width: int) -> Image.Image:
    """Smooth colours."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 255 * y / height, 127.5 + 127.5 * np.sin(x / 9) * np.cos(y / 7))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def picture(mode: str, height: int, width: int) -> Image.Image:
    """A picture of one of `MODES`; a palette has a transparent colour."""
    values = pixels(height, width, len(Image.new(mode, (1, 1)).getbands()))
    if mode == "1":
        return Image.fromarray(values[..., 0]).point(lambda value: 255 * (value > 127), mode="1")
    if mode == "P":
        made = Image.frombytes("P", (width, height), values.tobytes())
        made.putpalette(pixels(1, 256, 3).tobytes())
        made.info["transparency"] = 7
        return made
    return Image.frombytes(mode, (width, height), values.tobytes())


def cases() -> dict[str, tuple[dict[str, Any], Image.Image]]:
    """The config and picture of each case, by name."""
    made = {f"RGB {height}x{width}": (SMALL, picture("RGB", height, width)) for height, width in SIZES}
    made |= {f"{mode} 45x38": (SMALL, picture(mode, 45, 38)) for mode in MODES}
    made |= {f"cropped {height}x{width}": (CROPPED, picture("RGB", height, width)) for height, width in SIZES[:4]}
    made |= {
        f"published {height}x{width}": (PUBLISHED, waves(height, width)) for height, width in ((150, 340), (500, 260))
    }
    return made


def run(golden: Path) -> None:
    """Process every picture with the processor that uses Pillow."""
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    arrays = {
        name: CLIPImageProcessorPil(**config)(image, return_tensors="np")["pixel_values"][0]
        for name, (config, image) in cases().items()
    }
    np.savez_compressed(golden / "clip_images.npz", versions=np.array([transformers.__version__]), **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    run(parser.parse_args().golden)


if __name__ == "__main__":
    main()
