"""Text-to-image and image-to-image on a fake engine: every number is recomputed, every way to go wrong is tried."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.errors import Cancelled, InputError, NonFiniteError, SchedulerError, UsageError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import NoiseSource, NumpyNoise, ReplayNoise, TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, DDPM, FACTOR, MULTIPLE, UNIT, WIDTH, FakeEngine
from tests.runtime.prior_recomputed import STEPS as PRIOR_STEPS
from tests.runtime.prior_recomputed import embedding
from tests.tolerances import LATENTS, SAME_RUN

RNG = np.random.default_rng(22)
HEIGHT, ACROSS = 64, 80
GRID = HEIGHT // FACTOR, ACROSS // FACTOR
PICTURE = RNG.integers(0, 256, (HEIGHT, ACROSS, 3), np.uint8)
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)
STEPS = 10


def sound(**changes: Any) -> dict[str, Any]:
    return {
        "image_embeds": EMBEDS,
        "negative_image_embeds": NEGATIVE,
        "height": HEIGHT,
        "width": ACROSS,
        "num_inference_steps": STEPS,
        "seed": 5,
        "output_type": "np",
    } | changes


def prompted(**changes: Any) -> dict[str, Any]:
    """`sound` with a prompt in place of the embeddings."""
    embeddings = {"image_embeds": None, "negative_image_embeds": None}
    return sound(prompt="a hat", **embeddings, prior_num_inference_steps=PRIOR_STEPS, **changes)


def changing(**changes: Any) -> dict[str, Any]:
    """`sound` with a picture to change."""
    return sound(image=PICTURE, strength=0.45) | changes


def runs(engine: type[FakeEngine], component: str) -> list[Any]:
    return [feeds for name, feeds in engine.runs if name == component]


def recomputed(
    *,
    image: bool,
    scale: float = 4.0,
    scheduler: str | None = None,
    source: NoiseSource | None = None,
    taken: int = STEPS,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Latents after every step and the decoder's picture in [0, 1], the plain way, of the last `taken` steps."""
    noise, first, shape = source or TorchNoise(5), STEPS - taken, (1, CHANNELS, *GRID)
    method = schedulers.load(DDPM, scheduler)
    sampler = method.sampler(STEPS, shape, first=first)
    latents = noise.draw(shape)
    if image:
        pixels = np.ascontiguousarray(PICTURE.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(127.5) - 1
        clean = fake_bundle.movq_encoder(pixels)["latents"]
        alpha = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))[int(sampler.timesteps[first])]
        latents = np.sqrt(alpha) * clean + np.sqrt(1 - alpha) * latents
        if scheduler == "euler":
            latents /= np.sqrt(alpha)
        latents = latents.astype(np.float32)
    else:
        latents = latents * np.float32(sampler.init_noise_sigma)
    history = []
    for i in range(first, STEPS):
        sample, timestep = sampler.scale_model_input(i, latents), sampler.timesteps[i : i + 1].astype(np.float32)
        output = fake_bundle.unet(sample, timestep, EMBEDS)["noise_pred"][:, :CHANNELS]
        if scale > 1:
            negative = fake_bundle.unet(sample, timestep, NEGATIVE)["noise_pred"][:, :CHANNELS]
            output = negative + np.float32(scale) * (output - negative)
        drawn = noise.draw(shape) if sampler.draws_noise(i) else None
        latents = sampler.step(i, np.ascontiguousarray(output), latents, drawn).copy()
        history.append(latents)
    return history, fake_bundle.movq_decoder(latents)["image"][0].transpose(1, 2, 0) / 2 + 0.5


# -- the numbers --


@pytest.mark.parametrize("scale", [0, 1, np.float32(1.5), 4.0])
@pytest.mark.parametrize("image", [False, True])
def test_every_step_against_a_recomputation(generator: GeneratePipeline, scale: float, image: bool) -> None:
    expected, picture = recomputed(image=image, scale=float(scale), taken=4 if image else STEPS)
    seen: list[Any] = []
    options = changing() if image else sound()
    look = lambda _, i, t, values: seen.append((i, t, values["latents"]))  # noqa: E731
    output = generator(**options, guidance_scale=scale, callback_on_step_end=look)
    assert [(i, t) for i, t, _ in seen] == list(enumerate(range(901, 0, -100)))[-len(expected) :]
    for (_, _, got), want in zip(seen, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=LATENTS)
    np.testing.assert_allclose(output.images, picture.clip(0, 1)[None], rtol=0, atol=LATENTS)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc", "euler"])
