"""`k22`: what it prints where, what it leaves behind, and how it says what is wrong."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kandinsky_runtime.cli import options
from kandinsky_runtime.decoder import load_options
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines import registry
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import NumpyNoise, RecordingNoise
from tests.runtime import fake_bundle
from tests.runtime.command_line import K22, Result, files
from tests.runtime.fake_bundle import WIDTH, FakeEngine
from tests.runtime.pipes import fed_pipe

RNG = np.random.default_rng(22)
PICTURE = RNG.integers(0, 256, (65, 80, 3), np.uint8)
MASK = np.zeros((65, 80), np.uint8)
MASK[16:48, 24:60] = 255
EMBEDS = {name: RNG.standard_normal((1, WIDTH), np.float32) for name in ("image_embeds", "negative_image_embeds")}


@pytest.fixture
def folder(tmp_path: Path, bundle: Path, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a bundle, a picture, a mask and embeddings."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURE).save("cat.png")
    Image.fromarray(MASK).save("mask.png")
    np.savez("hat.npz", **EMBEDS)
    return tmp_path


INPAINT = {
    "--image": "cat.png",
    "--mask": "mask.png",
    "--image-embeds": "hat.npz",
    "--out": "out.png",
    "--engine": "fake",
    "--num-inference-steps": 2,
    "--seed": 3,
}


def inpaint(*flags: object, **changes: object) -> list[object]:
    """The arguments of a sound command with some options changed, or left out where None."""
    options = INPAINT | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return ["inpaint", "bundle", *(item for pair in options.items() if pair[1] is not None for item in pair), *flags]


# -- what it does --


def test_inpaint(k22: K22) -> None:
    before = files()
    result = k22(*inpaint())
    assert result.status == 0
    assert result.out == "wrote out.png (seed 3)\n"
    assert "inpainting: 100%" in result.err
    assert files() == before | {"out.png"}
    picture = np.asarray(Image.open("out.png"))
    assert picture.shape == PICTURE.shape
    np.testing.assert_array_equal(picture[MASK == 0], PICTURE[MASK == 0])


def test_options_reach_the_pipeline(k22: K22, bundle: Path) -> None:
    (result, _, _) = k22(
        *inpaint("--invert-mask", height=96, width=64, guidance_scale=2.5, scheduler="ddim", noise="numpy",
                 composite="none", seed=9, num_inference_steps=3, precision="fp32", device="fake:1", threads=1)
    )  # fmt: skip
    assert result == 0
    expected = InpaintPipeline.load(bundle, "fake")(
        PICTURE, MASK, **EMBEDS, height=96, width=64, guidance_scale=2.5, scheduler="ddim", noise="numpy",
        composite="none", seed=9, num_inference_steps=3, invert_mask=True,
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), np.asarray(expected.images[0]))


def test_area_options_reach_the_pipeline(k22: K22, bundle: Path) -> None:
    options = {"inpaint_area": "mask", "padding_mask_crop": 0, "height": 64, "width": 80}
    assert k22(*inpaint(**options)).status == 0
    expected = InpaintPipeline.load(bundle, "fake")(PICTURE, MASK, **EMBEDS, **options, seed=3, num_inference_steps=2)
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), np.asarray(expected.images[0]))


def test_guidance_interval_reaches_the_loop(k22: K22, fake_engine: type[FakeEngine]) -> None:
    assert k22(*inpaint(guidance_interval="1:inf")).status == 0
    assert [feeds["sample"].shape[0] for name, feeds in fake_engine.runs if name == "unet"] == [2, 1]


def test_low_memory(k22: K22, fake_engine: type[FakeEngine]) -> None:
    k22(*inpaint())
    expected = Path("out.png").read_bytes()
    fake_engine.loaded.clear()
    fake_engine.released.clear()
    assert k22(*inpaint("--low-memory")).status == 0
    assert fake_engine.loaded == fake_engine.released == ["movq_encoder", "unet", "movq_decoder"]
    assert Path("out.png").read_bytes() == expected


def test_trust_in_the_bundle(k22: K22) -> None:
    manifest = json.loads(Path("bundle/manifest.json").read_text())
    manifest["files"]["unet/graph.txt"]["sha256"] = "0" * 64
    Path("bundle/manifest.json").write_text(json.dumps(manifest))
    refused = k22(*inpaint())
    assert refused.status == 1
    assert "its sha256 differs" in refused.err
    assert k22(*inpaint("--trust-bundle")).status == 0
    for command in ("inspect", "build"):  # both are about the files themselves
        assert k22(command, "bundle", "--trust-bundle").status == 2


def test_memory_for_shapes(k22: K22) -> None:
    for size, text in (
        ("2G", "engine fake keeps none"),
        ("much", "shape_memory is 'much'; expected a size such as 2G"),
    ):
        result = k22(*inpaint(shape_memory=size))
        assert result.status == 2
        assert text in result.err
    assert not Path("out.png").exists()


def test_tiles(k22: K22, fake_engine: type[FakeEngine]) -> None:
    assert k22(*inpaint("--tiles", height=64, width=600)).status == 0
    assert [name for name, _ in fake_engine.runs].count("movq_decoder") == 2


def test_mask_mode_reaches_the_mask(k22: K22) -> None:
    Image.fromarray(np.dstack([PICTURE, 255 - MASK])).save("hole.png")
    assert k22(*inpaint()).status == 0
    expected = np.asarray(Image.open("out.png"))
    for mode in ("auto", "alpha"):
        result = k22(*inpaint("--json", mask="hole.png", mask_mode=mode))
        assert json.loads(result.out)["masks"][0]["rule"] == "alpha"
        np.testing.assert_array_equal(np.asarray(Image.open("out.png")), expected)


def test_a_result_tells_how_it_was_made(k22: K22) -> None:
    assert k22(*inpaint(scheduler="ddim", num_images=2)).status == 0
    for number, seed in ((1, 3), (2, 4)):
        with Image.open(f"out-{number}.png") as written:
            lines = written.info["parameters"].splitlines()
            record = json.loads(written.info["k22"])
        assert (record["seed"], record["version"]) == (seed, f"kandinsky22-deploy {version('kandinsky22-deploy')}")
        assert lines[0] == "image embeddings"
        assert lines[1].startswith(f"Steps: 2, Sampler: ddim, CFG scale: 4, Seed: {seed}, Size: 80x65, Model: bundle")
    assert k22(*inpaint("--no-metadata")).status == 0
    with Image.open("out.png") as written:
        assert not set(written.info) & {"parameters", "k22"}


def test_quality_reaches_the_file(k22: K22) -> None:
    sizes = []
    for quality in (10, 95):
        assert k22(*inpaint(out="out.jpg", quality=quality)).status == 0
        sizes.append(Path("out.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_a_picture_is_expanded(k22: K22) -> None:
    assert k22(*inpaint(mask=None, expand="0,7,40,0")).status == 0
    result = np.asarray(Image.open("out.png"))
    assert result.shape == (72, 120, 3)
    np.testing.assert_array_equal(result[7:, :80], PICTURE)


def test_a_blurred_mask_blends(k22: K22) -> None:
    assert k22(*inpaint()).status == 0
    cut = np.asarray(Image.open("out.png")).astype(int)
    assert k22(*inpaint(mask_blur=2)).status == 0
    soft = np.asarray(Image.open("out.png")).astype(int)
    weights = np.asarray(Image.fromarray(MASK).filter(ImageFilter.GaussianBlur(2)))
    np.testing.assert_array_equal(soft[weights == 0], PICTURE[weights == 0])
    np.testing.assert_array_equal(soft[weights == 255], cut[weights == 255])
    assert (soft[MASK == 0] != PICTURE[MASK == 0]).any()


def test_quiet(k22: K22) -> None:
    assert k22(*inpaint("--quiet")) == (0, "wrote out.png (seed 3)\n", "")


def test_json_is_all_of_stdout(k22: K22) -> None:
    result = k22(*inpaint("--json", num_images=2))
    data = json.loads(result.out)
    assert result.status == 0
    assert list(data) == ["images", "seeds", "engine", "precision", "notes", "seconds", "masks"]
    assert data["images"] == ["out-1.png", "out-2.png"]
    assert data["seeds"] == [3, 4]
    assert (data["engine"], data["precision"], data["notes"]) == (
        "fake",
        "fp32",
        ["mask: white is repainted; 0.222 of the picture"],
    )
    assert data["masks"] == [{"rule": "white", "inverted": False, "repainted": 32 * 36 / (65 * 80)}] * 2
    assert set(data["seconds"]) == {"load", "encode", "denoise", "unet", "decode", "total"}
    assert "inpainting" in result.err


def test_several_results(k22: K22) -> None:
    np.savez("hats.npz", image_embeds=RNG.standard_normal((2, WIDTH)), negative_image_embeds=np.zeros(WIDTH))
    before = files()
    result = k22(*inpaint("--quiet", image_embeds="hats.npz", num_images=2, out="new.hat.jpg"))
    names = [f"new.hat-{number}.jpg" for number in (1, 2, 3, 4)]
    assert result.out.splitlines() == [f"wrote {name} (seed {seed})" for seed, name in enumerate(names, start=3)]
    assert files() == before | set(names)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_arrays_from_pipes(k22: K22) -> None:
    assert k22(*inpaint(record_noise="noise.npz", out="one.png")).status == 0
    embeds = fed_pipe(Path("embeds"), Path("hat.npz").read_bytes())
    noise = fed_pipe(Path("noise"), Path("noise.npz").read_bytes())
    assert k22(*inpaint(image_embeds=embeds, replay_noise=noise, seed=None)).status == 0
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), np.asarray(Image.open("one.png")))


def test_drawn_seed_is_told(k22: K22) -> None:
    first = k22(*inpaint("--json", seed=None))
    seed = json.loads(first.out)["seeds"][0]
    content = Path("out.png").read_bytes()
    k22(*inpaint(seed=seed))
    assert Path("out.png").read_bytes() == content


def test_negative_embeddings_of_their_own(k22: K22) -> None:
    k22(*inpaint(out="one.png"))
    np.save("hat.npy", EMBEDS["image_embeds"])
    np.save("none.npy", EMBEDS["negative_image_embeds"])
    assert k22(*inpaint(image_embeds="hat.npy", negative_image_embeds="none.npy", out="two.png")).status == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert k22(*inpaint(image_embeds="hat.npy", guidance_scale=1)).status == 0


def test_recorded_noise_gives_the_same_picture(k22: K22) -> None:
    assert k22(*inpaint("--no-metadata", record_noise="noise.npz", num_images=2)).status == 0
    result = k22(
        *inpaint("--quiet", "--no-metadata", seed=None, replay_noise="noise.npz", out="again.png", num_images=2)
    )
    assert result == (0, "wrote again-1.png\nwrote again-2.png\n", "")
    for number in (1, 2):
        assert Path(f"again-{number}.png").read_bytes() == Path(f"out-{number}.png").read_bytes()


def test_a_recording_of_more_steps_is_told(k22: K22) -> None:
    assert k22(*inpaint(record_noise="noise.npz")).status == 0
    changes = {"seed": None, "replay_noise": "noise.npz", "num_inference_steps": 1, "out": "again.png"}
    result = k22(*inpaint("--quiet", "--json", **changes))
    note = (
        "noise recording noise.npz: 1 of its 3 draws was not used; for the recorded picture, use the options of the"
        " recorded run"
    )
    assert note in json.loads(result.out)["notes"]


def test_a_full_disk_loses_the_recording_only(k22: K22, monkeypatch: pytest.MonkeyPatch) -> None:
    assert k22(*inpaint()).status == 0
    expected = Path("out.png").read_bytes()
    monkeypatch.setattr(RecordingNoise, "save", raising(OSError(28, "No space left on device")))
    before = files()
    result = k22(*inpaint("--quiet", record_noise="noise.npz", out="new.png"))
    assert (result.status, result.out) == (1, "wrote new.png (seed 3)\n")
    assert result.err.endswith(
        "k22: error: the noise recording noise.npz cannot be written: No space left on device; the pictures are"
        " written: make room or choose another path, and run the command again\n"
    )
    assert files() == before | {"new.png"}
    assert Path("new.png").read_bytes() == expected


def test_black_mask_is_told(k22: K22, fake_engine: type[FakeEngine], caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.zeros_like(MASK)).save("black.png")
    result = k22(*inpaint("--json", mask="black.png"))
    note = "the mask has nothing to repaint, its largest value is 0 of 255: the picture is returned as it is"
    assert json.loads(result.out)["notes"] == [note, "mask: white is repainted; 0 of the picture"]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [note]
    assert not fake_engine.runs
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), PICTURE)


def test_a_file_of_a_linked_bundle_is_not_replaced(refused: Callable[..., str], folder: Path) -> None:
    """As in the Hugging Face cache, where a bundle's files are links."""
    Path("bundle/unet/graph.txt").rename("blob")
    Path("bundle/unet/graph.png").symlink_to(folder / "blob")
    Path("other").symlink_to("bundle")
    for path in ("bundle/unet/graph.png", "other/unet/graph.png"):
        assert "is in the folder of the bundle bundle" in refused(*inpaint(out=path))


