"""fp16 and bf16 variants: types, weights, what stays in float32 and why, and what the export does when it cannot.

Covers `ranges`, too.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from kandinsky_export import bundle_export
from kandinsky_export.bundle_export import PARTS, export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.graphs.rewrites.merged_projections import parts_of
from kandinsky_export.graphs.rewrites.summed_norms import is_sum
from kandinsky_export.graphs.rounding import rounded
from kandinsky_export.precision import lowering as precision_module
from kandinsky_export.precision import ranges
from kandinsky_export.precision.lowering import LARGEST, MARGIN, Lowered, kept_by_range, kept_by_rule, lower_components
from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_export.variants import LOWER_VARIANTS
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.errors import EngineUnavailable
from kandinsky_runtime.inspection import as_text, describe
from tests.export.conftest import MICRO
from tests.export.graphs.rewrites.strong_types import type_faults, types_of
from tests.export.precision.toy_drafts import drafts, make_folders
from tests.runtime.fake_bundle import DDPM

Array = npt.NDArray[np.float32]
FLOAT = onnx.TensorProto.FLOAT
LOW_TYPES = {"onnx-fp16": onnx.TensorProto.FLOAT16, "onnx-bf16": onnx.TensorProto.BFLOAT16}
CASES = [(component, variant) for component in PARTS for variant in LOWER_VARIANTS]


def load(bundle: Path, component: str, variant: str) -> onnx.ModelProto:
    files = Bundle.open(bundle).component(component).variants[variant].files
    return onnx.load(str(bundle / files["graph"]), load_external_data=False)


def numerics(bundle: Path, component: str, variant: str) -> Mapping[str, Any]:
    return Bundle.open(bundle).component(component).variants[variant].numerics


@pytest.mark.parametrize(("component", "variant"), CASES)
class TestGraph:
    def test_it_is_strongly_typed(self, component: str, variant: str, tiny_lower_bundle: Path) -> None:
        assert type_faults(load(tiny_lower_bundle, component, variant)) == []

    def test_the_checker_and_shape_inference_pass_it(
        self, component: str, variant: str, tiny_lower_bundle: Path
    ) -> None:
        file = Bundle.open(tiny_lower_bundle).component(component).variants[variant].files["graph"]
        onnx.checker.check_model(str(tiny_lower_bundle / file), full_check=True)

    def test_the_border_is_float32(self, component: str, variant: str, tiny_lower_bundle: Path) -> None:
        graph = load(tiny_lower_bundle, component, variant).graph
        spec = Bundle.open(tiny_lower_bundle).component(component).spec
        assert [value.name for value in graph.input] == [tensor.name for tensor in spec.inputs]
        assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {FLOAT}

    def test_what_costs_time_computes_in_fewer_bits(
        self, component: str, variant: str, tiny_lower_bundle: Path
    ) -> None:
        model = load(tiny_lower_bundle, component, variant)
        types = types_of(model)
        heavy = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
        assert len(heavy) > 20
        assert {types[name] for node in heavy for name in (*node.input, *node.output)} == {LOW_TYPES[variant]}

    def test_norms_and_the_timestep_compute_in_float32(
        self, component: str, variant: str, tiny_lower_bundle: Path
    ) -> None:
        model = load(tiny_lower_bundle, component, variant)
        types = types_of(model)
        exact = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "Sin", "Cos")]
        exact += [node for node in model.graph.node if is_sum(node)]
        assert bool(exact) == (component == "unet")
        found = {types[name] for node in exact for name in (*node.input, *node.output) if name}
        assert found <= {FLOAT, onnx.TensorProto.INT64}  # axes
        norms = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
        assert norms  # an engine takes their statistics in float32 by itself
        assert {types[name] for node in norms for name in (*node.input, *node.output)} == {LOW_TYPES[variant]}
        assert onnx.TensorProto.DOUBLE not in types.values()  # which TensorRT does not have

    def test_every_node_in_float32_is_in_the_manifest(
        self, component: str, variant: str, tiny_lower_bundle: Path
    ) -> None:
        """Casts and what the schemas leave no choice in aside."""
        model = load(tiny_lower_bundle, component, variant)
        types = types_of(model)
        found = {
            node.name
            for node in model.graph.node
            if node.op_type != "Cast" and any(types[name] == FLOAT for name in node.output)
        }
        recorded = {
            name: reach
            for group in numerics(tiny_lower_bundle, component, variant)["float32"]
            for name, reach in group["nodes"].items()
        }
        assert found == set(recorded)
        assert all(reach is None or reach >= 0 for reach in recorded.values())

    def test_weights_are_the_checkpoints_rounded(
        self, component: str, variant: str, tiny_lower_bundle: Path, tiny_checkpoint: Path
    ) -> None:
        """At the places that the graph names: aligned, without overlap, in one file; each rounded once."""
        values = checkpoint_values(tiny_checkpoint, component)
        files = Bundle.open(tiny_lower_bundle).component(component).variants[variant].files
        content = (tiny_lower_bundle / files["weights"]).read_bytes()
        tensors = [item for item in load(tiny_lower_bundle, component, variant).graph.initializer if item.external_data]
        assert len(tensors) > 50
        assert {item.data_type for item in tensors} <= {FLOAT, LOW_TYPES[variant]}
        end = 0
        for tensor in sorted(tensors, key=lambda item: place(item)["offset"]):
            offset, length = place(tensor)["offset"], place(tensor)["length"]
            name = "fp32" if tensor.data_type == FLOAT else LOWER_VARIANTS[variant]
            want = rounded(np.concatenate([values[part]() for part in parts_of(tensor.name)], axis=-1), name)
            assert content[offset : offset + length] == want.tobytes()
            assert offset % (4096 if length >= 65536 else 64) == 0
            assert offset > end
            end = offset + length
            assert Path(files["weights"]).name == next(
                item.value for item in tensor.external_data if item.key == "location"
            )
        assert end == len(content)

    def test_figures_are_in_the_manifest(self, component: str, variant: str, tiny_lower_bundle: Path) -> None:
        recorded = numerics(tiny_lower_bundle, component, variant)
        assert recorded["trajectory"] == {"steps": 10, "height": 256, "width": 256, "scheduler": "ddpm"}
        assert 0 < recorded["reach"] < LARGEST / MARGIN
        assert recorded["rounding_error_db"] > precision_module.LEAST_DB[LOWER_VARIANTS[variant]]


def without_libraries(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """Make `importlib` find none of the packages `names`."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in names else found(name, *more))


