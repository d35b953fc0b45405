"""Profiles: from pictures and results to the shapes of every tensor, and back for error texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span, as_options, choose, graph_profiles
from kandinsky_runtime.errors import TensorError, UsageError
from tests.runtime import fake_bundle

MANIFEST = fake_bundle.manifest()
GEOMETRY = Geometry.of(MANIFEST)
SPECS = {name: component.spec for name, component in MANIFEST.components.items()}
ISSUE = Profile(Span(512, 768, 1024), Span(512, 768, 1024), Span(1, 2, 8))
spans = st.lists(st.integers(1, 2048), min_size=3, max_size=3).map(lambda sizes: Span(*sorted(sizes)))


def of(component: str, *profiles: Profile) -> tuple[GraphProfile, ...]:
    return graph_profiles(component, SPECS[component], GEOMETRY, profiles or (ISSUE,))


def fixed(height: int, width: int, batch: int = 1) -> Profile:
    return Profile(*(Span(size, size, size) for size in (height, width, batch)))


# -- spans --


@pytest.mark.parametrize(("text", "span"), [("512:768:1024", Span(512, 768, 1024)), ("64", Span(64, 64, 64))])
def test_span(text: str, span: Span) -> None:
    assert Span.parse(text) == span
    assert str(span) == text


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:3:4", "-1", "1.5", " 1", "1:2:", "٣", "9999999"])
def test_a_text_that_is_not_a_span(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Span.parse(text, "--height")
    assert str(caught.value) == (f"--height is {text!r}; expected MIN:OPT:MAX such as 512:768:1024, or one number")


@pytest.mark.parametrize("text", ["0", "2:1:3", "1:3:2", "0:1:2"])
def test_a_span_in_another_order(text: str) -> None:
    with pytest.raises(UsageError, match=f"--batch is '{text}': the span is .*; expected 1 <= MIN <= OPT <= MAX"):
        Span.parse(text, "--batch")


@given(spans, st.integers(1, 4096))
def test_a_span_with_another_size_keeps_its_own(span: Span, size: int) -> None:
    wider = span.including(size)
    assert all(item in wider for item in (span.min, span.opt, span.max, size))
    assert {wider.min, wider.max} <= {span.min, span.max, size}
    assert wider.opt == span.opt


# -- shapes --


def test_shapes_of_every_graph() -> None:
    (unet,) = of("unet")
    assert [unet.shapes(tensor) for tensor in SPECS["unet"].inputs] == [
        ((1, 9, 64, 64), (4, 9, 96, 96), (16, 9, 128, 128)),
        ((1,), (4,), (16,)),
        ((1, 6), (4, 6), (16, 6)),
    ]
    (encoder,), (decoder,) = of("movq_encoder"), of("movq_decoder")
    assert encoder.shapes(SPECS["movq_encoder"].inputs[0]) == tuple((1, 3, size, size) for size in (512, 768, 1024))
    assert decoder.shapes(SPECS["movq_decoder"].inputs[0]) == tuple((1, 4, size, size) for size in (64, 96, 128))


def test_a_fixed_batch_has_a_fixed_profile_with_guidance_and_one_without() -> None:
    profiles = of("unet", fixed(512, 768, 3))
    shapes = [profile.shapes(SPECS["unet"].inputs[0]) for profile in profiles]
    assert shapes == [((6, 9, 64, 96),) * 3, ((3, 9, 64, 96),) * 3]


def test_sizes_are_rounded_up_as_in_a_run() -> None:
    (encoder,) = of("movq_encoder", Profile(Span(500, 700, 1001), Span(64, 64, 64)))
    assert fake_bundle.MULTIPLE == 16
    assert encoder.spans["height"] == Span(512, 704, 1008)


def test_several_profiles_keep_their_order() -> None:
    heights = [profile.spans["height"].max for profile in of("movq_decoder", ISSUE, fixed(2048, 2048), fixed(64, 64))]
    assert heights == [128, 256, 8]


@given(spans, spans, spans)
def test_every_shape_fits_the_graph(height: Span, width: Span, batch: Span) -> None:
    for component, spec in SPECS.items():
        for profile in of(component, Profile(height, width, batch)):
            for point in range(3):
                for tensor in spec.inputs:
                    shape = profile.shapes(tensor)[point]
                    for dim, size in zip(tensor.dims, shape, strict=True):
                        assert dim == size if isinstance(dim, int) else spec.ranges[dim].fault(size) is None


def test_tokens_span_what_the_graph_takes() -> None:
    spec = GraphSpec((TensorSpec("ids", "int64", ("batch", "tokens")),), (), {"batch": Range(), "tokens": Range(1, 77)})
    (profile,) = graph_profiles("text_encoder", spec, GEOMETRY, [ISSUE])
    assert profile.shapes(spec.inputs[0]) == ((1, 1), (4, 77), (16, 77))


def test_a_symbol_without_a_size() -> None:
    spec = GraphSpec((TensorSpec("x", "float32", ("depth",)),), (), {"depth": Range()})
    with pytest.raises(UsageError, match="a profile has no size for `depth` of part: this graph cannot be built"):
        graph_profiles("part", spec, GEOMETRY, [ISSUE])


def test_a_size_that_the_graph_does_not_take() -> None:
    spec = GraphSpec((TensorSpec("x", "float32", ("height",)),), (), {"height": Range(max=64)})
    with pytest.raises(UsageError, match=r"with --height 512:768:1024 .*, height of part is 96; it must be at most 64"):
        graph_profiles("part", spec, GEOMETRY, [ISSUE])


# -- choice --


def unet_shapes(batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    return {"sample": (batch, 9, height, width), "timestep": (batch,), "image_embeds": (batch, 6)}


def test_the_first_profile_that_fits_is_chosen() -> None:
    profiles = of("unet", fixed(512, 512), ISSUE)
    found = [choose("unet", SPECS["unet"], profiles, unet_shapes(*sizes), "k22 build b") for sizes in (
        (2, 64, 64), (1, 64, 64), (4, 64, 64), (2, 128, 64),
    )]  # fmt: skip
    assert found == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (
            (2, 144, 96),
            "unet: `sample` is (2, 9, 144, 96); height must be 64 to 128 (512 to 1024 px) for the engine that was"
            " built; build it for this shape: k22 build b --height 512:768:1152 --width 512:768:1024 --batch 1:2:8",
        ),
        (
            (17, 64, 64),
            "unet: `sample` is (17, 9, 64, 64); batch must be 1 to 16 for the engine that was built; build it for this"
            " shape: k22 build b --height 512:768:1024 --width 512:768:1024 --batch 1:2:9",
        ),
        (
            (2, 32, 160),
            "unet: `sample` is (2, 9, 32, 160); height must be 64 to 128 (512 to 1024 px) for the engine that was"
            " built; build it for this shape: k22 build b --height 256:768:1024 --width 512:768:1280 --batch 1:2:8",
        ),
    ],
)
def test_a_shape_outside(sizes: tuple[int, int, int], text: str) -> None:
    with pytest.raises(TensorError) as caught:
        choose("unet", SPECS["unet"], of("unet"), unet_shapes(*sizes), "k22 build b")
    assert str(caught.value) == text


@given(st.integers(1, 64), st.integers(1, 300), st.integers(1, 300))
def test_the_command_in_the_error_builds_what_fits(batch: int, height: int, width: int) -> None:
    shapes = unet_shapes(batch, height * 2, width * 2)
    for profiles in (of("unet"), of("unet", fixed(512, 768), fixed(1024, 1024, 2))):
        try:
            choose("unet", SPECS["unet"], profiles, shapes, "k22 build b")
        except TensorError as error:
            words = str(error).partition("k22 build b ")[2].split()
            given = [Span.parse(word) for word in words[1::2]]
            rebuilt = [Profile(*given[number : number + 3]) for number in range(0, len(given), 3)]
            choose("unet", SPECS["unet"], of("unet", *rebuilt), shapes, "k22 build b")


# -- what others read --


def test_a_profile_as_options_and_json() -> None:
    assert str(ISSUE) == "--height 512:768:1024 --width 512:768:1024 --batch 1:2:8"
    assert as_options([ISSUE, ISSUE]) == str(ISSUE)
    assert Profile.from_json(json.loads(json.dumps(ISSUE.to_json()))) == ISSUE
