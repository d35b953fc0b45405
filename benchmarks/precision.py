"""The error of fp16 and bf16 over whole trajectories, and the value of each rule of the exporter.

    python benchmarks/precision.py FOLDER

makes two seeded checkpoints in FOLDER, exports them with every variant and prints the tables of
benchmarks/RESULTS.md. No CPU computes these graphs as a GPU does, so that every figure stands for a way of running
them: "rounded" is the graph with each value rounded behind its node (`simulate_rounding`), in ONNX Runtime without
its optimisations.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from kandinsky_export.bundle_export import export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.graphs.rewrites.element_types import lower_element_types
from kandinsky_export.graphs.rewrites.simulated_rounding import simulate_rounding
from kandinsky_export.precision.lowering import kept_by_rule
from kandinsky_export.precision.ranges import plain_session, run_plainly
from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
from kandinsky_export.random_weights.sample_picture import sample_picture
from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_export.variants import LOWER_VARIANTS, VARIANTS
from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import FileEntry, Variant
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.engines.registry import Selection
from kandinsky_runtime.files import file_sha256
from kandinsky_runtime.prior.pipeline import PriorPipeline

Array = npt.NDArray[np.float32]
Changes = Mapping[str, Mapping[str, Any]]

STEPS, SIDE, GUIDANCE_SCALE, SEED = 20, 256, 4.0, 0
MOVQ = ("movq_encoder", "movq_decoder")
MID: Changes = {
    "unet": {
        "block_out_channels": [128, 256, 320, 448],
        "attention_head_dim": 64,
        "norm_num_groups": 32,
        "cross_attention_dim": 256,
        "encoder_hid_dim": 256,
        "layers_per_block": 3,
    },
    "movq": {"block_out_channels": [64, 128, 128, 256], "layers_per_block": 2},
}
SIZES: Mapping[str, Changes] = {"tiny": {}, "mid-size": MID}


class PlainEngine(Engine):
    """ONNX Runtime without its graph optimisations."""

    name = "plain"
    library = "onnxruntime"
    distribution = "onnxruntime"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "mixed"}
    roles = ("graph",)

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        self._session = plain_session(files["graph"])

    def _run(self, feeds: Arrays) -> dict[str, Array]:
        (spec,) = self.spec.outputs
        return {spec.name: self._session.run([spec.name], dict(feeds))[0]}

    def _release(self) -> None:
        del self._session


@dataclass(frozen=True)
class Trajectory:
    """The latents after the last step, and the picture in [0, 1]."""

    latents: Array
    picture: Array


def trajectory(bundle: Bundle, engine: type[Engine], files: Mapping[str, Mapping[str, str]]) -> Trajectory:
    """Run a whole trajectory with one file of each component, whatever variants they belong to."""
    components = {
        name: replace(item, variants={"mixed": Variant(Precision.FP32, files[name])})
        for name, item in bundle.manifest.components.items()
    }
    paths = {path for roles in files.values() for path in roles.values()} - bundle.manifest.files.keys()
    made = {path: FileEntry((bundle.root / path).stat().st_size, file_sha256(bundle.root / path)) for path in paths}
    mixed = Bundle(
        bundle.root, replace(bundle.manifest, components=components, files={**bundle.manifest.files, **made})
    )
    geometry = Geometry.of(mixed.manifest)
    graphs = Graphs(mixed, Selection(engine, Precision.FP32, "mixed", "cpu"))
    with InpaintPipeline(graphs, geometry, PriorPipeline(graphs)) as pipeline:
        image, mask = sample_picture(SIDE, SIDE)
        embeds = seeded_embeds(SEED, geometry.embed_width)
        seen: list[Array] = []

        def keep(_: object, __: int, ___: float, values: dict[str, Array]) -> None:
            seen[:] = [values["latents"].copy()]

        output = pipeline(
            image=image,
            mask_image=mask,
            image_embeds=embeds["image_embeds"],
            negative_image_embeds=embeds["negative_image_embeds"],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            seed=SEED,
            output_type="np",
            composite="none",
            callback_on_step_end=keep,
        )
    return Trajectory(seen[0], np.asarray(output.images))


def rounded_files(bundle: Bundle, variant: str) -> dict[str, dict[str, str]]:
    """Graphs that round like the variant's, written next to them."""
    files = {}
    for name, item in bundle.manifest.components.items():
        graph = item.variants[variant].files["graph"]
        model = onnx.load(str(bundle.root / graph), load_external_data=False)
        simulate_rounding(model)
        onnx.save(model, str(bundle.root / name / f"rounded-{variant}.onnx"))
        files[name] = {"graph": f"{name}/rounded-{variant}.onnx"}
    return files


