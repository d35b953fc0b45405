"""Checkpoints in both forms, with every way of naming weight files, and everything that can be wrong with one.

Covers `graphs.architecture`, too.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_export.bundle_export import export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected
from kandinsky_export.checkpoints.pdparams_writer import write_pdparams
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.random_weights.configs import sized
from kandinsky_export.vendors import UNet2DConditionModel, VQModel
from tests.export.checkpoints.weight_files import as_thunks, read_all, save_safetensors, save_shards, stored, to_bf16

ExpectedTensors = dict[str, dict[str, Expected]]
SAFETENSORS = "diffusion_pytorch_model.safetensors"
PDPARAMS = "model_state.pdparams"


def faults_of(work: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        work()
    return caught.value.faults


def assert_equal(got: Mapping[str, Mapping[str, Any]], want: Mapping[str, Mapping[str, Any]]) -> None:
    assert {name: list(tensors) for name, tensors in got.items()} == {name: list(t) for name, t in want.items()}
    for component, tensors in want.items():
        for name, values in tensors.items():
            np.testing.assert_array_equal(got[component][name], values, err_msg=f"{component} {name}")


class TestForms:
    def test_both_forms_hold_the_same_values(self, tiny_checkpoint: Path, tiny_checkpoint_diffusers: Path) -> None:
        configs = {name: item.config for name, item in Checkpoint.open(tiny_checkpoint).components.items()}
        expected = {name: expected_tensors(model) for name, model in build_models(configs, "tiny").items()}
        assert_equal(read_all(tiny_checkpoint_diffusers, expected), read_all(tiny_checkpoint, expected))

    @pytest.mark.parametrize(("model", "model_class"), [("unet", UNet2DConditionModel), ("movq", VQModel)])
    def test_ppdiffusers_loads_the_same_values(
        self, model: str, model_class: Any, tiny_checkpoint: Path, tiny_checkpoint_diffusers: Path
    ) -> None:
        configs = {name: item.config for name, item in Checkpoint.open(tiny_checkpoint).components.items()}
        expected = {name: expected_tensors(built) for name, built in build_models(configs, "tiny").items()}
        mine = read_all(tiny_checkpoint, expected)[model]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own
            plain = model_class.from_pretrained(str(tiny_checkpoint / model))
            converted = model_class.from_pretrained(
                str(tiny_checkpoint_diffusers / model), from_diffusers=True, use_safetensors=True
            )
        for loaded in (plain, converted):
            theirs = {name: tensor.numpy() for name, tensor in loaded.state_dict().items()}
            assert_equal({model: mine}, {model: theirs})

    def test_both_forms_in_one_folder(
        self, micro_copy: Path, micro_checkpoint_diffusers: Path, micro_expected: ExpectedTensors
    ) -> None:
        save_safetensors(micro_copy / "unet" / SAFETENSORS, stored(micro_checkpoint_diffusers, "unet", micro_expected))
        (micro_copy / "unet" / PDPARAMS).write_bytes(b"not looked at")
        checkpoint = Checkpoint.open(micro_copy)
        assert {name: item.form for name, item in checkpoint.components.items()} == {
            "unet": "diffusers",
            "movq": "ppdiffusers",
        }
        assert_equal(read_all(micro_copy, micro_expected), read_all(micro_checkpoint_diffusers, micro_expected))
        assert [path.relative_to(micro_copy).as_posix() for path in checkpoint.files()] == [
            "scheduler/scheduler_config.json",
            "unet/config.json",
            f"unet/{SAFETENSORS}",
            "movq/config.json",
            f"movq/{PDPARAMS}",
        ]

    @pytest.mark.parametrize("form", ["diffusers", "ppdiffusers"])
    @pytest.mark.parametrize("dtype", ["float16", "bf16", "float64"])
    def test_other_precisions_widen_exactly(
        self, form: str, dtype: str, micro_copy: Path, micro_expected: ExpectedTensors
    ) -> None:
        original = stored(micro_copy, "movq", micro_expected)
        cast: dict[str, npt.NDArray[Any]] = {
            name: to_bf16(array) if dtype == "bf16" else array.astype(dtype) for name, array in original.items()
        }
        if form == "diffusers":
            save_safetensors(micro_copy / "movq" / SAFETENSORS, cast)
        else:
            turned = {name: cast[name].T if item.transposed else cast[name] for name, item in movq(micro_expected)}
            write_pdparams(micro_copy / "movq" / PDPARAMS, as_thunks(turned))
        got = read_all(micro_copy, micro_expected)["movq"]
        for name, item in movq(micro_expected):
            array = cast[name]
            wide = (array.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else array.astype(np.float32)
            np.testing.assert_array_equal(got[name], wide.T if item.transposed else wide)
            assert got[name].dtype == np.float32
            assert got[name].flags.c_contiguous

    @pytest.mark.parametrize("form", ["diffusers", "ppdiffusers"])
    def test_old_attention_names(
        self, form: str, micro_copy: Path, micro_copy_diffusers: Path, micro_expected: ExpectedTensors
    ) -> None:
        """As diffusers before 0.17 wrote them, MoVQ's among them."""
        folder = micro_copy if form == "ppdiffusers" else micro_copy_diffusers
        want = read_all(folder, micro_expected)["movq"]
        values = want if form == "ppdiffusers" else stored(folder, "movq", micro_expected)
        old = {_old_name(name): array for name, array in values.items()}
        assert sum(name not in values for name in old) == 16
        if form == "ppdiffusers":
            write_pdparams(folder / "movq" / PDPARAMS, as_thunks(old))
        else:
            save_safetensors(folder / "movq" / SAFETENSORS, old)
        assert_equal({"movq": read_all(folder, micro_expected)["movq"]}, {"movq": want})

    def test_an_old_attention_name_beside_its_new_one_is_extra(
        self, micro_copy_diffusers: Path, micro_expected: ExpectedTensors
    ) -> None:
        values = stored(micro_copy_diffusers, "movq", micro_expected)
        new = "encoder.mid_block.attentions.0.to_q.weight"
        save_safetensors(micro_copy_diffusers / "movq" / SAFETENSORS, values | {_old_name(new): values[new] + 1})
        assert faults_of(lambda: read_all(micro_copy_diffusers, micro_expected)) == (
            "movq: `encoder.mid_block.attentions.0.query.weight` is extra; the config has no place for it",
        )


