"""The manifests in docs/deployment: valid by the schemas of Kubernetes, and in agreement with the server.

The schemas of KServe's and KubeRay's own resources are in no package. With K22_CRDS, a folder of their
CustomResourceDefinition files, their resources are checked too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from kandinsky_runtime.serving.app import routes
from kandinsky_runtime.serving.models import Models
from kandinsky_runtime.serving.service import Service
from kandinsky_runtime.serving.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "deployment"
CUSTOM = ("serving.kserve.io/", "ray.io/")

Resource = dict[str, Any]


def resources() -> list[Resource]:
    return [item for file in sorted(FOLDER.glob("*.yaml")) for item in yaml.safe_load_all(file.read_text()) if item]


def name_of(resource: Resource) -> str:
    return f"{resource['kind']}-{resource['metadata']['name']}"


def is_custom(resource: Resource) -> bool:
    return str(resource["apiVersion"]).startswith(CUSTOM)


@pytest.mark.parametrize("resource", [item for item in resources() if not is_custom(item)], ids=name_of)
def test_kubernetes_takes_it(resource: Resource) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("resource", [item for item in resources() if is_custom(item)], ids=name_of)
def test_its_operator_takes_it(resource: Resource) -> None:
    if "K22_CRDS" not in os.environ:
        pytest.skip("K22_CRDS is not set: the operators' CustomResourceDefinition files are in no package")
    schema = _schema(Path(os.environ["K22_CRDS"]), resource)
    jsonschema.Draft202012Validator(schema).validate(resource)
    assert list(_unknown(resource, schema, "")) == []


def _schema(folder: Path, resource: Resource) -> Any:
    group, version = resource["apiVersion"].split("/")
    for file in folder.glob("*.yaml"):
        spec = yaml.safe_load(file.read_text())["spec"]
        if (spec["group"], spec["names"]["kind"]) == (group, resource["kind"]):
            (found,) = [item for item in spec["versions"] if item["name"] == version]
            return found["schema"]["openAPIV3Schema"]
    raise AssertionError(f"{folder} has no definition of {resource['apiVersion']} {resource['kind']}")


def _unknown(value: Any, schema: Any, path: str) -> Iterator[str]:
    """The fields that the operator would drop without a word."""
    if isinstance(value, dict) and "properties" in schema and path != "/metadata":
        for name, item in value.items():
            if name in schema["properties"]:
                yield from _unknown(item, schema["properties"][name], f"{path}/{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}/{name}"
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _unknown(item, schema["items"], f"{path}[]")


def containers() -> list[tuple[str, Resource, Resource]]:
    """Every container of `k22 serve`: where it is, its pod's specification, and itself."""
    found = []
    for resource in resources():
        pod = resource.get("spec", {}).get("template", {}).get("spec") or resource.get("spec", {})
        for container in pod.get("containers", []):
            if any("--drain-seconds" in argument for argument in container.get("args", [])):
                found.append((name_of(resource), pod, container))
    return found


@pytest.mark.parametrize(
    ("name", "pod", "container"), containers(), ids=lambda item: item if isinstance(item, str) else ""
)
def test_arguments_and_probes_are_the_servers(name: str, pod: Resource, container: Resource) -> None:
    flags = dict(
        argument[2:].replace("-", "_").split("=")
        for argument in container["args"]
        if argument.startswith("--") and "=" in argument
    )
    switches = [argument for argument in container["args"] if argument.startswith("--") and "=" not in argument]
    assert set(switches) <= {"--no-auth"}
    Settings.from_texts(flags | {"host": "127.0.0.1"}, name)
    paths = {route.path for route in routes()}
    probes = [probe for key, probe in container.items() if key.endswith("Probe")]
    assert len(probes) >= 2
    assert all(probe["httpGet"]["path"] in paths for probe in probes)


def test_grace_periods_outlast_the_drain() -> None:
    periods = {}
    for resource in resources():
        spec = resource.get("spec", {})
        pod = spec.get("template", {}).get("spec") or spec.get("predictor") or {}
        if "terminationGracePeriodSeconds" in pod:
            periods[name_of(resource)] = pod["terminationGracePeriodSeconds"]
    assert set(periods) >= {"Deployment-k22", "InferenceService-kandinsky"}
    drain = {
        name: float(argument.partition("=")[2])
        for name, _, container in containers()
        for argument in container["args"]
        if argument.startswith("--drain-seconds")
    }
    assert set(drain) == {"Deployment-k22", "ServingRuntime-k22"}
    for period in periods.values():
        assert period > max(drain.values()) + 10 + 5  # the wait of preStop, and the last answers


def test_metrics_that_scale_exist() -> None:
    scaled = [
        metric["pods"]["metric"]["name"]
        for resource in resources()
        if resource["kind"].endswith("Autoscaler")
        for metric in resource["spec"]["metrics"]
    ]
    assert scaled
    text = Service(Settings(), Models({})).metrics.text().decode()
    assert all(f"\n{name} " in text for name in scaled)
