"""When each graph is loaded and freed: at the end, or with `low_memory` one at a time; and what each one runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.checks import memory_size
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import Cancelled, EngineError, EngineUnavailable, NonFiniteError, UsageError
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.units import do_all
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import WIDTH, FakeEngine, Outputs

PHASES = ["movq_encoder", "unet", "movq_decoder"]
RNG = np.random.default_rng(1)
MASK = np.zeros((64, 64), np.uint8)
MASK[16:40, 16:40] = 255
SOUND: dict[str, Any] = {
    "image": RNG.integers(0, 256, (64, 64, 3), np.uint8),
    "mask_image": MASK,
    "image_embeds": RNG.standard_normal(WIDTH),
    "negative_image_embeds": RNG.standard_normal(WIDTH),
    "num_inference_steps": 2,
    "seed": 5,
    "output_type": "np",
}


@pytest.fixture
def events(fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The events of every graph, in order."""
    happened: list[tuple[str, str]] = []

    def noting(event: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: FakeEngine, *args: Any) -> Any:
            happened.append((event, self.component))
            return plain(self, *args)

        return noted

    for method, event in (("_open", "load"), ("_run", "run"), ("_release", "release")):
        monkeypatch.setattr(fake_engine, method, noting(event, getattr(fake_engine, method)))
    return happened