def movq(expected: ExpectedTensors) -> list[tuple[str, Expected]]:
    return list(expected["movq"].items())


def _old_name(name: str) -> str:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


class TestFileNames:
    @pytest.mark.parametrize(
        ("index", "shard", "variant"),
        [
            (f"{SAFETENSORS}.index.json", "diffusion_pytorch_model-{}.safetensors", None),
            (f"{SAFETENSORS}.index.fp16.json", "diffusion_pytorch_model.fp16-{}.safetensors", "fp16"),
            (f"{SAFETENSORS}.index.fp16.json", "diffusion_pytorch_model-{}.fp16.safetensors", "fp16"),
            (
                "diffusion_pytorch_model.fp16.safetensors.index.json",
                "diffusion_pytorch_model.fp16-{}.safetensors",
                "fp16",
            ),
            (f"{SAFETENSORS}.index.no-ema.json", "diffusion_pytorch_model.no-ema-{}.safetensors", "no-ema"),
        ],
    )
    def test_shards(
        self, index: str, shard: str, variant: str | None, micro_copy_diffusers: Path, micro_expected: ExpectedTensors
    ) -> None:
        want = read_all(micro_copy_diffusers, micro_expected)
        for name in ("unet", "movq"):
            values = stored(micro_copy_diffusers, name, micro_expected)
            save_shards(micro_copy_diffusers / name, values, index, shard)
            (micro_copy_diffusers / name / SAFETENSORS).unlink()
        assert_equal(read_all(micro_copy_diffusers, micro_expected, variant), want)
        files = Checkpoint.open(micro_copy_diffusers, variant).files()
        names = [path.name for path in files if path.parent.name == "unet"]
        assert names == ["config.json", index, *(shard.format(f"{i:05}-of-00003") for i in (1, 2, 3))]

    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "model_state.fp16.pdparams"])
    def test_a_variant_alone_is_used_and_said(
        self, name: str, micro_copy: Path, micro_expected: ExpectedTensors, caplog: pytest.LogCaptureFixture
    ) -> None:
        half = {key: array.astype(np.float16) for key, array in stored(micro_copy, "movq", micro_expected).items()}
        (micro_copy / "movq" / PDPARAMS).unlink()
        if name.endswith(".safetensors"):
            save_safetensors(micro_copy / "movq" / name, half)
        else:
            turned = {key: half[key].T if item.transposed else half[key] for key, item in movq(micro_expected)}
            write_pdparams(micro_copy / "movq" / name, as_thunks(turned))
        with caplog.at_level(logging.WARNING):
            got = read_all(micro_copy, micro_expected)["movq"]
        assert caplog.messages == ["movq has only fp16 weights; they are used"]
        for key, item in movq(micro_expected):
            np.testing.assert_array_equal(got[key], half[key].T if item.transposed else half[key])

    def test_the_variant_asked_for_is_used(self, micro_copy: Path, micro_expected: ExpectedTensors) -> None:
        for name in ("unet", "movq"):
            values = stored(micro_copy, name, micro_expected)
            save_safetensors(
                micro_copy / name / "diffusion_pytorch_model.fp16.safetensors",
                {key: np.zeros_like(array, np.float16) for key, array in values.items()},
            )
        assert not any(array.any() for array in read_all(micro_copy, micro_expected, "fp16")["unet"].values())
        assert all(array.any() for array in read_all(micro_copy, micro_expected)["unet"].values())

    def test_variants_that_could_be_meant_are_listed(self, micro_copy: Path) -> None:
        for name in ("unet", "movq"):
            (micro_copy / name / PDPARAMS).rename(micro_copy / name / "model_state.fp16.pdparams")
            (micro_copy / name / "diffusion_pytorch_model.bf16.safetensors").touch()
        assert [fault.partition(";")[2] for fault in faults_of(lambda: Checkpoint.open(micro_copy))] == [
            " it has bf16, fp16 ones",
            " it has bf16, fp16 ones",
        ]
        (fault, _) = faults_of(lambda: Checkpoint.open(micro_copy, "fp8"))
        assert fault.startswith("unet has no fp8 weights")

    def test_bin_files_are_not_read(self, micro_copy: Path) -> None:
        for name in ("unet", "movq"):
            (micro_copy / name / PDPARAMS).rename(micro_copy / name / "diffusion_pytorch_model.bin")
        faults = faults_of(lambda: Checkpoint.open(micro_copy))
        assert [fault[:19] for fault in faults] == ["unet has no weights", "movq has no weights"]
        assert all(fault.endswith(".bin files are not read: convert them to safetensors") for fault in faults)


