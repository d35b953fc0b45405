"""`k22 inpaint`, `generate` and `embed` from prompts: what reaches the pipelines, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.prior.prompts import Mix
from kandinsky_runtime.sampling.noise import TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.command_line import K22, files
from tests.runtime.fake_bundle import SIDE, WIDTH, FakeEngine
from tests.runtime.prior_recomputed import draws

RNG = np.random.default_rng(22)
PICTURE = RNG.integers(0, 256, (64, 80, 3), np.uint8)
HAT = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
MASK = np.zeros((64, 80), np.uint8)
MASK[16:48, 24:60] = 255


@pytest.fixture
def folder(
    tmp_path: Path,
    bundle: Path,
    prior_bundle: Path,
    plain_bundle: Path,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder: three bundles, two pictures and a mask."""
    monkeypatch.chdir(tmp_path)
    for name, array in (("cat.png", PICTURE), ("hat.png", HAT), ("mask.png", MASK)):
        Image.fromarray(array).save(name)
    return tmp_path


SHARED = {"--out": "out.png", "--engine": "fake", "--seed": 3, "--num-inference-steps": 2}
PRIOR = {"--prompt": "a hat", "--prior-num-inference-steps": 3}
COMMANDS: dict[str, tuple[str, dict[str, object]]] = {
    "inpaint": ("prior-bundle", {**PRIOR, **SHARED, "--image": "cat.png", "--mask": "mask.png"}),
    "generate": ("plain-bundle", {**PRIOR, **SHARED, "--height": 64, "--width": 80}),
    "embed": ("prior-bundle", {**PRIOR, "--out": "hat.npz", "--engine": "fake", "--seed": 3}),
}


def command(name: str, *flags: object, bundle: str | None = None, **changes: object) -> list[object]:
    """The arguments of a sound command with some options changed, or left out where None."""
    usual, options = COMMANDS[name]
    options = options | {f"--{option.replace('_', '-')}": value for option, value in changes.items()}
    chosen = [item for option in options.items() if option[1] is not None for item in option]
    return [name, bundle or usual, *chosen, *flags]


def embeds(path: str = "hat.npz") -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def picture(path: str = "out.png") -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


# -- what they do --


@pytest.mark.parametrize("name", ["inpaint", "generate"])
def test_options_reach_the_pipeline(k22: K22, name: str) -> None:
    flags = ["--prompt", "a hat", "--prompt-image", "hat.png", "--mix=-0.5,1.5"]
    done = k22(
        *command(name, *flags, prompt=None, negative_prompt="a bad cat", guidance_scale=2.5, noise="numpy",
                 prior_num_inference_steps=4, prior_guidance_scale=1.5, scheduler="ddim", seed=9)
    )  # fmt: skip
    assert done.status == 0, done.err
    options: dict[str, Any] = {
        "prompt": Mix(["a hat", HAT], [-0.5, 1.5]),
        "negative_prompt": "a bad cat",
        "guidance_scale": 2.5,
        "noise": "numpy",
        "prior_num_inference_steps": 4,
        "prior_guidance_scale": 1.5,
        "scheduler": "ddim",
        "num_inference_steps": 2,
        "seed": 9,
    }
    if name == "inpaint":
        expected = InpaintPipeline.load("prior-bundle", "fake")(image=PICTURE, mask_image=MASK, **options)
    else:
        expected = GeneratePipeline.load("plain-bundle", "fake")(height=64, width=80, **options)
    np.testing.assert_array_equal(picture(), np.asarray(expected.images[0]))


