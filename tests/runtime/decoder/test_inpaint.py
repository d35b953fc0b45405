"""The whole run on a fake engine: every number is recomputed, every way to go wrong is tried."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import (
    BundleError,
    Cancelled,
    EngineError,
    EngineUnavailable,
    InputError,
    NonFiniteError,
    SchedulerError,
    UsageError,
)
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import NumpyNoise, ReplayNoise, TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, COMPONENTS, DDPM, FACTOR, WIDTH, FakeEngine, Outputs
from tests.tolerances import LATENTS, PIXELS

RNG = np.random.default_rng(22)
HEIGHT, ACROSS = 64, 80
GRID = HEIGHT // FACTOR, ACROSS // FACTOR
PICTURE = RNG.integers(0, 256, (HEIGHT, ACROSS, 3), np.uint8)
MASK = np.zeros((HEIGHT, ACROSS), np.uint8)
MASK[16:48, 24:60] = 255
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)
STEPS = 4


def sound(**changes: Any) -> dict[str, Any]:
    return {
        "image": PICTURE,
        "mask_image": MASK,
        "image_embeds": EMBEDS,
        "negative_image_embeds": NEGATIVE,
        "num_inference_steps": STEPS,
        "seed": 5,
        "output_type": "np",
    } | changes


def other_picture(seed: int, height: int = HEIGHT, width: int = ACROSS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def runs(engine: type[FakeEngine], component: str) -> list[Any]:
    return [feeds for name, feeds in engine.runs if name == component]


# -- the loop's numbers --


def encoded_picture() -> np.ndarray:
    image = np.ascontiguousarray(PICTURE.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(127.5) - 1
    return fake_bundle.movq_encoder(image)["latents"]


def recomputed(
    *, guidance_scale: float, scheduler: str | None = None, config: Any = DDPM, noise: Any = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Latents after every step and the decoder's picture in [0, 1], the plain way."""
    noise = noise or TorchNoise(5)
    repaint = np.zeros(GRID, bool)
    repaint[2:6, 3:8] = True  # rows 16..47 and columns 24..59 in cells of 8
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1)):
        grown = np.zeros(GRID, bool)
        grown[2 + down : 6 + down, 3 + right : 8 + right] = True
        repaint = repaint | grown
    keep = (~repaint[None, None]).astype(np.float32)
    original = encoded_picture()

    shape = (1, CHANNELS, *GRID)
    first = noise.draw(shape)
    method = schedulers.load(config, scheduler)
    sampler = method.sampler(STEPS, shape)
    alphas = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
    latents, history = first * np.float32(sampler.init_noise_sigma), []
    for i, t in enumerate(sampler.timesteps):
        sample = np.concatenate([sampler.scale_model_input(i, latents), original * keep, keep], axis=1)
        timestep = np.array([t], np.float32)
        output = fake_bundle.unet(sample, timestep, EMBEDS)["noise_pred"]
        if guidance_scale > 1:
            negative = fake_bundle.unet(sample, timestep, NEGATIVE)["noise_pred"]
            output[:, :4] = negative[:, :4] + guidance_scale * (output[:, :4] - negative[:, :4])
        if not method.predicts_variance:
            output = output[:, :4]
        drawn = noise.draw(shape) if sampler.draws_noise(i) else None
        stepped = sampler.step(i, np.ascontiguousarray(output), latents, drawn)
        known = original
        if i + 1 < STEPS:
            alpha = alphas[int(sampler.timesteps[i + 1])]
            known = math.sqrt(alpha) * original + math.sqrt(1 - alpha) * first
            if scheduler == "euler":
                known = original + math.sqrt((1 - alpha) / alpha) * first
        latents = (keep * known + (1 - keep) * stepped).astype(np.float32)
        history.append(latents)
    return history, fake_bundle.movq_decoder(latents)["image"][0].transpose(1, 2, 0) / 2 + 0.5