class TestConfigFiles:
    def test_everything_missing_is_listed(self, tmp_path: Path) -> None:
        faults = faults_of(lambda: Checkpoint.open(tmp_path))
        assert [re.split(" is | has ", fault)[0] for fault in faults] == [
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet",
            "movq/config.json",
            "movq",
        ]

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"null"])
    def test_no_config(self, content: bytes, micro_copy: Path) -> None:
        files = ["scheduler/scheduler_config.json", "unet/config.json", "movq/config.json"]
        for file in files:
            (micro_copy / file).write_bytes(content)
        faults = faults_of(lambda: Checkpoint.open(micro_copy))
        assert [fault.split()[0] for fault in faults] == files

    @pytest.mark.parametrize("name", ["missing", "unet/config.json", "missing/folder", "a\0b"])
    def test_no_folder(self, name: str, micro_checkpoint: Path) -> None:
        assert faults_of(lambda: Checkpoint.open(micro_checkpoint / name)) == ("no such folder",)

    def test_a_folder_that_cannot_be_read(self, micro_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(micro_copy))

        monkeypatch.setattr(Path, "is_dir", refuse)
        (fault,) = faults_of(lambda: Checkpoint.open(micro_copy))
        assert fault.startswith("cannot be read ([Errno 13] Permission denied")


