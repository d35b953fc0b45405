"""The manifest and its reader: what is written is read back; anything else is refused, with every fault listed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime import inspection
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import (
    NEEDED_COMPONENTS,
    PICTURE_PROMPT,
    PROMPT,
    SCHEMA,
    TASKS,
    TOKENIZER_ROLES,
    Manifest,
)
from kandinsky_runtime.bundle.manifest_reader import parse, path_fault
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import BundleError, Kandinsky22Error
from kandinsky_runtime.prior.pipeline import PriorPipeline
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine

SOUND = fake_bundle.with_prior()
DATA: dict[str, Any] = json.loads(SOUND.to_json())
WRONG = [None, True, False, -1, 0, 1, 1.5, 10**30, float("nan"), "", "x", "batch", [], [[]], {}, {"a": 1}, [{"a": []}]]


def faults(data: Any) -> list[str]:
    with pytest.raises(BundleError) as caught:
        parse(data if isinstance(data, str) else json.dumps(data), "it")
    assert caught.value.subject == "it"
    return list(caught.value.faults)


def changed(*path: Any, value: Any) -> dict[str, Any]:
    """The sound manifest with one value replaced, the one at `path`."""
    data = copy.deepcopy(DATA)
    owner = data
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return data


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a JSON value."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@pytest.mark.parametrize(
    "manifest",
    [
        SOUND,
        fake_bundle.manifest(),
        fake_bundle.manifest(tasks=()),
        fake_bundle.with_prior(plain=True),
        fake_bundle.with_prior(without=("image_encoder",)),
        fake_bundle.with_prior(without=fake_bundle.PRIOR_COMPONENTS),
    ],
)
def test_read_back_as_written(manifest: Manifest) -> None:
    assert parse(manifest.to_json(), "it") == manifest


def test_a_bundle_from_before_there_were_tasks() -> None:
    data = json.loads(fake_bundle.manifest().to_json())
    del data["tasks"], data["prior"]
    assert parse(json.dumps(data), "it") == fake_bundle.manifest()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON"),
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": ' + "1" * 5000 + "}", "not JSON"),
        ('{"parity": {"error": NaN}}', "not JSON (it has NaN, which is no number of JSON); export the bundle again"),
        ('{"parity": {"error": -Infinity}}', "not JSON (it has -Infinity, which is no number of JSON)"),
        ('{"parity": {"error": 1e999}}', "not JSON (it has 1e999, which is too large for a number)"),
        ("[]", "`format` is not 'kandinsky22-bundle'"),
        ("null", "`format` is not 'kandinsky22-bundle'"),
        ("{}", "`format` is not 'kandinsky22-bundle'"),
        ('{"format": "other"}', "`format` is not 'kandinsky22-bundle'"),
    ],
)
def test_not_a_manifest(text: str, fault: str) -> None:
    (only,) = faults(text)
    assert fault in only


def test_figures_that_are_not_finite_are_null() -> None:
    """A verification that fails with NaN leaves a bundle that can be read."""
    figures = {"unet": float("nan"), "latents": (1.5, float("inf")), "passed": False}
    read = parse(replace(SOUND, parity={"engines": figures}).to_json(), "it")
    assert read.parity == {"engines": {"unet": None, "latents": [1.5, None], "passed": False}}
    with pytest.raises(BundleError, match="manifest.json: a config has NaN or infinity, which are no numbers of JSON"):
        replace(SOUND, scheduler={"beta_end": float("nan")}).to_json()


def test_truncated_anywhere() -> None:
    text = SOUND.to_json().rstrip()
    for end in range(0, len(text), 97):
        assert "not JSON" in faults(text[:end])[0]


def test_newer_schema_names_both_versions() -> None:
    newer = changed("schema", value=SCHEMA + 1) | {"components": "of a shape unknown today"}
    assert faults(newer) == [
        f"bundle schema {SCHEMA + 1}; this runtime reads up to {SCHEMA}: upgrade kandinsky22-deploy"
    ]


@pytest.mark.parametrize("schema", [None, "1", 1.0, True, 0, -1, []])
def test_unusable_schema(schema: Any) -> None:
    assert faults(changed("schema", value=schema)) == [
        f"manifest.json: `schema` is {schema!r}; expected a whole number from 1 to {SCHEMA}"
    ]


@pytest.mark.parametrize("path", list(places(DATA)), ids=lambda path: ".".join(map(str, path)))
def test_wrong_value_anywhere_is_an_error_of_ours(path: tuple[Any, ...]) -> None:
    """A manifest that is not refused when it is read can be described and used, or raises an error of ours."""
    for value in WRONG:
        text = json.dumps(changed(*path, value=value))
        try:
            manifest = parse(text, "it")
        except BundleError as error:
            assert error.faults
            continue
        for use in (
            lambda manifest: inspection.as_text(inspection.describe(Bundle(Path(__file__).parent, manifest))),
            lambda manifest: registry.select(manifest, "onnxruntime"),
        ):
            try:
                use(manifest)
            except Kandinsky22Error as error:
                assert str(error)


@pytest.fixture(scope="module")
def sound_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.write(tmp_path_factory.mktemp("sound") / "bundle", SOUND)


@pytest.mark.parametrize("path", list(places(DATA["prior"], ("prior",))), ids=lambda path: ".".join(map(str, path)))
def test_a_wrong_value_of_the_prior_is_an_error_of_ours(path: tuple[Any, ...], sound_bundle: Path) -> None:
    for value in WRONG:
        try:
            manifest = parse(json.dumps(changed(*path, value=value)), "it")
            selection = registry.Selection(FakeEngine, Precision.FP32, "fake-fp32", "cpu")
            prior = PriorPipeline(Graphs(Bundle(sound_bundle, manifest), selection, EngineOptions()))
            prior.plan(["a hat", np.zeros((9, 9, 3), np.uint8)], None, 3, 4.0)
        except Kandinsky22Error as error:
            assert str(error)


FIELDS = {"components", "files", "scheduler", "source", "written_by", "parity", "spec", "variants", "inputs", "outputs"}
FIELDS |= {"ranges", "name", "dtype", "dims", "min", "max", "multiple", "precision", "bytes", "sha256"}
NEEDED = [
    path for path in places(DATA) if path[-1] in FIELDS and (len(path) == 1 or path[0] in ("files", "components"))
]
NEEDED += [("prior", name) for name in DATA["prior"]] + [("prior", "tokenizer", name) for name in TOKENIZER_ROLES]


@pytest.mark.parametrize("path", NEEDED, ids=lambda path: ".".join(map(str, path)))
def test_missing_field_is_refused(path: tuple[Any, ...]) -> None:
    data = copy.deepcopy(DATA)
    owner = data
    for key in path[:-1]:
        owner = owner[key]
    del owner[path[-1]]
    assert faults(data)


def test_unknown_fields_are_ignored() -> None:
    data = copy.deepcopy(DATA)
    unet = data["components"]["unet"]
    for owner in (
        data,
        unet,
        unet["spec"],
        unet["spec"]["inputs"][0],
        unet["spec"]["ranges"]["batch"],
        unet["variants"]["fake-fp32"],
        data["files"]["unet/graph.txt"],
        data["prior"],
        data["prior"]["tokenizer"],
    ):
        owner["from the future"] = {"a": 1}
    assert parse(json.dumps(data), "it") == SOUND


def test_all_faults_at_once() -> None:
    data = copy.deepcopy(DATA)
    del data["components"]["movq_decoder"]
    unet = data["components"]["unet"]
    unet["spec"]["inputs"][0]["dims"][2] = "high"
    unet["spec"]["inputs"][1]["dtype"] = "complex64"
    unet["spec"]["outputs"][0]["dims"] = ["batch", 0, "8*8", "depth"]
    unet["spec"]["outputs"].append({"name": "sample", "dtype": "float32", "dims": ["depth"]})
    unet["spec"]["ranges"]["width"] = {"min": 8, "max": 4, "multiple": 1}
    unet["variants"]["fake-fp32"] = {"precision": 8, "stored": "", "files": {"graph": "nowhere.onnx", "weights": ["x"]}}
    data["components"]["movq_encoder"] = []
    data["files"]["../secret"] = {"bytes": 1, "sha256": "0" * 64}
    data["files"]["unet/graph.txt"] = {"bytes": -1, "sha256": "abc"}
    data["written_by"] = "me"
    data["tasks"] = "inpaint"
    data["prior"] |= {"scheduler": [], "eos_token_id": "2", "constants": "nowhere.npz", "tokenizer": {"merges": 3}}
    assert faults(data) == [
        "file 'unet/graph.txt' needs `bytes`, a whole number, and `sha256`, 64 hexadecimal digits",
        "file '../secret' leaves the bundle's folder",
        "component `movq_decoder` is missing",
        "component `unet`, variant `fake-fp32`: `precision` is 8; expected a name such as fp32",
        "component `unet`, variant `fake-fp32`: `stored` is ''; expected a name such as fp32",
        "component `unet`, variant `fake-fp32`: `graph` names 'nowhere.onnx', which is not in `files`",
        "component `unet`, variant `fake-fp32`: `weights` names ['x'], which is not in `files`",
        "component `unet`, range of `width` needs `min`, `max` (null: none) and `multiple`, whole numbers of at least"
        " 1",
        "component `unet`: a tensor needs `name` and a `dtype` of float32, float16, int64, int32, bool",
        "component `unet`, tensor `noise_pred`: 0 is not a dimension",
        "component `unet`, tensor `noise_pred`: '8*8' is not a dimension",
        "component `unet`: two tensors have the name `sample`",
        "component `unet`: input dimension `high` has no entry in `ranges`",
        "component `unet`: output dimension `depth` is in no input",
        "component `movq_encoder` needs `spec` and `variants`, both objects",
        "manifest.json: `written_by` is missing or not an object",
        f"manifest.json: `tasks` is 'inpaint'; expected a list of names such as {', '.join(TASKS)}",
        "manifest.json, `prior`: `scheduler` is missing or not an object",
        "manifest.json, `prior`: `vocabulary` names None, which is not in `files`",
        "manifest.json, `prior`: `merges` names 3, which is not in `files`",
        "manifest.json, `prior`: `constants` names 'nowhere.npz', which is not in `files`",
        "manifest.json, `prior`: `eos_token_id` is '2'; expected a whole number",
    ]


@pytest.mark.parametrize(
    ("task", "component"), [("prompt", "text_encoder"), ("prompt", "prior"), ("picture-prompt", "image_encoder")]
)
def test_a_task_without_its_graph(task: str, component: str) -> None:
    data = copy.deepcopy(DATA)
    del data["components"][component]
    assert faults(data) == [f"`tasks` has {task}, but component `{component}` is missing"]


def test_prompts_without_what_the_prior_needs() -> None:
    assert faults(changed("prior", value=None)) == [
        "`tasks` has prompt, but `prior` is missing",
        "`tasks` has picture-prompt, but `prior` is missing",
    ]


@pytest.mark.parametrize("tasks", [None, "inpaint", {"inpaint": 1}, [1], ["inpaint", None], [["inpaint"]]])
def test_unusable_tasks(tasks: Any) -> None:
    (fault,) = faults(changed("tasks", value=tasks))
    assert fault.startswith(f"manifest.json: `tasks` is {tasks!r}; expected a list of names such as inpaint, text-to-")


def test_tasks_of_the_future_are_kept() -> None:
    assert parse(json.dumps(changed("tasks", value=["video"])), "it").tasks == ("video",)


@pytest.mark.parametrize("path", ["a", "a/b.txt", "unet/weights-fp32.pdiparams", "..a/b..", "é/x y"])
def test_path_within_the_bundle(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "//a",
        "a//b",
        "./a",
        "a/",
        "a/./b",
        "a\\b",
        "..\\a",
        "C:a",
        "C:/a",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "\ud800",
        "manifest.json",
    ],
)
def test_path_out_of_the_bundle(path: str) -> None:
    assert path_fault(path) is not None
    entry = {"bytes": 1, "sha256": "0" * 64}
    assert faults(changed("files", path, value=entry)) == [f"file {path!r} {path_fault(path)}"]


# -- variants --

TWO = fake_bundle.with_prior(variants={"b": "bf16", "a": "fp32"})


def without(component: str, variant: str) -> Manifest:
    """The manifest TWO, in which a graph lacks a variant."""
    data = json.loads(TWO.to_json())
    del data["components"][component]["variants"][variant]
    return parse(json.dumps(data), "it")


def test_a_variant_is_one_that_every_graph_of_the_task_has() -> None:
    assert TWO.variants() == ("b", "a")
    assert without("movq_encoder", "b").variants() == ("a",)


def test_a_prior_may_lack_a_variant_of_the_decoder() -> None:
    manifest = without("text_encoder", "b")
    assert manifest.variants() == ("b", "a")
    assert manifest.variants(NEEDED_COMPONENTS[PROMPT]) == ("a",)
    assert manifest.variants(NEEDED_COMPONENTS[PICTURE_PROMPT]) == ("b", "a")
    assert manifest.variants(manifest.components) == ("a",)


@pytest.mark.parametrize("key", ["precision", "stored"])
def test_a_precision_of_the_future_makes_one_variant_unusable(key: str) -> None:
    data = json.loads(TWO.to_json())
    data["components"]["unet"]["variants"]["b"][key] = "int8"
    manifest = parse(json.dumps(data), "it")
    unet = manifest.components["unet"]
    assert unet.variants["b"].fault == (
        "it is stored in 'int8', which this version does not know: upgrade kandinsky22-deploy"
    )
    assert unet.variants["a"].fault is None
    assert unet.usable_variants() == manifest.variants() == ("a",)
    assert parse(manifest.to_json(), "it") == manifest, "the name survives, for versions that know it"


def test_stored_and_computed_precision() -> None:
    data = json.loads(TWO.to_json())
    variants = data["components"]["unet"]["variants"]
    assert "stored" not in variants["a"], "manifests of variants stored as they are computed are as before"
    variants["b"]["stored"] = "fp16"
    manifest = parse(json.dumps(data), "it")
    plain, mixed = (manifest.components["unet"].variants[name] for name in ("a", "b"))
    assert (plain.stored, plain.computed) == (Precision.FP32, Precision.FP32)
    assert (mixed.stored, mixed.computed) == (Precision.FP16, Precision.BF16)
    assert mixed.fault is None
    assert json.loads(manifest.to_json()) == data
