"""`k22-export compare` as users meet it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kandinsky_export import cli
from kandinsky_export.cli import main
from kandinsky_runtime.bundle.bundle import Bundle
from tests.runtime.fake_bundle import WIDTH, FakeEngine

Captured = pytest.CaptureFixture[str]
BOTH = ["--baseline", "engine=fake,steps=2", "--candidate", "engine=fake,steps=3"]
SIZE = ["--height", "64", "--width", "80"]


def run(*arguments: object, capsys: Captured) -> tuple[int, str, str]:
    try:
        status = main([str(item) for item in arguments])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        status = ended.code
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files of prompts, embeddings and pictures."""
    made = tmp_path / "here"
    made.mkdir()
    monkeypatch.chdir(made)
    Path("prompts.txt").write_text("a hat\nat\n")
    Image.new("RGB", (64, 64), (9, 90, 200)).save("image.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    np.savez("hat.npz", image_embeds=np.ones((2, WIDTH)), negative_image_embeds=np.zeros((1, WIDTH)))
    return made


def test_json_and_sheet(inpainting: Bundle, capsys: Captured) -> None:
    arguments = ["compare", inpainting.root, *BOTH, "--prompts", "prompts.txt", "--seeds", "2", *SIZE]
    status, out, err = run(*arguments, "--sheet", "s.png", "--json", "--quiet", capsys=capsys)
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert [case["seed"] for case in data["cases"]] == [0, 1, 0, 1]
    with Image.open("s.png") as sheet:
        assert sheet.height > 4 * 64
    assert sorted(path.name for path in Path().iterdir()) == [
        "hat.npz",
        "image.png",
        "mask.png",
        "prompts.txt",
        "s.png",
    ]


def test_table_of_embeddings_and_own_pictures(inpainting: Bundle, capsys: Captured) -> None:
    arguments = ["compare", inpainting.root, *BOTH, "--image-embeds", "hat.npz"]
    status, out, err = run(*arguments, "--image", "image.png", "--mask", "mask.png", "--trajectory", capsys=capsys)
    assert status == 0
    assert re.search(r"^candidate 1 +\d", out, re.MULTILINE)
    assert "candidate 1: 100%" in err
    assert out.endswith("\n")


def test_plain_bundles(plain: Bundle, capsys: Captured) -> None:
    for more in (SIZE, ["--image", "image.png", "--strength", "0.8"]):
        status, out, _ = run("compare", plain.root, *BOTH, "--prompts", "prompts.txt", *more, capsys=capsys)
        assert status == 0
        assert "within the picture" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--baseline"),
        ([*BOTH], "one of the arguments --prompts --image-embeds is required"),
        ([*BOTH, "--prompts", "prompts.txt", "--image-embeds", "hat.npz"], "not allowed with"),
        ([*BOTH, "--prompts", "prompts.txt", "--seeds", "0"], "expected a whole number of 1 or more"),
        ([*BOTH, "--prompts", "prompts.txt", "--seeds", "9" * 20], f"got {'9' * 20}; expected at most 100000"),
        ([*BOTH, "--prompts", "prompts.txt", "--seeds", "9" * 5000], "expected at most 100000"),
        ([*BOTH, "--prompts", "prompts.txt", "--seeds", "100001"], "expected at most 100000"),
        (
            [*BOTH, "--prompts", "prompts.txt", "--seeds", "50001"],
            "50,001 seeds of 2 prompts or embeddings are 100,002 results; expected at most 100,000",
        ),
        ([*BOTH, "--candidate", "stepz=1", "--prompts", "prompts.txt"], "unknown key 'stepz'; the keys are engine,"),
        (
            [*BOTH, "--candidate", "engine=fake,steps=0", "--prompts", "prompts.txt"],
            "fake,steps=0: num_inference_steps",
        ),
        ([*BOTH, "--candidate", "engine=nothing", "--prompts", "prompts.txt"], "there is no engine 'nothing'"),
        ([*BOTH, "--prompts", "missing.txt"], "prompts missing.txt cannot be read"),
        ([*BOTH, "--image-embeds", "missing.npz"], "missing.npz does not exist"),
        ([*BOTH, "--prompts", "prompts.txt", "--negative-image-embeds", "hat.npz"], "goes with --image-embeds"),
        ([*BOTH, "--prompts", "prompts.txt", "--image", "image.png"], "--image and --mask go together"),
        ([*BOTH, "--prompts", "prompts.txt", "--strength", "0.5"], "leave it out"),
        ([*BOTH, "--prompts", "prompts.txt", "--height", "8"], "--height is 8; expected a whole number of at least 64"),
        ([*BOTH, "--prompts", "prompts.txt", "--sheet", "s.txt"], "expected one of .png"),
        ([*BOTH, "--prompts", "prompts.txt", "--sheet", "missing/s.png"], "does not exist"),
        (
            [*BOTH, "--prompts", "prompts.txt", "--image", "image.png", "--mask", "mask.png", "--sheet", "mask.png"],
            "would replace the file of --mask",
        ),
    ],
    ids=lambda item: " ".join(item[4:])[:60] if isinstance(item, list) else "",
)
def test_refused(arguments: list[str], message: str, inpainting: Bundle, folder: Path, capsys: Captured) -> None:
    before = sorted(folder.iterdir())
    status, out, err = run("compare", inpainting.root, *arguments, "--quiet", capsys=capsys)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("k22-export")
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    assert not FakeEngine.runs


