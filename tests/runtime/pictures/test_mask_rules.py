"""What a mask means: a table of masks, and the pixels that each rule repaints."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures.mask import fit_mask, understand_mask

HOLE = np.zeros((8, 8), bool)
HOLE[2:4, 3:5] = True
NOTHING, EVERYTHING = np.zeros((8, 8), bool), np.ones((8, 8), bool)
NOISE = np.random.default_rng(6).integers(0, 256, (8, 8, 3), np.uint8)
BRIGHT, DARK = NOISE // 5 + 200, NOISE // 5


def layer(colours: object, alpha: object) -> Image.Image:
    """An RGBA picture of colours and an alpha channel, each an array or one level."""
    pixels = np.empty((8, 8, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colours, alpha
    return Image.fromarray(pixels)


def strokes(inside: int, outside: int) -> Image.Image:
    """Grey without transparency: one level in the hole, another around it."""
    return Image.fromarray(np.where(HOLE, inside, outside).astype(np.uint8))


SOFT = np.where(HOLE, 0, 200).astype(np.uint8)
PAINTED = np.where(HOLE[..., None], 255, 0)
MASKS = {
    "a bright photo with a hole": layer(BRIGHT, np.where(HOLE, 0, 255)),
    "a dark photo with a hole": layer(DARK, np.where(HOLE, 0, 255)),
    "black with a hole": layer(0, np.where(HOLE, 0, 255)),
    "a half opaque photo with a hole": layer(BRIGHT, SOFT),
    "black around a white hole that is transparent": layer(PAINTED, np.where(HOLE, 0, 255)),
    "white strokes on a transparent layer": layer(PAINTED, np.where(HOLE, 255, 0)),
    "white strokes on transparent white": layer(255, np.where(HOLE, 255, 0)),
    "faint white strokes": layer(255, np.where(HOLE, 127, 0)),
    "black strokes on a transparent layer": layer(0, np.where(HOLE, 255, 0)),
    "an opaque mask with an alpha channel": layer(PAINTED, 255),
    "white on black": strokes(255, 0),
    "black on white": strokes(0, 255),
}
# mask → the pixels that are repainted by auto, alpha, white and black; None is refused
TABLE = {
    "a bright photo with a hole": ("alpha", HOLE, HOLE, ~HOLE, NOTHING),
    "a dark photo with a hole": ("alpha", HOLE, HOLE, NOTHING, ~HOLE),
    "black with a hole": ("alpha", HOLE, HOLE, NOTHING, ~HOLE),
    "a half opaque photo with a hole": ("alpha", HOLE, HOLE, ~HOLE, NOTHING),
    "black around a white hole that is transparent": ("alpha", HOLE, HOLE, NOTHING, ~HOLE),
    "white strokes on a transparent layer": ("white", HOLE, ~HOLE, HOLE, NOTHING),
    "white strokes on transparent white": ("white", HOLE, ~HOLE, HOLE, NOTHING),
    "faint white strokes": ("white", NOTHING, EVERYTHING, NOTHING, NOTHING),
    "black strokes on a transparent layer": ("alpha", ~HOLE, ~HOLE, NOTHING, HOLE),
    "an opaque mask with an alpha channel": ("white", HOLE, NOTHING, HOLE, ~HOLE),
    "white on black": ("white", HOLE, None, HOLE, ~HOLE),
    "black on white": ("white", ~HOLE, None, ~HOLE, HOLE),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("as_file", [True, False])
def test_every_mask_by_every_rule(name: str, as_file: bool) -> None:
    source: object = MASKS[name]
    if as_file:
        buffer = io.BytesIO()
        MASKS[name].save(buffer, "PNG")
        source = buffer.getvalue()
    rule, *expected = TABLE[name]
    for mode, pixels in zip(("auto", "alpha", "white", "black"), expected, strict=True):
        if pixels is None:
            with pytest.raises(InputError, match="mask has no transparency, and mask_mode 'alpha' repaints what is"):
                understand_mask(source, mode=mode)
            continue
        mask = understand_mask(source, mode=mode)
        np.testing.assert_array_equal(fit_mask(mask.image, 8, 8), pixels, f"{name}, {mode}")
        assert mask.rule == (rule if mode == "auto" else mode)
        guessed = mode == "auto" and len(np.unique(np.asarray(MASKS[name].convert("RGBA"))[..., 3])) > 1
        assert len(mask.notes) == guessed, "a guess is noted, and nothing else"


def test_the_note_tells_the_rule_and_the_way_out() -> None:
    (note,) = understand_mask(MASKS["a dark photo with a hole"]).notes
    assert note == "mask is partly transparent: what is transparent is repainted; mask_mode 'white' goes by colours"
    (note,) = understand_mask(MASKS["white strokes on a transparent layer"]).notes
    assert note == "mask is white on transparent: white is repainted; mask_mode 'alpha' repaints what is transparent"


def test_alpha_of_zero_and_one_is_scaled() -> None:
    mask = understand_mask(layer(BRIGHT, np.where(HOLE, 0, 1)))
    np.testing.assert_array_equal(fit_mask(mask.image, 8, 8), HOLE)
    assert mask.rule == "alpha"
    assert "alpha values are taken as 0 and 1" in mask.notes[0]
