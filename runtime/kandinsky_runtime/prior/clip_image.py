"""CLIP's picture preprocessing, from pictures to the image encoder's pixel values.

The arithmetic equals that of transformers' CLIPImageProcessor with Pillow.

Legend: B pictures · S height and width of the encoder's pictures
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.errors import BundleError, InputError
from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.image import read_picture, without_alpha
from kandinsky_runtime.pictures.opening import PictureSource, open_picture

Array = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

DEFAULTS: Mapping[str, Any] = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": int(Image.Resampling.BICUBIC),
    "rescale_factor": 1 / 255,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
"""CLIP's settings, the defaults of a config."""

_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_center_crop": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "do_pad": (False,),
    "default_to_square": (False,),
    "use_square_size": (False,),
    "data_format": ("channels_first",),
    "image_processor_type": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"),
    "feature_extractor_type": ("CLIPFeatureExtractor", "CLIPImageProcessor"),
}
"""The supported values of settings that this package does not vary. Null means the default of transformers."""


@dataclass(frozen=True)
class ClipImageProcessor:
    """Scales the shorter edge of pictures to `shortest_edge`, crops the middle, and normalises the colours.

    Attributes:
        shortest_edge: the scaled length of the shorter edge, in pixels.
        crop: S, in pixels; at most `shortest_edge`.
        resample: Pillow's resampling filter.
        rescale_factor: the factor by which 8-bit values are multiplied.
        mean, std: the mean and standard deviation of rescaled red, green and blue.
    """

    shortest_edge: int
    crop: int
    resample: Image.Resampling
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClipImageProcessor:
        """Read `preprocessor_config.json`.

        Raises:
            BundleError: a setting is unknown or unsupported; lists every fault.
        """
        settings = {**DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
        faults = [
            f"image processor setting `{name}` is {value!r}; expected {' or '.join(map(repr, _SUPPORTED[name]))}"
            if name in _SUPPORTED
            else f"image processor setting `{name}` is unknown"
            for name, value in settings.items()
            if name not in DEFAULTS and value not in _SUPPORTED.get(name, ())
        ]
        edge = _edge(settings["size"])
        crop = _side(settings["crop_size"])
        if edge is None:
            faults.append(_setting_fault("size", settings, "a number of pixels or an object with `shortest_edge`"))
        if crop is None:
            faults.append(
                _setting_fault("crop_size", settings, "a number of pixels or an object with equal height and width")
            )
        if edge is not None and crop is not None and crop > edge:
            faults.append(f"image processor setting `crop_size` is {crop}, more than the {edge} of `size`")
        if settings["resample"] not in list(Image.Resampling):
            faults.append(_setting_fault("resample", settings, "one of Pillow's filters, 0 to 5"))
        if not _is_positive(settings["rescale_factor"]):
            faults.append(_setting_fault("rescale_factor", settings, "a positive number"))
        if not _is_colour(settings["image_mean"]):
            faults.append(_setting_fault("image_mean", settings, "three numbers"))
        if not _is_colour(settings["image_std"]) or not all(map(_is_positive, settings["image_std"])):
            faults.append(_setting_fault("image_std", settings, "three positive numbers"))
        if faults or edge is None or crop is None:
            raise BundleError("image processor", faults)
        return cls(
            edge,
            crop,
            Image.Resampling(settings["resample"]),
            float(settings["rescale_factor"]),
            tuple(settings["image_mean"]),
            tuple(settings["image_std"]),
        )

    def __call__(
        self, pictures: Sequence[PictureSource], notes: list[str] | None = None, max_pixels: int = MAX_PIXELS
    ) -> Array:
        """Pictures of any sizes as float32 (B, 3, S, S).

        Args:
            pictures: one or more sources that `image.read_image` takes. Transparent pictures are put on white, as in
                transformers.
            notes: a list to which what had to be guessed is added, one sentence each; None logs it as warnings.
            max_pixels: the most pixels of a picture that is read.

        Raises:
            InputError: there is no picture; or a picture cannot be read, or its sides differ too much.
        """
        if isinstance(pictures, (str, bytes)) or not isinstance(pictures, Sequence) or not pictures:
            raise InputError(f"pictures are {type(pictures).__name__}; expected a list of one or more")
        guessed: list[str] = []
        pixels = np.stack(
            [np.asarray(self._middle(_on_white(picture, guessed, max_pixels))) for picture in pictures]
        )  # (B, S, S, 3)
        if notes is not None:
            notes += guessed
        else:
            for note in guessed:
                _log.warning(note)
        values = pixels.transpose(0, 3, 1, 2) * np.float64(self.rescale_factor)
        mean, std = (np.array(value, np.float32)[:, None, None] for value in (self.mean, self.std))
        return np.ascontiguousarray((values.astype(np.float32) - mean) / std)

    def _middle(self, picture: Image.Image) -> Image.Image:
        """The middle S x S pixels of the scaled picture."""
        shorter = min(picture.size)
        width, height = (int(self.shortest_edge * length / shorter) for length in picture.size)
        if width * height > MAX_PIXELS:
            raise InputError(
                f"a picture prompt is {picture.width}x{picture.height} pixels and would be scaled to {width}x{height};"
                f" expected at most {MAX_PIXELS:,} pixels in all: only the middle is used, so crop it first"
            )
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        scaled = picture.resize((width, height), self.resample)
        return scaled.crop((left, top, left + self.crop, top + self.crop))


def _on_white(picture: PictureSource, notes: list[str], max_pixels: int) -> Image.Image:
    """A picture as upright 8-bit RGB, with transparent pixels on white; what had to be guessed is added to `notes`."""
    if isinstance(picture, np.ndarray):
        read = read_picture(picture, max_pixels=max_pixels)
        notes += read.notes
        return without_alpha(read.image)
    with open_picture(picture, "image", max_pixels) as opened:
        notes += opened.notes
        if not opened.picture.has_transparency_data:
            return opened.picture.convert("RGB")
        coloured = opened.picture.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB")


def _edge(value: Any) -> int | None:
    if isinstance(value, Mapping):
        value = value.get("shortest_edge") if value.keys() == {"shortest_edge"} else None
    return value if _is_length(value) else None


def _side(value: Any) -> int | None:
    if isinstance(value, Mapping):
        value = value.get("height") if value.get("height") == value.get("width") else None
    return value if _is_length(value) else None


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_colour(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 3 and all(map(_is_number, value))


def _setting_fault(name: str, settings: Mapping[str, Any], expected: str) -> str:
    return f"image processor setting `{name}` is {settings[name]!r}; expected {expected}"
