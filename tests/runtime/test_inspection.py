"""The description of a bundle, word for word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines import registry
from kandinsky_runtime.inspection import as_text, describe
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine

TEXT = """\
{root}: 0.0 MB in 3 files, exported from a-checkpoint (diffusers)

  tasks       inpaint
  variants    fake-fp32
  scheduler   DDPMScheduler
  embeddings  6 wide
  sizes       64 px and more, padded to multiples of 16 px
  written by  kandinsky22-deploy 0.1.0
  not in it   notes.txt (it is not in the manifest, and nothing reads it)

graphs
  unet                0.0 MB
    in   sample float32 (batch, 9, height, width)
    in   timestep float32 (batch)
    in   image_embeds float32 (batch, 6)
    out  noise_pred float32 (batch, 8, height, width)
  movq_encoder        0.0 MB
    in   image float32 (batch, 3, height, width)
    out  latents float32 (batch, 4, height/8, width/8)
  movq_decoder        0.0 MB
    in   latents float32 (batch, 4, height, width)
    out  image float32 (batch, 3, 8*height, 8*width)

engines on this machine
  onnxruntime   not ready: engine onnxruntime needs variant onnx-fp32; the bundle has fake-fp32: export it again \
with --variants
  fake          ready: fp32, version {version}

largest difference from the checkpoint
  fake          unet 1.5e-06, picture after 10 steps 2.5e-05"""


@pytest.fixture
def opened(bundle: Path, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(registry, "names", lambda: ("onnxruntime", "fake"))
    return Bundle.open(bundle)


def test_control_characters_do_not_reach_the_terminal(opened: Bundle) -> None:
    (opened.root / "\x1b]0;title\x07\n  fake  ready.txt").write_text("mine")
    manifest = replace(opened.manifest, source={"name": "a\x1b[2Jb\u202ec", "form": "diffusers"})
    lines = as_text(describe(replace(opened, manifest=manifest))).split("\n")
    assert all(line.isprintable() for line in lines)
    assert "exported from a\\x1b[2Jb\\u202ec (diffusers)" in lines[0]
    name = "\\x1b]0;title\\x07\\n  fake  ready.txt"
    assert f"  not in it   {name} (it is not in the manifest, and nothing reads it)" in lines


def test_text(opened: Bundle) -> None:
    (opened.root / "notes.txt").write_text("mine")
    assert as_text(describe(opened)) == TEXT.format(root=opened.root, version=np.__version__)


def test_json_has_stable_keys(opened: Bundle) -> None:
    data = describe(opened)
    assert json.loads(json.dumps(data)) == data
    assert list(data) == [
        "bundle",
        "source",
        "scheduler",
        "tasks",
        "embeds_width",
        "size_minimum",
        "size_multiple",
        "variants",
        "bytes",
        "files",
        "extra_files",
        "components",
        "engines",
        "written_by",
        "parity",
    ]
    assert data["components"]["unet"] == {
        "inputs": [
            "sample float32 (batch, 9, height, width)",
            "timestep float32 (batch)",
            "image_embeds float32 (batch, 6)",
        ],
        "outputs": ["noise_pred float32 (batch, 8, height, width)"],
        "ranges": {
            "batch": "1 and more",
            "height": "2 and more, multiples of 2",
            "width": "2 and more, multiples of 2",
        },
        "bytes": 10,
        "variants": ["fake-fp32"],
    }
    assert data["bytes"] == sum(data["components"][name]["bytes"] for name in data["components"])


def test_weights_that_variants_share_are_counted_once(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    both = fake_bundle.opened(tmp_path / "both", variants={"fake-fp32": "fp32", "fake-bf16": "bf16"})
    assert describe(both)["components"]["unet"]["bytes"] == len(fake_bundle.content("unet"))


@pytest.mark.parametrize(
    ("parity", "lines"),
    [
        ({}, ["  not measured yet: k22-export verify BUNDLE CHECKPOINT"]),
        ({"engines": {}}, ["  not measured yet: k22-export verify BUNDLE CHECKPOINT"]),
        ({"engines": {"fake": {"components": {"unet": 1e-6}, "trajectory": None}}}, ["  fake          unet 1.0e-06"]),
        ({"engines": {"fake": {"figures": "of another version"}}}, ["  fake          no figures"]),
    ],
)
def test_parity(bundle: Path, fake_engine: type[FakeEngine], parity: dict[str, Any], lines: list[str]) -> None:
    fake_bundle.rewrite(bundle, lambda data: data.update(parity=parity))
    text = as_text(describe(Bundle.open(bundle)))
    assert text.splitlines()[text.splitlines().index("largest difference from the checkpoint") + 1 :] == lines


def test_little_is_known(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    fake_bundle.rewrite(bundle, lambda data: data.update(source={}, written_by={}))
    text = as_text(describe(Bundle.open(bundle)))
    assert "exported from an unnamed checkpoint (form unknown)" in text
    assert "written by  unknown tools" in text


def section(text: str, title: str) -> list[str]:
    lines = text.splitlines()
    start = lines.index(title) + 1
    return lines[start : lines.index("", start)]


def test_a_variant_of_a_later_version(bundle: Path, fake_engine: type[FakeEngine]) -> None:
    """The rest of the bundle is described and runs."""
    variant = {"precision": "int8", "files": {"graph": "unet/graph.txt"}}
    fake_bundle.rewrite(bundle, lambda data: data["components"]["unet"]["variants"].update({"fake-int8": variant}))
    data = describe(Bundle.open(bundle))
    why = "it is stored in 'int8', which this version does not know: upgrade kandinsky22-deploy"
    assert data["components"]["unet"]["unusable"] == {"fake-int8": why}
    assert data["components"]["unet"]["variants"] == data["variants"] == ["fake-fp32"]
    assert "unusable" not in data["components"]["movq_encoder"]
    assert f"    fake-int8: cannot be run: {why}" in section(as_text(data), "graphs")
    assert data["engines"]["fake"]["ready"]


def test_a_prior_with_fewer_variants(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    described = fake_bundle.with_prior(variants={"fake-fp32": "fp32", "fake-bf16": "bf16", "other": "fp32"})
    bundle = fake_bundle.write(tmp_path / "bundle", described)

    def change(data: dict[str, Any]) -> None:
        del data["components"]["text_encoder"]["variants"]["fake-fp32"]
        for name in ("fake-fp32", "fake-bf16"):
            del data["components"]["prior"]["variants"][name]

    data = describe(Bundle.open(fake_bundle.rewrite(bundle, change)))
    assert data["variants"] == ["fake-fp32", "fake-bf16", "other"]
    lines = section(as_text(data), "graphs")
    assert "    only fake-bf16, other" in lines
    assert "    only other" in lines
    state = data["engines"]["fake"]
    assert (state["ready"], state["precision"], state["cannot_run"]) == (True, "fp32", ["prior"])
    assert f"  fake          ready: fp32, version {np.__version__}; it cannot run prior" in as_text(data).splitlines()
