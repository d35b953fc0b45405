"""Several pictures of one command: each result is that of a command for its picture alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.cli.pictures import Results
from tests.runtime.command_line import K22, files
from tests.runtime.fake_bundle import FakeEngine
from tests.runtime.pipes import fed_pipe

RNG = np.random.default_rng(28)
SIZES = {"a": (64, 80), "b": (96, 64), "c": (64, 64)}


@pytest.fixture
def folder(
    tmp_path: Path,
    prior_bundle: Path,
    plain_bundle: Path,
    fake_engine: type[FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder: two bundles, a folder of pictures and a folder of their masks."""
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "masks"):
        Path(name).mkdir()
    for name, (height, width) in SIZES.items():
        Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(f"pictures/{name}.png")
        mask = np.zeros((height, width), np.uint8)
        mask[16:40, 16:40] = 255
        Image.fromarray(mask).save(f"masks/{name}.png")
    Path("pictures/notes.txt").write_text("no picture")
    return tmp_path


def inpaint(*flags: object) -> list[object]:
    usual = ("--engine", "fake", "--num-inference-steps", 2, "--prior-num-inference-steps", 3, "--quiet")
    return ["inpaint", "prior-bundle", "--out", "out.png", *usual, *flags]


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_a_folder_is_a_batch_that_loads_the_graphs_once(k22: K22, fake_engine: type[FakeEngine]) -> None:
    done = k22(
        *inpaint(
            "--image", "pictures", "--mask", "masks", "--prompt", "a hat", "--seed", 3, "--num-images", 2, "--json"
        )
    )
    assert done.status == 0, done
    assert len(fake_engine.loaded) == len(set(fake_engine.loaded))
    data = json.loads(done.out)
    assert data["images"] == [f"out-{number}.png" for number in range(1, 7)]
    assert data["seeds"] == [3, 4, 5, 6, 7, 8]
    assert len(data["masks"]) == 6
    for index, name in enumerate(SIZES):
        alone = ("--image", f"pictures/{name}.png", "--mask", f"masks/{name}.png", "--prompt", "a hat")
        for number in (0, 1):
            assert k22(*inpaint(*alone, "--seed", 3 + 2 * index + number)).status == 0
            np.testing.assert_array_equal(pixels("out.png"), pixels(f"out-{2 * index + number + 1}.png"))


