"""The page: its text without a browser, and with one what the server receives when somebody paints."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.options import GenerateOptions, InpaintOptions
from kandinsky_runtime.sampling.schedulers import SCHEDULERS
from kandinsky_runtime.serving import page as page_module
from kandinsky_runtime.serving.fields import option_fields
from tests.serving.server_process import SIZE, Server, picture, pixels, png
from tests.serving.visitor import KEY, Visitor, jobs

TEXT = (files("kandinsky_runtime.serving") / "page.html").read_text(encoding="utf-8")
CONTROLS = ("input", "select", "textarea", "button")
VOID = ("meta", "link", "input", "path", "rect", "circle", "use", "br")


class Reader(HTMLParser):
    """The elements of the page.

    Attributes:
        elements: (name, attributes, names of the elements around it) of each.
        texts: the text of each element, by its number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.texts: Counter[int] = Counter()
        self.contents: dict[str, list[str]] = {"script": [], "style": []}
        self._open: list[tuple[str, int]] = []
        self.feed(TEXT)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(name for name, _ in self._open)
        self.elements.append((tag, {name: value or "" for name, value in attrs}, around))
        if tag not in VOID:
            self._open.append((tag, len(self.elements) - 1))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1][0] != tag and self._open[-1][0] in ("p", "li", "html", "head"):
            self._open.pop()
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for name, number in self._open:
            self.texts[number] += len(data.strip())
            if name in self.contents:
                self.contents[name].append(data)


READER = Reader()


def test_nothing_comes_from_elsewhere() -> None:
    assert not re.findall(r"\w+://|url\(|@import|import\(", TEXT)
    for name, attributes, _ in READER.elements:
        for attribute in ("src", "href", "action", "srcset", "poster"):
            assert re.match(r"#|data:,$|$", attributes.get(attribute, "")), (name, attributes)


def test_the_policy_allows_the_page_and_nothing_else() -> None:
    for name, attributes, _ in READER.elements:
        assert not [attribute for attribute in attributes if attribute.startswith("on") or attribute == "style"], name
        if name in ("script", "style"):
            assert not attributes
    _, policy = page_module._page()
    for name in ("script", "style"):
        (content,) = READER.contents[name]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"\beval\(|new Function|innerHTML|insertAdjacentHTML", TEXT)


def test_every_control_has_a_label() -> None:
    labelled = {attributes["for"] for name, attributes, _ in READER.elements if name == "label" and "for" in attributes}
    controls = 0
    for number, (name, attributes, around) in enumerate(READER.elements):
        if name not in CONTROLS:
            continue
        controls += 1
        own_text = name == "button" and READER.texts[number] > 0
        named = attributes.get("aria-label") or attributes.get("id") in labelled or "label" in around
        assert own_text or named, attributes
    assert controls > 50


def test_every_name_exists_once() -> None:
    ids = Counter(attributes["id"] for _, attributes, _ in READER.elements if "id" in attributes)
    assert not [name for name, count in ids.items() if count > 1]
    used = set(re.findall(r'\$\("([\w-]+)"\)', TEXT))
    assert len(used) > 60
    for _, attributes, _ in READER.elements:
        for attribute in ("for", "aria-describedby", "aria-labelledby", "aria-controls"):
            used |= set(attributes.get(attribute, "").split())
        used |= {attributes["href"][1:]} if attributes.get("href", "").startswith("#") else set()
    assert not used - set(ids)


def test_the_page_knows_the_servers_options() -> None:
    (choices,) = re.findall(r'<select id="scheduler".*?</select>', TEXT, re.DOTALL)
    assert tuple(filter(None, re.findall(r'value="(.*?)"', choices))) == SCHEDULERS
    (places,) = re.findall(r"const PLACES = {(.*?)};", TEXT, re.DOTALL)
    known = {*option_fields(InpaintOptions), *option_fields(GenerateOptions), "prompt", "n", "size", "image", "mask"}
    assert set(re.findall(r"(\w+):", places)) <= known


# What follows needs a browser.


