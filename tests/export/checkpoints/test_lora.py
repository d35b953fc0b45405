"""LoRA merged into a checkpoint: every spelling of diffusers, every fault. The pictures are in tests/parity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected
from kandinsky_export.checkpoints.lora import LORA_FILE, Lora, parse_lora
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.checkpoints.unused_files import unused_notes
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.random_weights.sample_prior import write_sample_prior
from kandinsky_runtime.errors import UsageError
from scripts.goldens import lora as golden
from scripts.goldens.trajectories import SEED
from tests.export.checkpoints.weight_files import save_safetensors
from tests.golden import GOLDEN
from tests.tolerances import LORA_MERGE

Array = npt.NDArray[Any]
LAYER = "time_embedding.linear_1"  # (128, 32) in the micro UNet, as its weight is in PyTorch
CONV = "conv_in"


@pytest.fixture
def unet(micro_expected: dict[str, dict[str, Expected]]) -> Mapping[str, Mapping[str, Expected]]:
    return {"unet": micro_expected["unet"]}


def drawn(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pair(shape: tuple[int, ...], rank: int = 2) -> tuple[Array, Array]:
    """A and B for a weight of this shape."""
    return drawn((rank, *shape[1:]), 1), drawn((shape[0], rank, *(1,) * (len(shape) - 2)), 2)


def merged(checkpoint: Path, expected: Any, path: Path, *scales: float) -> dict[str, Array]:
    opened = replace(Checkpoint.open(checkpoint), loras=tuple(Lora(path, scale) for scale in scales))
    return {name: read() for name, read in opened.tensors(expected)["unet"].items()}


def faults(checkpoint: Path, expected: Any, path: Path) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        merged(checkpoint, expected, path, 1.0)
    assert caught.value.subject == str(path)
    return caught.value.faults


class TestMerge:
    @pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model."])
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (".lora_A.weight", ".lora_B.weight"),
            (".lora_A.default.weight", ".lora_B.default.weight"),
            (".lora.down.weight", ".lora.up.weight"),
            (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        ],
    )
    def test_every_spelling_of_a_layer(
        self, prefix: str, a: str, b: str, micro_checkpoint: Path, unet: Any, tmp_path: Path
    ) -> None:
        down, up = pair(unet["unet"][f"{LAYER}.weight"].torch_shape)
        save_safetensors(tmp_path / "l.safetensors", {f"{prefix}{LAYER}{a}": down, f"{prefix}{LAYER}{b}": up})
        plain = merged(micro_checkpoint, unet, tmp_path / "l.safetensors")
        got = merged(micro_checkpoint, unet, tmp_path / "l.safetensors", 0.25)
        want = plain[f"{LAYER}.weight"] + 0.25 * (up.astype(np.float64) @ down.astype(np.float64)).T
        np.testing.assert_array_equal(got.pop(f"{LAYER}.weight"), want.astype(np.float32))
        for name, values in got.items():
            np.testing.assert_array_equal(values, plain[name], err_msg=name)

    def test_a_convolution(self, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        down, up = pair(unet["unet"][f"{CONV}.weight"].shape)
        save_safetensors(tmp_path / "l.safetensors", {f"{CONV}.lora_A.weight": down, f"{CONV}.lora_B.weight": up})
        plain = merged(micro_checkpoint, unet, tmp_path / "l.safetensors")[f"{CONV}.weight"]
        got = merged(micro_checkpoint, unet, tmp_path / "l.safetensors", 2.0)[f"{CONV}.weight"]
        want = plain + 2 * np.einsum("or,rikl->oikl", up[:, :, 0, 0].astype(np.float64), down.astype(np.float64))
        np.testing.assert_allclose(got, want, rtol=0, atol=LORA_MERGE)

    def test_several_and_opposite_scales_cancel(self, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        down, up = pair(unet["unet"][f"{LAYER}.weight"].torch_shape)
        save_safetensors(tmp_path / "l.safetensors", {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up})
        plain = merged(micro_checkpoint, unet, tmp_path / "l.safetensors")
        got = merged(micro_checkpoint, unet, tmp_path / "l.safetensors", 0.5, -0.5)
        np.testing.assert_allclose(got[f"{LAYER}.weight"], plain[f"{LAYER}.weight"], rtol=0, atol=LORA_MERGE)

    @pytest.mark.parametrize("where", ["file", "metadata"])
    def test_alpha(self, where: str, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        """The update is alpha / rank times B A: alpha 6 and rank 2 are a scale of 3."""
        down, up = pair(unet["unet"][f"{LAYER}.weight"].torch_shape)
        tensors = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
        save_safetensors(tmp_path / "plain.safetensors", tensors)
        if where == "file":
            save_safetensors(tmp_path / "l.safetensors", {**tensors, f"{LAYER}.alpha": np.float32([6.0]).reshape(())})
        else:
            save_with_settings(tmp_path / "l.safetensors", tensors, {"unet.r": 2, "unet.lora_alpha": 6})
        got = merged(micro_checkpoint, unet, tmp_path / "l.safetensors", 1.0)
        want = merged(micro_checkpoint, unet, tmp_path / "plain.safetensors", 3.0)
        np.testing.assert_array_equal(got[f"{LAYER}.weight"], want[f"{LAYER}.weight"])

    def test_the_priors_weights_are_those_that_diffusers_merges(self, tmp_path: Path) -> None:
        write_sample_prior(tmp_path / "prior", seed=SEED, form="diffusers", changes=golden.PRIOR_CHANGES)
        checkpoint = PriorCheckpoint.open(tmp_path / "prior")
        expected = {
            "prior": expected_tensors(build_models({"prior": checkpoint.components["prior"].config}, "prior")["prior"])
        }
        lora = Lora(GOLDEN / "lora" / "prior.safetensors", golden.PRIOR_SCALE)
        plain = checkpoint.tensors(expected)["prior"]
        mine = replace(checkpoint, loras=(lora,)).tensors(expected)["prior"]
        with np.load(GOLDEN / "lora" / "prior.npz") as theirs:
            names = [name for name in theirs.files if name != "versions"]
            assert len(names) == 4
            for name in names:
                np.testing.assert_allclose(mine[name]().T, theirs[name], rtol=0, atol=LORA_MERGE, err_msg=name)
                assert np.abs(mine[name]() - plain[name]()).max() > 0.01


def save_with_settings(path: Path, tensors: Mapping[str, Array], settings: object) -> None:
    save_safetensors(path, tensors)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    text = settings if isinstance(settings, str) else json.dumps(settings)
    header["__metadata__"]["lora_adapter_metadata"] = text
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])


class TestFaults:
    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"text_encoder.layer.lora_A.weight": (2, 2)}, "the unet has no layer `text_encoder.layer`"),
            (
                {"unet.mid_block.attentions.7.processor.to_q_lora.up.weight": (2, 2)},
                "the unet has no layer `mid_block.",
            ),
            ({"lora_unet_conv_in.lora_down.weight": (2, 2)}, "is not the name of a LoRA weight for a unet"),
            ({f"{LAYER}.weight": (2, 2)}, "is not the name of a LoRA weight for a unet"),
            ({f"{LAYER}.lora_magnitude_vector": (2,)}, "is not the name of a LoRA weight for a unet"),
            ({f"{LAYER}.lora_B.weight": None}, f"`{LAYER}` has no B (up)"),
            ({f"{LAYER}.lora_A.weight": None}, f"`{LAYER}` has no A (down)"),
            ({f"{LAYER}.lora_A.weight": (3, 32)}, f"`{LAYER}` has A (3, 32) and B (128, 2); its weight is (128, 32)"),
            ({f"{LAYER}.lora_A.weight": ()}, f"`{LAYER}` has A ()"),
            ({f"{LAYER}.lora_A.weight": (0, 32), f"{LAYER}.lora_B.weight": (128, 0)}, f"`{LAYER}` has A (0, 32)"),
            ({f"unet.{LAYER}.lora_B.weight": (128, 2)}, "the file has a second one for this layer"),
            ({f"{LAYER}.alpha": (2,)}, f"`{LAYER}.alpha` has shape (2,); expected one number"),
            ({f"{LAYER}.lora_A.weight": None, f"{LAYER}.lora_B.weight": None}, "it has no LoRA weights"),
        ],
    )
    def test_names_and_shapes(
        self, changes: Mapping[str, Any], fault: str, micro_checkpoint: Path, unet: Any, tmp_path: Path
    ) -> None:
        shapes: dict[str, Any] = {f"{LAYER}.lora_A.weight": (2, 32), f"{LAYER}.lora_B.weight": (128, 2), **changes}
        arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items() if shape is not None}
        save_safetensors(tmp_path / "l.safetensors", arrays)
        assert any(fault in said for said in faults(micro_checkpoint, unet, tmp_path / "l.safetensors"))

    @pytest.mark.parametrize(
        ("settings", "fault"),
        [
            ("{", "cannot be read"),
            ({"unet.r": 2, "unet.lora_alpha": 2, "unet.use_dora": True}, "`use_dora` is True"),
            ({"unet.r": 2, "unet.lora_alpha": 2, "unet.alpha_pattern": {"a": 1}}, "`alpha_pattern` is"),
            ({"unet.r": 0, "unet.lora_alpha": 2}, "`r` is 0"),
            ({"r": 2}, "`lora_alpha` is None"),
            ({"r": 2, "lora_alpha": 10**400}, "`lora_alpha` is 1000"),
            ({"r": 10**400, "lora_alpha": 1}, "expected two numbers"),
        ],
    )
    def test_settings(self, settings: object, fault: str, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        down, up = pair(unet["unet"][f"{LAYER}.weight"].torch_shape)
        tensors = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
        save_with_settings(tmp_path / "l.safetensors", tensors, settings)
        (said,) = faults(micro_checkpoint, unet, tmp_path / "l.safetensors")
        assert fault in said

    def test_at_most_twenty(self, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        """The LoRA of another model: every name is unknown."""
        arrays = {f"blocks.{i}.lora_A.weight": np.ones((1, 1), np.float32) for i in range(500)}
        save_safetensors(tmp_path / "l.safetensors", arrays)
        with pytest.raises(CheckpointError) as caught:
            merged(micro_checkpoint, unet, tmp_path / "l.safetensors", 1.0)
        lines = str(caught.value).splitlines()
        assert len(lines) == 22
        assert lines[-1] == "  - and 480 more"

    def test_not_finite(self, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        down, up = pair(unet["unet"][f"{LAYER}.weight"].torch_shape)
        up[0, 0] = np.nan
        save_safetensors(tmp_path / "l.safetensors", {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up})
        assert faults(micro_checkpoint, unet, tmp_path / "l.safetensors") == (
            f"`{LAYER}.lora_B.weight` has NaN or infinity",
        )

    def test_an_update_beyond_float32(self, micro_checkpoint: Path, unet: Any, tmp_path: Path) -> None:
        down, up = pair(unet["unet"][f"{LAYER}.weight"].torch_shape)
        up[:] = down[:] = 1e30
        save_safetensors(tmp_path / "l.safetensors", {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up})
        with pytest.raises(CheckpointError, match="overflows float32 with its update; give a smaller scale than 1"):
            merged(micro_checkpoint, unet, tmp_path / "l.safetensors", 1.0)


class TestNames:
    def test_a_file_with_and_without_a_scale(self, tmp_path: Path) -> None:
        (tmp_path / LORA_FILE).touch()
        (tmp_path / "odd:2.safetensors").touch()
        file = tmp_path / LORA_FILE
        assert parse_lora(f"{file}") == Lora(file, 1.0)
        assert parse_lora(f"{file}:0.5") == Lora(file, 0.5)
        assert parse_lora(f"{tmp_path}:-1e-1") == Lora(file, -0.1)
        assert parse_lora(f"{tmp_path}") == Lora(file, 1.0)
        assert parse_lora(f"{tmp_path}/odd:2.safetensors") == Lora(tmp_path / "odd:2.safetensors", 1.0)

    @pytest.mark.parametrize(
        "text", ["missing", "missing:1", "l.safetensors:x", "l.safetensors:nan", "l.bin", ".:1", ""]
    )
    def test_refused(self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("l.safetensors", "l.bin"):
            (tmp_path / name).touch()
        with pytest.raises(UsageError):
            parse_lora(text)

    def test_one_in_the_folder_is_named_unless_it_is_merged(self, micro_copy: Path) -> None:
        path = micro_copy / LORA_FILE
        path.touch()
        (note,) = unused_notes([Checkpoint.open(micro_copy)])
        assert note.endswith(f"not used: {LORA_FILE}; --lora {path} merges the LoRA")
        assert unused_notes([replace(Checkpoint.open(micro_copy), loras=(Lora(path),))]) == []