def test_a_mask_for_a_plain_bundle(plain: Bundle, capsys: Captured) -> None:
    status, _, err = run("compare", plain.root, *BOTH, "--prompts", "prompts.txt", "--mask", "mask.png", capsys=capsys)
    assert status == 2
    assert "--mask is for inpainting" in err


def _nan(_: str, __: int, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value * np.float32(np.nan) for name, value in outputs.items()}


def test_failed_work_writes_nothing(
    inpainting: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(FakeEngine, "alter", staticmethod(_nan))
    before = sorted(folder.iterdir())
    arguments = ["compare", inpainting.root, *BOTH, "--prompts", "prompts.txt", *SIZE, "--sheet", "s.png", "--quiet"]
    status, out, err = run(*arguments, capsys=capsys)
    assert (status, out) == (1, "")
    assert "engine=fake,steps=2: " in err
    assert sorted(folder.iterdir()) == before


def test_a_failed_candidate_is_shown_and_is_the_exit_status(
    inpainting: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def nan_in_candidate_1(component: str, run: int, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _nan(component, run, outputs) if component == "unet" and run == 6 else outputs

    monkeypatch.setattr(FakeEngine, "alter", staticmethod(nan_in_candidate_1))
    more = ["--candidate", "engine=fake,steps=2", "--prompts", "prompts.txt", *SIZE, "--sheet", "s.png", "--quiet"]
    status, out, err = run("compare", inpainting.root, *BOTH, *more, capsys=capsys)
    assert status == 1
    assert re.search(r"^candidate 1  failed: .*unet", out, re.MULTILINE)
    assert re.search(r"^candidate 2 +equal", out, re.MULTILINE)
    assert err.startswith("k22-export: error: 1 of 2 candidates failed: candidate 1 (engine=fake,steps=3): ")
    assert Path("s.png").exists()
    FakeEngine.runs.clear()
    status, out, err = run("compare", inpainting.root, *BOTH, *more, "--json", capsys=capsys)
    assert status == 1
    assert json.loads(out)["candidates"][0]["failed"] in err


def test_help_shows_examples_that_can_be_typed(capsys: Captured) -> None:
    status, out, _ = run("compare", "--help", capsys=capsys)
    assert status == 0
    examples = re.findall(r"^  (k22-export compare .+)$", out.replace("\\\n", ""), re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        cli._parser().parse_args(example.split()[1:])


def test_help_loads_no_numpy_and_no_vendor() -> None:
    program = (
        "import sys\nfrom kandinsky_export.cli import main\n"
        "try: main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(', '.join({'numpy', 'PIL', 'onnx', 'onnxruntime', 'paddle'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