def test_an_existing_output_is_replaced(k22: K22) -> None:
    Path("out.png").write_text("old")
    assert k22(*inpaint()).status == 0
    with Image.open("out.png") as picture:
        assert picture.size == (80, 65)


def test_inspect(k22: K22, folder: Path) -> None:
    result = k22("inspect", "bundle")
    assert result.status == 0
    for piece in (
        f"{folder / 'bundle'}: 0.0 MB in 3 files, exported from a-checkpoint (diffusers)",
        "fake          ready",
    ):
        assert piece in result.out
    as_json = k22("inspect", "bundle", "--json")
    assert json.loads(as_json.out)["engines"]["fake"] == {"ready": True, "precision": "fp32", "version": np.__version__}
    assert as_json.err == result.err


def test_help_shows_an_example(k22: K22) -> None:
    for command in ((), ("inpaint",), ("inspect",)):
        result = k22(*command, "--help")
        assert result.status == 0
        assert result.err == ""
        example = re.search(r"examples?:\s+(k22 \w+ bundle.*)", result.out)
        assert example
    shown = k22("inpaint", "--help").out
    assert re.search(r"--num-inference-steps N +number of denoising steps \(default: 100\)", shown)


def test_help_names_schedulers_and_engines() -> None:
    assert tuple(options.SCHEDULERS.split(", ")) == schedulers.SCHEDULERS
    assert tuple(load_options.ENGINES.split(", ")) == registry.names()