def test_what_is_painted_is_repainted(visitor: Visitor, inpaint: InpaintPipeline) -> None:
    """The mask that the server got is the painted one: its result is the pipeline's, bit for bit."""
    original = picture()
    visitor.open(png(original))
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    mask = visitor.mask()
    painted = np.asarray(mask.convert("L")) >= 128
    assert mask.size == SIZE
    assert 0.01 < painted.mean() < 0.2
    assert painted[SIZE[1] * 9 // 20, SIZE[0] // 2]  # the middle of the stroke, and nothing at the edges
    assert not painted[0].any()
    visitor.generate(prompt="a hat", seed=7, steps=4)
    result = pixels(visitor.result())
    kept = np.asarray(original)
    assert np.array_equal(result[~painted], kept[~painted])
    assert (result[painted] != kept[painted]).any(axis=-1).mean() > 0.9
    expected = inpaint("a hat", image=original, mask_image=mask, seed=7, num_inference_steps=4).images[0]
    assert np.array_equal(result, np.asarray(expected))
    assert "Seed 7" in visitor.page.inner_text("#result-seed")
    visitor.page.click("#use")  # the mask stays on the result
    assert np.array_equal(np.asarray(visitor.mask()), np.asarray(mask))


def test_strokes_are_undone_erased_and_kept_over_a_reload(visitor: Visitor) -> None:
    visitor.open(png(picture()))
    empty = visitor.facts
    visitor.stroke((0.5, 0.5), (1.1, 0.5))  # over the edge of the picture, and of the stage
    one = visitor.facts
    assert one != empty
    visitor.page.keyboard.press("l")
    visitor.stroke((0.2, 0.2), (0.5, 0.2), (0.5, 0.6), (0.2, 0.6))
    two = visitor.facts
    assert two != one
    visitor.page.keyboard.press("Control+z")
    assert visitor.facts == one
    visitor.page.keyboard.press("Control+Shift+z")
    assert visitor.facts == two
    before = np.asarray(visitor.mask())
    visitor.page.keyboard.press("i")
    inverted = np.asarray(visitor.mask())
    assert np.array_equal(inverted, np.where(np.arange(4)[: before.shape[-1]] == 3, 255, 255 - before))
    visitor.page.keyboard.press("Control+z")
    visitor.page.keyboard.press("e")
    visitor.stroke((0.3, 0.3), (0.4, 0.5))
    assert visitor.facts != two
    visitor.page.keyboard.press("b")
    visitor.stroke((0.3, 0.55), (0.45, 0.55), button="right")  # takes away as well
    small = visitor.page.locator("#stage").bounding_box()
    visitor.page.keyboard.press("f")
    visitor.page.wait_for_selector("body.full")
    assert visitor.page.locator("#stage").bounding_box()["height"] > small["height"] + 50
    visitor.page.keyboard.press("f")
    visitor.page.wait_for_selector("body:not(.full)")
    zoomed = visitor.page.inner_text("#zoom-value")
    visitor.page.keyboard.press("+")
    assert visitor.page.inner_text("#zoom-value") != zoomed
    visitor.page.fill("#prompt", "a hat")
    visitor.page.fill("#steps", "33")
    mask, facts = np.asarray(visitor.mask()), visitor.facts
    visitor.page.reload()
    visitor.page.wait_for_selector("#tools:not([hidden])")
    assert visitor.facts == facts
    assert np.array_equal(np.asarray(visitor.mask()), mask)
    assert visitor.page.input_value("#prompt") == "a hat"
    assert visitor.page.input_value("#steps") == "33"


def test_a_job_is_found_again_after_a_reload_and_cancelled(visitor: Visitor, served: Server) -> None:
    visitor.open(png(picture(size=(384, 320))))  # large enough to be still at work when it is cancelled
    visitor.generate(prompt="a hat", steps=250)
    assert "Paint" in visitor.page.inner_text("#error-stage")
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    visitor.page.click("#generate")
    visitor.page.wait_for_selector("#progress-what:has-text('of 250')")
    visitor.page.route("**/events", lambda route: route.abort())  # the state is asked for where no stream comes through
    visitor.page.reload()
    visitor.page.wait_for_selector("#progress-what:has-text('of 250')")
    visitor.page.click("#cancel")
    visitor.page.wait_for_selector("#generate:not([hidden])")
    assert jobs(served)[-1]["status"] == "cancelled"
    assert not visitor.page.is_visible("#error-general")
    visitor.problems = [problem for problem in visitor.problems if "ERR_FAILED" not in problem]
    visitor.generate(seed="x")
    assert "seed must be" in visitor.page.inner_text("#error-seed")


def test_a_result_that_does_not_arrive_is_fetched_again(visitor: Visitor) -> None:
    aborted: list[Any] = []

    def answer(route: Any) -> None:
        aborted.append(route)
        route.abort() if len(aborted) == 1 else route.continue_()

    visitor.page.route("**/images/0", answer)
    visitor.page.click("label:has(input[value=text-to-image])")
    visitor.generate(prompt="a cat", width=SIZE[0], height=SIZE[1], steps=3)
    assert pixels(visitor.result()).shape == (SIZE[1], SIZE[0], 3)
    assert len(aborted) == 2
    visitor.problems = [problem for problem in visitor.problems if "ERR_FAILED" not in problem]


def test_generate_works_after_a_result_that_is_gone(visitor: Visitor) -> None:
    page = visitor.page
    page.route("**/images/0", lambda route: route.fulfill(status=410, json={"error": {"message": "gone"}}))
    page.click("label:has(input[value=text-to-image])")
    visitor.generate(prompt="a cat", width=SIZE[0], height=SIZE[1], steps=3)
    page.wait_for_selector("#error-general:not([hidden])")
    assert "no longer has this job" in page.inner_text("#error-general")
    assert not page.is_visible("#progress")
    page.unroute("**/images/0")
    page.click("#generate")
    assert pixels(visitor.result()).shape == (SIZE[1], SIZE[0], 3)
    visitor.problems = [problem for problem in visitor.problems if "410" not in problem]


def test_a_picture_is_made_without_a_photo(visitor: Visitor, generate: GeneratePipeline) -> None:
    visitor.page.click("label:has(input[value=text-to-image])")
    seed = 2**64 - 2  # more than JavaScript's numbers hold
    visitor.generate(prompt="a cat", width=SIZE[0], height=SIZE[1], steps=3, count=2, seed=seed)
    result = pixels(visitor.result())
    expected = generate(
        "a cat", width=SIZE[0], height=SIZE[1], num_inference_steps=3, seed=seed, num_images_per_prompt=2
    )
    assert np.array_equal(result, np.asarray(expected.images[0]))
    assert visitor.page.locator("#strip li").count() == 2
    visitor.page.locator("#strip button").nth(1).click()
    visitor.page.wait_for_selector(f"#result-seed:has-text('{seed + 1}')")


def test_a_photo_is_changed(visitor: Visitor, generate: GeneratePipeline) -> None:
    page = visitor.page
    page.click("label:has(input[value=text-to-image])")
    assert not page.is_visible("#strength")
    original = picture(seed=3)
    page.set_input_files("#file", {"name": "photo.png", "mimeType": "image/png", "buffer": png(original)})
    page.wait_for_selector("#photo-bar:not([hidden])")
    assert visitor.facts == f"{SIZE[0]} × {SIZE[1]}"
    assert not page.is_visible("#width")
    visitor.generate(prompt="a cat", steps=1, strength=0.5)
    assert "So few steps" in page.inner_text("#error-strength")
    visitor.generate(steps=6, strength=0.5, seed=7)
    result = pixels(visitor.result())
    expected = generate("a cat", image=original, strength=0.5, num_inference_steps=6, seed=7).images[0]
    assert np.array_equal(result, np.asarray(expected))
    page.fill("#compare", "50")
    assert page.is_visible("#divider")
    page.click("#use")  # the next picture starts from the result
    page.wait_for_selector("#photo-bar:not([hidden])")
    page.click("label:has(input[value=inpaint])")  # the photo is the same for both
    page.wait_for_selector("#tools:not([hidden])")
    visitor.stroke((0.4, 0.4), (0.6, 0.5))
    painted = visitor.facts
    page.click("label:has(input[value=text-to-image])")
    page.click("#close-photo")
    assert page.is_visible("#invite-make")
    assert page.is_visible("#width")
    page.click("label:has(input[value=inpaint])")
    page.locator("#strip button").nth(1).click()
    page.wait_for_selector("#result-bar:not([hidden])")
    page.click("#use")
    page.wait_for_selector("#tools:not([hidden])")
    assert visitor.facts == painted  # the mask was not closed with the photo


def test_a_key_is_asked_for_once_and_a_finger_paints(chromium: Any, served: Server) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    visitor = Visitor(chromium, served.url, key=None, **phone)
    page = visitor.page
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key", "a wrong one")
    page.keyboard.press("Enter")
    page.wait_for_selector("#error-key:not([hidden])")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    visitor.open(png(picture()))
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    touch = visitor.context.new_cdp_session(page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [dict(zip("xy", visitor.at(*place), strict=True)) | {"id": n} for n, place in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    empty, fitted = visitor.facts, page.inner_text("#zoom-value")
    fingers("touchStart", (0.4, 0.5))
    fingers("touchMove", (0.6, 0.5))
    fingers("touchEnd")
    painted = visitor.facts
    assert painted != empty
    fingers("touchStart", (0.4, 0.5))
    fingers("touchStart", (0.4, 0.5), (0.6, 0.5))
    fingers("touchMove", (0.3, 0.5), (0.7, 0.5))
    fingers("touchEnd")
    assert page.inner_text("#zoom-value") != fitted
    assert visitor.facts == painted  # two fingers zoom, and paint nothing
    assert [problem for problem in visitor.problems if "401" not in problem] == []
    visitor.context.close()
