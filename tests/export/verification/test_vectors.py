"""The conformance vectors, computed again by other means: the bundle's graphs, numpy, and the program of the docs."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.cli import main
from kandinsky_export.random_weights.configs import sized
from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
from kandinsky_export.verification.vectors import DESCRIPTION, check_vectors_path
from kandinsky_export.verification.verify import verify_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import UsageError
from tests.export.conftest import MICRO
from tests.golden import GOLDEN
from tests.parity.another_program import Noise, Schedule, guided, keep_cells
from tests.tolerances import GRAPH, STEP, TORCH_NORMALS

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def verified_bundle(micro_prior_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(micro_prior_bundle, tmp_path_factory.mktemp("vectors") / "bundle"))


@pytest.fixture(scope="module")
def file(verified_bundle: Path, micro_checkpoint: Path, micro_prior_diffusers: Path) -> Path:
    """The vectors of the smallest bundle with a prior."""
    path = verified_bundle.parent / "vectors.npz"
    verify_bundle(
        Bundle.open(verified_bundle),
        Checkpoint.open(micro_checkpoint),
        prior=PriorCheckpoint.open(micro_prior_diffusers),
        engine_names=["onnxruntime"],
        steps=0,
        vectors=path,
    )
    return path


@pytest.fixture(scope="module")
def description(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        described: dict[str, Any] = json.loads(archive.read(DESCRIPTION))
    return described


@pytest.fixture(scope="module")
def arrays(file: Path) -> Arrays:
    return read_arrays(file)


def read_arrays(file: Path) -> Arrays:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != DESCRIPTION}


def test_the_description_explains_every_array(description: dict[str, Any], arrays: Arrays) -> None:
    assert description["format"] == 1
    assert description["settings"] == {
        "seed": 0,
        "guidance_scale": 4.0,
        "scheduler": "ddpm",
        "num_inference_steps": 2,
        "timesteps": [501, 1],
    }
    assert description["arrays"].keys() == arrays.keys()
    for name, entry in description["arrays"].items():
        assert entry["shape"] == list(arrays[name].shape), name
        assert entry["dtype"] == str(arrays[name].dtype), name
        assert len(entry["about"]) > 10, name


def test_every_graph_makes_its_outputs_of_its_inputs(arrays: Arrays, verified_bundle: Path) -> None:
    bundle = Bundle.open(verified_bundle)
    with Graphs.open(bundle, "onnxruntime", "fp32") as graphs:
        for component, entry in bundle.manifest.components.items():
            feeds = {item.name: arrays[f"graphs/{component}/inputs/{item.name}"] for item in entry.spec.inputs}
            results = graphs.engine(component).run(feeds)
            for item in entry.spec.outputs:
                expected = arrays[f"graphs/{component}/outputs/{item.name}"]
                np.testing.assert_allclose(results[item.name], expected, rtol=0, atol=GRAPH, err_msg=component)


def test_a_run_of_a_graph_has_several_samples_and_sides_that_differ(arrays: Arrays) -> None:
    batch, _, height, width = arrays["graphs/unet/inputs/sample"].shape
    assert batch > 1
    assert height != width
    assert len(arrays["graphs/text_encoder/inputs/input_ids"]) > 1


def test_the_step_can_be_computed_by_hand(arrays: Arrays) -> None:
    step = {name.removeprefix("step/"): array for name, array in arrays.items() if name.startswith("step/")}
    first, kept, keep = step["first_noise"], step["picture_latents"], step["keep"]
    channels = first.shape[1]
    schedule = Schedule.of_decoder(sized("scheduler", "tiny"), 2)
    sample = np.concatenate([first, kept * keep, keep], axis=1)
    np.testing.assert_array_equal(step["unet_sample"], np.concatenate([sample, sample]))
    np.testing.assert_array_equal(step["unet_timestep"], np.full(2, schedule.timesteps[0], np.float32))
    embeds = [step["negative_image_embeds"], step["image_embeds"]]
    np.testing.assert_array_equal(step["unet_image_embeds"], np.concatenate(embeds))
    predicted = guided(step["noise_pred"], 4.0, channels)
    np.testing.assert_array_equal(step["guided_prediction"], predicted)
    of_sample, of_output = schedule.a[0] + schedule.b[0] * schedule.p[0], schedule.b[0] * schedule.q[0]
    latents = first * np.float32(of_sample) + predicted * np.float32(of_output)
    latents += step["noise"] * np.float32(schedule.s[0])
    known = kept * np.float32(schedule.signal[1]) + first * np.float32(schedule.spread[1])
    np.testing.assert_allclose(step["latents_after"], latents * (1 - keep) + known * keep, rtol=0, atol=STEP)
    assert 0 < keep.mean() < 1


def test_the_noise_of_the_step_is_that_of_the_seed(arrays: Arrays) -> None:
    noise = Noise(0)
    for name in ("step/first_noise", "step/noise"):
        np.testing.assert_array_equal(arrays[name], noise.draw(*arrays[name].shape))


def test_the_latent_masks(arrays: Arrays) -> None:
    for picture, keep in (("mask/picture", "mask/keep"), ("step/mask", "step/keep")):
        h, w = arrays[keep].shape[2:]
        np.testing.assert_array_equal(arrays[keep], keep_cells(arrays[picture] >= 128, h, w))
    keep = arrays["mask/keep"][0, 0]
    assert 0 < keep.mean() < 1
    for other in (keep[::-1], keep[:, ::-1], keep[::-1, ::-1]):
        assert not np.array_equal(keep, other), "a mirrored mask would go unnoticed"


def test_the_normals_are_torchs(arrays: Arrays) -> None:
    """torch's 700 integers of the seed are recorded; its numbers follow by the Box-Muller transform in blocks of 16."""
    with np.load(GOLDEN / "torch_randn.npz") as golden:
        integers = golden["integers_0"][:64]
    uniform = (integers & 0xFFFFFF).reshape(-1, 2, 8) / 2.0**24
    radius, angle = np.sqrt(-2 * np.log1p(-uniform[:, 0])), 2 * np.pi * uniform[:, 1]
    expected = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1).reshape(-1)
    assert arrays["noise/normals"].dtype == np.float32
    np.testing.assert_allclose(arrays["noise/normals"], expected, rtol=0, atol=TORCH_NORMALS)


def test_a_decoder_without_a_picture(tmp_path: Path) -> None:
    from kandinsky_export.bundle_export import export_bundle

    write_sample_checkpoint(tmp_path / "plain", decoder="plain", changes=MICRO)
    checkpoint = Checkpoint.open(tmp_path / "plain")
    export_bundle(checkpoint, tmp_path / "bundle", name="plain", variants=["onnx-fp32"])
    file = tmp_path / "vectors.npz"
    arguments = ("--engines", "onnxruntime", "--steps", "0", "--quiet", "--vectors", str(file))
    assert main(["verify", str(tmp_path / "bundle"), str(tmp_path / "plain"), *arguments]) == 0
    arrays = read_arrays(file)
    assert not {"step/picture", "step/keep", "mask/picture"} & arrays.keys()
    assert arrays["step/unet_sample"].shape[1] == arrays["step/first_noise"].shape[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vectors.json", "expected a file name that ends in .npz: add the suffix"),
        ("missing/vectors.npz", "expected a file in an existing folder: create .*missing first"),
        ("folder.npz", "expected a file in an existing folder"),
    ],
)
def test_a_path_that_cannot_be_written_to(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UsageError, match=message):
        check_vectors_path(tmp_path / name)