@pytest.mark.parametrize("guidance_scale", [0, 0.5, 1, np.float32(1.5), 4.0])
def test_every_step_against_a_recomputation(pipeline: InpaintPipeline, guidance_scale: float) -> None:
    expected, picture = recomputed(guidance_scale=guidance_scale)
    latents = []
    output = pipeline(
        **sound(
            guidance_scale=guidance_scale,
            composite="none",
            callback_on_step_end=lambda _, i, t, values: latents.append((i, t, values["latents"])),
        )
    )
    assert [(i, t) for i, t, _ in latents] == [(0, 751), (1, 501), (2, 251), (3, 1)]
    for (_, _, mine), want in zip(latents, expected, strict=True):
        np.testing.assert_allclose(mine, want, rtol=0, atol=LATENTS)
    np.testing.assert_allclose(output.images[0], picture, rtol=0, atol=PIXELS)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_other_schedulers_against_a_recomputation(pipeline: InpaintPipeline, scheduler: str) -> None:
    expected, _ = recomputed(guidance_scale=4.0, scheduler=scheduler)
    output = pipeline(**sound(scheduler=scheduler, output_type="latent"))
    scale = np.abs(expected[-1]).max()
    np.testing.assert_allclose(output.images / scale, expected[-1] / scale, rtol=0, atol=LATENTS)


