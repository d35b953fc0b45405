"""From a prompt to a picture: prior and decoder share one seed, one recording, and the memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import BundleError, Cancelled, InputError, NonFiniteError, UsageError
from kandinsky_runtime.prior.prompts import Mix
from kandinsky_runtime.sampling.noise import ReplayNoise, TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, COMPONENTS, CONSTANTS, FACTOR, SIDE, WIDTH, FakeEngine
from tests.runtime.prior_recomputed import NO_PICTURE, STEPS, embedding
from tests.tolerances import SAME_RUN

RNG = np.random.default_rng(22)
HEIGHT, ACROSS = 64, 80
GRID = HEIGHT // FACTOR, ACROSS // FACTOR
PICTURE = RNG.integers(0, 256, (HEIGHT, ACROSS, 3), np.uint8)
MASK = np.zeros((HEIGHT, ACROSS), np.uint8)
MASK[16:48, 24:60] = 255
HAT = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def sound(**changes: Any) -> dict[str, Any]:
    return {
        "prompt": "a hat",
        "image": PICTURE,
        "mask_image": MASK,
        "num_inference_steps": 3,
        "prior_num_inference_steps": STEPS,
        "seed": 5,
        "output_type": "np",
        "composite": "none",
    } | changes


def embeds(**changes: Any) -> dict[str, Any]:
    """`sound` with embeddings in place of the prompt."""
    options = sound(image_embeds=np.ones(WIDTH), negative_image_embeds=np.zeros(WIDTH), **changes)
    return {name: value for name, value in options.items() if name not in ("prompt", "prior_num_inference_steps")}


@pytest.mark.parametrize("negative", [None, "a bad cat"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_decoder_draws_on_where_the_prior_ended(
    prompted: InpaintPipeline, negative: str | None, scale: float
) -> None:
    source = TorchNoise(5)
    positive, away = embedding("a hat", negative, source, scale=2.0)
    expected = prompted(
        **embeds() | {"image_embeds": positive, "negative_image_embeds": away}, noise=source, guidance_scale=scale
    )
    output = prompted(**sound(negative_prompt=negative, guidance_scale=scale, prior_guidance_scale=2.0))
    np.testing.assert_allclose(output.images, expected.images, rtol=0, atol=SAME_RUN)
    assert output.seeds == (5,)
    assert len(output.notes) == 1, "what was understood of the mask"


def test_by_position_and_by_name(prompted: InpaintPipeline) -> None:
    rest = {name: value for name, value in sound().items() if name not in ("prompt", "image", "mask_image")}
    expected = prompted(**sound()).images
    for output in (
        prompted("a hat", PICTURE, MASK, **rest),
        prompted("a hat", image=PICTURE, mask_image=MASK, **rest),
        prompted(PICTURE, MASK, prompt="a hat", **rest),
    ):
        np.testing.assert_array_equal(output.images, expected)


@pytest.mark.parametrize(
    ("inputs", "named", "text"),
    [
        (("a hat",), {"image": PICTURE}, "mask_image must be given"),
        (("a hat",), {}, "mask_image must be given"),
        ((), {"prompt": "a hat"}, "image and mask_image must be given"),
        (("a hat", PICTURE, MASK), {"prompt": "a hat"}, "got 3 inputs by position and the same ones by name"),
        (("a hat", PICTURE, MASK, MASK), {}, "got 4 inputs by position"),
        ((PICTURE, MASK), {"image": PICTURE}, "got 2 inputs by position and the same ones by name"),
    ],
)
def test_inputs_that_are_missing_or_given_twice(
    prompted: InpaintPipeline, fake_engine: type[FakeEngine], inputs: tuple[Any, ...], named: Any, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        prompted(*inputs, **named)
    assert not fake_engine.loaded


PROMPTS = ["a hat", Mix(["cats", HAT], [0.5, 0.5]), "a very long prompt"]


def test_a_sample_is_the_same_alone_and_in_a_batch(prompted: InpaintPipeline) -> None:
    pictures = [PICTURE, PICTURE[::-1], PICTURE[:, ::-1]]
    options = {"negative_prompt": ["", "a bad cat", "hat"], "image": pictures}
    together = prompted(**sound(prompt=PROMPTS, **options, num_images_per_prompt=2))
    assert together.seeds == (5, 6, 7, 8, 9, 10)
    for row, seed in enumerate(together.seeds):
        own = {name: values[row // 2] for name, values in options.items()}
        alone = prompted(**sound(prompt=PROMPTS[row // 2], **own, seed=seed))
        np.testing.assert_allclose(together.images[row : row + 1], alone.images, rtol=0, atol=SAME_RUN)


def test_one_prompt_serves_every_picture(prompted: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    output = prompted(**sound(image=[PICTURE, PICTURE[::-1]], seed=[4, 4]))
    alone = prompted(**sound(image=PICTURE[::-1], seed=4))
    np.testing.assert_allclose(output.images[1:], alone.images, rtol=0, atol=SAME_RUN)


@pytest.mark.parametrize("negative", [None, "a bad cat"])
def test_a_recording_holds_the_noise_of_both_stages(
    prompted: InpaintPipeline, tmp_path: Path, negative: str | None
) -> None:
    path = tmp_path / "noise.npz"
    options = sound(prompt=PROMPTS, negative_prompt=negative, num_images_per_prompt=2)
    recorded = prompted(**options, record_noise=path)
    np.testing.assert_array_equal(recorded.images, prompted(**options).images)
    with np.load(path) as archive:
        shapes = [archive[name].shape for name in archive.files]
    row = (1 if negative is None else 2, WIDTH)
    one_run, mix = [row] * STEPS, [row] * 2 * STEPS
    assert shapes == [*one_run * 2, *mix * 2, *one_run * 2, *[(6, CHANNELS, *GRID)] * 4]
    replayed = prompted(**options, noise=ReplayNoise(path))
    np.testing.assert_array_equal(replayed.images, recorded.images)
    assert set(replayed.seeds) == {None}


def test_low_memory_has_one_graph_at_a_time(prior_bundle: Path, fake_engine: type[FakeEngine]) -> None:
    options = sound(prompt=Mix(["a hat", HAT], [1, 1]))
    expected = InpaintPipeline.load(prior_bundle, "fake")(**options).images
    fake_engine.loaded.clear()
    with InpaintPipeline.load(prior_bundle, "fake", low_memory=True) as pipeline:
        np.testing.assert_array_equal(pipeline(**options).images, expected)
    order = ["image_encoder", "text_encoder", "prior", "movq_encoder", "unet", "movq_decoder"]
    assert fake_engine.loaded == fake_engine.released == order


def test_graphs_of_the_prior_are_loaded_for_prompts_only(
    prompted: InpaintPipeline, fake_engine: type[FakeEngine]
) -> None:
    prompted(**embeds())
    assert sorted(fake_engine.loaded) == sorted(COMPONENTS)
    prompted(**sound())
    assert sorted(fake_engine.loaded) == sorted([*COMPONENTS, "text_encoder", "prior"])


def test_nothing_to_repaint_needs_no_prior(prompted: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    output = prompted(**sound(mask_image=np.zeros_like(MASK), output_type="pil"))
    np.testing.assert_array_equal(output.images[0], PICTURE)
    assert not fake_engine.loaded


def test_a_callback_sees_the_decoders_steps(prompted: InpaintPipeline) -> None:
    seen: list[Any] = []
    prompted(**sound(callback_on_step_end=lambda *values: seen.append((values[0], values[1]))))
    assert seen == [(prompted, 0), (prompted, 1), (prompted, 2)]


def test_cancelled_in_the_prior(
    prompted: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = threading.Event()

    def stop(component: str, number: int, outputs: fake_bundle.Outputs) -> fake_bundle.Outputs:
        if (component, number) == ("prior", 1):
            cancel.set()
        return outputs

    monkeypatch.setattr(fake_engine, "alter", staticmethod(stop))
    with pytest.raises(Cancelled, match="cancelled before step 3 of 5"):
        prompted(**sound(cancel=cancel))
    assert "unet" not in fake_engine.loaded


def test_nan_in_the_prior_writes_no_recording(
    prompted: InpaintPipeline, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spoil(component: str, _: int, outputs: fake_bundle.Outputs) -> fake_bundle.Outputs:
        spoiled = np.float32(np.nan if component == "prior" else 1)
        return {name: array * spoiled for name, array in outputs.items()}

    monkeypatch.setattr(fake_engine, "alter", staticmethod(spoil))
    with pytest.raises(NonFiniteError, match="prior on fake, step 1 of 5"):
        prompted(**sound(record_noise=tmp_path / "noise.npz"))
    assert not list(tmp_path.glob("*noise*"))


def test_progress_and_seconds_by_stage(prompted: InpaintPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    seconds = prompted(**sound(progress=True)).seconds
    _, err = capfd.readouterr()
    assert err.index("prior: 100%") < err.index("inpainting: 100%")
    assert set(seconds) == {"encode_text", "prior", "load", "encode", "denoise", "unet", "decode"}


def test_what_was_cut_off_a_prompt_is_told(prompted: InpaintPipeline) -> None:
    note, _ = prompted(**sound(prompt=["a hat", "a very long prompt"])).notes
    assert note == "a prompt has more tokens than the text encoder takes; its end was cut off: 'rompt'"


def test_the_embedding_of_no_picture_serves_embeddings(prompted: InpaintPipeline) -> None:
    expected = prompted(**embeds() | {"negative_image_embeds": NO_PICTURE}).images
    np.testing.assert_array_equal(prompted(**embeds() | {"negative_image_embeds": None}).images, expected)


# -- bad input --


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"prompt": None}, InputError, "there is no prompt and no image_embeds; give one of them"),
        ({"image_embeds": np.ones(WIDTH)}, UsageError, "a prompt takes the place of image_embeds"),
        ({"negative_image_embeds": np.ones(WIDTH)}, UsageError, "a prompt takes the place of image_embeds"),
        (
            {"prompt": None, "image_embeds": np.ones(WIDTH), "negative_prompt": "cats"},
            UsageError,
            "negative_prompt goes with a prompt; give negative_image_embeds with image_embeds",
        ),
        (
            {"prompt": None, "image_embeds": np.ones(WIDTH), "prior_num_inference_steps": 25},
            UsageError,
            "prior_num_inference_steps and prior_guidance_scale go with a prompt",
        ),
        (
            {"prompt": None, "image_embeds": np.ones(WIDTH), "prior_guidance_scale": 0.0},
            UsageError,
            "prior_num_inference_steps and prior_guidance_scale go with a prompt",
        ),
        ({"prompt": ["a", "b", "c"], "image": [PICTURE] * 2}, InputError, "got 2 image, 1 mask_image, 3 prompt; exp"),
        ({"prompt": ["a", "b"], "negative_prompt": ["a", "b", "c"]}, InputError, "got 3 negative_prompt for 2 prompts"),
        ({"prompt": ["a", "b"], "seed": [1, 2, 3]}, InputError, "got 3 seeds for 2 results"),
        ({"prior_num_inference_steps": 1}, UsageError, "prior_num_inference_steps is 1"),
        ({"prior_guidance_scale": -1}, InputError, "guidance_scale is -1"),
        ({"prompt": ["a"] * 1025}, UsageError, "the number of results is 1025"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    prompted: InpaintPipeline, fake_engine: type[FakeEngine], changes: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        prompted(**sound(**changes))
    assert not fake_engine.loaded


def test_a_bundle_without_a_prior_takes_embeddings(pipeline: InpaintPipeline) -> None:
    assert pipeline(**embeds()).images.shape == (1, HEIGHT, ACROSS, 3)
    with pytest.raises(UsageError, match="cannot do prompt: it does inpaint; export it again with --prior, or give"):
        pipeline(**sound())


def test_a_bundle_without_the_priors_graphs_has_the_embedding_of_no_picture(
    tmp_path: Path, fake_engine: type[FakeEngine], prompted: InpaintPipeline
) -> None:
    folder = fake_bundle.write(
        tmp_path / "b", fake_bundle.with_prior(without=("text_encoder", "image_encoder", "prior"))
    )
    output = InpaintPipeline.load(folder, "fake")(**embeds() | {"negative_image_embeds": None})
    np.testing.assert_array_equal(output.images, prompted(**embeds() | {"negative_image_embeds": None}).images)


def test_a_prior_of_another_width_than_the_decoder(prior_bundle: Path, fake_engine: type[FakeEngine]) -> None:
    wide = {name: np.ones((1, 8), np.float32) for name in CONSTANTS}
    fake_bundle.replace(prior_bundle, fake_bundle.CONSTANTS_FILE, fake_bundle.packed(**wide))
    with pytest.raises(BundleError, match=r"`clip_mean` is float32 \(1, 8\); expected float32 \(1, 6\), the decoder's"):
        InpaintPipeline.load(prior_bundle, "fake")(**sound())
    assert not fake_engine.loaded


# -- tasks --


def test_a_bundle_made_for_other_tasks(bundle: Path, plain_bundle: Path, fake_engine: type[FakeEngine]) -> None:
    with pytest.raises(UsageError, match="cannot do inpaint: it does text-to-image, image-to-image, prompt, picture-"):
        InpaintPipeline.load(plain_bundle, "fake")
    with pytest.raises(UsageError, match="cannot do text-to-image: it does inpaint; export one from a plain decoder"):
        GeneratePipeline.load(bundle, "fake")


@pytest.mark.parametrize(
    ("pipeline", "options", "text"),
    [
        (InpaintPipeline, {"specs": fake_bundle.signatures(plain=True)}, "says inpaint; its UNet is made for text-to-"),
        (GeneratePipeline, {"tasks": ("text-to-image",)}, "says text-to-image; its UNet is made for inpaint"),
    ],
)
def test_a_manifest_that_promises_what_its_unet_cannot_do(
    tmp_path: Path, fake_engine: type[FakeEngine], pipeline: Any, options: Any, text: str
) -> None:
    opened = fake_bundle.opened(tmp_path / "b", **options)
    with pytest.raises(BundleError, match=text):
        pipeline.load(opened, "fake")