# -- what it refuses --


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "the following arguments are required: COMMAND; see k22 --help"),
        (("paint",), "invalid choice: 'paint' (choose from"),
        (("inpaint", "bundle"), "required: --image, --out; see k22 inpaint --help"),
        (inpaint("--colour"), "unrecognized arguments: --colour"),
        (inpaint("--gui", 3), "unrecognized arguments: --gui 3"),
        (inpaint(height="tall"), "argument --height: invalid int value: 'tall'"),
        (inpaint(composite="glue"), "argument --composite: invalid choice: 'glue'"),
        (inpaint(mask=None), "there is nothing to repaint; give --mask F, --mask-box L,T,R,B or --expand L,T,R,B"),
        (inpaint(expand="1,2,3"), "argument --expand: '1,2,3' is not four whole numbers, such as 0,0,128,0"),
        (inpaint(expand="0,0,0,0"), "expand is (0, 0, 0, 0); expected four whole numbers"),
        (inpaint(composite="none", mask_blur=4), "mask_blur softens a blend, and composite is 'none'"),
        (inpaint(noise="loud"), "argument --noise: invalid choice: 'loud'"),
        # one by one, before anything is read
        (inpaint(out="out"), "output out has the suffix ''; expected one of .png, .webp"),
        (inpaint(out="out.gif"), "output out.gif has the suffix '.gif'; expected one of .png, .webp"),
        (inpaint(out="nowhere/out.png"), "output nowhere/out.png: the folder nowhere does not exist; create it first"),
        (inpaint(quality=80), "output out.png: quality is for JPEG and WebP files; leave it out, or choose their"),
        (inpaint(out="bundle"), "--out bundle is in the folder of the bundle bundle, which holds the bundle's own"),
        (inpaint(out="bundle/cat.png"), "--out bundle/cat.png is in the folder of the bundle bundle, which"),
        (inpaint(out="./bundle/../bundle/unet/a.png"), "is in the folder of the bundle bundle, which"),
        (inpaint(record_noise="bundle/n.npz"), "--record-noise bundle/n.npz is in the folder of the bundle bundle"),
        (("embed", "bundle", "--prompt", "x", "--out", "bundle/e.npz"), "--out bundle/e.npz is in the folder of the"),
        (("bench", "bundle", "--json", "bundle/manifest.json"), "--json bundle/manifest.json is in the folder of the"),
        (("bench", "bundle", "--plot", "bundle/p.png"), "--plot bundle/p.png is in the folder of the bundle bundle"),
        (("triton", "a=bundle", "--out", "bundle/models"), "--out bundle/models is in the folder of the bundle bundle"),
        (inpaint(out="o.png/"), "argument --out: 'o.png/' does not end in the name of a file; add one, or remove the"),
        (inpaint(out="o.png/."), "argument --out: 'o.png/.' does not end in the name of a file; add one, or"),
        (inpaint(record_noise="n.npz/"), "argument --record-noise: 'n.npz/' does not end in the name of a file"),
        (("embed", "bundle", "--prompt", "x", "--out", "e.npz/"), "argument --out: 'e.npz/' does not end in the name"),
        (("bench", "bundle", "--json", "j.json/"), "argument --json: 'j.json/' does not end in the name of a file"),
        (inpaint(out="cat.png"), "--out cat.png would replace the file of --image; choose another path"),
        (inpaint(out="./bundle/../mask.png"), "would replace the file of --mask; choose another path"),
        (inpaint(image="cat-2.png", out="cat.png", num_images=2), "--out cat-2.png would replace the file of --image"),
        (
            inpaint(record_noise="hat.npz"),
            "--record-noise hat.npz would replace the file of --image-embeds; choose another path",
        ),
        (
            inpaint(record_noise="out.png"),
            "--out out.png would replace the file of --record-noise; choose another path",
        ),
        (inpaint(record_noise="out-2.png", num_images=2), "--out out-2.png would replace the file of --record-noise"),
        (inpaint(record_noise="nowhere/n.npz"), "record_noise nowhere/n.npz: the folder nowhere does not exist; "),
        (inpaint(replay_noise="n.npz"), "--replay-noise takes the place of --seed and --noise; give one of them"),
        (inpaint(replay_noise="n.npz", seed=None), "noise recording n.npz: there is no such file"),
        (inpaint(replay_noise="n" * 300, seed=None), "cannot be read as an .npz file ([Errno"),
        (("bench", "bundle", "--json", "n" * 300), "cannot be written: File name too long; choose another path"),
        (inpaint(num_images=0), "--num-images is 0; expected a whole number from 1 to 1024"),
        (inpaint(num_images=10**9), "--num-images is 1000000000; expected a whole number from 1 to 1024"),
        # inputs
        (inpaint(image="nowhere.png"), "image nowhere.png does not exist; give the path of a PNG"),
        (inpaint(image="hat.npz"), "image hat.npz is not a picture that Pillow knows"),
        (inpaint(mask="bundle"), "folder bundle has no picture; expected files such as .png"),
        (inpaint(image_embeds="nowhere.npz"), "nowhere.npz does not exist; give an .npz or .npy file of embeddings"),
        (inpaint(image_embeds="cat.png"), "cat.png cannot be read as .npz or .npy embeddings"),
        # options
        (
            inpaint(max_pixels=5199),
            "image cat.png is 80x65 pixels; expected at most 5199 in all: scale it down first, or",
        ),
        (inpaint(out="out.webp", height=64, width=16384), "output out.webp cannot be written: the picture is 16384x64"),
        (inpaint(out="out.webp", expand="16384,0,0,0"), "the picture is 16464x65 pixels, and a WEBP file has at most"),
        (inpaint(height=10), "height is 10; expected a whole number of at least 64"),
        (inpaint(seed=-1), "seed is -1; expected a whole number from 0 to"),
        (inpaint(guidance_scale="nan"), "guidance_scale is nan; expected a number of at least 0 and up to 1000"),
        (inpaint(guidance_scale=-1), "guidance_scale is -1.0; expected a number of at least 0 and up to 1000"),
        (inpaint(num_inference_steps=0), "num_inference_steps is 0; expected a whole number of at least 1"),
        (inpaint(num_inference_steps=5000), "num_inference_steps is 5000; expected"),
        (inpaint(scheduler="magic"), "scheduler 'magic' is not supported; choose one of ddpm, ddim"),
        (inpaint(engine="magic"), "there is no engine 'magic'; choose from auto, "),
        (inpaint(precision="fp8"), "precision is 'fp8'; choose from fp32, fp16, bf16"),
        (inpaint(precision="fp16"), "engine fake runs fp32, bf16; got precision 'fp16'"),
        (inpaint(device="gpu"), "engine fake runs on cpu, fake:1; got device 'gpu'"),
        (inpaint(threads=0), "threads is 0; expected a whole number of at least 1"),
        (
            inpaint(guidance_interval="0.3"),
            "argument --guidance-interval: '0.3' is not two noise levels, such as 0.3:5",
        ),
        (inpaint(guidance_interval="5:0.3"), "guidance_interval is (5.0, 0.3); expected two noise levels, the lower"),
        (inpaint(padding_mask_crop=8), "padding_mask_crop is for inpaint_area 'mask' only; leave it out or ask for"),
        (inpaint(inpaint_area="mask", height=64), "height is 64 and width is None; with inpaint_area 'mask' give both"),
    ],
)
def test_wrong_arguments(
    refused: Callable[..., str], fake_engine: type[FakeEngine], args: list[object], text: str
) -> None:
    if "cat-2.png" in args:
        Path("cat.png").rename("cat-2.png")
    assert text in refused(*args)
    assert not fake_engine.loaded