@pytest.fixture
def lean(bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[InpaintPipeline]:
    """A pipeline with `low_memory`."""
    with InpaintPipeline.load(bundle, "fake", low_memory=True) as loaded:
        yield loaded


def most_at_once(events: list[tuple[str, str]]) -> int:
    """The largest number of graphs that were loaded at a time."""
    loaded = np.cumsum([{"load": 1, "run": 0, "release": -1}[event] for event, _ in events])
    return int(loaded.max())


def test_one_graph_at_a_time(events: list[tuple[str, str]], lean: InpaintPipeline) -> None:
    lean(**SOUND)
    assert events == [
        event
        for name in PHASES
        for event in (("load", name), *(("run", name),) * (4 if name == "unet" else 1), ("release", name))
    ]
    lean(**SOUND)
    assert most_at_once(events) == 1
    assert len(events) == 24, "the next run loads them again"


def test_the_halves_of_guidance_run_one_after_the_other(lean: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    lean(**SOUND, num_images_per_prompt=3)
    feeds = [feeds for name, feeds in fake_engine.runs if name == "unet"]
    assert {item["sample"].shape[0] for item in feeds} == {3}
    for number, embeds in enumerate((SOUND["negative_image_embeds"], SOUND["image_embeds"]) * 2):
        np.testing.assert_array_equal(feeds[number]["image_embeds"], np.tile(embeds.astype(np.float32), (3, 1)))
    fake_engine.runs.clear()
    lean(**SOUND, guidance_interval=(1, np.inf))
    shapes = [feeds["sample"].shape[0] for name, feeds in fake_engine.runs if name == "unet"]
    assert shapes == [1, 1, 1], "the second step has no guidance"


def test_the_result_is_the_same(lean: InpaintPipeline, pipeline: InpaintPipeline) -> None:
    np.testing.assert_array_equal(lean(**SOUND).images, pipeline(**SOUND).images)


def test_without_low_memory_graphs_are_loaded_first_and_stay(
    events: list[tuple[str, str]], pipeline: InpaintPipeline
) -> None:
    pipeline(**SOUND)
    assert {event for event, _ in events[:3]} == {"load"}
    assert not [event for event, _ in events if event == "release"]


def test_without_low_memory_each_phase_frees_its_scratch_memory(
    events: list[tuple[str, str]], pipeline: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: Any
) -> None:
    monkeypatch.setattr(fake_engine, "_free_scratch_memory", lambda self: events.append(("free", self.component)))
    pipeline(**SOUND)
    assert [event for event in events if event[0] != "load"] == [
        event for name in PHASES for event in (*(("run", name),) * (2 if name == "unet" else 1), ("free", name))
    ]


def test_latents_need_no_decoder(events: list[tuple[str, str]], lean: InpaintPipeline) -> None:
    lean(**SOUND | {"output_type": "latent"})
    assert [name for event, name in events if event == "load"] == ["movq_encoder", "unet"]
    lean(**SOUND | {"output_type": "latent", "mask_image": np.zeros_like(MASK)})
    assert most_at_once(events) == 1
    assert events[-1] == ("release", "movq_encoder")


@pytest.mark.parametrize("component", PHASES)
def test_an_error_frees_the_loaded_graphs(
    events: list[tuple[str, str]],
    lean: InpaintPipeline,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    component: str,
) -> None:
    def alter(name: str, _: int, outputs: Outputs) -> Outputs:
        return {key: array * np.nan for key, array in outputs.items()} if name == component else outputs

    with monkeypatch.context() as patch:
        patch.setattr(fake_engine, "alter", staticmethod(alter))
        with pytest.raises(NonFiniteError):
            lean(**SOUND)
    assert events[-1] == ("release", component)
    assert fake_engine.loaded == fake_engine.released
    assert lean(**SOUND).images.shape == (1, 64, 64, 3)
    assert most_at_once(events) == 1


def test_an_error_while_a_graph_is_loaded(
    lean: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fake_engine._open

    def fail(self: FakeEngine, *args: Any) -> None:
        if self.component == "unet":
            raise MemoryError("no room")
        plain(self, *args)

    monkeypatch.setattr(fake_engine, "_open", fail)
    with pytest.raises(EngineError, match="unet cannot be loaded by fake: no room"):
        lean(**SOUND)
    assert fake_engine.loaded == fake_engine.released == ["movq_encoder"]


def test_cancelling_frees_the_loaded_graphs(lean: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        lean(**SOUND, cancel=cancel, callback_on_step_end=lambda *_: cancel.set())
    assert fake_engine.loaded == fake_engine.released == ["movq_encoder", "unet"]


def test_runs_of_several_threads_follow_one_another(events: list[tuple[str, str]], lean: InpaintPipeline) -> None:
    expected = [lean(**SOUND | {"seed": seed}).images for seed in range(4)]
    events.clear()
    results: dict[int, np.ndarray] = {}
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        results[seed] = lean(**SOUND | {"seed": seed}).images

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(results[seed], expected[seed])
    assert most_at_once(events) == 1
    assert [name for event, name in events if event == "load"] == PHASES * 4


def test_a_run_within_a_run_is_refused(lean: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    """It would free the graphs of the outer run."""

    def again(pipeline: InpaintPipeline, *_: Any) -> None:
        pipeline(**SOUND)

    with pytest.raises(UsageError, match="low_memory: this thread is in the middle of a run; start the next one after"):
        lean(**SOUND, callback_on_step_end=again)
    assert fake_engine.loaded == fake_engine.released == ["movq_encoder", "unet"]
    assert lean(**SOUND).images.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_low_memory_that_is_not_a_bool(bundle: Path, fake_engine: type[FakeEngine], value: Any) -> None:
    with pytest.raises(UsageError, match="low_memory is .*; expected True or False"):
        InpaintPipeline.load(bundle, "fake", low_memory=value)


# -- what each graph runs --


@pytest.fixture
def mixed(tmp_path: Path, fake_engine: type[FakeEngine]) -> Path:
    """A bundle with a prior. Its decoder has two precisions, its text encoder one of them."""
    described = fake_bundle.with_prior(variants={"fake-fp32": "fp32", "fake-bf16": "bf16"})
    bundle = fake_bundle.write(tmp_path / "mixed", described)
    return fake_bundle.rewrite(bundle, lambda data: data["components"]["text_encoder"]["variants"].pop("fake-bf16"))


def test_a_decoder_runs_in_a_variant_that_the_prior_lacks(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with InpaintPipeline.load(mixed, "fake", "bf16") as pipeline:
        assert pipeline(**SOUND).images.shape == (1, 64, 64, 3)
        assert pipeline.selection.variant == "fake-bf16"
        assert not caplog.messages
        rest = {name: value for name, value in SOUND.items() if "embeds" not in name}
        assert pipeline(**rest, prompt="a hat", prior_num_inference_steps=2).images.shape == (1, 64, 64, 3)
    assert caplog.messages == ["text_encoder has no variant fake-bf16: it runs fake-fp32 in fp32"]


def test_a_prior_alone_needs_all_of_its_graphs(mixed: Path) -> None:
    with pytest.raises(EngineUnavailable, match="needs variant fake-bf16; the bundle has fake-fp32"):
        PriorPipeline.load(mixed, "fake", "bf16")
    with PriorPipeline.load(mixed, "fake") as prior:
        assert prior.graphs.selection.precision == "fp32"


# -- memory for compiled shapes --


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), ("1T", 1 << 40), ("64KB", 64 << 10), ("8GiB", 8 << 30)],
)
def test_sizes_of_memory(text: str, size: int) -> None:
    assert memory_size("shape_memory", text) == size


@pytest.mark.parametrize("value", ["", "2", "G", "-2G", "2 parsecs", "0M", "٢G", 0, -1, True, 2.5, [], b"2G", "1e9G"])
def test_nonsense_for_the_memory_of_shapes(bundle: Path, fake_engine: type[FakeEngine], value: Any) -> None:
    with pytest.raises(UsageError, match=r"^shape_memory is .*; expected a"):
        InpaintPipeline.load(bundle, "fake", shape_memory=value)


@pytest.mark.parametrize("engine", ["fake", "auto"])
def test_engines_without_compiled_shapes_refuse_memory_for_them(
    bundle: Path, fake_engine: type[FakeEngine], engine: str
) -> None:
    with pytest.raises(UsageError, match=r"^shape_memory is for engines .* such as openvino; engine fake keeps none"):
        InpaintPipeline.load(bundle, engine, shape_memory="2G")


def test_an_engine_with_compiled_shapes_gets_the_limit(
    bundle: Path, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_engine, "keeps_shapes", True)
    with Graphs.open(bundle, "fake", shape_memory="512M") as graphs:
        assert graphs.options.shape_memory == 512 << 20


@pytest.mark.parametrize("low_memory", [False, True])
def test_closing_does_not_break_a_run_of_another_thread(
    bundle: Path, events: list[tuple[str, str]], low_memory: bool
) -> None:
    pipeline = InpaintPipeline.load(bundle, "fake", low_memory=low_memory)
    expected = pipeline(**SOUND).images
    events.clear()

    def close(*_: Any) -> None:
        closing = threading.Thread(target=pipeline.close)
        closing.start()
        closing.join(20)
        assert not closing.is_alive(), "it does not wait"

    np.testing.assert_array_equal(pipeline(**SOUND, callback_on_step_end=close).images, expected)
    assert sum({"load": 1, "run": 0, "release": -1}[event] for event, _ in events) == (0 if low_memory else -3)
    assert [event for event, _ in events][-1] == "release"
    events.clear()
    np.testing.assert_array_equal(pipeline(**SOUND).images, expected)
    assert ("load", "unet") in events, "the next run loads them again"
    pipeline.close()


def test_closing_from_the_runs_own_callback(bundle: Path, events: list[tuple[str, str]]) -> None:
    pipeline = InpaintPipeline.load(bundle, "fake")
    pipeline(**SOUND, callback_on_step_end=lambda *_: pipeline.close())
    assert [event for event in events if event[0] == "release"] == [("release", name) for name in PHASES]


def test_closing_with_two_runs_in_progress(bundle: Path, events: list[tuple[str, str]]) -> None:
    """The last one frees the graphs; a run that is driven no further counts until its generator is closed."""
    pipeline = InpaintPipeline.load(bundle, "fake")
    first, second = (pipeline.plan(InpaintOptions(**SOUND)).units() for _ in range(2))
    next(first), next(second), next(first)
    pipeline.close()
    do_all(first)
    assert "release" not in dict(events)
    second.close()
    assert [event for event in events if event[0] == "release"] == [("release", name) for name in PHASES]
