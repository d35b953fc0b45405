"""`k22 bench`: what runs in which order, the arithmetic, what is written, and what is refused. No time is asserted."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kandinsky_runtime import cli
from kandinsky_runtime.bench import cold_start, measure, report
from kandinsky_runtime.bench.cold_start import ColdStart, ColdStartJob
from kandinsky_runtime.bench.measure import COMPONENTS, HOST, MEASURES, WHOLE, BenchPlan, EngineTimes, Measured
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import EngineError, EngineUnavailable, Kandinsky22Error, UsageError
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine

SMALL = {"height": 64, "width": 96, "steps": 2, "repeats": 3, "warmup": 1, "cold_start": False}


class Second(FakeEngine):
    """Another engine, which writes into the fake engine's list of runs, as `second/component`."""

    name = "second"
    variants: ClassVar[dict[str, str]] = {"fp32": "fake-fp32"}

    def _run(self, feeds: Any) -> Any:
        self.runs.append((f"second/{self.component}", feeds))
        return fake_bundle.GRAPHS[self.component](**feeds)


@pytest.fixture
def two_engines(fake_engine: type[FakeEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    points = {"fake": "tests.runtime.fake_bundle:FakeEngine", "second": "tests.runtime.bench.test_bench:Second"}
    monkeypatch.syspath_prepend(str(fake_bundle.install(tmp_path / "more", points)))
    return fake_engine


@pytest.fixture
def fresh_processes(tmp_path: Path, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine is installed in new processes, too, as a module of its own: another package may own `tests`."""
    folder = fake_bundle.install(tmp_path / "for-children", {"fake": "fake_of_children:FakeEngine"})
    (folder / "fake_of_children.py").write_text(Path(fake_bundle.__file__).read_text())
    monkeypatch.setenv("PYTHONPATH", str(folder))


def plan(*engines: str, **changes: Any) -> BenchPlan:
    return BenchPlan(engines=engines or ("fake",), **SMALL | changes)


@pytest.fixture
def k22(bundle: Path, fake_engine: type[FakeEngine], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `k22 bench` on the fake engine: exit status, stdout, stderr."""

    def run(*args: object, engine: str = "fake") -> tuple[int, str, str]:
        small = ("--height", 64, "--width", 64, "--steps", 1, "--repeats", 2, "--no-cold-start", "--quiet")
        words = ["bench", bundle, "--engine", engine, *small, *args]
        return cli.main([str(word) for word in words]), *capsys.readouterr()

    return run


# -- arithmetic --


def test_percentiles_interpolate() -> None:
    figures = measure.percentiles([float(number) for number in range(100, -1, -1)])
    assert figures == {"min": 0, "p50": 50, "p90": 90, "p99": 99}
    assert measure.percentiles([1.0, 2.0]) == pytest.approx({"min": 1, "p50": 1.5, "p90": 1.9, "p99": 1.99})
    assert measure.percentiles([3.0]) == {"min": 3, "p50": 3, "p90": 3, "p99": 3}


def test_ratios_pair_the_rounds() -> None:
    assert measure.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="longer"):
        measure.ratios([1.0], [1.0, 2.0])


def measured() -> Measured:
    """Two engines, the second twice as fast in one round and equally fast in the other."""
    first = EngineTimes(
        "first", "1.0", "bf16", {name: [2.0, 4.0] for name in MEASURES}, 0.5, ColdStart(1.0, 1.5, 10**9)
    )
    second = EngineTimes("second", "2.0", "fp32", {name: [1.0, 4.0] for name in MEASURES})
    return Measured(plan("first", "second", repeats=2), {"unet": {"timestep": (2,)}}, (first, second), None)


def test_data() -> None:
    data = json.loads(json.dumps(report.as_data(measured())))
    assert data["plan"]["engines"] == ["first", "second"]
    assert data["shapes"] == {"unet": {"timestep": [2]}}
    assert {"processor", "cores", "python", "numpy", "kandinsky22-deploy", "time"} <= set(data["environment"])
    first, second = data["engines"]["first"], data["engines"]["second"]
    assert set(first["measures"]) == set(second["measures"]) == set(MEASURES)
    assert first["measures"]["unet"] == {"min": 2, "p50": 3, "p90": 3.8, "p99": 3.98, "rounds": [2, 4]}
    assert second["measures"]["unet"]["ratio_to_first"] == {"p50": 0.75, "min": 0.5, "max": 1, "rounds": [0.5, 1]}
    assert first["cold_start"] == {"first_step_begins": 1.0, "first_step_ends": 1.5, "peak_bytes": 10**9}
    assert second["cold_start"] is None
    assert (first["version"], first["precision"], first["load_seconds"]) == ("1.0", "bf16", 0.5)


def test_text() -> None:
    text = report.as_text(report.as_data(measured()))
    assert "96x64 px, 2 steps, 2 rounds after 1 to warm up" in text
    assert "first 1.0, bf16" in text
    assert "1.00 s to the first step, 1.50 s to its end; peak 1.00 GB" in text
    assert "0.75 (0.50-1.00)" in text
    assert text.endswith("unknown")


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.346, "12.35 s"), (0.5, "500.0 ms"), (0.012346, "12.35 ms"), (0.00012, "0.12 ms")]
)
def test_times_are_readable(seconds: float, text: str) -> None:
    assert report._time(seconds) == text