def place(tensor: onnx.TensorProto) -> dict[str, int]:
    return {item.key: int(item.value) for item in tensor.external_data if item.key != "location"}


def checkpoint_values(folder: Path, component: str) -> Mapping[str, Any]:
    checkpoint = Checkpoint.open(folder)
    configs = {name: item.config for name, item in checkpoint.components.items()}
    expected = {name: expected_tensors(model) for name, model in build_models(configs, "checkpoint").items()}
    return checkpoint.tensors(expected)[PARTS[component].model]


class TestBundle:
    def test_files(self, tiny_lower_bundle: Path) -> None:
        files = {path.relative_to(tiny_lower_bundle).as_posix() for path in tiny_lower_bundle.rglob("*")}
        each = [
            f"{kind}-{bits}{end}"
            for bits in ("fp32", "fp16", "bf16")
            for kind, end in (("model", ".onnx"), ("weights", ".pdiparams"))
        ]
        assert files == {"manifest.json", *PARTS, *(f"{name}/{file}" for name in PARTS for file in each)}
        Bundle.open(tiny_lower_bundle).check_content()

    def test_weights_take_half_the_bytes(self, tiny_lower_bundle: Path) -> None:
        for component in PARTS:
            whole = (tiny_lower_bundle / component / "weights-fp32.pdiparams").stat().st_size
            for bits in ("fp16", "bf16"):
                half = (tiny_lower_bundle / component / f"weights-{bits}.pdiparams").stat().st_size
                assert half < 0.53 * whole

    def test_inspect_tells_the_choice(self, tiny_lower_bundle: Path) -> None:
        text = as_text(describe(Bundle.open(tiny_lower_bundle)))
        (line,) = [line for line in text.splitlines() if "onnx-fp16" in line and "phases" in line]
        assert "onnx-fp16: float32 in 293 nodes" in line
        assert "statistics of a small group of channels 287" in line  # 41 norms of 7 nodes
        assert "above its rounding error" in line


