"""The prior on a fake engine: every number is recomputed, and every kind of failure is tried."""

from __future__ import annotations

import builtins
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import PROMPT
from kandinsky_runtime.errors import (
    BundleError,
    Cancelled,
    EngineError,
    EngineUnavailable,
    InputError,
    NonFiniteError,
    UsageError,
)
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.prior.prompts import MAX_CHARACTERS, Mix
from kandinsky_runtime.sampling.noise import NumpyNoise, RecordingNoise, ReplayNoise, TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CONSTANTS, CONSTANTS_FILE, END, PRIOR, SIDE, VOCABULARY, WIDTH, FakeEngine
from tests.runtime.prior_recomputed import (
    NO_PICTURE,
    STEPS,
    denoised,
    draws,
    embedding,
    encoded,
    ids_of,
    picture_embedding,
)
from tests.tolerances import SAME_RUN

RNG = np.random.default_rng(6)
PICTURE, OTHER = RNG.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
LONG = "a very long prompt"  # 15 letters; 10 fit


def arguments(**changes: Any) -> dict[str, Any]:
    return {"prompt": "a hat", "num_inference_steps": STEPS, "seed": 5} | changes


def feeds_of(engine: type[FakeEngine], component: str) -> list[Any]:
    return [feeds for name, feeds in engine.runs if name == component]


def assert_close(got: np.ndarray, *expected: np.ndarray) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.concatenate(expected), rtol=0, atol=SAME_RUN)


# -- the numbers --


@pytest.mark.parametrize("scale", [0, 1, np.float32(1.5), 4.0])
@pytest.mark.parametrize("negative", [None, "", "a bad cat"])
@pytest.mark.parametrize("steps", [2, STEPS, 25])
def test_embeddings_against_a_recomputation(
    prior: PriorPipeline, scale: float, negative: str | None, steps: int
) -> None:
    output = prior(**arguments(negative_prompt=negative, guidance_scale=scale, num_inference_steps=steps))
    positive, away = embedding("a hat", negative, scale=float(scale), steps=steps)
    assert_close(output.image_embeds, positive)
    assert_close(output.negative_image_embeds, away)
    assert output.seeds == (5,)


def test_the_defaults_are_those_of_diffusers(prior: PriorPipeline) -> None:
    assert_close(prior("a hat", seed=5).image_embeds, embedding("a hat", scale=4.0, steps=25)[0])


@pytest.mark.parametrize("negative", [None, "a bad cat"])
def test_a_mix_draws_for_each_text_and_then_for_the_negative(prior: PriorPipeline, negative: str | None) -> None:
    mix = Mix(["a hat", PICTURE, "cats"], [0.3, 1.5, -2])
    noise, rows, away = TorchNoise(5), 1 if negative is None else 2, negative or ""
    first, second, last = (draws(noise, rows) for _ in range(3))
    output = prior(**arguments(prompt=mix, negative_prompt=negative))
    parts = denoised("a hat", away, first[:, 0]), picture_embedding(PICTURE), denoised("cats", away, second[:, 0])
    assert_close(output.image_embeds, np.float32(0.3) * parts[0] + np.float32(1.5) * parts[1] - 2 * parts[2])
    assert_close(output.negative_image_embeds, NO_PICTURE if negative is None else denoised(away, away, last[:, 0]))


def test_the_number_and_shapes_of_draws(prior: PriorPipeline) -> None:
    for prompt, negative, shapes in (
        ("a hat", None, [(1, WIDTH)] * STEPS),
        ("a hat", "cat", [(2, WIDTH)] * STEPS),
        (["a hat", "cat"], None, [(1, WIDTH)] * 2 * STEPS),
        (PICTURE, None, [(1, WIDTH)] * STEPS),
        (Mix(["a hat", PICTURE, "cat"], [1, 1, 1]), None, [(1, WIDTH)] * 3 * STEPS),
        (Mix(["a hat", "cat"], [1, 1]), "cat", [(2, WIDTH)] * 3 * STEPS),
    ):
        recording = RecordingNoise(TorchNoise(0))
        output = prior(**arguments(prompt=prompt, negative_prompt=negative, noise=recording))
        assert [draw.shape for draw in recording.draws] == shapes
        assert set(output.seeds) == {None}


