"""The grid on the fake engine with a stub of a judge: figures, files, and what a second run leaves out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import runs
from benchmarks.quality.__main__ import main
from benchmarks.quality.grid import BASELINE, COMMON, GROUPS, Item, grid
from benchmarks.quality.reference import FOLLOWED, Reference, reference_of
from benchmarks.quality.report import markdown, write_sheets
from benchmarks.quality.runs import Plan, finished, floors, run_grid, with_finished
from benchmarks.quality.tasks import make_task
from kandinsky_export.comparison.runs import Outcome
from kandinsky_export.comparison.settings import Setting
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.sampling.schedulers import SCHEDULERS
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine
from tests.tolerances import SIXTEEN_BIT_LEVELS

GRID = grid()
FIRST = Item("baseline", "engine=fake,steps=3")
SAME, FEWER = Item("steps", "engine=fake,steps=3"), Item("steps", "engine=fake,steps=2")
SHUFFLED = Item("prompts", FIRST.text, shuffled=True)


class Stub:
    """Sees a red top hat at the top of bright pictures; its features are mean colours."""

    name = "stub"

    def look(self, pictures: np.ndarray) -> tuple[list[Any], np.ndarray]:
        hat = SimpleNamespace(kind="top hat", colour="red", box=(0.4, 0.1, 0.6, 0.2), side="left")
        bright = pictures.mean(axis=(1, 2, 3)) > 127
        return [SimpleNamespace(things={"hat": hat} if b else {}) for b in bright], pictures.mean(axis=(1, 2))


@pytest.fixture(autouse=True)
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(fake_bundle.install(tmp_path / "site-packages")))
    for name in ("runs", "loaded", "released"):
        monkeypatch.setattr(FakeEngine, name, [])
    return FakeEngine


def plan(folder: Path, **changes: Any) -> Plan:
    bundle = Bundle.open(fake_bundle.write(folder / "bundle", fake_bundle.with_prior()))
    (folder / "out").mkdir()
    tasks = [make_task(number, 64) for number in range(4)]
    made = Plan(bundle, folder / "out", tasks, 1, Stub(), FIRST, "guidance_scale=3", progress=False)
    return replace(made, **changes)


class TestGrid:
    def test_every_row_can_be_read(self) -> None:
        for item in (BASELINE, *GRID):
            Setting.parse(f"{item.text},{COMMON}")

    def test_rows_have_names_and_files_of_their_own(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        assert len({item.label for item in GRID}) == len({made.file(item) for item in GRID}) == len(GRID)

    def test_every_scheduler_has_every_number_of_steps(self) -> None:
        texts = [item.text for item in GRID if item.group == "scheduler"]
        assert len(texts) == 4 * len(SCHEDULERS) - 1
        assert set(GROUPS) == {"prompts", "precision", "rounding", "scheduler", "interval", "tiles"}


class TestRuns:
    def test_grid_follows_the_baseline(self) -> None:
        assert {item.text.split(",")[0] for item in grid("engine=fake") if item.group == "rounding"} == {"engine=fake"}

    def test_figures(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        results = run_grid(made, [SAME, FEWER, SHUFFLED])
        same, fewer = results[f"steps: {SAME.label}"], results[f"steps: {FEWER.label}"]
        assert same["figures"]["picture_db"] > 100
        assert fewer["figures"]["picture_db"] < 60
        assert same["latents_by_step"] == [None] * 3  # equal
        assert fewer["latents_by_step"] == []
        assert same["accuracy"] == results[FIRST.label]["accuracy"]
        assert same["frechet"] == pytest.approx(results[FIRST.label]["frechet"])
        assert same["runs_on"] == ["fake", "fp32", "fake-fp32"]
        assert results[f"prompts: {SHUFFLED.label}"]["figures"]["picture_db"] < 100

    def test_finished_rows_are_skipped(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        first = run_grid(made, [FEWER])
        FakeEngine.runs.clear()
        assert run_grid(made, [FEWER]) == first
        assert not FakeEngine.runs
        run_grid(made, [FEWER, SAME])
        assert sum(name == "unet" for name, _ in FakeEngine.runs) == 3 * 4  # SAME alone

    @pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged", b"other"])
    def test_rows_whose_pictures_are_gone_or_damaged_are_made_again(
        self, content: bytes | None, tmp_path: Path
    ) -> None:
        made = plan(tmp_path)
        first = run_grid(made, [FEWER])
        kept = made.file(FEWER).with_suffix(".npz")
        whole = kept.read_bytes()
        kept.unlink()
        if content is not None:
            kept.write_bytes(content)
        assert finished(made, FEWER) is None
        again = run_grid(made, [FEWER])
        assert again.keys() == first.keys()
        assert kept.read_bytes() == whole
        assert write_sheets(made, [FEWER])

    def test_a_damaged_byte_of_the_pictures(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        run_grid(made, [FEWER])
        kept = made.file(FEWER).with_suffix(".npz")
        content = bytearray(kept.read_bytes())
        content[len(content) // 2] ^= 1
        kept.write_bytes(content)
        assert finished(made, FEWER) is None

    def test_a_baseline_whose_pictures_are_gone_is_made_again(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        run_grid(made, [FEWER])
        made.file(FIRST).with_suffix(".npz").unlink()
        (made.folder / "reference.npz").write_bytes(b"")
        run_grid(made, [FEWER])
        assert finished(made, FIRST) is not None
        assert finished(made, FEWER) is not None

    def test_long_settings_have_short_names_of_their_own(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        longer = [Item("settings", ",".join(["engine=fake", *["steps=2"] * 60, f"threads={n}"])) for n in (1, 2)]
        names = [made.file(item).name for item in longer]
        assert len(set(names)) == 2
        assert {len(name) for name in names} == {255}
        made.file(longer[0]).with_suffix(".npz").touch()

    def test_names_that_are_short_enough_stay(self, tmp_path: Path) -> None:
        """So that rows of older runs are found."""
        made = plan(tmp_path)
        assert made.file(FEWER).name == "steps-engine-fake-steps-2.json"
        longest = Item("steps", "x" * (255 - len("steps-.json")))
        assert made.file(longest).name == f"steps-{longest.text}.json"

    def test_earlier_results_are_shown_again(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        run_grid(made, [FEWER])
        results = with_finished(made, [SAME, FEWER, SHUFFLED], run_grid(made, [SHUFFLED]))
        assert list(results) == [FIRST.label, f"steps: {FEWER.label}", f"prompts: {SHUFFLED.label}"]

    def test_rows_of_other_tasks_bundles_or_judges_are_made_again(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        run_grid(made, [FEWER])
        assert finished(made, FEWER) is not None
        for other in (replace(made, tasks=made.tasks[:3]), replace(made, judge=None), replace(made, common="")):
            assert finished(other, FEWER) is None
        manifest = made.bundle.root / "manifest.json"
        manifest.write_text(manifest.read_text() + " ")
        assert finished(made, FEWER) is None

    def test_rows_that_cannot_run_here_are_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        results = run_grid(plan(tmp_path), [Item("precision", "engine=fake,precision=fp16,steps=2")])
        assert list(results) == [FIRST.label]
        assert "left out: " in capsys.readouterr().out

    def test_rows_that_fail_are_results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = plan(tmp_path)
        run_grid(made, [])
        best = floors(made)
        monkeypatch.setattr(FakeEngine, "alter", staticmethod(_nan))
        results = run_grid(made, [FEWER])
        assert "failed" in results[f"steps: {FEWER.label}"]
        assert "| failed: " in markdown(made, results, best)

    def test_a_row_wins_over_what_all_rows_have(self, tmp_path: Path) -> None:
        made = plan(tmp_path, common="guidance_scale=3, prior_guidance_scale=4")
        setting = made.setting(Item("settings", "engine=fake,guidance_scale=2,steps=2"))
        assert setting.sampling == {"guidance_scale": 2, "num_inference_steps": 2, "prior_guidance_scale": 4}
        assert made.setting(FEWER).sampling["guidance_scale"] == 3
        assert replace(made, common="").setting(FEWER).text == FEWER.text

    def test_floors(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        found = floors(made)
        assert found["drawings"].keys() == found["movq"].keys() == {"accuracy", "frechet"}
        assert found["drawings"] != found["movq"]
        assert found == floors(made)
        assert floors(replace(made, judge=None)) == {}

    def test_several_seeds(self, tmp_path: Path) -> None:
        made = plan(tmp_path, seeds=2)
        results = run_grid(made, [FEWER])
        assert results[FIRST.label]["results"] == 8
        text = markdown(made, results, floors(made))
        assert "4 prompts, 2 seeds, 64 px" in text

    def test_text_to_image(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        bundle = Bundle.open(fake_bundle.write(tmp_path / "plain", fake_bundle.with_prior(plain=True)))
        results = run_grid(replace(made, bundle=bundle), [FEWER])
        assert "edge_outside" not in results[f"steps: {FEWER.label}"]["figures"]

    def test_sheets(self, tmp_path: Path) -> None:
        made = plan(tmp_path)
        grid = [SAME, FEWER, SHUFFLED]
        run_grid(made, grid)
        paths = write_sheets(made, grid)
        assert [path.name for path in paths] == ["steps.png", "prompts.png"]
        with Image.open(paths[0]) as sheet:
            assert sheet.height > 4 * 64


def _nan(_: str, __: int, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value * np.float32(np.nan) for name, value in outputs.items()}


class TestReference:
    def test_it_comes_back_as_it_was(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        outcomes = [
            Outcome(
                tuple(rng.normal(size=(1, 4, 8, 8)).astype(np.float32) for _ in range(3)),
                rng.uniform(size=(1, 1, 8, 8)) > 0.5,
                rng.uniform(size=(64, 64, 3)).astype(np.float32),
                1.0,
            )
            for _ in range(FOLLOWED + 2)
        ]
        reference_of("name", outcomes).save(tmp_path / "r.npz")
        found = Reference.load(tmp_path / "r.npz", "name")
        assert found is not None
        assert len(found) == FOLLOWED + 2
        for number in (0, FOLLOWED - 1, FOLLOWED, FOLLOWED + 1):
            want, got = outcomes[number], found.outcome(number)
            expected = want.latents if number < FOLLOWED else want.latents[-1:]
            assert all(np.array_equal(a, b) for a, b in zip(got.latents, expected, strict=True))
            assert np.array_equal(got.cells, want.cells)  # type: ignore[arg-type]
            assert np.abs(got.picture - want.picture).max() <= SIXTEEN_BIT_LEVELS

    def test_another_one_is_not_read(self, tmp_path: Path) -> None:
        assert Reference.load(tmp_path / "r.npz", "name") is None
        (tmp_path / "r.npz").write_bytes(b"PK\x03\x04 damaged")
        assert Reference.load(tmp_path / "r.npz", "name") is None


class TestCommand:
    def test_everything_is_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bundle, out = fake_bundle.write(tmp_path / "bundle", fake_bundle.with_prior()), tmp_path / "out"
        arguments = [bundle, "--out", out, "--count", 2, "--size", 64, "--common", "", "--without-judge", "--quiet"]
        more = ["--baseline", FIRST.text, "--settings", FEWER.text]
        assert main([str(item) for item in [*arguments, *more]]) == 0
        data = json.loads((out / "quality.json").read_text())
        assert list(data["results"]) == [FIRST.label, f"settings: {FEWER.text}"]
        assert "No judge: " in (out / "quality.md").read_text()
        assert (out / "settings.png").exists()
        assert "## Settings" in capsys.readouterr().out

    def test_a_setting_may_have_what_is_common_to_the_others(self, tmp_path: Path) -> None:
        bundle, out = fake_bundle.write(tmp_path / "bundle", fake_bundle.with_prior()), tmp_path / "out"
        arguments = [bundle, "--out", out, "--count", 2, "--size", 64, "--without-judge", "--quiet"]
        more = ["--baseline", FIRST.text, "--settings", "engine=fake,guidance_scale=2,steps=2"]
        assert main([str(item) for item in [*arguments, *more]]) == 0
        row = json.loads((out / "quality.json").read_text())["results"][
            "settings: engine=fake,guidance_scale=2,steps=2"
        ]
        assert row["setting"] == "engine=fake,guidance_scale=2,steps=2,prior_guidance_scale=4"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--groups", "colour"], "--groups names colour; choose from prompts, precision"),
            (["--settings", "stepz=3"], "unknown key 'stepz'"),
            (["--common", "x=1"], "unknown key 'x'"),
            (["--size", "65"], "--size is 65; expected a multiple of 16"),
            (["--baseline", "engine=nothing"], "there is no engine 'nothing'; choose from auto,"),
            (
                ["--settings", "scheduler=foo,steps=2"],
                "scheduler=foo,steps=2,guidance_scale=4,prior_guidance_scale=4: sch",
            ),
            (["--settings", "steps=2", "steps=0"], "num_inference_steps is 0"),
            (["--settings", "engine=fale,steps=2"], "there is no engine 'fale'"),
            (["--settings", "engine=fake,device=gpux"], "engine fake runs on cpu, fake:1; got device 'gpux'"),
            (["--settings", "precision=fp61"], "precision is 'fp61'; choose from"),
            (["--settings", "threads=0"], "threads is 0"),
            (["--common", "scheduler=foo"], "scheduler 'foo' is not supported"),
            (["--count", "1"], "expected 2 or more"),
            (["--judge", "nope.npz"], "--judge nope.npz cannot be read: No such file"),
        ],
    )
    def test_refused(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = fake_bundle.write(tmp_path / "bundle", fake_bundle.with_prior())
        usual = [str(bundle), "--out", str(tmp_path / "out"), "--quiet"]
        usual += ["--baseline", FIRST.text] if "--baseline" not in arguments else []
        usual += ["--without-judge"] if "--judge" not in arguments else []
        try:
            status = main([*usual, *(["--count", "2"] if "--count" not in arguments else []), *arguments])
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            status = ended.code
        assert status == 2
        assert message in capsys.readouterr().err
        assert not FakeEngine.runs
        assert not (tmp_path / "out").exists()

    def test_what_this_machine_lacks_is_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bundle, out = fake_bundle.write(tmp_path / "bundle", fake_bundle.with_prior()), tmp_path / "out"
        arguments = [bundle, "--out", out, "--count", 2, "--size", 64, "--without-judge", "--quiet"]
        lacking = ["engine=fake,precision=fp16", "engine=tensorrt,device=cuda", "engine=onnxruntime"]
        assert main([str(i) for i in [*arguments, "--baseline", FIRST.text, "--settings", *lacking]]) == 0
        assert list(json.loads((out / "quality.json").read_text())["results"]) == [FIRST.label]
        assert capsys.readouterr().out.count("left out: ") == 3

    def test_an_interrupted_run_reports_what_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt(component: str, run: int, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if component == "unet" and run == 2 * 3 + 1:
                raise KeyboardInterrupt
            return outputs

        bundle, out = fake_bundle.write(tmp_path / "bundle", fake_bundle.with_prior()), tmp_path / "out"
        arguments = [bundle, "--out", out, "--count", 2, "--size", 64, "--without-judge", "--quiet"]
        more = ["--baseline", FIRST.text, "--settings", FEWER.text]
        monkeypatch.setattr(FakeEngine, "alter", staticmethod(interrupt))
        assert main([str(item) for item in [*arguments, *more]]) == 130
        err = capsys.readouterr().err
        assert err.startswith(f"benchmarks.quality: interrupted; finished rows are kept in {out}")
        assert err.count("\n") == 1
        assert main([str(item) for item in [*arguments, *more]]) == 0
        assert "baseline: " not in capsys.readouterr().out.split("#")[0]

    def test_a_long_setting(self, tmp_path: Path) -> None:
        bundle, out = fake_bundle.write(tmp_path / "bundle", fake_bundle.with_prior()), tmp_path / "out"
        arguments = [bundle, "--out", out, "--count", 2, "--size", 64, "--without-judge", "--quiet"]
        text = f"{FEWER.text},threads={'0' * 250}1"
        assert main([str(item) for item in [*arguments, "--baseline", FIRST.text, "--settings", text]]) == 0

    def test_revision_is_part_of_the_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = plan(tmp_path)
        before = made.name(SAME)
        monkeypatch.setattr(runs, "REVISION", runs.REVISION + 1)
        assert made.name(SAME) != before
