"""Comparisons on the fake engine: what equals what, what is measured, and what is refused before any work."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_export.comparison import compare as compare_module
from kandinsky_export.comparison.cases import Case, Pictures, cases_of, generated, inpainted, read_prompts_file
from kandinsky_export.comparison.compare import Comparison, compare
from kandinsky_export.comparison.figures import Figures, Summary
from kandinsky_export.comparison.report import to_dict, to_text
from kandinsky_export.comparison.runs import prepared
from kandinsky_export.comparison.settings import Setting
from kandinsky_export.comparison.sheet import CELL, contact_sheet, input_shown, sheet_of
from kandinsky_export.random_weights.sample_picture import sample_picture
from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import InputError, NonFiniteError, UsageError
from tests.runtime.fake_bundle import FakeEngine, Outputs
from tests.tolerances import FLOAT64_SUM, ROUNDED_LEVELS

HEIGHT, WIDTH = 64, 96


def pictures() -> Pictures:
    return inpainted(*sample_picture(WIDTH, HEIGHT))


def nan_in_unet_run(number: int) -> Callable[[str, int, Outputs], Outputs]:
    """Makes the UNet overflow in one of its runs."""

    def alter(component: str, run: int, outputs: Outputs) -> Outputs:
        wrong = component == "unet" and run == number
        return {name: value * np.float32(np.nan) for name, value in outputs.items()} if wrong else outputs

    return alter


def compared(bundle: Bundle, baseline: str, *candidates: str, begin: Pictures | None = None, **more: Any) -> Comparison:
    cases = cases_of([("a hat", {"prompt": "a hat"}), ("at", {"prompt": "at"})], 2, begin or pictures())
    settings = [Setting.parse(f"engine=fake,{text}") for text in candidates]
    return compare(bundle, Setting.parse(f"engine=fake,{baseline}"), settings, cases, **more)


class TestInpainting:
    def test_the_same_setting_gives_equal_results(self, inpainting: Bundle) -> None:
        result = compared(inpainting, "steps=3", "steps=3").candidates[0]
        for figures in result.figures:
            assert figures.latents == (math.inf,) * 3
            assert figures.picture == math.inf
            assert figures.ssim == pytest.approx(1)
            assert figures.edge_inside == 0
        assert result.runs_on == ("fake", "fp32", "fake-fp32")

    def test_other_steps_compare_the_last_latents(self, inpainting: Bundle) -> None:
        comparison = compared(inpainting, "steps=4", "steps=4,scheduler=dpm++", "steps=3")
        same, fewer = comparison.candidates
        assert [len(item.latents or ()) for item in same.figures] == [4] * 4
        assert [len(item.latents or ()) for item in fewer.figures] == [1] * 4
        assert all(item.picture is not None and math.isfinite(item.picture) for item in fewer.figures)
        assert comparison.baseline.summary.picture is None

    def test_figures_are_those_of_the_pipelines_own_results(self, inpainting: Bundle) -> None:
        """Computed again here from two plain calls of the pipeline."""
        comparison = compared(inpainting, "steps=4", "steps=3", pictures=True)
        image, mask = sample_picture(WIDTH, HEIGHT)
        with InpaintPipeline.load(inpainting, "fake") as pipeline:
            want, got = (
                pipeline("at", image, mask, num_inference_steps=steps, seed=1, output_type="np", composite="none")
                for steps in (4, 3)
            )
        inside = np.asarray(mask) > 127
        error = np.square(want.images[0].astype(float) - got.images[0])[inside].mean()
        figures = comparison.candidates[0].figures[3]
        assert comparison.cases[3].label == "at"
        assert figures.picture == pytest.approx(-10 * math.log10(error), abs=FLOAT64_SUM)
        shown = comparison.candidates[0].pictures[3]
        assert np.array_equal(shown[~inside], np.asarray(image)[~inside])
        assert np.abs(shown[inside] - got.images[0][inside] * 255).max() <= ROUNDED_LEVELS

    def test_edges(self, inpainting: Bundle) -> None:
        figures = compared(inpainting, "steps=2", "steps=3").candidates[0].figures[0]
        assert figures.edge_outside is not None
        assert figures.edge_inside is not None
        assert figures.edge_outside > 0

    def test_report(self, inpainting: Bundle) -> None:
        comparison = compared(inpainting, "steps=2", "steps=2", "steps=3")
        data = json.loads(json.dumps(to_dict(comparison), allow_nan=False))
        assert data["cases"][1] == {"prompt": "a hat", "seed": 1}
        assert set(data["baseline"]["summary"]) == {"edge_outside", "seconds"}
        equal, other = data["candidates"]
        assert equal["summary"]["picture_db"] is None
        assert other["summary"]["picture_db"] < 60
        assert len(equal["results"]) == 4
        text = to_text(comparison, every_step=True)
        assert "candidate 1: engine=fake,steps=2 (fake, fp32" in text
        rows = [line.split() for line in text.splitlines()]
        assert ["2", "equal", f"{comparison.candidates[1].figures[0].latents[-1]:.1f}"] in rows  # type: ignore[index]

    @pytest.mark.parametrize("also", [[], ["steps=4,scheduler=ddim"]])
    def test_the_trajectory_explains_how_steps_are_matched(self, inpainting: Bundle, also: list[str]) -> None:
        """The one figure of a candidate with other steps is in the row of the baseline's last step."""
        text = to_text(compared(inpainting, "steps=4", "steps=3", *also), every_step=True)
        rows = text[text.index("dB after each step:") :].splitlines()
        assert [row.split()[0] for row in rows[2 : rows.index("")]] == [*("123" if also else ""), "4", "Steps"]
        assert "Steps are matched by their number. A candidate with other than the baseline's 4 steps has one" in text

    def test_errors_come_before_any_run(self, inpainting: Bundle) -> None:
        with pytest.raises(UsageError, match=r"engine=fake,steps=0: num_inference_steps is 0"):
            compared(inpainting, "steps=2", "steps=0")
        with pytest.raises(UsageError, match=r"scheduler=heun: scheduler 'heun' is not supported"):
            compared(inpainting, "steps=2", "scheduler=heun")
        assert not FakeEngine.runs

    def test_seconds_leave_the_first_result_out(self, inpainting: Bundle) -> None:
        """Engines compile during it; the footnote says so."""
        text = to_text(compared(inpainting, "steps=2", "steps=2"))
        assert re.search(r"^baseline .* \d+\.\d\d$", text, re.MULTILINE)
        assert "The first result of each setting is left out, because engines compile during it." in text
        single = cases_of([("a hat", {"prompt": "a hat"})], 1, pictures())
        setting = Setting.parse("engine=fake,steps=2")
        comparison = compare(inpainting, setting, [setting], single)
        assert re.search(r"^candidate 1 +equal .* -$", to_text(comparison), re.MULTILINE)
        assert "engines compile during it; there is no other." in to_text(comparison)
        assert to_dict(comparison)["baseline"]["results"][0]["seconds"] > 0

    def test_a_candidate_that_fails_is_a_result(self, inpainting: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other candidates are run, and what it had before the failure is kept."""
        monkeypatch.setattr(FakeEngine, "alter", staticmethod(nan_in_unet_run(2 * 4 + 3)))
        comparison = compared(inpainting, "steps=2", "steps=3", "steps=2", pictures=True)
        failed, equal = comparison.candidates
        assert failed.failed is not None
        assert "unet" in failed.failed
        assert (len(failed.figures), len(failed.pictures)) == (1, 1)
        assert equal.failed is None
        data = json.loads(json.dumps(to_dict(comparison), allow_nan=False))
        assert data["candidates"][0]["failed"] == failed.failed
        assert "summary" not in data["candidates"][0]
        assert data["candidates"][1]["summary"]["picture_db"] is None
        text = to_text(comparison, every_step=True)
        assert f"\ncandidate 1  failed: {failed.failed}\n" in text
        assert re.search(r"^candidate 2 +equal +equal", text, re.MULTILINE)
        whole = compared(inpainting, "steps=2", "steps=3", "steps=2", pictures=True)
        assert sheet_of(comparison).width == sheet_of(whole).width

    def test_a_candidate_without_any_result(self, inpainting: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FakeEngine, "alter", staticmethod(nan_in_unet_run(2 * 4)))
        comparison = compared(inpainting, "steps=2", "steps=3", pictures=True)
        assert comparison.candidates[0].figures == ()
        assert "candidate 1  failed: " in to_text(comparison, every_step=True)
        assert sheet_of(comparison).size[1] > 4 * HEIGHT

    def test_a_baseline_that_fails_ends_the_comparison(
        self, inpainting: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeEngine, "alter", staticmethod(nan_in_unet_run(3)))
        with pytest.raises(NonFiniteError, match=r"^engine=fake,steps=2: "):
            compared(inpainting, "steps=2", "steps=3")
        assert sum(name == "unet" for name, _ in FakeEngine.runs) == 4

    def test_every_prompt_is_checked_and_not_every_seed(
        self, inpainting: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Checks take milliseconds each, which many seeds would make minutes without a sign of life."""
        checked = []

        def record(pipeline: Any, setting: Setting, case: Case) -> Any:
            checked.append(case.label)
            return prepared(pipeline, setting, case)

        monkeypatch.setattr(compare_module, "prepared", record)
        cases = cases_of([("a hat", {"prompt": "a hat"}), ("at", {"prompt": "at"})], 3, pictures())
        settings = [Setting.parse(f"engine=fake,steps={steps}") for steps in (2, 3)]
        assert compare_module.check_settings(inpainting, settings, cases) == 6 * (2 + 3)
        assert checked == ["a hat", "at", "a hat"]

    def test_a_mask_without_anything_to_repaint(self) -> None:
        with pytest.raises(InputError, match="the mask has nothing to repaint"):
            inpainted(sample_picture(64, 64)[0], Image.new("L", (64, 64)))


class TestPlain:
    def test_text_to_image(self, plain: Bundle) -> None:
        comparison = compared(plain, "steps=2", "steps=2", "steps=3", begin=generated(64, 80), pictures=True)
        figures = comparison.candidates[0].figures[0]
        assert (figures.picture, figures.edge_inside, figures.edge_outside) == (math.inf, None, None)
        assert comparison.baseline.pictures[0].shape == (64, 80, 3)
        assert "Edges" not in to_text(comparison)
        assert input_shown(comparison.cases[0]) is None
        assert sheet_of(comparison).size[0] < sheet_of(compared_with_picture(plain)).size[0]

    def test_image_to_image_takes_fewer_steps(self, plain: Bundle) -> None:
        comparison = compared_with_picture(plain)
        assert len(comparison.candidates[1].figures[0].latents or ()) == 1
        assert len(comparison.candidates[0].figures[0].latents or ()) == 2  # half of four


def compared_with_picture(plain: Bundle) -> Comparison:
    begin = generated(None, None, sample_picture(80, 64)[0], 0.5)
    return compared(plain, "steps=4", "steps=4,scheduler=ddim", "steps=6", begin=begin, pictures=True)


class TestSummary:
    def test_medians_and_the_lowest(self) -> None:
        rows = [Figures(s, (1.0, d), d, 0.5, None, 2.0) for s, d in ((9, 30.0), (1, 20.0), (2, 25.0), (3, math.inf))]
        summary = Summary.of(rows)
        assert (summary.seconds, summary.picture, summary.lowest_picture) == (2, 27.5, 20)
        assert (summary.latents, summary.edge_inside, summary.edge_outside) == (27.5, None, 2)

    def test_a_single_result_has_no_time(self) -> None:
        summary = Summary.of([Figures(9, None, None, None, None, None)])
        assert summary.seconds is None
        assert "seconds" not in summary.to_dict()


class TestPrompts:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("p.txt", "a hat\n\n  a cat \n"),
            ("p.json", '["a hat", " a cat", ""]'),
            ("P.JSON", '["a hat", "a cat"]'),
            ("p.txt", "\ufeffa hat\r\na cat"),
            ("p.txt", "a hat\ra cat\r"),
            ("p.json", '\ufeff["a hat", "a cat"]'),
        ],
    )
    def test_read(self, name: str, content: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content.encode())
        assert read_prompts_file(tmp_path / name) == ["a hat", "a cat"]

    @pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
    def test_only_line_breaks_separate_prompts(self, mark: str, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_bytes(f"a{mark}hat\nat".encode())
        assert read_prompts_file(tmp_path / "p.txt") == [f"a{mark}hat", "at"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("p.txt", b"\n \n", "there is no prompt in it"),
            ("p.json", b"{}", "expected a JSON list of texts"),
            ("p.json", b"[1]", "expected a JSON list of texts"),
            pytest.param("p.json", b"[" * 100_000, "expected UTF-8 text, or a JSON list", id="nested lists"),
            ("p.json", b"[", "expected UTF-8 text, or a JSON list"),
            ("p.txt", b"\xff\xfe\x00", "expected UTF-8 text"),
            ("missing.txt", None, "cannot be read: No such file"),
        ],
    )
    def test_refused(self, name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_prompts_file(tmp_path / name)


class TestSheet:
    def test_every_picture_has_its_place(self) -> None:
        colours = [[(200, 10, 10), (10, 200, 10)], [(10, 10, 200), None]]
        rows = [
            (f"row {number}", [None if c is None else np.full((64, 96, 3), c, np.uint8) for c in row])
            for number, row in enumerate(colours)
        ]
        sheet = np.asarray(contact_sheet(["first", "second"], rows))
        for colour in [c for row in colours for c in row if c is not None]:
            found = np.argwhere((sheet == colour).all(axis=-1))
            assert len(found) == 64 * 96
        red, green, blue = (
            np.argwhere((sheet == c).all(axis=-1)).min(axis=0) for c in ((200, 10, 10), (10, 200, 10), (10, 10, 200))
        )
        assert red[0] == green[0] < blue[0]
        assert red[1] == blue[1] < green[1]

    def test_large_pictures_are_scaled_down_and_long_labels_broken(self) -> None:
        large = np.full((1024, 512, 3), (1, 2, 3), np.uint8)
        sheet = contact_sheet(["engine=onnxruntime," * 20, "x" * 300], [("a prompt without end " * 40, [large, large])])
        assert sheet.width < 600
        assert (np.asarray(sheet) == (1, 2, 3)).all(axis=-1).sum() == 2 * CELL * CELL // 2

    def test_the_mask_shows_in_the_input(self) -> None:
        case = cases_of([("a hat", {})], 1, pictures())[0]
        shown, mask = input_shown(case), case.pictures.mask
        assert shown is not None
        assert mask is not None
        image = np.asarray(sample_picture(WIDTH, HEIGHT)[0])
        assert np.array_equal(shown[mask == 0], image[mask == 0])
        assert np.abs(shown[mask > 0] - (image[mask > 0] + [255.0, 0, 255]) / 2).max() <= ROUNDED_LEVELS