RIGHT = np.zeros((1, WIDTH))


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"image_embeds": RIGHT[:, :5], "negative_image_embeds": RIGHT},
            "image_embeds: the width is 5; this bundle takes 6",
        ),
        ({"image_embeds": RIGHT * np.nan}, "`image_embeds` in e.npz: has NaN, infinity"),
        ({"embeds": RIGHT}, "e.npz has embeds; expected `image_embeds`"),
        ({"image_embeds": RIGHT}, "guidance_scale is 4, which needs negative_image_embeds: give them, or a"),
        (
            {"image_embeds": RIGHT, "negative_image_embeds": np.repeat(RIGHT, 3, axis=0)},
            "expected one for all or one for",
        ),
        ({"image_embeds": np.array([{}])}, "cannot be read as .npz or .npy embeddings (Object arrays cannot be loaded"),
    ],
)
def test_wrong_embeddings(refused: Callable[..., str], arrays: dict[str, Any], text: str) -> None:
    np.savez("e.npz", **arrays)
    assert text in refused(*inpaint(image_embeds="e.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", pickle.dumps(EMBEDS)])
def test_damaged_embeddings(refused: Callable[..., str], content: bytes) -> None:
    Path("e.npz").write_bytes(content)
    assert "e.npz cannot be read as .npz or .npy embeddings (" in refused(*inpaint(image_embeds="e.npz"))


