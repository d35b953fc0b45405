"""Bundles: what is in one, builds of the model that make one, and everything that can happen while it is made.

Covers `variants`, and of `graphs` the modules `decoder_modules`, `onnx_graph`, `parts` and `static_graph`, too.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from kandinsky_export import bundle_export
from kandinsky_export.bundle_export import PARTS, export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.errors import CheckpointError, ExportError
from kandinsky_export.graphs import onnx_graph, static_graph
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.graphs.static_graph import Traced, trace
from kandinsky_export.random_weights.configs import sized
from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
from kandinsky_export.variants import VARIANTS, check_variants
from kandinsky_export.vendors import paddle
from kandinsky_export.verification.verify import verify_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import FileEntry, Manifest
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.files import file_sha256
from tests.export.conftest import MICRO


class TestContent:
    def test_files(self, tiny_bundle: Path) -> None:
        files = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
        each = ("model.json", "model-fp32.onnx", "weights-fp32.pdiparams")
        assert files == {"manifest.json", *(f"{name}/{file}" for name in PARTS for file in each)}
        Bundle.open(tiny_bundle).check_content()

    def test_manifest(self, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
        manifest = Bundle.open(tiny_bundle).manifest
        checkpoint = Checkpoint.open(tiny_checkpoint)
        assert list(manifest.components) == ["unet", "movq_encoder", "movq_decoder"]
        for name, component in manifest.components.items():
            assert component.spec == PARTS[name].signature(checkpoint.components[PARTS[name].model].config)
            weights = f"{name}/weights-fp32.pdiparams"
            assert {key: (item.computed, dict(item.files)) for key, item in component.variants.items()} == {
                "paddle": ("fp32", {"program": f"{name}/model.json", "params": weights}),
                "onnx-fp32": ("fp32", {"graph": f"{name}/model-fp32.onnx", "weights": weights}),
            }
        assert manifest.scheduler == checkpoint.scheduler
        assert manifest.parity == {}
        assert manifest.source["name"] == "tiny"
        assert manifest.source["form"] == "ppdiffusers"
        assert manifest.source["files"] == {
            path.relative_to(tiny_checkpoint).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in checkpoint.files()
        }
        assert manifest.written_by["paddlepaddle"] == importlib.metadata.version("paddlepaddle")
        assert set(manifest.written_by) >= {"kandinsky22-deploy", "ppdiffusers", "paddle2onnx", "onnx", "numpy"}

    def test_nothing_of_this_machine_is_in_it(self, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
        places = (str(tiny_checkpoint), str(Path.cwd()), str(Path.home()), importlib.metadata.__file__)
        for file in tiny_bundle.rglob("*"):
            if file.is_file() and file.suffix != ".pdiparams":
                content = file.read_bytes()
                assert not [place for place in places if place.encode() in content and len(place) > 1]

    def test_either_form_makes_the_same_graphs_and_weights(
        self, micro_checkpoint_diffusers: Path, micro_bundle: Path, tmp_path: Path
    ) -> None:
        manifest = export_bundle(Checkpoint.open(micro_checkpoint_diffusers), tmp_path / "again", name="micro")
        assert manifest.source["form"] == "diffusers"
        assert without_programs(manifest) == without_programs(Bundle.open(micro_bundle).manifest)


def without_programs(manifest: Manifest) -> dict[str, FileEntry]:
    """The files that are the same at every export; Paddle numbers a program's parts through its process's life."""
    return {path: entry for path, entry in manifest.files.items() if not path.endswith("/model.json")}


@pytest.mark.parametrize("component", PARTS)
class TestOnnxFile:
    def load(self, bundle: Path, component: str) -> onnx.ModelProto:
        return onnx.load(str(bundle / component / "model-fp32.onnx"), load_external_data=False)

    def test_the_checker_passes_it(self, component: str, tiny_bundle: Path) -> None:
        onnx.checker.check_model(str(tiny_bundle / component / "model-fp32.onnx"), full_check=True)

    def test_signature(self, component: str, tiny_bundle: Path) -> None:
        graph = self.load(tiny_bundle, component).graph
        spec = Bundle.open(tiny_bundle).component(component).spec
        for values, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
            assert [
                (value.name, tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim))
                for value in values
            ] == [(tensor.name, tensor.dims) for tensor in tensors]
            assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}

    def test_it_is_clean(self, component: str, tiny_bundle: Path) -> None:
        """One opset, no branches, nothing that the converter leaves behind, and every node and weight is used."""
        model = self.load(tiny_bundle, component)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"If", "Loop", "Identity", "Constant", "Dropout"}
        read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
        assert {name for node in model.graph.node for name in node.output if name} & read
        assert all(not read.isdisjoint(node.output) for node in model.graph.node)
        assert {tensor.name for tensor in model.graph.initializer} <= read
        before = model.SerializeToString()
        onnx_graph.clean(model)
        assert model.SerializeToString() == before

    def test_weights_are_the_checkpoints(self, component: str, tiny_bundle: Path, tiny_checkpoint: Path) -> None:
        checkpoint = Checkpoint.open(tiny_checkpoint)
        configs = {name: item.config for name, item in checkpoint.components.items()}
        expected = {name: expected_tensors(model) for name, model in build_models(configs, "tiny").items()}
        values = checkpoint.tensors(expected)[PARTS[component].model]
        model = onnx.load(str(tiny_bundle / component / "model-fp32.onnx"))
        stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in values}
        initializers = self.load(tiny_bundle, component).graph.initializer
        assert set(stored) == {tensor.name for tensor in initializers if tensor.external_data}
        assert len(stored) > 50
        for name, tensor in stored.items():
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), values[name]())

    def test_onnxruntime_has_nothing_to_say(
        self, component: str, tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 2  # warnings
        path = tiny_bundle / component / "model-fp32.onnx"
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        assert capfd.readouterr() == ("", "")


class TestVariants:
    @pytest.mark.parametrize(
        ("variants", "files"),
        [
            (("paddle",), {"model.json", "weights-fp32.pdiparams"}),
            (("onnx-fp32",), {"model-fp32.onnx", "weights-fp32.pdiparams"}),
            (("onnx-fp32", "paddle", "onnx-fp32"), {"model.json", "model-fp32.onnx", "weights-fp32.pdiparams"}),
        ],
    )
    def test_subsets(
        self, variants: tuple[str, ...], files: set[str], micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path
    ) -> None:
        manifest = export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="micro", variants=variants)
        assert manifest.variants() == tuple(dict.fromkeys(variants))
        assert {path.name for path in (tmp_path / "out" / "unet").iterdir()} == files
        Bundle.open(tmp_path / "out").check_content()
        whole = without_programs(Bundle.open(micro_bundle).manifest)
        assert without_programs(manifest).items() <= whole.items()

    @pytest.mark.parametrize(
        ("variants", "message"),
        [
            (
                ("paddle", "onnx-int4"),
                "there is no variant onnx-int4; choose from paddle, onnx-fp32, onnx-fp16, onnx-bf16",
            ),
            ((), "a bundle needs a variant; choose from paddle, onnx-fp32, onnx-fp16, onnx-bf16"),
        ],
    )
    def test_unknown_or_none(
        self, variants: tuple[str, ...], message: str, micro_checkpoint: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError) as caught:
            export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="micro", variants=variants)
        assert str(caught.value) == message
        assert not list(tmp_path.iterdir())

    def test_every_one_is_known(self) -> None:
        assert check_variants(VARIANTS) == VARIANTS


BUILDS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "one block each": MICRO,
    "settings by block": {
        "unet": {
            "block_out_channels": [32, 64],
            "down_block_types": ["SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"],
            "up_block_types": ["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"],
            "attention_head_dim": [8, 32],
            "layers_per_block": [1, 2],
            "only_cross_attention": [True, False],
            "norm_num_groups": 4,
            "in_channels": 7,
            "out_channels": 6,
        },
        "movq": {
            "block_out_channels": [64],
            "down_block_types": ["AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D"],
            "layers_per_block": 2,
            "norm_type": "group",
            "norm_num_groups": 1,
            "vq_embed_dim": 3,
            "latent_channels": 6,
        },
    },
    "rarer settings": {
        "unet": {
            "block_out_channels": [32, 48],
            "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
            "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
            "attention_head_dim": 24,
            "resnet_time_scale_shift": "default",
            "resnet_skip_time_act": True,
            "resnet_out_scale_factor": 1.5,
            "mid_block_only_cross_attention": True,
            "mid_block_scale_factor": 2,
            "upcast_attention": True,
            "time_embedding_act_fn": "gelu",
            "timestep_post_act": "silu",
            "time_embedding_dim": 48,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "act_fn": "gelu",
            "norm_eps": 1e-4,
            "conv_in_kernel": 5,
            "conv_out_kernel": 1,
            "out_channels": 4,
        },
        "movq": {
            "block_out_channels": [32, 32],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
            "act_fn": "gelu",
        },
    },
}


@pytest.mark.parametrize("build", BUILDS)
def test_builds_of_the_model(build: str, tmp_path: Path) -> None:
    """In addition to those whose whole trajectories the parity tests run."""
    write_sample_checkpoint(tmp_path / "checkpoint", changes=BUILDS[build])
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "bundle", name=build)
    for component in PARTS:
        model = onnx.load(str(tmp_path / "bundle" / component / "model-fp32.onnx"), load_external_data=False)
        assert not {node.op_type for node in model.graph.node} & {"If", "Identity", "Constant"}
    engines = ("onnxruntime", "paddle")
    report = verify_bundle(Bundle.open(tmp_path / "bundle"), checkpoint, engine_names=engines, steps=0)
    assert tuple(report.engines) == engines
    assert report.passed, report.table()


class TestTracing:
    def config(self, model: str, **changes: Any) -> dict[str, Any]:
        return sized(model, "tiny") | changes

    def test_why_it_failed_is_one_sentence(self) -> None:
        """MoVQ's spatial norms have 32 groups whatever the config says."""
        configs = {"movq": self.config("movq", block_out_channels=[16] * 4, norm_num_groups=8)}
        movq = build_models(configs, "checkpoint")["movq"]
        part = PARTS["movq_decoder"]
        with pytest.raises(ExportError) as caught:
            trace(part.module(movq), part.signature(movq.config))
        assert str(caught.value).startswith("MoVQDecoderGraph cannot be traced: (InvalidArgument) The Attr(groups)")
        assert "\n" not in str(caught.value)
        assert paddle.in_dynamic_mode()

    @pytest.mark.parametrize("written", [0, 0.5, 1])
    def test_a_program_that_is_not_whole(self, written: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Paddle says nothing when the disk is full."""
        movq = build_models({"movq": sized("movq", "tiny") | dict(MICRO["movq"])}, "checkpoint")["movq"]
        part = PARTS["movq_encoder"]
        traced = trace(part.module(movq), part.signature(movq.config))
        serialize = paddle.core.serialize_pir_program

        def serialize_part(program: object, path: str, *options: object) -> None:
            serialize(program, path, *options)
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: int(written * len(content))])

        monkeypatch.setattr(paddle.core, "serialize_pir_program", serialize_part)
        if written == 1:
            traced.save(tmp_path / "model.json")
            return
        with pytest.raises(ExportError, match="Paddle could not write model.json; is the disk full?"):
            traced.save(tmp_path / "model.json")

    def test_a_program_that_the_converter_cannot_read(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        signature = PARTS["unet"].signature(sized("unet", "tiny"))
        (tmp_path / "model.json").write_text("{}")
        with pytest.raises(ExportError, match="paddle2onnx cannot convert model.json: .*Invalid model file"):
            onnx_graph.convert(tmp_path / "model.json", signature)
        assert capfd.readouterr() == ("", "")

    def test_a_graph_that_reads_what_nothing_makes(self) -> None:
        node = onnx.helper.make_node("Add", ["x", "lost"], ["y"])
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], []))
        with pytest.raises(ExportError, match="the converted graph reads lost, x, which the checkpoint lacks"):
            onnx_graph.attach_weights(model, {}, {}, "weights")


class TestModelsThatDoNotFit:
    """Refused before anything is written."""

    def faults(self, folder: Path, **changes: Mapping[str, Any]) -> tuple[str, ...]:
        write_sample_checkpoint(
            folder / "checkpoint", changes={key: {**MICRO[key], **changes.get(key, {})} for key in MICRO}
        )
        with pytest.raises(CheckpointError) as caught:
            export_bundle(Checkpoint.open(folder / "checkpoint"), folder / "out", name="micro")
        assert [path.name for path in folder.iterdir()] == ["checkpoint"]
        return caught.value.faults

    def test_channels_of_neither_decoder(self, tmp_path: Path) -> None:
        (fault,) = self.faults(tmp_path, unet={"in_channels": 5})
        assert "(batch, 5, height, width); expected sample float32 (batch, 9, height, width)" in fault

    def test_latents_of_other_channels(self, tmp_path: Path) -> None:
        assert len(self.faults(tmp_path, movq={"latent_channels": 3, "vq_embed_dim": 3})) == 2


class TestSchedulers:
    def export(self, checkpoint: Path, out: Path, **settings: object) -> None:
        file = checkpoint / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        export_bundle(Checkpoint.open(checkpoint), out, name="micro", variants=["paddle"])

    def test_one_that_nothing_can_run(self, micro_copy: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="scheduler config: `beta_schedule` is 'steep'"):
            self.export(micro_copy, tmp_path / "out", beta_schedule="steep")
        assert not (tmp_path / "out").exists()

    def test_one_that_the_runtime_lacks(
        self, micro_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its settings serve another one, which a run names."""
        with caplog.at_level(logging.WARNING):
            self.export(micro_copy, tmp_path / "out", _class_name="PNDMScheduler")
        (message,) = caplog.messages
        assert "'PNDMScheduler' is not supported" in message
        assert Bundle.open(tmp_path / "out").manifest.scheduler["_class_name"] == "PNDMScheduler"


class TestTarget:
    def test_an_existing_bundle_is_replaced_only_when_asked_to(
        self, micro_checkpoint: Path, micro_bundle: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(micro_bundle, tmp_path / "out")
        (tmp_path / "out" / "extra").touch()
        with pytest.raises(UsageError, match="out exists; choose another folder, or replace it with --overwrite"):
            export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="micro")
        export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="new", overwrite=True)
        assert Bundle.open(tmp_path / "out").manifest.source["name"] == "new"
        assert not (tmp_path / "out" / "extra").exists()

    def test_a_folder_that_is_no_bundle_is_never_replaced(self, micro_checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").touch()
        with pytest.raises(UsageError, match="has no manifest.json in it, so it is not replaced"):
            export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="micro", overwrite=True)
        assert (tmp_path / "out" / "precious").exists()

    def test_a_missing_parent(self, micro_checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a folder; create it first"):
            export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "a" / "out", name="micro")