# -- what runs --


def test_every_measure_has_every_round(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    result = measure.run(Bundle.open(bundle), plan())
    (times,) = result.engines
    assert (times.name, times.precision) == ("fake", "fp32")
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == dict.fromkeys(MEASURES, 3)
    assert all(seconds >= 0 for values in times.seconds.values() for seconds in values)
    assert times.loads > 0
    assert times.cold is None
    assert result.peak_bytes is None or result.peak_bytes > 10**6
    assert len(fake_engine.loaded) == len(fake_engine.released) == 3


def test_shapes_are_those_of_a_guided_run_of_one_picture(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    result = measure.run(Bundle.open(bundle), plan(height=70, width=96, repeats=1, warmup=0))
    assert result.shapes == {
        "movq_encoder": {"image": (1, 3, 80, 96)},
        "unet": {"sample": (2, 9, 10, 12), "timestep": (2,), "image_embeds": (2, 6)},
        "movq_decoder": {"latents": (1, 4, 10, 12)},
    }
    alone, whole = (dict(fake_engine.runs[at]) for at in (slice(3), slice(3, None)))
    for component in COMPONENTS:
        shapes = {name: array.shape for name, array in alone[component].items()}
        assert shapes == {name: array.shape for name, array in whole[component].items()}
    assert np.abs(alone["movq_encoder"]["image"]).max() <= 1


def test_engines_take_turns_within_a_round(bundle: Path, two_engines: type[FakeEngine]) -> None:
    result = measure.run(Bundle.open(bundle), plan("fake", "second", steps=1, repeats=1, warmup=1))
    a_round = [f"{prefix}{component}" for component in COMPONENTS for prefix in ("", "second/")]
    a_round += [f"{prefix}{component}" for prefix in ("", "second/") for component in COMPONENTS]
    assert [component for component, _ in two_engines.runs] == 2 * a_round
    assert [item.name for item in result.engines] == ["fake", "second"]
    assert all(len(item.seconds["unet"]) == 1 for item in result.engines), "warming up does not count"


def test_inputs_are_those_of_the_seed(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    for seed in (1, 1, 2):
        measure.run(Bundle.open(bundle), plan(seed=seed, repeats=1, warmup=0))
    third = len(fake_engine.runs) // 3
    first, again, other = (fake_engine.runs[i * third : (i + 1) * third] for i in range(3))
    for (_, one), (_, two), (_, three) in zip(first, again, other, strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in one)
        assert not all(np.array_equal(one[name], three[name]) for name in one)


def test_progress_is_on_stderr(bundle: Path, fake_engine: type[FakeEngine], capsys: pytest.CaptureFixture[str]) -> None:
    measure.run(Bundle.open(bundle), plan(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "measuring: 100%" in err


# -- cold start --


def test_cold_start(bundle: Path, fresh_processes: None) -> None:
    result = measure.run(Bundle.open(bundle), plan(repeats=1, warmup=0, cold_start=True))
    cold = result.engines[0].cold
    assert cold is not None
    assert 0 < cold.first_step_begins <= cold.first_step_ends
    assert cold.peak_bytes is None or cold.peak_bytes > 10**6


def job(bundle: Path, engine: str = "fake") -> ColdStartJob:
    return ColdStartJob(str(bundle), engine, "fp32", "cpu", None, 64, 64, 0)


def test_cold_start_that_fails_says_why(bundle: Path) -> None:
    with pytest.raises(Kandinsky22Error, match=r"cold start of engine nowhere failed: there is no engine 'nowhere'"):
        cold_start.measure(job(bundle, "nowhere"))


def test_cold_start_of_a_process_that_dies(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Kandinsky22Error, match=r"cold start of engine fake failed: exit status 1"):
        cold_start.measure(job(bundle))


def test_what_a_library_prints_is_skipped() -> None:
    assert cold_start._last_object('hello\n{"a": 1}\n') == {"a": 1}
    assert cold_start._last_object("hello\n") == cold_start._last_object("") == cold_start._last_object("[1]") == {}


def test_files_of_the_current_folder_are_no_modules(
    bundle: Path, fresh_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 knows no safe path")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken')")
    assert cold_start.measure(job(bundle)).first_step_ends > 0


# -- command --


def test_json_on_stdout(k22: Any) -> None:
    status, out, err = k22("--json")
    assert (status, err) == (0, "")
    assert set(json.loads(out)["engines"]) == {"fake"}


def test_command(k22: Callable[..., Any], tmp_path: Path) -> None:
    status, out, err = k22("--json", tmp_path / "times.json")
    assert (status, err) == (0, "")
    assert "UNet, batch 2" in out
    data = json.loads((tmp_path / "times.json").read_text())
    assert data["plan"]["repeats"] == 2
    assert len(data["engines"]["fake"]["measures"][WHOLE]["rounds"]) == 2
    assert data["engines"]["fake"]["measures"][HOST]["p50"] > 0
    assert not list(tmp_path.glob(".*.tmp"))


def test_plot(k22: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert k22("--plot", tmp_path / "times.png")[0] == 0
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib(
    k22: Callable[..., Any], tmp_path: Path, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    status, out, err = k22("--plot", tmp_path / "times.png")
    assert (status, out) == (1, "")
    assert err == "k22: error: --plot needs matplotlib: pip install 'kandinsky22-deploy[bench]'\n"
    assert fake_engine.runs == [], "found out before any work"


def test_plot_with_a_broken_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("no backend")
        return find(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(Kandinsky22Error, match=r"--plot needs matplotlib \(no backend\): pip install"):
        report.save_plot({}, tmp_path / "times.png")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--repeats", 0), "repeats is 0; expected a whole number of at least 1"),
        (("--warmup", -1), "warmup is -1; expected a whole number of at least 0"),
        (("--steps", 0), "steps is 0; expected a whole number of at least 1"),
        (("--height", 63), "height is 63; expected a whole number of at least 64"),
        (("--height", 10_000, "--width", 10_000), "the picture would be 10000x10000; expected at most"),
        (("--threads", 0), "threads is 0; expected a whole number of at least 1"),
        (("--engine", "none"), "there is no engine 'none'; choose from auto"),
        (("--engine", "fake"), "the engines are fake, fake; name each once"),
        (("--precision", "int3"), "precision is 'int3'; choose from"),
        (("--device", "tpu"), "engine fake runs on cpu, fake:1; got device 'tpu'"),
        (("--json", "nowhere/times.json"), "--json nowhere/times.json: the folder nowhere does not exist"),
        (("--json", "/"), "--json / is a directory"),
        (("--plot", "times.txt"), "--plot times.txt has the suffix '.txt'; expected one of .png, .svg, .pdf"),
        (("--json", "times.png", "--plot", "./times.png"), "--json and --plot are both times.png"),
    ],
)
def test_refused_before_any_run(
    args: tuple[object, ...], sentence: str, k22: Callable[..., Any], fake_engine: type[FakeEngine]
) -> None:
    status, out, err = k22(*args)
    assert (status, out) == (2, "")
    assert err.startswith(f"k22: error: {sentence}")
    assert len(err.splitlines()) == 1
    assert fake_engine.runs == []


def test_auto_is_the_engine_that_it_stands_for(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    result = measure.run(Bundle.open(bundle), plan("auto", repeats=1, warmup=0))
    assert [item.name for item in result.engines] == ["fake"]
    with pytest.raises(UsageError, match="name each once"):
        measure.run(Bundle.open(bundle), plan("auto", "fake"))
    with pytest.raises(UsageError, match="name an engine to measure"):
        BenchPlan(engines=())


def test_engine_that_cannot_run_the_bundle(bundle: Path, two_engines: type[FakeEngine]) -> None:
    with pytest.raises(EngineUnavailable, match=r"^engine fake needs variant fake-bf16"):
        measure.run(Bundle.open(bundle), plan(precision="bf16"))


def test_engine_that_fails_while_measured(
    k22: Callable[..., Any], fake_engine: type[FakeEngine], tmp_path: Path
) -> None:
    def fail(component: str, run: int, outputs: Any) -> Any:
        raise EngineError(f"{component} broke") if run else EngineError("at once")

    fake_engine.alter = staticmethod(fail)
    status, out, err = k22("--json", tmp_path / "times.json")
    assert (status, out, err) == (1, "", "k22: error: at once\n")
    assert not (tmp_path / "times.json").exists()
    assert sorted(fake_engine.released) == sorted(fake_engine.loaded)


def test_result_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Kandinsky22Error, match=r"folder cannot be written: "):
        report.save_text("{}", tmp_path / "folder")
    assert not list(tmp_path.glob(".*.tmp"))