class TestChoice:
    def lowered(
        self, folder: Path, precision: str = "fp16", change: Callable[[str, Array], Array] = lambda _, values: values
    ) -> dict[str, Lowered]:
        """The toy graphs, lowered in `folder` after their weights were changed."""
        return lower_components(make_folders(folder), drafts(change), precision, DDPM)

    def graph(self, lowered: Lowered) -> onnx.ModelProto:
        model = onnx.load(str(lowered.files["graph"]), load_external_data=False)
        assert type_faults(model) == []
        return model

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_nothing_but_the_rules_where_values_are_small(self, precision: str, tmp_path: Path) -> None:
        made = self.lowered(tmp_path, precision)
        assert [(group["reason"], list(group["nodes"])) for group in made["unet"].numerics["float32"]] == [
            ("phases of the timestep's embedding", ["Unsqueeze.0", "Mul.1", "Sin.2"]),
        ]
        assert made["movq_decoder"].numerics["float32"] == []
        assert {path.name for path in (tmp_path / "unet").iterdir()} == {
            f"model-{precision}.onnx",
            f"weights-{precision}.pdiparams",
        }

    @pytest.mark.parametrize(("factor", "beyond"), [(10, False), (1e4, True)])
    def test_values_near_the_end_of_fp16_stay_in_float32(self, factor: float, beyond: bool, tmp_path: Path) -> None:
        """Weights that fp16 holds make values that it does not; the norm behind them brings them back."""

        def change(name: str, values: Array) -> Array:
            return values * np.float32(factor) if name == "unet.conv_in.weight" else values

        unet = self.lowered(tmp_path, change=change)["unet"]
        kept = {name: group for group in unet.numerics["float32"] for name in group["nodes"]}
        types, producer = types_of(self.graph(unet)), {"Conv.7": "first", "Conv.16": "second"}
        assert ("Conv.7" in kept) == beyond
        assert types[producer["Conv.7"]] == (FLOAT if beyond else onnx.TensorProto.FLOAT16)
        assert types[producer["Conv.16"]] == onnx.TensorProto.FLOAT16
        if beyond:
            assert kept["Conv.7"]["reason"] == "values beyond 8188, 1/8 of fp16's largest number"
            assert kept["Conv.7"]["nodes"]["Conv.7"] > LARGEST / MARGIN
            assert {"Reshape.8", "Shape.10"} & kept.keys() == {"Reshape.8"}  # both read them; a shape has no range

    def test_bf16_has_the_range_of_float32(self, tmp_path: Path) -> None:
        unet = self.lowered(
            tmp_path, "bf16", lambda name, values: values * np.float32(1e4 if name == "unet.conv_in.weight" else 1)
        )["unet"]
        assert "Conv.7" not in {name for group in unet.numerics["float32"] for name in group["nodes"]}

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("unet.conv_out.bias", 1e5, "a weight beyond 65504, fp16's largest number"),
            ("unet.embeds.weight", 1e-6, "weights below 6.1e-05, fp16's smallest number with all its digits"),
        ],
    )
    def test_a_weight_that_fp16_does_not_hold(self, name: str, value: float, reason: str, tmp_path: Path) -> None:
        unet = self.lowered(tmp_path, change=lambda key, old: np.full_like(old, value) if key == name else old)["unet"]
        assert reason in [group["reason"] for group in unet.numerics["float32"]]
        (tensor,) = [item for item in self.graph(unet).graph.initializer if f"unet.{item.name}" == name]
        assert tensor.data_type == FLOAT

    def test_a_graph_that_loses_too_much_stays_in_float32(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(precision_module, "LEAST_DB", {"fp16": 500.0})
        made = self.lowered(tmp_path)
        for component in made.values():
            assert component.files == {}
            (group,) = component.numerics["float32"]
            assert re.fullmatch(r"fp16 leaves \d\d\.\d dB; at least 500 are wanted", group["reason"])
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_a_graph_that_no_run_reaches_stays_in_float32(self, tmp_path: Path) -> None:
        """Another component than inpainting's: nothing is known of its values."""
        more = {**drafts(), "other": drafts()["movq_encoder"]}
        (tmp_path / "other").mkdir()
        made = lower_components(make_folders(tmp_path), more, "fp16", DDPM)
        assert made["other"] == Lowered({}, {"float32": [{"reason": "no run is measured", "nodes": {}}]})

    def test_the_exporter_then_takes_the_float32_files(
        self,
        micro_checkpoint: Path,
        micro_bundle: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """With or without a float32 variant next to it."""
        given_up = Lowered({}, {"float32": [{"reason": "too little", "nodes": {}}]})
        monkeypatch.setattr(
            bundle_export, "lower_components", lambda _, made, *__, **___: dict.fromkeys(made, given_up)
        )
        checkpoint, whole = Checkpoint.open(micro_checkpoint), Bundle.open(micro_bundle).manifest
        for variants in (["onnx-fp16"], ["paddle", "onnx-fp16"], ["onnx-fp32", "onnx-fp16"]):
            out = tmp_path / "-".join(variants)
            manifest = export_bundle(checkpoint, out, name="micro", variants=variants)
            assert manifest.variants() == tuple(variants)
            for name, component in manifest.components.items():
                lower = component.variants["onnx-fp16"]
                assert (lower.computed, lower.files) == ("fp32", whole.components[name].variants["onnx-fp32"].files)
            graphs = {path: entry for path, entry in manifest.files.items() if not path.endswith("/model.json")}
            assert graphs.items() <= whole.files.items()
        assert "unet stays in float32: too little" in caplog.messages
        assert "onnx-fp16: in float32 (too little)" in as_text(describe(Bundle.open(out)))

    def test_ranges_decide_between_the_limits(self) -> None:
        nodes = [
            onnx.helper.make_node("Neg", [source], [target], name=target)
            for source, target in (("x", "a"), ("a", "b"), ("b", "c"), ("c", "d"))
        ]
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))
        kept = kept_by_range(model, {"x": 1.0, "a": 9000.0, "b": 1.0, "c": 1e-5, "d": 0.0})
        assert set(kept) == {"a", "b", "c", "d"}
        assert [kept[name].split(",")[0] for name in "abcd"] == ["values beyond 8188"] * 2 + [
            "values below 6.1e-05"
        ] * 2
        assert kept_by_range(model, dict.fromkeys("xabcd", 8188.0)) == {}
        assert kept_by_range(model, dict.fromkeys("xabcd", 0.0)) == {}

    def test_rules_find_what_leads_to_the_waves(self) -> None:
        nodes = [
            onnx.helper.make_node("Neg", ["t"], ["p"], name="before"),
            onnx.helper.make_node("Mul", ["p", "p"], ["q"], name="phase"),
            onnx.helper.make_node("Sin", ["q"], ["s"], name="wave"),
            onnx.helper.make_node("Neg", ["s"], ["z"], name="after"),
        ]
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))
        assert set(kept_by_rule(model)) == {"before", "phase", "wave"}