class TestTensors:
    def test_all_faults_of_both_components_at_once(self, micro_copy: Path, micro_expected: ExpectedTensors) -> None:
        whole = read_all(micro_copy, micro_expected)
        for name, conv in (("unet", "conv_in"), ("movq", "encoder.conv_in")):
            values: dict[str, npt.NDArray[Any]] = dict(whole[name])
            del values[f"{conv}.bias"]
            values[f"{conv}.weight"] = values[f"{conv}.weight"][:, :2]
            values["surplus"] = np.zeros(1, np.float32)
            last = list(values)[-2]
            values[last] = values[last].astype(np.int64)
            write_pdparams(micro_copy / name / PDPARAMS, as_thunks(values))
        faults = faults_of(lambda: read_all(micro_copy, micro_expected))
        assert faults == (
            "unet: `conv_in.bias` is missing",
            "unet: `surplus` is extra; the config has no place for it",
            "unet: `conv_in.weight` has shape (32, 2, 3, 3); the config makes it (32, 9, 3, 3)",
            "unet: `conv_out.bias` holds int64; it must hold floating-point numbers",
            "movq: `encoder.conv_in.bias` is missing",
            "movq: `surplus` is extra; the config has no place for it",
            "movq: `encoder.conv_in.weight` has shape (32, 2, 3, 3); the config makes it (32, 3, 3, 3)",
            "movq: `decoder.conv_out.bias` holds int64; it must hold floating-point numbers",
        )

    def test_linear_weights_in_the_other_layout_are_refused(
        self, micro_copy_diffusers: Path, micro_expected: ExpectedTensors
    ) -> None:
        values = read_all(micro_copy_diffusers, micro_expected)["unet"]  # [in, out], as ppdiffusers has them
        save_safetensors(micro_copy_diffusers / "unet" / SAFETENSORS, values)
        assert faults_of(lambda: read_all(micro_copy_diffusers, micro_expected))[0].endswith(
            "has shape (32, 128); the config makes it (128, 32)"
        )

    def test_damaged_files_of_both_components(self, micro_copy: Path, micro_expected: ExpectedTensors) -> None:
        whole = stored(micro_copy, "unet", micro_expected)
        save_safetensors(micro_copy / "unet" / SAFETENSORS, whole)
        content = (micro_copy / "unet" / SAFETENSORS).read_bytes()
        (micro_copy / "unet" / SAFETENSORS).write_bytes(content[:-1])
        (micro_copy / "movq" / PDPARAMS).write_bytes(b"\x80\x04N.")
        unet, movq_fault = faults_of(lambda: read_all(micro_copy, micro_expected))
        assert f"{SAFETENSORS}: not a whole safetensors file" in unet
        assert f"{PDPARAMS}: it holds" in movq_fault