class TestFailures:
    """In the middle: one clear error, and nothing is left."""

    @pytest.fixture
    def fails(self, micro_checkpoint: Path, tmp_path: Path) -> Iterator[Callable[[], BaseException]]:
        def export() -> BaseException:
            with pytest.raises(BaseException) as caught:  # noqa: PT011 (each test looks at what it is)
                export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="micro")
            return caught.value

        yield export
        assert not list(tmp_path.iterdir())

    def test_a_full_disk(self, fails: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(onnx, "save", full)
        error = fails()
        assert isinstance(error, ExportError)
        assert str(error).endswith("out: the disk is full; free some space and try again")

    def test_the_second_graph_does_not_trace(
        self, fails: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def trace_one(module: object, signature: GraphSpec) -> Traced:
            if signature.inputs[0].name == "image":
                raise ExportError("no")
            return static_graph.trace(module, signature)

        monkeypatch.setattr(bundle_export, "trace", trace_one)
        assert str(fails()) == "no"

    def test_interrupted(self, fails: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(bundle_export, "attach_weights", interrupt)
        assert isinstance(fails(), KeyboardInterrupt)

    def test_a_weight_is_not_finite(self, micro_copy: Path, tmp_path: Path) -> None:
        file = micro_copy / "movq" / "model_state.pdparams"
        content = bytearray(file.read_bytes())
        content[-16:-4] = np.full(3, np.nan, np.float32).tobytes()  # the last values, before the pickle's end
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="has NaN or infinity"):
            export_bundle(Checkpoint.open(micro_copy), tmp_path / "out", name="micro")
        assert [path.name for path in tmp_path.iterdir()] == [micro_copy.name]


# Loads Paddle once, then exports in a child process for each moment, which ends itself there.
PROGRAM = """
    import json, os, resource, signal, sys
    from pathlib import Path
    from kandinsky_export import bundle_export
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_runtime.errors import Kandinsky22Error

    checkpoint, parent = Checkpoint.open(Path(sys.argv[1])), Path(sys.argv[2])

    def at(name, number, which=1):
        original, calls = getattr(bundle_export, name), 0

        def ending(*args, **options):
            nonlocal calls
            calls += 1
            result = original(*args, **options)
            if calls == which:
                os.kill(os.getpid(), number)
            return result

        setattr(bundle_export, name, ending)

    MOMENTS = {
        "traced once": lambda: at("trace", signal.SIGKILL),
        "weights written": lambda: at("write_params", signal.SIGKILL, 2),
        "hashed": lambda: at("_hash_files", signal.SIGKILL, 2),
        "interrupted": lambda: at("write_params", signal.SIGINT),
        "file too large": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        "alone": lambda: None,
        "first of two": lambda: None,
        "second of two": lambda: None,
    }

    def export(moment):
        MOMENTS[moment]()
        target = parent / ("two" if moment.endswith("of two") else moment)
        try:
            bundle_export.export_bundle(checkpoint, target, name=moment)
        except Kandinsky22Error as error:
            return str(error)
        except KeyboardInterrupt:
            return "KeyboardInterrupt"
        return "done"

    def started(moment):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.write(writer, export(moment).encode())
            os._exit(0)
        os.close(writer)
        return child, os.fdopen(reader)

    said = {}
    for moments in [[moment] for moment in MOMENTS if "two" not in moment] + [["first of two", "second of two"]]:
        for moment, (child, reader) in [(moment, started(moment)) for moment in moments]:
            said[moment] = reader.read()
            os.waitpid(child, 0)
    json.dump(said, sys.stdout)
"""


@pytest.fixture(scope="module")
def processes(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder in which every process exported, and what each had to say; a killed one says nothing."""
    parent = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(micro_checkpoint), str(parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    said: dict[str, str] = json.loads(done.stdout)
    return parent, said


class TestProcesses:
    def leftovers(self, parent: Path, name: str) -> list[Path]:
        return [path for path in parent.iterdir() if path.name.startswith(f".{name}.")]

    @pytest.mark.parametrize("moment", ["traced once", "weights written", "hashed"])
    def test_killed(
        self, moment: str, processes: tuple[Path, dict[str, str]], micro_checkpoint: Path, micro_bundle: Path
    ) -> None:
        parent, said = processes
        assert said[moment] == ""
        assert not (parent / moment).exists()
        assert len(self.leftovers(parent, moment)) == 1
        export_bundle(Checkpoint.open(micro_checkpoint), parent / moment, name="micro")
        assert not self.leftovers(parent, moment)
        bundle = Bundle.open(parent / moment)
        bundle.check_content()
        assert without_programs(bundle.manifest) == without_programs(Bundle.open(micro_bundle).manifest)

    def test_interrupted(self, processes: tuple[Path, dict[str, str]]) -> None:
        parent, said = processes
        assert said["interrupted"] == "KeyboardInterrupt"
        assert not (parent / "interrupted").exists()
        assert not self.leftovers(parent, "interrupted")

    def test_a_disk_that_takes_no_more(self, processes: tuple[Path, dict[str, str]]) -> None:
        parent, said = processes
        assert said["file too large"] == "Paddle could not write model.json; is the disk full?"
        assert not (parent / "file too large").exists()
        assert not self.leftovers(parent, "file too large")

    def test_every_process_makes_the_same_bytes(self, processes: tuple[Path, dict[str, str]]) -> None:
        parent, said = processes
        assert said["alone"] == "done"
        assert Bundle.open(parent / "alone").manifest.files == Bundle.open(parent / "two").manifest.files

    def test_two_at_once(self, processes: tuple[Path, dict[str, str]]) -> None:
        """Either may be the first to finish; the other reports it and leaves the folder as it is."""
        parent, said = processes
        answers = {said["first of two"], said["second of two"]}
        refusal = f"{parent / 'two'} was made by another process in the meantime; add --overwrite to replace it"
        assert answers == {"done", refusal}
        winner = next(name for name in ("first of two", "second of two") if said[name] == "done")
        bundle = Bundle.open(parent / "two")
        bundle.check_content()
        assert bundle.manifest.source["name"] == winner
        assert not bundle.extra_files()
        assert not self.leftovers(parent, "two")