@pytest.mark.parametrize("image", [False, True])
def test_other_schedulers_against_a_recomputation(generator: GeneratePipeline, scheduler: str, image: bool) -> None:
    expected, _ = recomputed(image=image, scheduler=scheduler, taken=4 if image else STEPS)
    options = changing() if image else sound()
    output = generator(**options | {"scheduler": scheduler, "output_type": "latent"})
    scale = np.abs(expected[-1]).max()
    np.testing.assert_allclose(output.images / scale, expected[-1] / scale, rtol=0, atol=LATENTS)


@pytest.mark.parametrize("image", [False, True])
def test_a_prompt_draws_before_the_decoder(generator: GeneratePipeline, image: bool) -> None:
    source = TorchNoise(5)
    positive, negative = embedding("a hat", "a bad cat", source)
    options = {"image": PICTURE, "strength": 0.45} if image else {}
    expected = generator(**sound(image_embeds=positive, negative_image_embeds=negative, noise=source, **options))
    output = generator(**prompted(negative_prompt="a bad cat", **options))
    np.testing.assert_allclose(output.images, expected.images, rtol=0, atol=SAME_RUN)
    assert output.seeds == (5,)


def test_strength_one_still_begins_with_the_picture(generator: GeneratePipeline, fake_engine: type[FakeEngine]) -> None:
    whole = generator(**changing(strength=1))
    assert len(runs(fake_engine, "unet")) == STEPS
    expected, _ = recomputed(image=True)
    np.testing.assert_allclose(
        generator(**changing(strength=1, output_type="latent")).images, expected[-1], atol=LATENTS
    )
    assert np.abs(whole.images - generator(**sound()).images).max() > 0.01


def test_little_strength_changes_little(generator: GeneratePipeline) -> None:
    latents = generator(**changing(strength=0.1, output_type="latent")).images
    pixels = PICTURE.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - 1
    clean = fake_bundle.movq_encoder(np.ascontiguousarray(pixels))["latents"]
    assert np.abs(latents - clean).max() < 0.25
    assert np.abs(generator(**changing(strength=1, output_type="latent")).images - clean).max() > 1


def test_what_the_unet_is_given(generator: GeneratePipeline, fake_engine: type[FakeEngine]) -> None:
    generator(**sound(num_images_per_prompt=2))
    steps = runs(fake_engine, "unet")
    assert {name: array.shape for name, array in steps[0].items()} == {
        "sample": (4, CHANNELS, *GRID),
        "timestep": (4,),
        "image_embeds": (4, WIDTH),
    }
    np.testing.assert_array_equal(steps[0]["image_embeds"], np.concatenate([NEGATIVE, NEGATIVE, EMBEDS, EMBEDS]))
    assert {array.dtype for _, feeds in fake_engine.runs for array in feeds.values()} == {np.dtype(np.float32)}


# -- batches and noise --