def test_a_mix_of_one_text_is_that_text_times_its_weight(prior: PriorPipeline) -> None:
    plain = prior(**arguments()).image_embeds
    assert_close(prior(**arguments(prompt=Mix(("a hat",), (-0.5,)))).image_embeds, -0.5 * plain)


def test_a_picture_prompt_gives_the_pictures_embedding(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    output = prior(**arguments(prompt=PICTURE))
    assert_close(output.image_embeds, picture_embedding(PICTURE))
    assert_close(output.negative_image_embeds, NO_PICTURE)
    assert fake_engine.loaded == ["image_encoder"]
    with_negative = prior(**arguments(prompt=PICTURE, negative_prompt="a bad cat"))
    assert_close(with_negative.image_embeds, picture_embedding(PICTURE))
    assert_close(with_negative.negative_image_embeds, denoised("a bad cat", "a bad cat", draws(TorchNoise(5), 2)[:, 0]))


def test_pictures_from_every_kind_of_source(prior: PriorPipeline, tmp_path: Path) -> None:
    path = tmp_path / "hat.png"
    Image.fromarray(PICTURE).save(path)
    given = [PICTURE, Image.fromarray(PICTURE), path, path.read_bytes()]
    assert_close(prior(**arguments(prompt=given)).image_embeds, *[picture_embedding(PICTURE)] * 4)


def test_a_picture_is_encoded_once(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    prior(
        **arguments(
            prompt=[Mix([PICTURE, OTHER], [1, 1]), PICTURE, Mix([OTHER, PICTURE], [1, 1])], num_images_per_prompt=2
        )
    )
    assert [feeds["pixel_values"].shape for feeds in feeds_of(fake_engine, "image_encoder")] == [(1, 3, SIDE, SIDE)] * 2


# -- batches --


BATCH = ["a hat", "", "a very long prompt of many letters", Mix(["cats", OTHER, "hat"], [1, 2, 3]), PICTURE]


@pytest.mark.parametrize("negative", [None, "a bad cat", ["a", "b", "", "c", "hat"]])
def test_a_sample_is_the_same_alone_and_in_a_batch(prior: PriorPipeline, negative: Any) -> None:
    together = prior(**arguments(prompt=BATCH, negative_prompt=negative, num_images_per_prompt=2, seed=7))
    assert together.seeds == tuple(range(7, 17))
    assert together.image_embeds.shape == together.negative_image_embeds.shape == (10, WIDTH)
    for row, seed in enumerate(together.seeds):
        own = negative[row // 2] if isinstance(negative, list) else negative
        alone = prior(**arguments(prompt=BATCH[row // 2], negative_prompt=own, seed=seed))
        assert_close(together.image_embeds[row : row + 1], alone.image_embeds)
        assert_close(together.negative_image_embeds[row : row + 1], alone.negative_image_embeds)


def test_prompts_are_repeated_in_a_row(prior: PriorPipeline) -> None:
    output = prior(**arguments(prompt=("a hat", "cats"), num_images_per_prompt=2, seed=[1, 2, 3, 4]))
    texts = ["a hat", "a hat", "cats", "cats"]
    assert_close(
        output.image_embeds, *(embedding(text, None, TorchNoise(seed))[0] for seed, text in enumerate(texts, 1))
    )


# -- inputs of the graphs --


def test_the_text_encoder_runs_each_text_once(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    prior(**arguments(prompt=["a hat", "cats", "a hat"], negative_prompt="cats"))
    (feeds,) = feeds_of(fake_engine, "text_encoder")
    rows = [ids_of(text) for text in ("a hat", "cats", "")]
    np.testing.assert_array_equal(feeds["input_ids"], [row + [VOCABULARY[END]] * (8 - len(row)) for row in rows])
    np.testing.assert_array_equal(feeds["pool_mask"].argmax(axis=1), [len(row) - 1 for row in rows])
    np.testing.assert_array_equal(feeds["pool_mask"].sum(axis=1), 1)


@pytest.mark.parametrize(("text", "length"), [("", 8), ("abcdef", 8), ("abcdefg", 12), ("abcdefghij", 12), (LONG, 12)])
def test_texts_are_padded_to_few_lengths(
    prior: PriorPipeline, fake_engine: type[FakeEngine], text: str, length: int
) -> None:
    prior(**arguments(prompt=text))
    assert feeds_of(fake_engine, "text_encoder")[0]["input_ids"].shape == (2 if text else 1, length)
    masks = [feeds["text_mask"] for feeds in feeds_of(fake_engine, "prior")]
    wanted = [(2, 8)] if length == 8 else [(1, 8), (1, length)]  # the empty text's half is a batch of its own
    assert [mask.shape for mask in masks] == wanted * STEPS
    lengths = np.concatenate([mask.sum(axis=1) for mask in masks[: len(wanted)]])
    np.testing.assert_array_equal(lengths, [2, len(ids_of(text))])


def test_halves_of_two_lengths_are_one_batch_with_low_memory(
    prior_bundle: Path, prior: PriorPipeline, fake_engine: type[FakeEngine]
) -> None:
    apart = prior(**arguments(prompt="abcdefg"))
    fake_engine.runs.clear()
    with PriorPipeline.load(prior_bundle, engine="fake", low_memory=True) as lean:
        together = lean(**arguments(prompt="abcdefg"))
    assert [feeds["text_mask"].shape for feeds in feeds_of(fake_engine, "prior")] == [(2, 12)] * STEPS
    np.testing.assert_allclose(together.image_embeds, apart.image_embeds, rtol=0, atol=SAME_RUN)


def test_halves_are_negative_and_positive(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    prior(**arguments(prompt=["a hat", "cats"]))
    steps = feeds_of(fake_engine, "prior")
    assert [set(feeds["timestep"].tolist()) for feeds in steps] == [{999}, {749}, {500}, {250}, {0}]
    for feeds in steps:
        assert {name: array.shape[0] for name, array in feeds.items()} == dict.fromkeys(feeds, 4)
        np.testing.assert_array_equal(feeds["latents"][:2], feeds["latents"][2:])
    expected = [encoded(text)["text_embeds"] for text in ("", "", "a hat", "cats")]
    np.testing.assert_allclose(steps[0]["text_embeds"], np.concatenate(expected), rtol=0, atol=SAME_RUN)


def test_without_guidance_the_prior_runs_once_per_sample(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    prior(**arguments(guidance_scale=1))
    assert {feeds["latents"].shape for feeds in feeds_of(fake_engine, "prior")} == {(1, WIDTH)}
    assert feeds_of(fake_engine, "text_encoder")[0]["input_ids"].shape[0] == 1, (
        "without guidance there is no empty text"
    )


@pytest.mark.parametrize(("end", "place"), [(2, 2), (VOCABULARY[END], 2)])
def test_a_text_is_pooled_at_the_first_end(tmp_path: Path, fake_engine: type[FakeEngine], end: int, place: int) -> None:
    described = fake_bundle.with_prior(prior=replace(PRIOR, eos_token_id=end))
    with PriorPipeline.load(fake_bundle.write(tmp_path / "b", described), "fake") as prior:
        prior(**arguments(prompt=f"a {END} b", guidance_scale=1))
    (feeds,) = feeds_of(fake_engine, "text_encoder")
    assert feeds["pool_mask"].argmax() == place
    np.testing.assert_array_equal(feeds_of(fake_engine, "prior")[0]["text_mask"], [[1, 1, 1, 1, 1, 0, 0, 0]])


def test_a_long_prompt_is_cut_and_reported_once(
    prior: PriorPipeline, fake_engine: type[FakeEngine], caplog: pytest.LogCaptureFixture
) -> None:
    output = prior(**arguments(prompt=[LONG, "a hat", LONG]))
    assert_close(output.image_embeds[:1], embedding(LONG)[0])
    assert output.notes == ("a prompt has more tokens than the text encoder takes; its end was cut off: 'rompt'",)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == output.notes[0], "it is logged once"
    assert prior(**arguments()).notes == ()


def test_the_note_of_a_very_long_prompt_is_short(prior: PriorPipeline) -> None:
    (note,) = prior(**arguments(prompt="hat " * 10_000)).notes
    assert note.endswith(" characters)")
    assert len(note) < 1200


def test_every_input_but_the_tokens_is_float32(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    prior(**arguments(prompt=[Mix(["a hat", PICTURE], np.array([0.5, 0.5]))], guidance_scale=np.float64(3)))
    dtypes = {name: array.dtype.name for _, feeds in fake_engine.runs for name, array in feeds.items()}
    assert dtypes.pop("input_ids") == "int64"
    assert set(dtypes.values()) == {"float32"}


# -- noise --


def test_seeds_and_kinds_of_noise(prior: PriorPipeline) -> None:
    drawn = prior(**arguments(seed=None))
    np.testing.assert_array_equal(prior(**arguments(seed=drawn.seeds)).image_embeds, drawn.image_embeds)
    for noise in ("numpy", NumpyNoise(5)):
        output = prior(**arguments(noise=noise))
        assert_close(output.image_embeds, embedding("a hat", source=NumpyNoise(5))[0])
        assert output.seeds == ((5,) if noise == "numpy" else (None,))


def test_a_recording_with_too_few_draws_is_refused(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    with pytest.raises(InputError, match="all 2 draws are used"):
        prior(**arguments(noise=ReplayNoise([np.zeros((1, WIDTH), np.float32)] * 2)))
    assert not fake_engine.loaded


# -- callback, cancellation, progress, loading and release --


def test_a_callback_sees_each_step_and_may_change_it(prior: PriorPipeline) -> None:
    calls: list[Any] = []

    def record(pipeline: PriorPipeline, step: int, timestep: float, values: dict[str, np.ndarray]) -> Any:
        assert pipeline is prior
        calls.append((step, timestep, values["latents"].shape))
        return {"latents": np.zeros((1, WIDTH))} if step == STEPS - 1 else None

    output = prior(**arguments(callback_on_step_end=record))
    assert calls == [(i, t, (1, WIDTH)) for i, t in enumerate((999, 749, 500, 250, 0))]
    assert_close(output.image_embeds, CONSTANTS["clip_mean"])
    for returned in (np.zeros((2, WIDTH)), np.full((1, WIDTH), np.nan), None):
        with pytest.raises(InputError, match="latents from callback_on_step_end: "):
            prior(**arguments(callback_on_step_end=lambda *_, returned=returned: {"latents": returned}))


def test_a_run_is_cancelled_between_two_steps(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    cancel = threading.Event()

    def stop(_: Any, step: int, *__: Any) -> None:
        if step == 1:
            cancel.set()

    with pytest.raises(Cancelled, match="cancelled before step 3 of 5"):
        prior(**arguments(callback_on_step_end=stop, cancel=cancel))
    assert len(feeds_of(fake_engine, "prior")) == 2


def test_progress_goes_to_stderr(prior: PriorPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    prior(**arguments())
    assert capfd.readouterr() == ("", "")
    prior(**arguments(progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "prior: 100%" in err


def test_seconds_name_the_phases_that_ran(prior: PriorPipeline) -> None:
    assert set(prior(**arguments()).seconds) == {"encode_text", "prior"}
    assert set(prior(**arguments(prompt=PICTURE)).seconds) == {"encode_pictures"}
    mixed = prior(**arguments(prompt=["a hat", PICTURE])).seconds
    assert set(mixed) == {"encode_text", "encode_pictures", "prior"}
    assert min(mixed.values()) > 0


def test_graphs_are_loaded_once_and_released(prior: PriorPipeline, fake_engine: type[FakeEngine]) -> None:
    assert fake_engine.loaded == []
    for _ in range(2):
        prior(**arguments(prompt=Mix(["a hat", PICTURE], [1, 1])))
    assert fake_engine.loaded == ["image_encoder", "text_encoder", "prior"]
    prior.close()
    assert sorted(fake_engine.released) == sorted(fake_engine.loaded)


def test_low_memory_releases_each_graph_after_its_phase(prior_bundle: Path, fake_engine: type[FakeEngine]) -> None:
    prompt = Mix(["a hat", PICTURE], [1, 1])
    expected = PriorPipeline.load(prior_bundle, "fake")(**arguments(prompt=prompt)).image_embeds
    fake_engine.loaded.clear()
    with PriorPipeline.load(prior_bundle, "fake", low_memory=True) as prior:
        order: list[tuple[str, ...]] = []
        output = prior(
            **arguments(prompt=prompt, callback_on_step_end=lambda *_: order.append(tuple(fake_engine.released)))
        )
        assert fake_engine.loaded == fake_engine.released == ["image_encoder", "text_encoder", "prior"]
        assert set(order) == {("image_encoder", "text_encoder")}
        np.testing.assert_array_equal(output.image_embeds, expected)


def test_several_threads_at_once(prior: PriorPipeline) -> None:
    texts = ["a hat", "cats", "a very long one", ""]
    expected = [prior(**arguments(prompt=text)).image_embeds for text in texts]
    prior.close()
    results: dict[int, np.ndarray] = {}
    start = threading.Barrier(len(texts))

    def work(index: int) -> None:
        start.wait()
        results[index] = prior(**arguments(prompt=texts[index])).image_embeds

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, embeds in enumerate(expected):
        np.testing.assert_array_equal(results[index], embeds)


# -- engines that fail --


def alter_output(component: str, run: int, change: Any) -> Any:
    def alter(ran: str, number: int, outputs: fake_bundle.Outputs) -> fake_bundle.Outputs:
        return (
            {name: change(array) for name, array in outputs.items()} if (ran, number) == (component, run) else outputs
        )

    return staticmethod(alter)


@pytest.mark.parametrize(
    ("component", "run", "text"),
    [
        ("text_encoder", 0, "text_encoder on fake: .* of `text_hidden_states` are NaN"),
        ("image_encoder", 0, "image_encoder on fake: .* of `image_embeds` are NaN"),
        ("prior", 2, r"prior on fake, step 3 of 5 \(timestep 500\): .* of `predicted_image_embeds` are NaN"),
    ],
)
def test_nan_names_component_step_and_tensor(
    prior: PriorPipeline,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    run: int,
    text: str,
) -> None:
    monkeypatch.setattr(fake_engine, "alter", alter_output(component, run, lambda array: array * np.float32(np.nan)))
    with pytest.raises(NonFiniteError, match=text):
        prior(**arguments(prompt=Mix(["a hat", PICTURE], [1, 1])))


@pytest.mark.parametrize("component", fake_bundle.PRIOR_COMPONENTS)
@pytest.mark.parametrize("change", [lambda array: array[:, :1], lambda array: array.astype(np.float64)])
def test_wrong_shape_or_dtype_from_an_engine(
    prior: PriorPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch, component: str, change: Any
) -> None:
    monkeypatch.setattr(fake_engine, "alter", alter_output(component, 0, change))
    with pytest.raises(EngineError, match=f"{component} on fake.* came out as float.*; expected float32"):
        prior(**arguments(prompt=Mix(["a hat", PICTURE], [1, 1])))


def test_the_prior_works_after_an_engine_failed(
    prior: PriorPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(component: str, number: int, outputs: fake_bundle.Outputs) -> fake_bundle.Outputs:
        raise RuntimeError("broken")

    expected = prior(**arguments()).image_embeds
    with monkeypatch.context() as patch:
        patch.setattr(fake_engine, "alter", staticmethod(fail))
        patch.setattr(fake_engine, "_run", lambda self, feeds: fail(self.component, 0, {}))
        with pytest.raises(EngineError, match="text_encoder on fake failed: broken"):
            prior(**arguments())
    np.testing.assert_array_equal(prior(**arguments()).image_embeds, expected)


# -- bad input --


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": []}, "prompt is an empty list; give at least one"),
        ({"prompt": None}, "prompt is a NoneType; expected a text, a picture, a Mix, or a list of them"),
        ({"prompt": ["a hat", 3]}, "prompt is a int; expected a text"),
        (
            {"prompt": "a \ud800"},
            r"prompt has half a surrogate pair, '\\ud800', at character 3; expected valid Unicode",
        ),
        ({"prompt": "a" * (MAX_CHARACTERS + 1)}, "prompt has 100,001 characters; expected at most 100,000"),
        ({"prompt": ["a", "b"], "negative_prompt": ["a", "b", "c"]}, "got 3 negative_prompt for 2 prompts"),
        ({"negative_prompt": []}, "got 0 negative_prompt for 1 prompts"),
        ({"negative_prompt": 3}, "negative_prompt is a int; expected a text"),
        ({"negative_prompt": "\udfff"}, "negative_prompt has half a surrogate pair"),
        ({"prompt": Mix(["a", "b"], [1])}, "a mix has 2 parts and 1 weights"),
        ({"prompt": Mix(["a"], [np.nan])}, "the weights of a mix: has NaN"),
        ({"prompt": Mix([], [])}, "a mix has 0 parts"),
        ({"prompt": Path("nowhere.png")}, "image nowhere.png does not exist"),
        ({"prompt": b"no picture"}, "is not a picture that Pillow knows"),
        ({"prompt": np.zeros((4, 4, 7), np.uint8)}, "image"),
        ({"num_inference_steps": 1}, "num_inference_steps of the prior is 1; expected a whole number of at least 2"),
        ({"num_inference_steps": 10**6}, "the prior: num_inference_steps is 1000000; expected"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001; expected an integer from 1 to 1000"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": np.nan}, "guidance_scale is nan"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"num_images_per_prompt": 1000, "prompt": ["a", "b"]}, "the number of results is 2000"),
        ({"seed": [1, 2]}, "got 2 seeds for 1 results"),
        ({"seed": -1}, "seed is -1"),
        ({"noise": "loud"}, "noise is 'loud'; choose from torch, numpy"),
        ({"callback_on_step_end": 3}, "callback_on_step_end is 3; expected a function"),
        ({"cancel": True}, "cancel is True; expected a threading.Event"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    prior: PriorPipeline, fake_engine: type[FakeEngine], changes: Any, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        prior(**arguments(**changes))
    assert not fake_engine.loaded


@pytest.mark.parametrize("part", ["a hat", np.full_like(PICTURE, 255)])
def test_weights_that_overflow_are_refused(prior: PriorPipeline, part: Any) -> None:
    with pytest.raises(InputError, match="the mix overflows float32: its weights are too large"):
        prior(**arguments(prompt=Mix([part, part], [3e38, 3e38])))


# -- bundles --


def test_a_bundle_without_a_prior_is_refused(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    with pytest.raises(UsageError, match="cannot do prompt: it does inpaint; export it again with --prior, or give"):
        PriorPipeline.load(bundle, "fake")


@pytest.mark.parametrize(
    ("without", "fails", "task", "works"),
    [
        (("image_encoder",), PICTURE, "picture-prompt", "a hat"),
        (("text_encoder",), "a hat", "prompt", PICTURE),
        (("prior",), "a hat", "prompt", PICTURE),
        (("prior",), Mix([PICTURE, "a hat"], [1, 1]), "prompt", Mix([PICTURE], [2])),
    ],
)
def test_a_prompt_for_a_missing_graph_is_refused(
    tmp_path: Path, fake_engine: type[FakeEngine], without: tuple[str, ...], fails: Any, task: str, works: Any
) -> None:
    folder = fake_bundle.write(tmp_path / "b", fake_bundle.with_prior(without=without))
    with PriorPipeline.load(folder, "fake") as prior:
        with pytest.raises(UsageError, match=f"cannot do {task}: it does inpaint, "):
            prior(**arguments(prompt=fails))
        assert not fake_engine.loaded
        assert prior(**arguments(prompt=works)).image_embeds.shape == (1, WIDTH)


def test_a_negative_text_needs_the_text_encoder(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    folder = fake_bundle.write(tmp_path / "b", fake_bundle.with_prior(without=("text_encoder",)))
    with pytest.raises(UsageError, match="cannot do prompt"):
        PriorPipeline.load(folder, "fake")(**arguments(prompt=PICTURE, negative_prompt="cats"))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04", "cannot be read"),
        (b"\x93NUMPY\x01\x00", "cannot be read"),
        (fake_bundle.packed(**{**CONSTANTS, "clip_std": np.array([{}])}), "cannot be read"),
        (fake_bundle.packed(clip_mean=CONSTANTS["clip_mean"]), "2 faults:\n.*`clip_std` is missing\n.*`negative_image"),
        (
            fake_bundle.packed(**{**CONSTANTS, "clip_std": np.ones((1, 7), np.float32)}),
            r"`clip_std` is float32 \(1, 7\); expected float32 \(1, 6\), the decoder's width",
        ),
        (fake_bundle.packed(**{**CONSTANTS, "clip_std": np.ones((1, 6))}), "`clip_std` is float64"),
        (
            fake_bundle.packed(**{**CONSTANTS, "clip_mean": CONSTANTS["clip_mean"] * np.float32(np.nan)}),
            "`clip_mean` has NaN or infinity",
        ),
    ],
)
def test_invalid_constants_are_refused(
    prior_bundle: Path, fake_engine: type[FakeEngine], data: bytes, fault: str
) -> None:
    fake_bundle.replace(prior_bundle, CONSTANTS_FILE, data)
    with pytest.raises(BundleError, match=f"(?s){fault}"):
        PriorPipeline.load(prior_bundle, "fake")(**arguments())
    assert not fake_engine.loaded


@pytest.mark.parametrize("path", [CONSTANTS_FILE, *PRIOR.tokenizer.values()])
def test_changed_files_are_refused(prior_bundle: Path, fake_engine: type[FakeEngine], path: str) -> None:
    file = prior_bundle / path
    file.write_bytes(file.read_bytes().swapcase())
    with pytest.raises(BundleError, match=f"{path} has changed since it was written"):
        PriorPipeline.load(prior_bundle, "fake")(**arguments())
    assert not fake_engine.loaded


@pytest.mark.parametrize("path", [CONSTANTS_FILE, *PRIOR.tokenizer.values()])
def test_missing_files_are_refused(prior_bundle: Path, path: str) -> None:
    (prior_bundle / path).unlink()
    with pytest.raises(BundleError, match=f"{path} is missing"):
        Bundle.open(prior_bundle)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"eos_token_id": 3}, "`eos_token_id` is 3; its tokenizer ends texts with another token"),
        ({"eos_token_id": 10**30}, "its tokenizer ends texts with another token"),
        ({"tokenizer_config": {"bos_token": "<s>"}}, "the vocabulary lacks '<s>', the `bos_token`"),
        ({"scheduler": fake_bundle.UNCLIP | {"variance_type": "learned_range"}}, "has a learned variance"),
    ],
)
def test_a_prior_whose_parts_do_not_fit_is_refused(
    tmp_path: Path, fake_engine: type[FakeEngine], changes: Any, fault: str
) -> None:
    folder = fake_bundle.write(tmp_path / "b", fake_bundle.with_prior(prior=replace(PRIOR, **changes)))
    with pytest.raises(BundleError, match=fault):
        PriorPipeline.load(folder, "fake")(**arguments())
    assert not fake_engine.loaded


def test_an_unsupported_image_processor_is_refused(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    entry = replace(PRIOR, image_processor={"do_center_crop": False})
    folder = fake_bundle.write(tmp_path / "b", fake_bundle.with_prior(prior=entry))
    with PriorPipeline.load(folder, "fake") as prior:
        prior(**arguments())
        with pytest.raises(BundleError, match="image processor setting `do_center_crop` is False"):
            prior(**arguments(prompt=PICTURE))


def test_texts_need_the_tokenizers_library(
    prior: PriorPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "tokenizers":
            raise ImportError("No module named 'tokenizers'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EngineUnavailable, match=r"pip install 'kandinsky22-deploy\[prompt\]'"):
        prior(**arguments())
    assert prior(**arguments(prompt=PICTURE)).image_embeds.shape == (1, WIDTH), "pictures need no tokenizer"
    assert fake_engine.loaded == ["image_encoder"]


def test_the_manifest_lists_the_task_and_the_constants_are_public(prior: PriorPipeline) -> None:
    assert PROMPT in prior.graphs.bundle.manifest.tasks
    assert_close(prior.negative_image_embeds, NO_PICTURE)