@pytest.mark.parametrize("command", ["inspect", "inpaint"])
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda: Path("bundle/manifest.json").unlink(), "not a bundle: the folder has no manifest.json"),
        (lambda: Path("bundle/manifest.json").write_text("{"), "manifest.json is not JSON"),
        (lambda: fake_bundle.rewrite(Path("bundle"), lambda data: data.update(schema=99)), "bundle schema 99; this"),
        (lambda: Path("bundle/unet/graph.txt").unlink(), "unet/graph.txt is missing"),
        (lambda: Path("bundle/unet/graph.txt").write_text("UNET GRAPH"), "unet/graph.txt has changed since it was"),
        (lambda: Path("bundle").rename("elsewhere"), "there is no such folder; make a bundle with k22-export bundle"),
    ],
)
def test_broken_bundle(refused: Callable[..., str], command: str, damage: Callable[[], object], text: str) -> None:
    damage()
    line = refused(*(("inspect", "bundle") if command == "inspect" else inpaint()), status=1)
    assert line.startswith("bundle ")
    assert text in line


def test_every_fault_of_a_bundle_is_listed(k22: K22) -> None:
    for name in ("unet", "movq_encoder"):
        Path(f"bundle/{name}/graph.txt").unlink()
    result = k22("inspect", "bundle")
    assert result.status == 1
    assert result.err.splitlines() == [
        "k22: error: bundle bundle: 2 faults:",
        "  - unet/graph.txt is missing",
        "  - movq_encoder/graph.txt is missing",
    ]


