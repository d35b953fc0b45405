"""How pictures and strokes reach the page: files, clipboard, drops, mouse, pen and keys, as a browser sends them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.server_process import SIZE, Server, mask, picture, pixels, png
from tests.serving.visitor import Visitor, jobs

PASTE = """async content => {
    const blob = await (await fetch("data:image/png;base64," + content)).blob();
    await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
}"""


def painted(visitor: Visitor) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the mask that the page saves is white."""
    return np.asarray(visitor.mask().convert("L")) >= 128


def drop(visitor: Visitor, file: Path) -> None:
    """Drag a file over the page and drop it there."""
    tools = visitor.context.new_cdp_session(visitor.page)
    x, y = visitor.at(0.5, 0.5)
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        tools.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
        if kind == "dragOver":
            visitor.page.wait_for_selector("#drop:not([hidden])")


def load_mask(visitor: Visitor, content: bytes) -> None:
    visitor.page.set_input_files("#mask-file", {"name": "mask.png", "mimeType": "image/png", "buffer": content})


def test_a_photo_is_pasted(visitor: Visitor) -> None:
    page = visitor.page
    page.wait_for_selector("#invite:not([hidden])")
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for focused, size in (("#stage", (80, 64)), ("#prompt", (72, 64))):
        other = visitor.context.new_page()  # the policy of the page itself lets no data URL in
        other.goto("http://localhost:" + page.url.split(":")[-1] + "livez")
        other.evaluate(PASTE, base64.b64encode(png(picture(size=size))).decode())
        other.close()
        page.bring_to_front()
        page.focus(focused)
        page.keyboard.press("Control+v")
        page.wait_for_selector(f"#facts:has-text('{size[0]} × {size[1]}')")
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    with page.expect_download() as download:
        page.click("#menu-open")
        page.click("#mask-down")
    assert download.value.suggested_filename == "pasted-mask.png"


def test_a_photo_is_dropped(visitor: Visitor, tmp_path: Path) -> None:
    visitor.page.wait_for_selector("#invite:not([hidden])")
    (tmp_path / "cat.png").write_bytes(png(picture()))
    drop(visitor, tmp_path / "cat.png")
    visitor.page.wait_for_selector("#tools:not([hidden])")
    assert visitor.facts == f"{SIZE[0]} × {SIZE[1]}"
    assert not visitor.page.is_visible("#drop")
    (tmp_path / "no.png").write_text("this is no picture")
    drop(visitor, tmp_path / "no.png")
    visitor.page.wait_for_selector("#error-stage:has-text('cannot be opened')")
    assert visitor.facts == f"{SIZE[0]} × {SIZE[1]}"