class TestScan:
    def test_every_value_is_watched(self, micro_bundle: Path, tmp_path: Path) -> None:
        """What ONNX Runtime says of each value, computed for itself, is what the one output with all of them says."""
        folder = Path(shutil.copytree(micro_bundle / "movq_encoder", tmp_path / "graph"))
        model = onnx.load(str(folder / "model-fp32.onnx"), load_external_data=False)
        floats = [name for node in model.graph.node for name in node.output if types_of(model)[name] == FLOAT]
        places = ranges.watch_ranges(model)
        assert set(places) == {"image", *floats}
        onnx.save(model, str(folder / "watched.onnx"))
        chosen = floats[::10]
        for name in chosen:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, FLOAT, None))
        onnx.save(model, str(folder / "all.onnx"))
        feeds = {"image": np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)}
        session = ranges.plain_session(folder / "all.onnx")
        results = dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds), strict=True))
        reach = {name: results["ranges"][place] for name, place in places.items()}
        assert reach["image"] == np.abs(feeds["image"]).max()
        for name in chosen:
            np.testing.assert_allclose(reach[name], np.abs(results[name]).max(), err_msg=name)


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    write_sample_checkpoint(folder / "checkpoint", decoder="plain", changes=MICRO)
    checkpoint = Checkpoint.open(folder / "checkpoint")
    export_bundle(checkpoint, folder / "bundle", name="plain", variants=["onnx-fp32", "onnx-fp16"])
    return folder / "bundle"