def test_engine_that_is_not_installed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "library", "no_such_library")
    assert refused(*inpaint(), status=1) == "engine fake is not installed: pip install numpy"


def test_a_run_that_fails(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    alter = lambda component, _, outputs: outputs if component != "unet" else {"noise_pred": outputs["noise_pred"] / 0}  # noqa: E731
    monkeypatch.setattr(FakeEngine, "alter", staticmethod(alter))
    with np.errstate(divide="ignore", invalid="ignore"):
        line = refused(*inpaint("--quiet", record_noise="noise.npz"), status=1)
    assert line.startswith(
        "unet on fake, step 1 of 2 (timestep 501): 1,600 of the 1,600 values of `noise_pred` are NaN"
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "out.png"), "[Errno 28] No space left on device: 'out.png'"),
        (MemoryError("1 TB"), "out of memory (1 TB): work on a smaller picture or fewer results at once"),
        (ModuleNotFoundError("No module named 'PIL'"), "No module named 'PIL': pip install 'kandinsky22-deploy'"),
    ],
)
def test_failures_around_the_work(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    monkeypatch.setattr(InpaintPipeline, "load", raising(error))
    assert refused(*inpaint(), status=1) == text


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_interrupted(k22: K22, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files()
    monkeypatch.setattr(FakeEngine, "alter", raising(KeyboardInterrupt()))
    result = k22(*inpaint("--quiet"))
    assert result == (130, "", "k22: interrupted\n")
    assert files() == before


def test_debug_shows_a_traceback_and_keeps_the_exit_status(k22: K22) -> None:
    result = k22(*inpaint("--debug", height=10))
    assert result.status == 2
    assert "Traceback (most recent call last):" in result.err
    assert result.err.endswith("k22: error: height is 10; expected a whole number of at least 64\n")


def test_a_mistake_of_ours_is_not_hidden(k22: K22, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InpaintPipeline, "load", raising(AssertionError("a bug")))
    with pytest.raises(AssertionError):
        k22(*inpaint())


def test_exit_status_is_that_of_the_error() -> None:
    assert InputError.exit_status == 2


# -- as a process --


@pytest.fixture
def process(folder: Path) -> Callable[..., Result]:
    """Run a command in a process of its own, which finds the fake engine by its entry point."""
    site = fake_bundle.install(folder / "site-packages" / "of-the-process", {"fake": "fake_bundle:FakeEngine"})
    tests, package = Path(fake_bundle.__file__), Path(options.__file__)
    paths = [str(site), str(tests.parent), str(tests.parents[2]), str(package.parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "ascii"}

    def run(*args: object, **options: Any) -> Result:
        command = [sys.executable, "-c", "import sys; from kandinsky_runtime.cli import main; sys.exit(main())"]
        done = subprocess.run(
            [*command, *map(str, args)], env=environment, capture_output=True, text=True, timeout=60, **options
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def test_process(process: Callable[..., Result]) -> None:
    Image.fromarray(np.zeros_like(MASK)).save("schwärze.png")
    result = process(*inpaint("--quiet", out="größe.png"))
    assert result == (0, "wrote gr\\xf6\\xdfe.png (seed 3)\n", "")
    result = process(*inpaint("--json", mask="schwärze.png"))
    assert json.loads(result.out)["images"] == ["out.png"]
    assert (
        result.err
        == "k22: the mask has nothing to repaint, its largest value is 0 of 255: the picture is returned as it is\n"
    )


def test_process_that_fails(process: Callable[..., Result]) -> None:
    assert process(*inpaint(height=10)) == (2, "", "k22: error: height is 10; expected a whole number of at least 64\n")
    status, out, err = process("inspect", "nowhere")
    assert (status, out) == (1, "")
    assert err.startswith("k22: error: bundle nowhere: there is no such folder")


def test_a_reader_that_goes_away(process: Callable[..., Result]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        command = [sys.executable, "-c", "import sys; from kandinsky_runtime.cli import main; sys.exit(main())"]
        done = subprocess.run(
            [*command, "inspect", "bundle", "--quiet"], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_replayed_noise_of_another_shape(refused: Callable[..., str]) -> None:
    recording = RecordingNoise(NumpyNoise(0))
    recording.draw((1, 4, 8, 8))
    recording.save("noise.npz")
    line = refused(*inpaint("--quiet", seed=None, replay_noise="noise.npz"))
    shapes = "draw 0 has shape (1, 4, 8, 8); expected (1, 4, 10, 10)"
    assert line == f"noise recording noise.npz: {shapes}: use the options of the recorded run"