@pytest.mark.parametrize("name", ["embed", "inpaint"])
def test_notes_on_picture_prompts_are_reported(
    k22: K22, prior_bundle: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(HAT).save("anim.gif", save_all=True, append_images=[Image.fromarray(255 - HAT)])
    done = k22(*command(name, "--json", prompt=None, prompt_image="anim.gif", prior_num_inference_steps=None))
    note = "image anim.gif holds several frames: the first one is used"
    assert note in json.loads(done.out)["notes"], done
    assert [record.message for record in caplog.records] == [note], "it is logged once"
    with PriorPipeline.load(prior_bundle, engine="fake") as pipeline:
        assert pipeline(Path("anim.gif")).notes == (note,)


def test_what_a_format_cannot_hold_is_reported(k22: K22) -> None:
    Image.fromarray(np.dstack([PICTURE, np.full((64, 80), 9, np.uint8)])).save("cat.png")
    done = k22(*command("inpaint", "--json", out="out.jpg", num_images=2))
    notes = json.loads(done.out)["notes"]
    for number in (1, 2):
        assert f"output out-{number}.jpg: JPEG holds no transparency; the picture's is left out" in notes


def test_image_to_image(k22: K22) -> None:
    done = k22(*command("generate", image="cat.png", strength=0.6, num_inference_steps=5, height=None, width=None))
    assert done.status == 0, done.err
    assert "3/3" in done.err, "int(5 · 0.6) steps"
    expected = GeneratePipeline.load("plain-bundle", "fake")(
        "a hat", image=PICTURE, strength=0.6, num_inference_steps=5, prior_num_inference_steps=3, seed=3
    )
    np.testing.assert_array_equal(picture(), np.asarray(expected.images[0]))


def test_the_defaults_of_the_prior_are_the_pipelines(k22: K22) -> None:
    k22(*command("embed", prior_num_inference_steps=None))
    expected = PriorPipeline.load("prior-bundle", "fake")("a hat", seed=3)
    np.testing.assert_array_equal(embeds()["image_embeds"], expected.image_embeds)
    k22(*command("generate", prior_num_inference_steps=None))
    images = GeneratePipeline.load("plain-bundle", "fake")("a hat", seed=3, height=64, width=80, num_inference_steps=2)
    np.testing.assert_array_equal(picture(), np.asarray(images.images[0]))


def test_prompts_keep_their_order(k22: K22, fake_engine: type[FakeEngine]) -> None:
    options = ["--prompt-image", "hat.png", "--prompt", "cats", "--prompt-image", "cat.png", "--prompt", "a hat"]
    assert k22(*command("embed", *options, prompt=None)).status == 0
    expected = PriorPipeline.load("prior-bundle", "fake")(
        [HAT, "cats", PICTURE, "a hat"], num_inference_steps=3, seed=3
    )
    np.testing.assert_array_equal(embeds()["image_embeds"], expected.image_embeds)


@pytest.mark.parametrize("name", ["inpaint", "generate"])
def test_several_prompts_make_several_pictures(k22: K22, name: str) -> None:
    flags = ["--prompt", "cats", "--negative-prompt", "a bad hat", "--negative-prompt", ""]
    before = files()
    done = k22(*command(name, *flags, "--quiet", num_images=2))
    assert done.status == 0
    assert done.out.splitlines() == [f"wrote out-{number}.png (seed {number + 2})" for number in (1, 2, 3, 4)]
    assert files() == before | {f"out-{number}.png" for number in (1, 2, 3, 4)}
    k22(*command(name, prompt="cats", negative_prompt="", seed=6))
    np.testing.assert_array_equal(picture("out-4.png"), picture())


@pytest.mark.parametrize("name", ["inpaint", "generate"])
def test_json_is_all_of_stdout(k22: K22, name: str) -> None:
    data = json.loads(k22(*command(name, "--json", prompt="a very long prompt")).out)
    assert data["images"] == ["out.png"]
    assert data["seeds"] == [3]
    assert data["notes"][:1] == ["a prompt has more tokens than the text encoder takes; its end was cut off: 'rompt'"]
    phases = {"encode_text", "prior", "load", "denoise", "unet", "total", *(["encode"] if name == "inpaint" else [])}
    assert phases <= set(data["seconds"])


def test_stages_have_bars_of_their_own(k22: K22) -> None:
    err = k22(*command("inpaint")).err
    assert err.index("prior: 100%") < err.index("inpainting: 100%")
    err = k22(*command("generate")).err
    assert err.index("prior: 100%") < err.index("generating: 100%")


@pytest.mark.parametrize("name", ["inpaint", "generate"])
def test_recorded_noise_gives_the_same_picture(k22: K22, name: str) -> None:
    assert k22(*command(name, "--prompt", "cats", record_noise="noise.npz")).status == 0
    done = k22(*command(name, "--prompt", "cats", "--quiet", seed=None, replay_noise="noise.npz", out="again.png"))
    assert done == (0, "wrote again-1.png\nwrote again-2.png\n", "")
    for number in (1, 2):
        np.testing.assert_array_equal(picture(f"again-{number}.png"), picture(f"out-{number}.png"))


def test_low_memory(k22: K22, fake_engine: type[FakeEngine]) -> None:
    k22(*command("inpaint"))
    expected = Path("out.png").read_bytes()
    fake_engine.loaded.clear()
    fake_engine.released.clear()
    assert k22(*command("inpaint", "--low-memory")).status == 0
    order = ["text_encoder", "prior", "movq_encoder", "unet", "movq_decoder"]
    assert fake_engine.loaded == fake_engine.released == order
    assert Path("out.png").read_bytes() == expected


# -- embeddings --


def test_embed(k22: K22) -> None:
    before = files()
    done = k22(*command("embed", "--prompt", "cats", "--quiet", num_images=2))
    assert done == (0, "wrote hat.npz: embeddings (4, 6) (seed 3, 4, 5, 6)\n", "")
    assert files() == before | {"hat.npz"}
    expected = PriorPipeline.load("prior-bundle", "fake")(
        ["a hat", "cats"], num_images_per_prompt=2, num_inference_steps=3, seed=3
    )
    assert embeds().keys() == {"image_embeds", "negative_image_embeds"}
    for name, array in embeds().items():
        np.testing.assert_array_equal(array, getattr(expected, name))
        assert array.dtype == np.float32


def test_embed_as_json(k22: K22) -> None:
    data = json.loads(k22(*command("embed", "--json", negative_prompt="cats")).out)
    assert list(data) == ["embeds", "shape", "seeds", "engine", "precision", "notes", "seconds"]
    assert (data["embeds"], data["shape"], data["seeds"], data["notes"]) == ("hat.npz", [1, WIDTH], [3], [])
    assert (data["engine"], data["precision"]) == ("fake", "fp32")
    assert set(data["seconds"]) == {"encode_text", "prior"}


def test_embeddings_give_the_prompts_picture_with_the_decoders_part_of_its_noise(k22: K22) -> None:
    """A file of embeddings has no draws: the same seed then starts anew, and only the noise that is left agrees."""
    k22(*command("inpaint", out="prompt.png"))
    assert k22(*command("embed")).status == 0
    from_file = {"prompt": None, "prior_num_inference_steps": None, "image_embeds": "hat.npz"}
    assert k22(*command("inpaint", **from_file, out="embeds.png")).status == 0
    assert (picture("embeds.png") != picture("prompt.png")).any()

    source = TorchNoise(3)
    draws(source, steps=3)
    pipeline = InpaintPipeline.load("bundle", "fake")
    output = pipeline(PICTURE, MASK, **embeds(), num_inference_steps=2, noise=source)
    np.testing.assert_array_equal(np.asarray(output.images[0]), picture("prompt.png"))
    seeded = pipeline(PICTURE, MASK, **embeds(), num_inference_steps=2, seed=3)
    np.testing.assert_array_equal(np.asarray(seeded.images[0]), picture("embeds.png"))


def test_embeddings_serve_a_bundle_without_a_prior(k22: K22) -> None:
    k22(*command("embed", "--prompt", "cats"))
    from_file = {"prompt": None, "prior_num_inference_steps": None, "image_embeds": "hat.npz"}
    done = k22(*command("inpaint", "--quiet", bundle="bundle", **from_file))
    assert done == (0, "wrote out-1.png (seed 3)\nwrote out-2.png (seed 4)\n", "")


def test_an_existing_file_of_embeddings_is_replaced(k22: K22) -> None:
    Path("hat.npz").write_text("old")
    assert k22(*command("embed")).status == 0
    assert embeds()["image_embeds"].shape == (1, WIDTH)


# -- what they refuse --


INSTEAD = {"prompt": None, "prior_num_inference_steps": None, "image_embeds": "hat.npz"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            command("inpaint", prompt=None),
            "there is no prompt; give --prompt TEXT, --prompt-image F or --image-embeds F",
        ),
        (command("generate", prompt=None), "there is no prompt; give --prompt TEXT, --prompt-image F or"),
        (command("embed", prompt=None), "there is no prompt; give --prompt TEXT or --prompt-image F"),
        (command("embed", image_embeds="hat.npz"), "unrecognized arguments: --image-embeds hat.npz"),
        (command("inpaint", image_embeds="hat.npz"), "--image-embeds takes the place of --prompt; give one of them"),
        (command("inpaint", **INSTEAD, negative_prompt="a"), "takes the place of --negative-prompt; give"),
        (command("inpaint", **INSTEAD, mix="1"), "--image-embeds takes the place of --mix; give one of them"),
        (
            command("generate", **INSTEAD | {"prior_num_inference_steps": 25}),
            "--image-embeds takes the place of --prior-num-inference-steps; give one of them",
        ),
        (
            command("generate", **INSTEAD, prior_guidance_scale=4),
            "--image-embeds takes the place of --prior-guidance-scale; give one of them",
        ),
        (command("generate", negative_image_embeds="n.npz"), "--negative-image-embeds goes with --image-embeds"),
        (command("generate", **INSTEAD), "hat.npz does not exist; give an .npz or .npy file of embeddings"),
        # prompts
        (command("embed", mix="0.5,0.5"), "--mix has 2 weights for 1 prompts; give one for each"),
        (command("embed", mix="much"), "argument --mix: 'much' is not a list of numbers such as 0.3,0.7"),
        (command("embed", mix=""), "argument --mix: '' is not a list of numbers"),
        (command("embed", mix="nan"), "the weights of a mix: has NaN, infinity"),
        (command("embed", mix="1e39"), "the weights of a mix: has NaN, infinity or numbers too large for float32"),
        (command("embed", "--negative-prompt=a", "--negative-prompt=b"), "got 2 negative_prompt for 1 prompts"),
        (command("embed", prompt="a" * 100_001), "prompt has 100,001 characters; expected at most 100,000"),
        (command("embed", prompt="\udcff"), "prompt has half a surrogate pair, '\\udcff', at character 1"),
        (command("embed", "--prompt-image", "nowhere.png"), "image nowhere.png does not exist"),
        (command("embed", "--prompt-image", "cat.png", max_pixels=9), "expected at most 9 in all"),
        (command("embed", "--prompt-image", "prior-bundle"), "image prior-bundle is a directory"),
        # the prior's loop
        (command("inpaint", prior_num_inference_steps=1), "prior_num_inference_steps is 1; expected a whole"),
        (command("embed", prior_num_inference_steps=5000), "num_inference_steps is 5000; expected an integer"),
        (command("embed", prior_guidance_scale=-1), "guidance_scale is -1.0; expected a finite number of at least 0"),
        (command("embed", seed=-1), "seed is -1; expected a whole number from 0"),
        (command("embed", num_images=0), "--num-images is 0; expected a whole number from 1 to 1024"),
        # pictures and sizes
        (
            command("generate", strength=0.5),
            "strength goes with a picture to change; give image, or leave strength out",
        ),
        (command("generate", image="cat.png", strength=0), "strength is 0.0; expected a number above 0 and up to 1"),
        (command("generate", image="cat.png"), "strength 0.3 of 2 steps leaves none; give more of either"),
        (command("generate", height=63), "height is 63; expected a whole number of at least 64"),
        # files that would be lost
        (command("embed", out="hat.npy"), "output hat.npy has the suffix '.npy'; expected .npz"),
        (command("embed", out="nowhere/hat.npz"), "output nowhere/hat.npz: the folder nowhere does not exist"),
        (
            command("inpaint", "--prompt-image", "out-2.png"),
            "--out out-2.png would replace the file of --prompt-image; choose another path",
        ),
        (
            command("generate", image="cat.png", out="cat.png"),
            "--out cat.png would replace the file of --image; choose",
        ),
        (
            command("generate", "--prompt-image", "hat.png", record_noise="hat.png"),
            "--record-noise hat.png would replace the file of --prompt-image; choose another path",
        ),
        # bundles for other work
        (command("inpaint", bundle="bundle"), "cannot do prompt: it does inpaint; export it again with --prior"),
        (command("embed", bundle="bundle"), "cannot do prompt: it does inpaint; export it again with --prior"),
        (command("inpaint", bundle="plain-bundle"), "cannot do inpaint: it does text-to-image, image-to-image"),
        (
            command("generate", bundle="prior-bundle"),
            "cannot do text-to-image: it does inpaint, prompt, picture-prompt",
        ),
    ],
)
def test_wrong_arguments(
    refused: Callable[..., str], fake_engine: type[FakeEngine], args: list[object], text: str
) -> None:
    assert text in refused(*args)
    assert not fake_engine.loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bundle_whose_tokenizer_is_missing(refused: Callable[..., str], name: str) -> None:
    (Path(COMMANDS[name][0]) / fake_bundle.MERGES_FILE).unlink()
    assert "tokenizer/merges.txt is missing" in refused(*command(name), status=1)


def test_an_interrupted_prior_leaves_nothing_behind(k22: K22, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    before = files()
    monkeypatch.setattr(FakeEngine, "alter", interrupt)
    for name in COMMANDS:
        assert k22(*command(name, "--quiet")) == (130, "", "k22: interrupted\n")
    assert files() == before


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(k22: K22, name: str) -> None:
    done = k22(name, "--help")
    assert (done.status, done.err) == (0, "")
    assert f'  k22 {name} bundle --prompt "a ' in done.out


@pytest.mark.parametrize("name", ["inpaint", "generate"])
def test_prompts_are_written_into_the_results(k22: K22, name: str) -> None:
    done = k22(*command(name, "--prompt", "a dog", "--negative-prompt", "fog", "--quiet"))
    assert done.status == 0, done
    for number, prompt in ((1, "a hat"), (2, "a dog")):
        with Image.open(f"out-{number}.png") as written:
            assert written.info["parameters"].startswith(f"{prompt}\nNegative prompt: fog\nSteps: ")
