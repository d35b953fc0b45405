"""Contact sheets: rows of labelled pictures.

Legend: H, W height and width of a picture in pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from kandinsky_export.comparison.cases import Case
from kandinsky_export.comparison.compare import Comparison
from kandinsky_runtime.pictures.opening import float_to_eight_bit

Pixels = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CELL = 192
"""The longest side of a picture in a sheet, in pixels; larger ones are scaled down."""
_GAP, _LABEL, _FONT_SIZE, _LINE = 8, 168, 13, 16
_INK, _PAPER, _MASK = (32, 32, 36), (255, 255, 255), (255, 0, 255)


def sheet_of(comparison: Comparison) -> Image.Image:
    """The comparison's pictures: a row for each case; input, baseline and candidates side by side.

    The input shows the mask in magenta. A comparison without pictures to begin with has no column for them. A candidate
    that failed has gaps, and the reason above its column.
    """
    columns = [
        f"{name}: {item.setting.text}" + ("" if item.failed is None else f"\n{item.failure}")
        for name, item in zip(comparison.names, comparison.results, strict=True)
    ]
    rows = []
    inputs = [input_shown(case) for case in comparison.cases]
    for number, case in enumerate(comparison.cases):
        pictures = [result.pictures[number] if number < len(result.pictures) else None for result in comparison.results]
        first = [inputs[number]] if any(item is not None for item in inputs) else []
        rows.append((f"{case.label}\nseed {case.seed}", [*first, *pictures]))
    return contact_sheet(["input", *columns] if len(rows[0][1]) > len(columns) else columns, rows)


def input_shown(case: Case) -> Pixels | None:
    """The picture that a case begins with (H, W, 3), with the mask in magenta; None for text-to-image."""
    if case.pictures.picture is None:
        return None
    pixels = case.pictures.picture
    if case.pictures.mask is not None:
        tinted = (pixels + np.asarray(_MASK, np.float32) / 255) / 2
        pixels = np.where(case.pictures.mask[..., None] > 0, tinted, pixels)
    return float_to_eight_bit(pixels)


def contact_sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Pixels | None]]]) -> Image.Image:
    """A sheet of pictures with labels.

    Args:
        columns: the text above each column.
        rows: the text of each row, and its pictures (H, W, 3), as many as there are columns; None leaves a gap.
    """
    cells = [(label, [None if picture is None else _fitted(picture) for picture in row]) for label, row in rows]
    sizes = [picture.size for _, row in cells for picture in row if picture is not None]
    width = max((size[0] for size in sizes), default=CELL)
    font = ImageFont.load_default(_FONT_SIZE)
    headings = [_wrapped(text, max(width, CELL // 2), font) for text in columns]
    step = max(width, CELL // 2) + _GAP
    top = _GAP + _LINE * max(map(len, headings), default=0) + _GAP
    labels = [_wrapped(label, _LABEL, font) for label, _ in cells]
    heights = [
        max([_LINE * len(lines), *(picture.height for picture in row if picture is not None)]) + _GAP
        for lines, (_, row) in zip(labels, cells, strict=True)
    ]
    sheet = Image.new("RGB", (_GAP + _LABEL + _GAP + step * len(columns), top + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, lines in enumerate(headings):
        _write(draw, lines, _LABEL + 2 * _GAP + step * number, _GAP, font)
    y = top
    for lines, (_, row), height in zip(labels, cells, heights, strict=True):
        _write(draw, lines, _GAP, y, font)
        for number, picture in enumerate(row):
            if picture is not None:
                sheet.paste(picture, (_LABEL + 2 * _GAP + step * number, y))
        y += height
    return sheet


def _fitted(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return image


def _wrapped(text: str, width: int, font: Font) -> list[str]:
    """The text in lines of at most `width` pixels, broken after spaces and commas, and anywhere if it must be."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for character in paragraph:
            if font.getlength(line + character) > width and line:
                cut = max(line.rfind(" "), line.rfind(",")) + 1 or len(line)
                lines.append(line[:cut].rstrip())
                line = line[cut:]
            line += character
        lines.append(line)
    return lines


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, font: Font) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + _LINE * number), line, _INK, font)