def test_learned_variance_against_a_recomputation(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    config = DDPM | {"variance_type": "learned_range"}
    with InpaintPipeline.load(fake_bundle.opened(tmp_path / "b", scheduler=config), "fake") as pipeline:
        output = pipeline(**sound(output_type="latent"))
        expected, _ = recomputed(guidance_scale=4.0, config=config)
        np.testing.assert_allclose(output.images, expected[-1], rtol=0, atol=LATENTS)
        plain, _ = recomputed(guidance_scale=4.0)
        assert np.abs(output.images - plain[-1]).max() > 1e-2, "the variance channels are used"


def test_learned_variance_needs_its_channels(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    config = DDPM | {"variance_type": "learned_range"}
    opened = fake_bundle.opened(tmp_path / "b", scheduler=config, specs=fake_bundle.signatures(out_channels=CHANNELS))
    with pytest.raises(UsageError, match="this UNet's 4 output channels carry none: choose another scheduler"):
        InpaintPipeline.load(opened, "fake")(**sound())
    assert not fake_engine.loaded


def test_unet_without_variance_channels(
    tmp_path: Path, fake_engine: type[FakeEngine], pipeline: InpaintPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline(**sound()).images
    opened = fake_bundle.opened(tmp_path / "b", specs=fake_bundle.signatures(out_channels=CHANNELS))
    alter = lambda component, _, outputs: {name: array[:, :4] for name, array in outputs.items()}  # noqa: E731
    monkeypatch.setattr(fake_engine, "alter", alter)
    np.testing.assert_array_equal(InpaintPipeline.load(opened, "fake")(**sound()).images, expected)


def test_what_the_unet_is_given(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    pipeline(**sound(num_images_per_prompt=2))
    feeds = runs(fake_engine, "unet")
    assert len(feeds) == STEPS
    assert {name: array.shape for name, array in feeds[0].items()} == {
        "sample": (4, 2 * CHANNELS + 1, *GRID),
        "timestep": (4,),
        "image_embeds": (4, WIDTH),
    }
    np.testing.assert_array_equal(feeds[0]["image_embeds"], np.concatenate([NEGATIVE, NEGATIVE, EMBEDS, EMBEDS]))
    np.testing.assert_array_equal(feeds[0]["sample"][:2], feeds[0]["sample"][2:])
    for step in feeds[1:]:
        for name, array in step.items():
            assert np.shares_memory(array, feeds[0][name]), f"{name} is allocated once"


def test_without_guidance_the_unet_runs_once_per_sample(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine]
) -> None:
    pipeline(**sound(guidance_scale=1, negative_image_embeds=None))
    assert {feeds["sample"].shape[0] for feeds in runs(fake_engine, "unet")} == {1}


def test_everything_stays_float32(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    wide = {name: value.astype(np.float64) for name, value in (("image_embeds", EMBEDS), ("latents", noise_of(1)))}
    for output_type in ("np", "latent"):
        output = pipeline(**sound(output_type=output_type, guidance_scale=np.float64(3), **wide))
        assert output.images.dtype == np.float32
    assert {array.dtype for _, feeds in fake_engine.runs for array in feeds.values()} == {np.dtype(np.float32)}


def noise_of(batch: int) -> np.ndarray:
    return NumpyNoise(1).draw((batch, CHANNELS, *GRID))


# -- batches --


def batch() -> dict[str, Any]:
    second = np.zeros_like(MASK)
    second[8:32, 40:72] = 255
    return {
        "image": [PICTURE, other_picture(1)],
        "mask_image": [MASK, second],
        "image_embeds": np.concatenate([EMBEDS, EMBEDS + 1]),
        "negative_image_embeds": np.concatenate([NEGATIVE, NEGATIVE - 1]),
    }


def alone(index: int) -> dict[str, Any]:
    return {name: values[index] for name, values in batch().items()}


@pytest.mark.parametrize("scheduler", [None, "dpm++sde", "euler"])
def test_a_sample_is_the_same_alone_and_in_a_batch(pipeline: InpaintPipeline, scheduler: str | None) -> None:
    together = pipeline(**sound(**batch(), seed=[9, 4], scheduler=scheduler, composite="none")).images
    assert together.shape == (2, HEIGHT, ACROSS, 3)
    for index, seed in enumerate((9, 4)):
        single = pipeline(**sound(**alone(index), seed=seed, scheduler=scheduler, composite="none")).images
        np.testing.assert_array_equal(together[index : index + 1], single)


def test_num_images_per_prompt(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    output = pipeline(**sound(**batch(), num_images_per_prompt=np.int32(2), seed=7))
    assert output.seeds == (7, 8, 9, 10)
    assert len(runs(fake_engine, "movq_encoder")) == 2, "a picture is encoded once"
    for index, seed in enumerate(output.seeds):
        single = pipeline(**sound(**alone(index // 2), seed=seed)).images
        np.testing.assert_array_equal(output.images[index : index + 1], single)


def test_what_is_given_once_serves_all(pipeline: InpaintPipeline) -> None:
    together = pipeline(**sound(image_embeds=batch()["image_embeds"], seed=[1, 1])).images
    assert np.abs(together[0] - together[1]).max() > 0
    np.testing.assert_array_equal(together[:1], pipeline(**sound(seed=1)).images)


# -- noise --


def test_seeds(pipeline: InpaintPipeline) -> None:
    first, again, other = (pipeline(**sound(seed=seed)).images for seed in (5, np.int64(5), 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    drawn = pipeline(**sound(seed=None))
    np.testing.assert_array_equal(pipeline(**sound(seed=drawn.seeds)).images, drawn.images)


def test_kinds_of_noise(pipeline: InpaintPipeline) -> None:
    expected, _ = recomputed(guidance_scale=4.0, noise=NumpyNoise(5))
    for noise in ("numpy", NumpyNoise(5)):
        output = pipeline(**sound(noise=noise, output_type="latent"))
        np.testing.assert_allclose(output.images, expected[-1], rtol=0, atol=LATENTS)
        assert output.seeds == ((5,) if noise == "numpy" else (None,))


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim"])
def test_recorded_noise_gives_the_same_picture(pipeline: InpaintPipeline, tmp_path: Path, scheduler: str) -> None:
    path = tmp_path / "noise.npz"
    options = sound(**batch(), seed=3, scheduler=scheduler)
    recorded = pipeline(**options, record_noise=path)
    np.testing.assert_array_equal(recorded.images, pipeline(**options).images)
    replayed = pipeline(**options, noise=ReplayNoise(path))
    np.testing.assert_array_equal(recorded.images, replayed.images)
    assert replayed.seeds == (None, None)
    with np.load(path) as archive:
        assert len(archive.files) == (STEPS + 1 if scheduler == "ddpm" else 1)


def test_a_recording_that_ends_too_early(pipeline: InpaintPipeline) -> None:
    with pytest.raises(InputError, match="all 2 draws are used"):
        pipeline(**sound(noise=ReplayNoise([noise_of(1), noise_of(1)])))


@pytest.mark.parametrize(("changes", "left"), [({"num_inference_steps": STEPS - 1}, 1), ({"scheduler": "ddim"}, STEPS)])
def test_a_recording_that_is_not_used_up_is_noted(
    pipeline: InpaintPipeline, tmp_path: Path, changes: dict[str, Any], left: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "noise.npz"
    options = sound(seed=3)
    assert pipeline(**options, record_noise=path).notes == pipeline(**options, noise=ReplayNoise(path)).notes
    caplog.clear()
    output = pipeline(**options | changes, noise=ReplayNoise(path))
    note = (
        f"noise recording {path}: {left} of its {STEPS + 1} draws {'was' if left == 1 else 'were'} not used; for the"
        " recorded picture, use the options of the recorded run"
    )
    assert note in output.notes
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [note]


def test_a_recording_is_written_at_the_end_or_not_at_all(pipeline: InpaintPipeline, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        pipeline(**sound(record_noise=tmp_path / "noise.npz", callback_on_step_end=fail))
    assert not list(tmp_path.glob("*noise*"))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nowhere/noise.npz", "record_noise nowhere/noise.npz: the folder nowhere does not exist; create it first"),
        (".", r"record_noise \. is a directory; add a file name to it"),
        (3, "record_noise is 3; expected the path of a file to write"),
        (b"x", "record_noise is b'x'; expected the path of a file to write"),
    ],
)
def test_a_recording_that_cannot_be_written(
    pipeline: InpaintPipeline,
    fake_engine: type[FakeEngine],
    path: Any,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        pipeline(**sound(record_noise=path))
    assert not fake_engine.loaded


def test_a_recording_that_fails_to_be_written(pipeline: InpaintPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def remove_folder(*_: Any) -> None:
        if folder.exists():
            folder.rmdir()

    output = pipeline(**sound(record_noise=folder / "noise.npz", callback_on_step_end=remove_folder))
    failure = f"the noise recording {folder / 'noise.npz'} cannot be written: No such file or directory"
    assert output.failures == (failure,)
    assert failure in output.notes
    np.testing.assert_array_equal(output.images, pipeline(**sound()).images)


def test_latents_of_the_caller(pipeline: InpaintPipeline) -> None:
    given = noise_of(1)
    before = given.copy()
    output = pipeline(**sound(latents=given, scheduler="ddim", output_type="latent"))
    expected, _ = recomputed(guidance_scale=4.0, scheduler="ddim", noise=NumpyNoise(1))
    np.testing.assert_allclose(output.images, expected[-1], rtol=0, atol=LATENTS)
    np.testing.assert_array_equal(given, before)


# -- sizes --


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (79, 81), (200, 64)])
@pytest.mark.parametrize("output_type", ["pil", "np"])
def test_the_result_has_the_size_asked_for(
    pipeline: InpaintPipeline, size: tuple[int, int], output_type: str, fake_engine: type[FakeEngine]
) -> None:
    mask = np.zeros(size, np.uint8)
    mask[10:30, 20:50] = 255
    output = pipeline(**sound(image=other_picture(0, *size), mask_image=mask, output_type=output_type))
    assert np.asarray(output.images[0]).shape == (*size, 3)
    height, width = (math.ceil(side / fake_bundle.MULTIPLE) * fake_bundle.UNIT for side in size)
    assert runs(fake_engine, "unet")[0]["sample"].shape[2:] == (height, width)


def test_picture_and_mask_of_other_sizes(pipeline: InpaintPipeline) -> None:
    output = pipeline(**sound(image=other_picture(0, 30, 40), mask_image=MASK[::2], height=65, width=np.int64(130)))
    assert output.images.shape == (1, 65, 130, 3)


# -- results --


def test_output_types_agree(pipeline: InpaintPipeline) -> None:
    for composite in ("paste", "none"):
        floats = pipeline(**sound(composite=composite)).images
        pictures = pipeline(**sound(composite=composite, output_type="pil")).images
        assert all(isinstance(picture, Image.Image) and picture.mode == "RGB" for picture in pictures)
        np.testing.assert_array_equal(np.rint(floats * 255), [np.asarray(picture) for picture in pictures])
        assert floats.min() >= 0
        assert floats.max() <= 1


def test_paste_keeps_what_is_outside_the_mask_to_the_bit(pipeline: InpaintPipeline) -> None:
    (pasted,), (generated,) = (
        pipeline(**sound(output_type="pil", composite=composite)).images for composite in ("paste", "none")
    )
    pasted, generated = np.asarray(pasted), np.asarray(generated)
    np.testing.assert_array_equal(pasted[MASK == 0], PICTURE[MASK == 0])
    np.testing.assert_array_equal(pasted[MASK == 255], generated[MASK == 255])
    assert (generated[MASK == 0] != PICTURE[MASK == 0]).any()
    floats = pipeline(**sound()).images[0]
    np.testing.assert_array_equal(floats[MASK == 0] * np.float32(255), PICTURE[MASK == 0])


def test_latents_are_the_originals_where_they_are_kept(pipeline: InpaintPipeline) -> None:
    latents = pipeline(**sound(output_type="latent")).images
    original = encoded_picture()
    np.testing.assert_array_equal(latents[:, :, 0], original[:, :, 0])
    np.testing.assert_array_equal(latents[:, :, -1], original[:, :, -1])
    assert (latents[:, :, 3:5, 4:6] != original[:, :, 3:5, 4:6]).all()


def test_latents_need_no_decoder(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    pipeline(**sound(output_type="latent"))
    assert sorted(fake_engine.loaded) == ["movq_encoder", "unet"]


def test_white_mask(pipeline: InpaintPipeline) -> None:
    white = np.full_like(MASK, 255)
    latents = []
    output = pipeline(
        **sound(mask_image=white, callback_on_step_end=lambda _, __, ___, values: latents.append(values["latents"]))
    )
    np.testing.assert_array_equal(output.images, pipeline(**sound(mask_image=white, composite="none")).images)
    black_picture = pipeline(**sound(image=np.zeros_like(PICTURE), mask_image=white))
    np.testing.assert_array_equal(output.images, black_picture.images, "nothing of the picture is left")
    assert output.notes == ("mask: white is repainted; 1 of the picture",)


def test_black_mask_returns_the_picture_and_runs_nothing(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], caplog: pytest.LogCaptureFixture
) -> None:
    note = "the mask has nothing to repaint, its largest value is 0 of 255: the picture is returned as it is"
    black = np.zeros_like(MASK)
    for output_type, composite in (("pil", "paste"), ("np", "paste"), ("pil", "none")):
        caplog.clear()
        output = pipeline(
            **sound(mask_image=black, output_type=output_type, composite=composite, num_images_per_prompt=2)
        )
        assert len(output.images) == 2
        for picture in output.images:
            scale = 1 if output_type == "pil" else 255
            np.testing.assert_array_equal(np.asarray(picture) * np.float32(scale), PICTURE)
        assert output.notes == (note, "mask: white is repainted; 0 of the picture")
        assert output.seeds == (5, 6)
        assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, note)]
    assert fake_engine.runs == fake_engine.loaded == []


def test_results_of_a_black_mask_are_not_one_object(pipeline: InpaintPipeline) -> None:
    images = pipeline(**sound(mask_image=np.zeros_like(MASK), output_type="pil", num_images_per_prompt=2)).images
    images[0].putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(images[1], PICTURE)


def test_black_mask_as_latents_is_the_encoded_picture(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    output = pipeline(**sound(mask_image=np.zeros_like(MASK), output_type="latent"))
    np.testing.assert_array_equal(output.images, encoded_picture())
    assert fake_engine.loaded == ["movq_encoder"]


def test_a_black_mask_beside_others(pipeline: InpaintPipeline) -> None:
    output = pipeline(**sound(mask_image=[MASK, np.zeros_like(MASK)], output_type="pil"))
    assert output.notes[:1] == ("the mask of result 2 of 2 has nothing to repaint: largest value 0 of 255",)
    np.testing.assert_array_equal(output.images[1], PICTURE)


def test_seconds(pipeline: InpaintPipeline) -> None:
    seconds = pipeline(**sound()).seconds
    assert set(seconds) == {"load", "encode", "denoise", "unet", "decode"}
    assert 0 < seconds["unet"] < seconds["denoise"]


def test_nothing_that_came_in_is_modified(pipeline: InpaintPipeline) -> None:
    arrays = sound(image=PICTURE.copy(), mask_image=MASK / np.float32(255), latents=noise_of(1), invert_mask=True)
    before = {name: np.copy(value) for name, value in arrays.items() if isinstance(value, np.ndarray)}
    for name in before:
        arrays[name].setflags(write=False)
    pipeline(**arrays)
    picture, mask = Image.fromarray(PICTURE), Image.fromarray(MASK)
    pipeline(**sound(image=picture, mask_image=mask, output_type="pil"))
    for name, array in before.items():
        np.testing.assert_array_equal(arrays[name], array)
    np.testing.assert_array_equal(picture, PICTURE)
    np.testing.assert_array_equal(mask, MASK)


# -- onlookers --


def test_a_callback_may_return_other_latents(pipeline: InpaintPipeline) -> None:
    def replace(pipe: InpaintPipeline, step: int, _: float, values: dict[str, np.ndarray]) -> Any:
        assert pipe is pipeline
        return {"latents": np.zeros(values["latents"].shape)} if step == STEPS - 1 else {"other": 1}

    output = pipeline(**sound(callback_on_step_end=replace, output_type="latent"))
    assert not output.images.any()
    assert output.images.dtype == np.float32


def test_a_callback_may_change_latents_in_place(pipeline: InpaintPipeline) -> None:
    def change(_: Any, step: int, __: float, values: dict[str, np.ndarray]) -> None:
        if step == STEPS - 1:
            values["latents"][...] = 0

    assert not pipeline(**sound(callback_on_step_end=change, output_type="latent")).images.any()


def test_what_a_callback_keeps_stays_as_it_was(pipeline: InpaintPipeline) -> None:
    kept, copies = [], []

    def keep(_: Any, __: int, ___: float, values: dict[str, np.ndarray]) -> None:
        kept.append(values["latents"])
        copies.append(values["latents"].copy())

    output = pipeline(**sound(callback_on_step_end=keep, output_type="latent"))
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(output.images, pipeline(**sound(output_type="latent")).images)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ({"latents": np.zeros((1, 4, 2, 2))}, r"latents from callback_on_step_end: the shape is \(1, 4, 2, 2\)"),
        ({"latents": np.full((1, 4, *GRID), np.nan)}, "latents from callback_on_step_end: has NaN"),
        ({"latents": None}, "latents from callback_on_step_end: got NoneType"),
        (True, "callback_on_step_end returned True; expected None or a dict with `latents`"),
        (noise_of(1), "callback_on_step_end returned array"),
    ],
)
def test_what_a_callback_may_not_return(pipeline: InpaintPipeline, returned: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pipeline(**sound(callback_on_step_end=lambda *_: returned))


def test_an_error_in_a_callback_is_the_callers(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    def fail(_: Any, step: int, *__: Any) -> None:
        if step == 1:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="^mine$"):
        pipeline(**sound(callback_on_step_end=fail, progress=True))
    assert len(runs(fake_engine, "unet")) == 2
    assert pipeline(**sound()).images.shape == (1, HEIGHT, ACROSS, 3)


def test_cancel(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    cancel = threading.Event()

    def stop(_: Any, step: int, *__: Any) -> None:
        if step == 1:
            cancel.set()

    with pytest.raises(Cancelled, match="cancelled before step 3 of 4"):
        pipeline(**sound(callback_on_step_end=stop, cancel=cancel))
    assert len(runs(fake_engine, "unet")) == 2
    cancel.clear()
    pipeline(**sound(cancel=cancel))


def test_progress_goes_to_stderr(pipeline: InpaintPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline(**sound())
    assert capfd.readouterr() == ("", "")
    pipeline(**sound(progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "inpainting: 100%" in err
    assert "4/4" in err


# -- engines that fail --


def spoil(component: str, run: int, name: str, change: Any) -> Any:
    def alter(got: str, number: int, outputs: Outputs) -> Outputs:
        return {name: change(outputs[name])} if (got, number) == (component, run) else outputs

    return staticmethod(alter)


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[7] = np.nan
    return array


@pytest.mark.parametrize(
    ("component", "run", "tensor", "where"),
    [
        (
            "movq_encoder",
            0,
            "latents",
            "movq_encoder on fake, picture 1 of 1: 1 of the 320 values of `latents` are NaN",
        ),
        ("unet", 2, "noise_pred", r"unet on fake, step 3 of 4 \(timestep 251\): 1 of the 1,280 values of `noise_pred`"),
        ("movq_decoder", 1, "image", "movq_decoder on fake, result 2 of 2: 1 of the 15,360 values of `image` are NaN"),
    ],
)
def test_nan_names_step_component_and_tensor(
    pipeline: InpaintPipeline,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    run: int,
    tensor: str,
    where: str,
) -> None:
    monkeypatch.setattr(fake_engine, "alter", spoil(component, run, tensor, with_nan))
    count = 2 if component == "movq_decoder" else 1
    with pytest.raises(NonFiniteError, match=where):
        pipeline(**sound(num_images_per_prompt=count, guidance_scale=4 if count == 1 else 1))


def test_nan_in_the_variance_that_is_not_used(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late_nan(array: np.ndarray) -> np.ndarray:
        array[:, -1] = np.nan
        return array

    monkeypatch.setattr(fake_engine, "alter", spoil("unet", 0, "noise_pred", late_nan))
    with pytest.raises(NonFiniteError, match="step 1 of 4"):
        pipeline(**sound())


def test_finite_numbers_that_overflow(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def far_apart(array: np.ndarray) -> np.ndarray:
        array[:1], array[1:] = -1e38, 1e38
        return array

    monkeypatch.setattr(fake_engine, "alter", spoil("unet", 1, "noise_pred", far_apart))
    with pytest.raises(NonFiniteError, match="step 2 of 4"):
        pipeline(**sound(guidance_scale=1000))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("change", [lambda array: array[:, :1], lambda array: array.astype(np.float64)])
def test_wrong_shape_or_dtype_from_an_engine(
    pipeline: InpaintPipeline,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    change: Any,
) -> None:
    (tensor,) = (spec.name for spec in pipeline.bundle.component(component).spec.outputs)
    monkeypatch.setattr(fake_engine, "alter", spoil(component, 0, tensor, change))
    with pytest.raises(EngineError, match=f"{component} on fake, .*`{tensor}` came out as float.*; expected float32"):
        pipeline(**sound())


def test_an_engine_that_returns_what_may_not_be_written_to(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def frozen(_: str, __: int, outputs: Outputs) -> Outputs:
        for array in outputs.values():
            array.setflags(write=False)
        return outputs

    expected = pipeline(**sound()).images
    monkeypatch.setattr(fake_engine, "alter", staticmethod(frozen))
    np.testing.assert_array_equal(pipeline(**sound()).images, expected)


# -- bad input --


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"output_type": "pt"}, UsageError, "output_type is 'pt'; choose from pil, np, latent"),
        ({"output_type": None}, UsageError, "output_type is None; choose from pil, np, latent"),
        ({"composite": "glue"}, UsageError, "composite is 'glue'; choose from paste, blend, none"),
        ({"noise": "replay"}, UsageError, "noise is 'replay'; choose from torch, numpy"),
        ({"noise": 3}, UsageError, "noise is 3; choose from torch, numpy"),
        ({"callback_on_step_end": 3}, UsageError, "callback_on_step_end is 3; expected a function"),
        ({"cancel": True}, UsageError, "cancel is True; expected a threading.Event"),
        ({"scheduler": "magic"}, SchedulerError, "scheduler 'magic' is not supported; choose one of ddpm"),
        ({"scheduler": 3}, SchedulerError, "scheduler 3 is not supported; choose one of ddpm"),
        ({"num_inference_steps": 0}, UsageError, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, SchedulerError, "num_inference_steps is 1001"),
        ({"num_inference_steps": 2.0}, UsageError, "num_inference_steps is 2.0"),
        ({"image": other_picture(0, 63, 64)}, InputError, "the picture is 64x63 pixels"),
        ({"image_embeds": EMBEDS[:, :5]}, InputError, "the width is 5; this bundle takes 6"),
        ({"negative_image_embeds": None}, InputError, "which needs negative_image_embeds"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], changes: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        pipeline(**sound(**changes))
    assert not fake_engine.loaded


# -- life --


def test_graphs_are_loaded_once_and_released(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    assert fake_engine.loaded == []
    pipeline(**sound())
    pipeline(**sound())
    assert sorted(fake_engine.loaded) == sorted(COMPONENTS)
    pipeline.close()
    pipeline.close()
    assert sorted(fake_engine.released) == sorted(COMPONENTS)
    with pipeline as same:
        assert same is pipeline
        pipeline(**sound())
    assert sorted(fake_engine.released) == sorted([*COMPONENTS, *COMPONENTS])


def test_two_threads_at_once(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        sound(seed=seed, image=other_picture(seed), scheduler=name) for seed, name in enumerate(("ddpm", "euler"))
    ]
    expected = [pipeline(**item).images for item in options]
    pipeline.close()
    fake_engine.loaded.clear()
    load = fake_engine._open

    def load_slowly(*args: Any) -> None:
        threading.Event().wait(0.01)
        load(*args)

    monkeypatch.setattr(fake_engine, "_open", load_slowly)
    for _ in range(3):
        results: dict[int, np.ndarray] = {}
        start = threading.Barrier(4)

        def work(index: int, results: dict[int, np.ndarray] = results, start: threading.Barrier = start) -> None:
            start.wait()
            results[index] = pipeline(**options[index % 2]).images

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [0, 1, 2, 3]
        for index, images in results.items():
            np.testing.assert_array_equal(images, expected[index % 2])
    assert sorted(fake_engine.loaded) == sorted(COMPONENTS)


def test_load_from_an_opened_bundle(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    pipeline = InpaintPipeline.load(Bundle.open(bundle), engine="auto", precision="fp32", device="fake:1", threads=2)
    assert pipeline.selection.engine is fake_engine
    assert (pipeline.options.device, pipeline.options.thread_count) == ("fake:1", 2)
    assert pipeline(**sound()).images.shape == (1, HEIGHT, ACROSS, 3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine": "nonsense"}, UsageError),
        ({"precision": "fp8"}, UsageError),
        ({"device": "gpu"}, UsageError),
        ({"device": 0}, UsageError),
        ({"threads": 0}, UsageError),
        ({"precision": "bf16"}, EngineUnavailable),
        ({"bundle": "nowhere"}, BundleError),
        ({"bundle": None}, UsageError),
    ],
)
def test_what_cannot_be_loaded(
    bundle: Path, fake_engine: type[FakeEngine], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        InpaintPipeline.load(**{"bundle": bundle, "engine": "fake", **options})


def test_changed_files_are_found_before_a_graph_is_loaded(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    file = bundle / fake_bundle.path_of("unet")
    file.write_bytes(file.read_bytes().swapcase())
    with pytest.raises(BundleError, match="unet/graph.txt has changed"):
        InpaintPipeline.load(bundle, "fake")
    assert not fake_engine.loaded