class TestPlainDecoder:
    """Its trajectory is text-to-image's: there is no mask."""

    def test_every_component_is_measured(self, plain_bundle: Path) -> None:
        for component in PARTS:
            recorded = numerics(plain_bundle, component, "onnx-fp16")
            assert recorded["trajectory"] == {"steps": 10, "height": 64, "width": 64, "scheduler": "ddpm"}
            assert recorded["rounding_error_db"] > precision_module.LEAST_DB["fp16"]
            assert Bundle.open(plain_bundle).component(component).variants["onnx-fp16"].computed == "fp16"

    def test_pictures(self, plain_bundle: Path) -> None:
        pictures = {}
        for precision in ("fp32", "fp16"):
            with GeneratePipeline.load(plain_bundle, "onnxruntime", precision) as pipeline:
                output = pipeline(
                    **seeded_embeds(0, 32), height=64, width=64, num_inference_steps=5, seed=0, output_type="np"
                )
            pictures[precision] = output.images.astype(np.float64)
        error = np.square(pictures["fp16"] - pictures["fp32"]).mean()
        assert pictures["fp32"].std() > 0.01
        assert 0 < error < 10 ** (-40 / 10)  # 40 dB


class TestFailures:
    @pytest.mark.parametrize(
        ("missing", "components", "install"),
        [
            ({"onnxruntime"}, ("unet",), "onnxruntime"),
            ({"tokenizers"}, ("unet", "text_encoder", "prior"), "tokenizers"),
            ({"onnxruntime", "tokenizers"}, ("unet", "text_encoder", "prior"), "onnxruntime tokenizers"),
        ],
    )
    def test_a_library_of_the_trajectory_is_missing(
        self, missing: set[str], components: tuple[str, ...], install: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_libraries(monkeypatch, missing)
        with pytest.raises(
            EngineUnavailable, match=f"a measured trajectory, and a library .* not installed: pip install {install}$"
        ):
            ranges.check_installed(components)

    @pytest.mark.parametrize("components", [("unet",), ("unet", "image_encoder"), ("unet", "image_encoder", "prior")])
    def test_texts_alone_need_a_tokenizer(self, components: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        without_libraries(monkeypatch, {"tokenizers"})
        ranges.check_installed(components)

    def test_a_missing_library_is_told_before_any_work(
        self, micro_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_libraries(monkeypatch, {"onnxruntime"})
        monkeypatch.setattr(bundle_export, "trace", lambda *_: pytest.fail("a graph was traced"))
        with pytest.raises(EngineUnavailable, match="pip install onnxruntime"):
            export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "out", name="micro", variants=["onnx-fp16"])
        assert not list(tmp_path.iterdir())

    def test_no_scratch_file_outlives_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> None:
            raise ValueError("no")

        monkeypatch.setattr(precision_module, "scan", failing)
        with pytest.raises(ValueError, match="no"):
            lower_components(make_folders(tmp_path), drafts(), "fp16", DDPM)
        assert not list(tmp_path.rglob("scan.onnx"))
