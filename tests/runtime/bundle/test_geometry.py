"""Geometry: the sizes that a bundle's graphs fix, and the refusal of other models' graphs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from kandinsky_runtime.bundle.geometry import Geometry
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


def test_what_a_decoder_does_is_read_from_its_unet() -> None:
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