class TestConfigValues:
    """Every setting that is not supported is named, of both models at once, before any weight is read."""

    @pytest.mark.parametrize(
        ("model", "key", "value"),
        [
            ("unet", "addition_embed_type", "text"),
            ("unet", "encoder_hid_dim_type", None),
            ("unet", "encoder_hid_dim", None),
            ("unet", "time_embedding_type", "fourier"),
            ("unet", "mid_block_type", None),
            ("unet", "attention_type", "gated"),
            ("unet", "data_format", "NHWC"),
            ("unet", "class_embed_type", "timestep"),
            ("unet", "num_class_embeds", 10),
            ("unet", "time_cond_proj_dim", 8),
            ("unet", "cross_attention_norm", "layer_norm"),
            ("unet", "center_input_sample", True),
            ("unet", "class_embeddings_concat", True),
            ("unet", "dual_cross_attention", True),
            ("unet", "in_channels", "9"),
            ("unet", "in_channels", 0),
            ("unet", "out_channels", 2.5),
            ("unet", "norm_num_groups", 7),
            ("unet", "norm_num_groups", None),
            ("unet", "norm_num_groups", 0),
            ("unet", "block_out_channels", []),
            ("unet", "block_out_channels", "abcd"),
            ("unet", "block_out_channels", [32, -64]),
            ("unet", "down_block_types", ["DownBlock2D"] * 4),
            ("unet", "down_block_types", [1, {}, None, "SimpleCrossAttnDownBlock2D"]),
            ("unet", "up_block_types", None),
            ("unet", "up_block_types", ["ResnetUpsampleBlock2D"]),
            ("movq", "norm_type", "spade"),
            ("movq", "latent_channels", 0),
            ("movq", "norm_num_groups", 5),
            ("movq", "up_block_types", ["AttnUpDecoderBlock2D"]),
            ("movq", "down_block_types", ["Tiny"] * 4),
            ("movq", "_class_name", "AutoencoderKL"),
        ],
    )
    def test_unsupported(self, model: str, key: str, value: object) -> None:
        configs = {name: sized(name, "tiny") for name in ("unet", "movq")}
        configs[model][key] = value
        (fault,) = faults_of(lambda: build_models(configs, "checkpoint"))
        assert fault.startswith(f"{model} config: `{key}` ")
        assert "supported: " in fault or "it must " in fault

    def test_settings_left_to_their_defaults_are_checked_too(self) -> None:
        configs = {name: sized(name, "tiny") for name in ("unet", "movq")}
        del configs["unet"]["down_block_types"]
        (fault,) = faults_of(lambda: build_models(configs, "checkpoint"))
        assert fault.startswith("unet config: `down_block_types` has CrossAttnDownBlock2D, DownBlock2D; supported:")

    def test_all_at_once(self) -> None:
        configs = {name: sized(name, "tiny") for name in ("unet", "movq")}
        configs["unet"] |= {"class_embed_type": "timestep", "in_channels": -1}
        configs["movq"] |= {"norm_type": "spade", "_class_name": "Tiny"}
        faults = faults_of(lambda: build_models(configs, "checkpoint"))
        assert sorted(fault.split()[2] for fault in faults) == [
            "`_class_name`",
            "`class_embed_type`",
            "`in_channels`",
            "`norm_type`",
        ]

    @pytest.mark.parametrize(
        ("model", "changes"),
        [
            ("unet", {"act_fn": "nope"}),
            ("unet", {"act_fn": 3}),
            ("unet", {"layers_per_block": [1, 2]}),
            ("unet", {"attention_head_dim": 0}),
            ("unet", {"cross_attention_dim": [1, 2, 3, 4]}),
            ("unet", {"resnet_time_scale_shift": "nope"}),
            ("unet", {"num_attention_heads": 3}),
            ("movq", {"vq_embed_dim": 0}),
            ("movq", {"num_vq_embeddings": -3}),
        ],
    )
    def test_no_model_can_be_built(self, model: str, changes: Mapping[str, Any]) -> None:
        configs = {name: sized(name, "tiny") for name in ("unet", "movq")}
        configs[model] |= changes
        (fault,) = faults_of(lambda: build_models(configs, "checkpoint"))
        assert fault.startswith(f"{model} config: ppdiffusers cannot build the model: ")
        assert "\n" not in fault

    def test_settings_that_ppdiffusers_does_not_know_are_said(
        self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        configs = {name: sized(name, "tiny") for name in ("unet", "movq")}
        configs["movq"] |= {"force_upcast": False, "latents_mean": None, "mid_block_add_attention": True, "newer": 2}
        with caplog.at_level(logging.WARNING):
            build_models(configs, "checkpoint")
        assert caplog.messages == ["movq config: ppdiffusers does not know the settings newer: they are ignored"]
        assert capfd.readouterr() == ("", "")

    def test_a_huge_model_takes_no_memory_until_it_is_filled(self) -> None:
        configs = {name: sized(name, "full") for name in ("unet", "movq")}
        models = build_models(configs, "checkpoint")
        counts = {name: len(expected_tensors(model)) for name, model in models.items()}
        assert counts == {"unet": 724, "movq": 431}
        sizes = {
            name: sum(int(np.prod(item.shape)) for item in expected_tensors(model).values())
            for name, model in models.items()
        }
        assert sizes == {"unet": 1_253_074_568, "movq": 67_832_495}  # those of the published files

    def test_nothing_is_written(self, micro_copy: Path, tmp_path: Path) -> None:
        config = json.loads((micro_copy / "unet/config.json").read_text())
        (micro_copy / "unet/config.json").write_text(json.dumps(config | {"class_embed_type": "timestep"}))
        with pytest.raises(CheckpointError, match="class_embed_type"):
            export_bundle(Checkpoint.open(micro_copy), tmp_path / "bundle", name="micro")
        assert [path.name for path in tmp_path.iterdir()] == [micro_copy.name]