def test_a_pen_paints_as_wide_as_it_is_pressed(visitor: Visitor) -> None:
    visitor.open(png(picture(size=(320, 240))))
    tools = visitor.context.new_cdp_session(visitor.page)

    def draw(down: float, force: float, buttons: int = 1) -> None:
        button = {1: "left", 2: "right"}[buttons]
        for kind, across in (("mousePressed", 0.3), ("mouseMoved", 0.5), ("mouseMoved", 0.7), ("mouseReleased", 0.7)):
            x, y = visitor.at(across, down)
            event = {"type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1}
            tools.send("Input.dispatchMouseEvent", event | {"pointerType": "pen", "force": force})

    def widths() -> list[int]:
        column = painted(visitor)[:, 160].astype(int)
        edges = np.flatnonzero(np.diff(column, prepend=0, append=0))
        return [int(size) for size in np.diff(edges)[::2]]

    draw(0.3, 0.1)
    draw(0.6, 1.0)
    light, firm = widths()
    assert firm > 2 * light
    draw(0.6, 1.0, buttons=2)  # the barrel button takes away
    assert widths() == [light]
    visitor.page.click("#menu-open")
    visitor.page.click("#pressure")
    visitor.page.keyboard.press("Escape")
    draw(0.6, 0.1)
    assert widths() == [light, firm]


def test_the_hand_that_holds_a_pen_paints_nothing(visitor: Visitor) -> None:
    visitor.open(png(picture(size=(320, 240))))
    tools = visitor.context.new_cdp_session(visitor.page)

    def hand(kind: str, *places: tuple[float, float]) -> None:
        points = [dict(zip("xy", visitor.at(*place), strict=True)) for place in places]
        tools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def pen(kind: str, across: float, down: float) -> None:
        x, y = visitor.at(across, down)
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        tools.send("Input.dispatchMouseEvent", event | {"pointerType": "pen", "force": 0.5})

    hand("touchStart", (0.7, 0.8))
    hand("touchMove", (0.7, 0.75))
    pen("mousePressed", 0.4, 0.3)
    hand("touchMove", (0.7, 0.7))
    pen("mouseMoved", 0.5, 0.3)
    pen("mouseReleased", 0.5, 0.3)
    hand("touchEnd")
    rows = np.flatnonzero(painted(visitor).any(axis=1))
    assert rows.size
    assert rows.max() < 120


def test_keys_and_wheel_change_the_brush(visitor: Visitor) -> None:
    visitor.open(png(picture()))
    page = visitor.page

    def size() -> int:
        return int(page.inner_text("#size-value").split()[0])

    first = size()
    for _ in range(4):
        page.keyboard.press("]")
    larger = size()
    assert larger > first
    for _ in range(8):
        page.keyboard.press("[")
    assert size() < first
    page.mouse.move(*visitor.at(0.5, 0.5))
    small = size()
    page.mouse.wheel(0, -200)
    page.wait_for_selector(f"#size-value:not(:text-is('{small} px'))")
    assert size() > small
    page.focus("#prompt")
    before = size()
    page.keyboard.type("[a] hat")  # a text, not a command
    assert size() == before
    assert page.input_value("#prompt") == "[a] hat"


def test_undo_and_redo_go_through_everything(visitor: Visitor) -> None:
    visitor.open(png(picture()))
    page, states = visitor.page, []
    assert page.is_disabled("#undo")
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    states.append(painted(visitor))
    page.keyboard.press("i")
    states.append(painted(visitor))
    page.keyboard.press("e")
    visitor.stroke((0.45, 0.6), (0.55, 0.7))
    states.append(painted(visitor))
    load_mask(visitor, png(mask()))
    page.wait_for_selector("#facts:has-text('mask 6 %')")
    states.append(painted(visitor))
    page.keyboard.press("Delete")
    assert visitor.facts == f"{SIZE[0]} × {SIZE[1]}"
    assert np.array_equal(states[3], np.asarray(mask()) >= 128)
    for expected in reversed(states):
        page.click("#undo")
        assert np.array_equal(painted(visitor), expected)
    page.click("#undo")
    assert page.is_disabled("#undo")
    assert visitor.facts == f"{SIZE[0]} × {SIZE[1]}"
    for expected in states:
        page.keyboard.press("Control+y")
        assert np.array_equal(painted(visitor), expected)
    page.keyboard.press("Control+z")
    page.keyboard.press("b")
    visitor.stroke((0.35, 0.2), (0.4, 0.2))  # where everything is painted: nothing changes
    assert page.is_enabled("#redo")
    visitor.stroke((0.45, 0.6), (0.55, 0.7))
    assert page.is_disabled("#redo")  # another way was taken


@pytest.mark.parametrize("mode", ["L", "RGBA", "1"])
def test_a_mask_is_loaded(visitor: Visitor, mode: str) -> None:
    visitor.open(png(picture()))
    wide = mask(size=(2 * SIZE[0], SIZE[1]))
    load_mask(visitor, png(wide))
    assert "same proportions" in visitor.page.inner_text("#error-stage:not([hidden])")
    given = mask()
    if mode == "RGBA":
        hole = picture()
        hole.putalpha(Image.fromarray(255 - np.asarray(given)))
        load_mask(visitor, png(hole))
    else:
        load_mask(visitor, png(given.convert(mode)))
    visitor.page.wait_for_selector("#facts:has-text('mask')")
    assert np.array_equal(painted(visitor), np.asarray(given) >= 128)


def test_strokes_land_where_they_are_seen(visitor: Visitor) -> None:
    """At every zoom and after every way to move the view."""
    size = (320, 240)
    visitor.open(png(picture(size=size)))
    page = visitor.page
    box = page.locator("#stage").bounding_box()
    for _ in range(6):
        page.keyboard.press("[")
    page.mouse.move(*visitor.at(0.75, 0.5))
    fit = page.inner_text("#zoom-value")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    page.wait_for_selector(f"#zoom-value:not(:text-is('{fit}'))")
    empty = painted_share(visitor)
    visitor.stroke((0.75, 0.5), (0.75, 0.5))  # zoomed around the pointer: the place in the picture is the same
    spot = np.argwhere(painted(visitor)).mean(axis=0)
    fitted = min((box["width"] - 48) / size[0], (box["height"] - 92) / size[1])
    expected = (120 + 22 / fitted, 160 + 0.25 * box["width"] / fitted)  # there is more room below than above
    assert np.abs(spot - expected).max() < 2, (spot, expected)
    assert empty == 0
    page.keyboard.press("Delete")
    for way in ("space", "middle", "hand"):
        if way == "space":
            page.focus("#stage")
            page.keyboard.down(" ")
        if way == "hand":
            page.keyboard.press("h")
        visitor.stroke((0.5, 0.5), (0.4, 0.6), button="middle" if way == "middle" else "left")
        if way == "space":
            page.keyboard.up(" ")
    assert painted_share(visitor) == 0  # only the view was moved
    page.keyboard.press("b")
    visitor.stroke((0.45, 0.8), (0.45, 0.8))
    moved = np.argwhere(painted(visitor)).mean(axis=0)
    scale = float(page.inner_text("#zoom-value").split()[0]) / 100
    way = np.array([0.8 - 0.5 - 0.3, 0.45 - 0.75 + 0.3]) * [box["height"], box["width"]] / scale
    assert np.abs(moved - (spot + way)).max() < 3
    page.keyboard.press("0")
    page.keyboard.press("Delete")
    visitor.stroke((0.5, 0.5), (0.5, 0.5))
    assert np.abs(np.argwhere(painted(visitor)).mean(axis=0) - (119.5 + 22 / fitted, 159.5)).max() < 1.5


def painted_share(visitor: Visitor) -> float:
    """The share of the mask, from the page's own text."""
    return 0.0 if "mask" not in visitor.facts else float(visitor.facts.split()[-2])


def test_a_mask_stays_over_prompts_and_a_reload(visitor: Visitor, served: Server) -> None:
    page = visitor.page
    visitor.open(png(picture()))
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    expected = painted(visitor)
    results = []
    for prompt in ("a hat", "a crown"):
        visitor.generate(prompt=prompt, seed=7, steps=3)
        results.append(pixels(visitor.result()))
        page.click("#back")
        page.wait_for_selector("#tools:not([hidden])")
        assert np.array_equal(painted(visitor), expected)
    assert not np.array_equal(*results)
    assert np.array_equal(results[0][~expected], results[1][~expected])
    visitor.stroke((0.3, 0.7), (0.4, 0.7))
    more = painted(visitor)
    page.reload()  # at once: nothing waits for a timer
    page.wait_for_selector("#tools:not([hidden])")
    assert np.array_equal(painted(visitor), more)
    assert page.input_value("#prompt") == "a crown"
    page.locator("#strip button").nth(1).click()
    page.wait_for_selector("#result-bar:not([hidden])")
    assert np.array_equal(pixels(visitor.saved("#download")), results[0])
    page.keyboard.press("Escape")
    page.wait_for_selector("#tools:not([hidden])")


def test_a_run_is_cancelled_and_another_one_begun(visitor: Visitor, served: Server) -> None:
    page = visitor.page
    visitor.open(png(picture(size=(384, 320))))
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    expected = visitor.facts
    visitor.generate(prompt="a hat", steps=250)
    page.wait_for_selector("#progress-what:has-text('of 250')")
    visitor.stroke((0.3, 0.7), (0.4, 0.7))  # painting goes on meanwhile
    page.keyboard.press("Control+z")
    assert visitor.facts == expected
    page.click("#cancel")
    page.wait_for_selector("#generate:not([hidden])")
    assert jobs(served)[-1]["status"] == "cancelled"
    assert not page.is_visible("#error-general")
    assert visitor.facts == expected
    visitor.generate(steps=2)
    assert pixels(visitor.result()).shape == (320, 384, 3)
    assert jobs(served)[-1]["status"] == "completed"
    assert page.locator("#strip li").count() == 2


def test_a_preview_stays_on_its_own_photo(visitor: Visitor) -> None:
    """A picture on the way is not drawn over what it does not belong to."""
    page = visitor.page
    page.click("label:has(input[value=text-to-image])")
    visitor.generate(prompt="a cat", width=256, height=256, steps=200)
    page.wait_for_selector("#zoom:not([hidden])")  # the first preview is there
    page.click("label:has(input[value=inpaint])")
    assert page.is_visible("#invite")
    flat = Image.new("RGB", (320, 240), (0, 0, 255))
    visitor.open(png(flat))
    shown = pixels(page.locator("#stage").screenshot())
    assert (shown[shown.shape[0] // 2, shown.shape[1] // 2][:3] == (0, 0, 255)).all()
    page.click("#cancel")
    page.wait_for_selector("#generate:not([hidden])")


def test_a_large_photo_is_changed_at_a_smaller_size(visitor: Visitor) -> None:
    page = visitor.page
    page.click("label:has(input[value=text-to-image])")
    large = png(Image.new("RGB", (1600, 1200), (0, 0, 255)))
    page.set_input_files("#file", {"name": "photo.png", "mimeType": "image/png", "buffer": large})
    page.wait_for_selector("#notice:has-text('1264 × 952')")
    page.click("#more summary")
    page.select_option("#result-size", "own")
    page.wait_for_selector("#result-size-hint:has-text('1600 × 1200')")
    page.reload()
    page.wait_for_selector("#photo-bar:not([hidden])")  # the photo and the choice are kept
    assert page.input_value("#result-size") == "own"