def trajectory_rows(size: str, bundle: Bundle) -> list[str]:
    """The table's rows of a checkpoint: each way of running each variant, the UNet alone lowered and everything."""
    plain = {name: dict(item.variants["onnx-fp32"].files) for name, item in bundle.manifest.components.items()}
    want = trajectory(bundle, OnnxRuntimeEngine, plain)
    rows = []
    for variant, precision in LOWER_VARIANTS.items():
        stored = {name: dict(item.variants[variant].files) for name, item in bundle.manifest.components.items()}
        ways: dict[str, tuple[type[Engine], Mapping[str, Mapping[str, str]]]] = {
            "rounded": (PlainEngine, rounded_files(bundle, variant))
        }
        if precision == "fp16":  # ONNX Runtime has no bf16 kernels on the CPU
            ways["ONNX Runtime"] = (OnnxRuntimeEngine, stored)
        for way, (engine, files) in ways.items():
            unet = trajectory(bundle, engine, {**files, **{name: plain[name] for name in MOVQ}})
            everything = trajectory(bundle, engine, files)
            rows.append(
                f"| {size} | {precision} | {way} | {decibels(want.picture, unet.picture, 1):.1f}"
                f" | {decibels(want.latents, unet.latents):.1f} | {decibels(want.picture, everything.picture, 1):.1f} |"
            )
    return rows


def rule_rows(size: str, bundle: Bundle) -> list[str]:
    """The table's rows for each rule: one UNet run whose values are rounded, compared with float32."""
    component = bundle.component("unet")
    file = bundle.root / component.variants["onnx-fp32"].files["graph"]
    rng = np.random.default_rng(SEED)
    shapes = {item.name: item.shape({"batch": 3, "height": 32, "width": 32}) for item in component.spec.inputs}
    feeds = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    feeds["timestep"] = np.array([951, 501, 1], np.float32)
    ((want,),) = run_plainly(file, [feeds])

    def error(precision: str, kept: Collection[str]) -> float:
        model = onnx.load(str(file), load_external_data=False)
        if precision == "bf16":
            model.opset_import[0].version = 22
        lower_element_types(model, precision, kept=kept)
        simulate_rounding(model)
        scratch = file.with_name("rule.onnx")
        onnx.save(model, str(scratch))
        ((got,),) = run_plainly(scratch, [feeds])
        scratch.unlink()
        return decibels(want, got)

    nodes = onnx.load(str(file), load_external_data=False)
    rules = kept_by_rule(nodes)
    softmax = {node.name for node in nodes.graph.node if node.op_type == "Softmax"}
    sums = {node.name for node in nodes.graph.node if node.op_type == "Add"}
    phases = {name for name, reason in rules.items() if reason.startswith("phases")}
    choices = {
        "the rules": set(rules),
        "without the norms": phases,
        "without the timestep's phases": set(rules) - phases,
        "and softmax": set(rules) | softmax,
        "and every sum": set(rules) | sums,
    }
    return [
        f"| {size} | {label} | {error('fp16', kept):.1f} | {error('bf16', kept):.1f} |"
        for label, kept in choices.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    trajectories, rules = [], []
    for size, changes in SIZES.items():
        checkpoint = folder / f"{size}-checkpoint"
        write_sample_checkpoint(checkpoint, seed=SEED, changes=changes, overwrite=True)
        opened = Checkpoint.open(checkpoint)
        export_bundle(opened, folder / f"{size}-bundle", name=size, variants=VARIANTS, overwrite=True)
        bundle = Bundle.open(folder / f"{size}-bundle")
        trajectories += trajectory_rows(size, bundle)
        rules += rule_rows(size, bundle)
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
    print(
        f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}; {STEPS} steps at {SIDE} px, seeded weights.\n"
    )
    print("| checkpoint | precision | run as | UNet: picture, dB | UNet: latents, dB | everything: picture, dB |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    print("\n".join(trajectories))
    print("\n| checkpoint | in float32 | fp16, dB | bf16, dB |\n| --- | --- | ---: | ---: |")
    print("\n".join(rules))


if __name__ == "__main__":
    main()
