"""Geometry: the sizes that a bundle's graphs fix, their units, and the refusal of other models' graphs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from kandinsky_runtime.bundle.geometry import ComponentRole, Geometry, role_of
from kandinsky_runtime.bundle.manifest import Manifest
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.errors import BundleError
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, FACTOR, MULTIPLE, WIDTH


def changed(component: str, change: Callable[[GraphSpec], GraphSpec]) -> Manifest:
    specs = fake_bundle.signatures()
    return fake_bundle.manifest(specs={**specs, component: change(specs[component])})


def replaced(tensor: str, /, **changes: Any) -> Callable[[GraphSpec], GraphSpec]:
    def change(spec: GraphSpec) -> GraphSpec:
        def each(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
            return tuple(dataclasses.replace(item, **changes) if item.name == tensor else item for item in tensors)

        return GraphSpec(each(spec.inputs), each(spec.outputs), spec.ranges)

    return change


def test_geometry() -> None:
    assert Geometry.of(fake_bundle.manifest()) == Geometry(CHANNELS, 2 * CHANNELS, FACTOR, MULTIPLE, WIDTH)
    plain = Geometry.of(fake_bundle.manifest(specs=fake_bundle.signatures(out_channels=CHANNELS)))
    assert plain.out_channels == CHANNELS


def test_a_decoders_tasks_are_read_from_its_unet() -> None:
    inpainting, plain = (Geometry.of(fake_bundle.manifest(specs=fake_bundle.signatures(plain=on))) for on in (0, 1))
    assert (inpainting.sees_kept_area, inpainting.tasks) == (True, ("inpaint",))
    assert (plain.sees_kept_area, plain.tasks) == (False, ("text-to-image", "image-to-image"))
    assert dataclasses.replace(plain, sees_kept_area=True) == inpainting


def test_multiple_fits_every_graph() -> None:
    def coarse(spec: GraphSpec) -> GraphSpec:
        return dataclasses.replace(spec, ranges={**spec.ranges, "width": Range(min=24, multiple=24)})

    assert Geometry.of(changed("movq_encoder", coarse)).multiple == 48


@pytest.mark.parametrize(
    ("component", "change", "faults"),
    [
        (
            "movq_encoder",
            replaced("image", dims=("batch", 1, "height", "width")),
            [r"movq_encoder has image float32 \(batch, 1, height, width\); expected image float32 \(batch, 3,"],
        ),
        (
            "movq_encoder",
            replaced("latents", dims=("batch", 4, "height/4", "width/4")),
            ["expected latents .*height/8"],
        ),
        (
            "movq_encoder",
            replaced("latents", name="z"),
            ["has no such tensor; expected latents", "has z .*; expected no such tensor"],
        ),
        ("movq_decoder", replaced("image", dims=("batch", 3, "8*height", "4*width")), [r"expected image .*8\*width"]),
        ("movq_decoder", replaced("image", name="picture"), ["its graphs are not those of Kandinsky 2.2"]),
        ("unet", replaced("sample", dims=("batch", 8, "height", "width")), [r"expected sample float32 \(batch, 9,"]),
        ("unet", replaced("timestep", dtype="int64"), ["has timestep int64 .*; expected timestep float32"]),
        ("unet", replaced("image_embeds", dims=("batch", 77, 6)), ["its graphs are not those of Kandinsky"]),
        (
            "unet",
            replaced("noise_pred", dims=("batch", 5, "height", "width")),
            ["unet returns 5 channels; expected 4, or 8 with a variance"],
        ),
        (
            "unet",
            lambda spec: dataclasses.replace(spec, inputs=(*spec.inputs, TensorSpec("text", "int64", ("batch", 77)))),
            ["unet has text int64 .*; expected no such tensor"],
        ),
    ],
)
def test_graphs_of_another_model(component: str, change: Callable[[GraphSpec], GraphSpec], faults: list[str]) -> None:
    with pytest.raises(BundleError) as caught:
        Geometry.of(changed(component, change), "bundle b")
    assert caught.value.subject == "bundle b"
    assert len(caught.value.faults) == len(faults)
    for fault, pattern in zip(caught.value.faults, faults, strict=True):
        assert re.search(pattern, fault)


# -- units --


@pytest.mark.parametrize(
    ("component", "role"),
    [
        ("unet", ComponentRole(in_pixels=False, guided=True)),
        ("movq_encoder", ComponentRole(in_pixels=True, guided=False)),
        ("movq_decoder", ComponentRole(in_pixels=False, guided=False)),
        ("text_encoder", ComponentRole(in_pixels=False, guided=True)),
    ],
)
def test_roles(component: str, role: ComponentRole) -> None:
    assert role_of(component) == role


@pytest.mark.parametrize(
    ("component", "sizes"),
    [
        ("unet", {"batch": 2, "height": 10, "width": 12}),
        ("movq_encoder", {"batch": 1, "height": 80, "width": 96}),
        ("movq_decoder", {"batch": 1, "height": 10, "width": 12}),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(80, 96), (65, 81)])
def test_sizes_of_a_run_of_one_picture(component: str, sizes: dict[str, int], height: int, width: int) -> None:
    geometry = Geometry.of(fake_bundle.manifest())
    assert geometry.sizes(component, height, width) == sizes
    assert sizes["height"] * geometry.pixels_per_unit(component) == geometry.padded(height) == 80


def test_nothing_is_padded_that_fits() -> None:
    geometry = Geometry.of(fake_bundle.manifest())
    assert [geometry.padded(size) for size in (1, MULTIPLE, MULTIPLE + 1)] == [MULTIPLE, MULTIPLE, 2 * MULTIPLE]