def test_what_is_written_is_reported_at_once(
    k22: K22, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Results.write

    def interrupted(self: Results, output: Any) -> None:
        if Path("out-2.png").exists():
            raise KeyboardInterrupt
        write(self, output)

    monkeypatch.setattr(Results, "write", interrupted)
    done = k22(*inpaint("--image", "pictures", "--mask", "masks", "--prompt", "a hat", "--seed", 3))
    assert (done.status, done.out) == (130, "wrote out-1.png (seed 3)\nwrote out-2.png (seed 4)\n")


def test_several_pictures_with_prompts_of_their_own(k22: K22) -> None:
    flags = ["--image", "pictures/a.png", "--image", "pictures/b.png", "--mask", "masks/c.png"]
    assert k22(*inpaint(*flags, "--prompt", "a hat", "--prompt", "a dog", "--seed", 5)).status == 0
    alone = ("--image", "pictures/b.png", "--mask", "masks/c.png", "--prompt", "a dog", "--seed", 6)
    assert k22(*inpaint(*alone)).status == 0
    np.testing.assert_array_equal(pixels("out.png"), pixels("out-2.png"))


def test_a_folder_has_every_kind_of_picture_and_no_hidden_file(k22: K22) -> None:
    with Image.open("pictures/a.png") as picture:
        for name in ("d.gif", "e.JFIF", "f.ppm"):
            picture.save(f"pictures/{name}")
    for name in ("._a.png", ".hidden.png"):
        Path(f"pictures/{name}").write_text("what macOS knows about a picture")
    done = k22(*inpaint("--image", "pictures", "--mask", "masks/a.png", "--prompt", "a hat", "--json"))
    assert done.status == 0, done
    assert len(json.loads(done.out)["images"]) == len(SIZES) + 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_are_read_once_for_all_runs(k22: K22) -> None:
    """Also if a pipe is the picture and the prompt, or the mask of every picture."""
    piped = fed_pipe(Path("picture"), Path("pictures/a.png").read_bytes())
    mask = fed_pipe(Path("mask"), Path("masks/a.png").read_bytes())
    flags = ("--image", "pictures/c.png", "--image", piped, "--mask", mask, "--prompt-image", piped, "--seed", 5)
    done = k22(*inpaint(*flags))
    assert done.status == 0, done
    alone = ("--image", "pictures/a.png", "--mask", "masks/a.png", "--prompt-image", "pictures/a.png", "--seed", 6)
    assert k22(*inpaint(*alone)).status == 0
    np.testing.assert_array_equal(pixels("out.png"), pixels("out-2.png"))


def test_generate_changes_every_picture(k22: K22) -> None:
    usual = (
        "--engine",
        "fake",
        "--num-inference-steps",
        4,
        "--strength",
        0.5,
        "--prior-num-inference-steps",
        3,
        "--quiet",
    )
    command = ("generate", "plain-bundle", "--out", "out.jpg", *usual, "--prompt", "a winter night")
    done = k22(*command, "--image", "pictures", "--json")
    assert done.status == 0, done
    seeds = json.loads(done.out)["seeds"]
    assert seeds == list(range(seeds[0], seeds[0] + 3)), "a drawn seed goes on"
    assert [pixels(f"out-{index + 1}.jpg").shape[:2] for index in range(3)] == list(SIZES.values())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--image", "pictures", "--mask", "masks/a.png", "--mask", "masks/b.png"), "got 2 masks for 3 pictures; give"),
        (("--image", "masks", "--mask", "empty"), "folder empty has no picture; expected files such as .png"),
        (("--image", "n" * 300, "--mask", "masks/a.png"), "cannot be read: File name too long; give the path of a PNG"),
        (("--image", "pictures/a.png", "--mask", "n" * 300), "cannot be read: File name too long; give the path of a"),
        (("--image", "pictures/a.png", "--mask", "masks/a.png", "--record-noise", "n" * 300), "name too long; choose"),
        (
            ("--image", "pictures", "--mask", "lonely"),
            "folder lonely has 0 masks for pictures/b.png; expected one file",
        ),
        (
            ("--image", "pictures", "--mask", "masks", "--prompt", "two"),
            "got 2 prompts for 3 pictures; give one for all",
        ),
        (
            ("--image", "pictures", "--mask", "masks", "--negative-prompt", "a", "--negative-prompt", "b"),
            "got 2 negative prompts for 3 pictures; give one for all",
        ),
        (("--image", "pictures", "--mask", "masks", "--seed", 2**64 - 1), "seed is 18446744073709551616"),
        (("--image", "", "--mask", "masks"), "argument --image: the path is empty; expected a file or a folder"),
        (("--image", "pictures/a.png", "--mask", "pictures"), "folder pictures has the picture pictures/a.png itself"),
        (("--image", "pictures/a.png", "--mask-box", "0,0,9,9", "--mask-mode", "black"), "--mask-mode is for the file"),
        (
            ("--image", "pictures/a.png", "--expand", "0,0,64,0", "--invert-mask"),
            "mask_mode and invert_mask are for a mask, and there is none",
        ),
        (
            ("--image", "pictures", "--mask", "masks", "--record-noise", "n.npz"),
            "--record-noise and --replay-noise are",
        ),
        (
            ("--image", "pictures", "--image", "damaged.png", "--mask", "masks/a.png"),
            "image damaged.png is not a picture",
        ),
        (
            ("--image", "pictures", "--mask", "masks", "--out", "pictures/a.png", "--image", "pictures/a-1.png"),
            "a-1.png",
        ),
    ],
)
def test_what_is_refused(refused: Callable[..., str], flags: tuple[object, ...], text: str) -> None:
    for name in ("empty", "lonely"):
        Path(name).mkdir()
    Image.new("L", (8, 8), 255).save("lonely/a.png")
    Path("damaged.png").write_text("no picture")
    before = files()
    assert text in refused(*inpaint("--prompt", "a hat", *flags))
    assert files() == before


def test_a_folder_without_permission_is_refused(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    line = refused(*inpaint("--prompt", "a hat", "--image", "pictures", "--mask", "masks"))
    assert line == "folder pictures cannot be read: Permission denied; give this user the right to read it"
    for denied in ("--image", "--mask"):
        monkeypatch.setattr(Path, "stat", _denied(Path.stat, denied))
        given = {"--image": "pictures/a.png", "--mask": "masks/a.png"} | {denied: f"closed/{denied}"}
        flags = [item for pair in given.items() for item in pair]
        line = refused(*inpaint("--prompt", "a hat", *flags))
        assert line.startswith(f"{denied.strip('-')} closed/{denied} cannot be read without permission; give this user")


def _denied(stat: Callable[..., os.stat_result], name: str) -> Callable[..., os.stat_result]:
    """A `stat` to which the user has no permission if the path ends in `name`."""

    def denied(path: Path, **options: bool) -> os.stat_result:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    return denied