def test_a_sample_is_the_same_alone_and_in_a_batch(generator: GeneratePipeline) -> None:
    options = {"image": [PICTURE, PICTURE[::-1]], "prompt": ["a hat", "cats"], "negative_prompt": ["", "a bad cat"]}
    together = generator(**prompted() | {"strength": 0.45, "num_images_per_prompt": 2} | options)
    assert together.seeds == (5, 6, 7, 8)
    for row, seed in enumerate(together.seeds):
        own = {name: values[row // 2] for name, values in options.items()}
        alone = generator(**prompted() | {"strength": 0.45, "seed": seed} | own)
        np.testing.assert_allclose(together.images[row : row + 1], alone.images, rtol=0, atol=SAME_RUN)


def test_a_picture_is_encoded_once(generator: GeneratePipeline, fake_engine: type[FakeEngine]) -> None:
    generator(**changing(num_images_per_prompt=3))
    assert len(runs(fake_engine, "movq_encoder")) == 1


@pytest.mark.parametrize("options", [prompted(), prompted(image=PICTURE, strength=0.45)])
def test_recorded_noise_gives_the_same_picture(generator: GeneratePipeline, tmp_path: Path, options: Any) -> None:
    path = tmp_path / "noise.npz"
    recorded = generator(**options, record_noise=path, num_images_per_prompt=2)
    np.testing.assert_array_equal(recorded.images, generator(**options, num_images_per_prompt=2).images)
    replayed = generator(**options, noise=ReplayNoise(path), num_images_per_prompt=2)
    np.testing.assert_array_equal(replayed.images, recorded.images)
    assert replayed.seeds == (None, None)
    with np.load(path) as archive:
        taken = 4 if "image" in options else STEPS
        assert len(archive.files) == 2 * PRIOR_STEPS + 1 + taken


def test_kinds_of_noise(generator: GeneratePipeline) -> None:
    expected, _ = recomputed(image=False, source=NumpyNoise(5))
    for noise in ("numpy", NumpyNoise(5)):
        output = generator(**sound(noise=noise, output_type="latent"))
        np.testing.assert_allclose(output.images, expected[-1], rtol=0, atol=LATENTS)
    drawn = generator(**sound(seed=None))
    np.testing.assert_array_equal(generator(**sound(seed=drawn.seeds)).images, drawn.images)


@pytest.mark.parametrize("image", [False, True])
def test_latents_of_the_caller(generator: GeneratePipeline, image: bool) -> None:
    given = NumpyNoise(1).draw((1, CHANNELS, *GRID))
    before = given.copy()
    expected, _ = recomputed(image=image, scheduler="ddim", source=NumpyNoise(1), taken=4 if image else STEPS)
    options = (changing() if image else sound()) | {"latents": given, "scheduler": "ddim", "output_type": "latent"}
    np.testing.assert_allclose(generator(**options).images, expected[-1], rtol=0, atol=LATENTS)
    np.testing.assert_array_equal(given, before)


# -- results --


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (200, 79)])
@pytest.mark.parametrize("output_type", ["pil", "np"])
def test_the_result_has_the_size_asked_for(
    generator: GeneratePipeline, size: tuple[int, int], output_type: str, fake_engine: type[FakeEngine]
) -> None:
    (height, width), large = size, PICTURE.repeat(4, axis=0).repeat(4, axis=1)
    options = {"output_type": output_type, "num_inference_steps": 4}
    for result in (
        generator(**sound(height=height, width=width, **options)),
        generator(**changing(height=height, width=width, **options)),
        generator(**changing(image=large[:height, :width], height=None, width=None, **options)),
    ):
        assert np.asarray(result.images[0]).shape == (*size, 3)
    cells = {feeds["sample"].shape[2:] for feeds in runs(fake_engine, "unet")}
    assert cells == {tuple(-(-side // MULTIPLE) * UNIT for side in size)}


def test_without_a_size_it_is_512(generator: GeneratePipeline) -> None:
    assert generator(**sound(height=None, width=None, num_inference_steps=1)).images.shape == (1, 512, 512, 3)


def test_output_types_agree(generator: GeneratePipeline, fake_engine: type[FakeEngine]) -> None:
    floats = generator(**sound()).images
    pictures = generator(**sound(output_type="pil")).images
    assert all(isinstance(picture, Image.Image) and picture.mode == "RGB" for picture in pictures)
    np.testing.assert_array_equal(np.rint(floats * 255), [np.asarray(picture) for picture in pictures])
    assert (floats.min() >= 0) & (floats.max() <= 1)


@pytest.mark.parametrize(
    ("options", "loaded"),
    [
        (sound(), ["unet", "movq_decoder"]),
        (sound(output_type="latent"), ["unet"]),
        (changing(), ["movq_encoder", "unet", "movq_decoder"]),
        (changing(output_type="latent"), ["movq_encoder", "unet"]),
        (prompted(), ["text_encoder", "prior", "unet", "movq_decoder"]),
    ],
)
@pytest.mark.parametrize("low_memory", [False, True])
def test_only_what_is_needed_is_loaded(
    plain_bundle: Path, fake_engine: type[FakeEngine], options: Any, loaded: list[str], low_memory: bool
) -> None:
    with GeneratePipeline.load(plain_bundle, "fake", low_memory=low_memory) as pipeline:
        pipeline(**options)
        assert fake_engine.loaded == loaded
        assert fake_engine.released == (loaded if low_memory else [])


def test_tiles(plain_bundle: Path, fake_engine: type[FakeEngine]) -> None:
    options = sound(height=64, width=600, num_inference_steps=1)
    with GeneratePipeline.load(plain_bundle, "fake", tiles=True) as pipeline:
        assert pipeline(**options).images.shape == (1, 64, 600, 3)
    assert len(runs(fake_engine, "movq_decoder")) == 2


def test_notes_and_seconds(generator: GeneratePipeline) -> None:
    output = generator(**prompted() | {"prompt": "a very long prompt"})
    assert output.notes == ("a prompt has more tokens than the text encoder takes; its end was cut off: 'rompt'",)
    assert set(output.seconds) == {"encode_text", "prior", "load", "denoise", "unet", "decode"}
    assert generator(**sound()).notes == ()


def test_nothing_that_came_in_is_modified(generator: GeneratePipeline) -> None:
    arrays = {"image": PICTURE.copy(), "image_embeds": EMBEDS.copy(), "negative_image_embeds": NEGATIVE.copy()}
    before = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.setflags(write=False)
    generator(**changing(**arrays))
    for name, array in before.items():
        np.testing.assert_array_equal(arrays[name], array)


# -- onlookers --


def test_a_callback_may_return_other_latents(generator: GeneratePipeline) -> None:
    def replace(pipe: GeneratePipeline, step: int, _: float, values: dict[str, np.ndarray]) -> Any:
        assert pipe is generator
        return {"latents": np.zeros(values["latents"].shape)} if step == STEPS - 1 else None

    for options in (sound(), changing()):
        assert not generator(**options | {"callback_on_step_end": replace, "output_type": "latent"}).images.any()
    with pytest.raises(InputError, match=r"latents from callback_on_step_end: the shape is \(1, 2\)"):
        generator(**sound(callback_on_step_end=lambda *_: {"latents": np.zeros((1, 2))}))


def test_cancel(generator: GeneratePipeline, fake_engine: type[FakeEngine]) -> None:
    cancel = threading.Event()

    def stop(_: Any, step: int, *__: Any) -> None:
        if step == 7:
            cancel.set()

    with pytest.raises(Cancelled, match="cancelled before step 9 of 10"):
        generator(**changing(callback_on_step_end=stop, cancel=cancel))
    assert len(runs(fake_engine, "unet")) == 2, "the first step of four is the seventh of ten"


def test_progress_counts_the_steps_that_are_taken(
    generator: GeneratePipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    generator(**changing(progress=True))
    out, err = capfd.readouterr()
    assert out == ""
    assert "generating: 100%" in err
    assert "4/4" in err


# -- what goes wrong --


@pytest.mark.parametrize(
    ("options", "component", "text"),
    [
        (changing(), "movq_encoder", "movq_encoder on fake, picture 1 of 1"),
        (changing(), "unet", r"unet on fake, step 7 of 10 \(timestep 301\)"),
        (sound(), "movq_decoder", "movq_decoder on fake, result 1 of 1"),
        (prompted(), "text_encoder", "text_encoder on fake"),
    ],
)
def test_nan_names_step_component_and_tensor(
    generator: GeneratePipeline,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: Any,
    component: str,
    text: str,
) -> None:
    def spoil(got: str, _: int, outputs: fake_bundle.Outputs) -> fake_bundle.Outputs:
        return {name: array * np.float32(np.nan if got == component else 1) for name, array in outputs.items()}

    monkeypatch.setattr(fake_engine, "alter", staticmethod(spoil))
    with pytest.raises(NonFiniteError, match=text):
        generator(**options, record_noise=tmp_path / "noise.npz")
    assert not list(tmp_path.glob("*noise*"))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"output_type": "pt"}, UsageError, "output_type is 'pt'; choose from pil, np, latent"),
        ({"scheduler": "magic"}, SchedulerError, "scheduler 'magic' is not supported; choose one of ddpm"),
        ({"num_inference_steps": 0}, UsageError, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, SchedulerError, "num_inference_steps is 1001"),
        ({"strength": 0.5}, InputError, "strength goes with a picture"),
        ({"image": PICTURE, "strength": 0.05}, InputError, r"strength 0\.05 of 10 steps leaves none"),
        ({"image": PICTURE, "strength": 1.5}, InputError, r"strength is 1\.5"),
        ({"image": [PICTURE] * 2, "image_embeds": np.ones((3, WIDTH))}, InputError, "got 2 image, 3 image_embeds"),
        ({"image_embeds": EMBEDS[:, :5]}, InputError, "the width is 5; this bundle takes 6"),
        ({"prompt": "a hat"}, UsageError, "a prompt takes the place of image_embeds"),
        ({"noise": "loud"}, UsageError, "noise is 'loud'"),
        ({"record_noise": 3}, InputError, "record_noise is 3"),
        ({"cancel": True}, UsageError, "cancel is True"),
        ({"callback_on_step_end": 3}, UsageError, "callback_on_step_end is 3"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    generator: GeneratePipeline, fake_engine: type[FakeEngine], changes: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        generator(**sound(**changes))
    assert not fake_engine.loaded


def test_a_bundle_that_does_one_task_only(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    for task, fails in (("text-to-image", changing()), ("image-to-image", sound())):
        described = fake_bundle.with_prior(plain=True, tasks=(task,))
        with GeneratePipeline.load(fake_bundle.write(tmp_path / task, described), "fake") as pipeline:
            with pytest.raises(UsageError, match=f"cannot do .*: it does {task}; export one from a plain decoder"):
                pipeline(**fails)
            assert not fake_engine.loaded
