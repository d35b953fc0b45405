"""A bundle whose files are links out of its folder, as in the Hugging Face cache, on OpenVINO."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines.openvino.linked_weights import readable_files
from kandinsky_runtime.errors import EngineError
from scripts.goldens import trajectories as golden


@pytest.fixture(scope="module")
def plain(case_bundle: Callable[[str], Path]) -> Path:
    return case_bundle("four_blocks")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kandinsky22-deploy" / "openvino-links"


@pytest.fixture
def snapshot(plain: Path, tmp_path: Path) -> Path:
    """A folder as huggingface_hub makes it: every file is a link to one that is named after its content."""
    blobs, root = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        blob, link = blobs / f"{number:04x}", root / file.relative_to(plain)
        blob.write_bytes(file.read_bytes())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return root


def files(root: Path) -> dict[str, Path]:
    bundle = Bundle.open(root)
    return dict(bundle.paths(bundle.component("unet").variants["onnx-fp32"]))


def run(root: Path, embeds: Path) -> np.ndarray[Any, Any]:
    with InpaintPipeline.load(root, engine="openvino") as pipeline, np.load(embeds) as arrays:
        output = pipeline(
            golden.picture(), golden.mask(), **{name: arrays[name] for name in arrays.files}, num_inference_steps=2,
            seed=1, output_type="np",
        )  # fmt: skip
    return np.asarray(output.images)


def test_it_gives_the_same_picture_twice(
    plain: Path, snapshot: Path, cache: Path, case_checkpoint: Callable[[str], Path]
) -> None:
    embeds = case_checkpoint("four_blocks") / "image_embeds.npz"
    expected = run(plain, embeds)
    assert not cache.exists()
    np.testing.assert_array_equal(run(snapshot, embeds), expected)
    made = sorted(path.name for path in cache.iterdir())
    assert len(made) == 3  # UNet, encoder, decoder
    np.testing.assert_array_equal(run(snapshot, embeds), expected)
    assert sorted(path.name for path in cache.iterdir()) == made


def test_the_weights_take_no_space_of_their_own(snapshot: Path, cache: Path) -> None:
    given = files(snapshot)
    found = readable_files(given)
    assert found["weights"].samefile(given["weights"])
    assert not found["weights"].is_symlink()
    assert found["graph"].read_bytes() == given["graph"].read_bytes()
    assert found["weights"].name == given["weights"].name  # the graph has its name


def test_a_copy_that_was_damaged_is_made_again(snapshot: Path, cache: Path) -> None:
    given = files(snapshot)
    graph = readable_files(given)["graph"]
    graph.write_bytes(b"")
    assert readable_files(given)["graph"] == graph
    assert graph.read_bytes() == given["graph"].read_bytes()


def test_links_to_removed_bundles_are_removed(snapshot: Path, plain: Path, cache: Path) -> None:
    given = files(snapshot)
    first = readable_files(given)["weights"]
    blob = given["weights"].resolve()
    content = blob.read_bytes()
    blob.unlink()
    blob.with_name("new").write_bytes(content)
    given["weights"].unlink()
    given["weights"].symlink_to(blob.with_name("new"))
    second = readable_files(given)["weights"]
    assert second != first
    assert not first.exists()


def test_files_in_their_folder_are_used_as_they_are(plain: Path, cache: Path) -> None:
    assert readable_files(files(plain)) == files(plain)
    assert not cache.exists()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOSPC])
def test_no_hard_link_can_be_made(code: int, snapshot: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(
        EngineError, match=r"OpenVINO does not read .*, a link .* copy the bundle with cp -rL"
    ) as caught:
        readable_files(files(snapshot))
    assert os.strerror(code) in str(caught.value)
    assert list(cache.iterdir()) == []
