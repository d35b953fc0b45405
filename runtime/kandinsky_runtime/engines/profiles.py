"""Optimisation profiles: the sizes that a compiled engine takes, from pictures and results to the shape of each tensor.

A compiler of engines needs MIN, OPT and MAX for every input: it accepts sizes from MIN to MAX and is fastest at OPT.
Users think in pixels and results. Only this module turns one into the other; `bundle.geometry` has the units.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kandinsky_runtime.bundle.geometry import BATCH, HALVES, HEIGHT, WIDTH, Geometry, role_of
from kandinsky_runtime.bundle.spec import GraphSpec, TensorSpec
from kandinsky_runtime.errors import TensorError, UsageError

Shape = tuple[int, ...]

TOKENS = "tokens"
_SIDES = (HEIGHT, WIDTH)

_SPAN = re.compile(r"([0-9]{1,6})(?::([0-9]{1,6}):([0-9]{1,6}))?", re.ASCII)


@dataclass(frozen=True)
class Span:
    """The sizes from `min` to `max`; `opt` is the fastest.

    Raises:
        UsageError: they are not in this order, or less than 1.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(f"the span is {self.min}:{self.opt}:{self.max}; expected 1 <= MIN <= OPT <= MAX")

    @classmethod
    def parse(cls, text: str, option: str = "a span") -> Span:
        """Read `MIN:OPT:MAX`, or one number for a fixed size.

        Raises:
            UsageError: it is neither; the text names `option`.
        """
        match = _SPAN.fullmatch(text)
        if match is None:
            raise UsageError(f"{option} is {text!r}; expected MIN:OPT:MAX such as 512:768:1024, or one number")
        low = int(match[1])
        try:
            return cls(low, low, low) if match[2] is None else cls(low, int(match[2]), int(match[3]))
        except UsageError as error:
            raise UsageError(f"{option} is {text!r}: {error}") from error

    @property
    def fixed(self) -> bool:
        """Whether there is only one size."""
        return self.min == self.max

    def including(self, size: int) -> Span:
        """The smallest span that has this one and `size` in it."""
        if self.fixed:
            low, high = sorted((self.min, size))
            return Span(low, self.opt, high)
        return replace(self, min=min(self.min, size), max=max(self.max, size))

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max

    def __str__(self) -> str:
        return str(self.min) if self.fixed else f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class Profile:
    """The sizes that an engine is built for: height and width in pixels, batch in results of one run."""

    height: Span = Span(512, 768, 1024)
    width: Span = Span(512, 768, 1024)
    batch: Span = Span(1, 1, 4)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """The profile from what `to_json` returned.

        Raises:
            KeyError, TypeError, UsageError: `data` is something else.
        """
        return cls(**{side: Span(**data[side]) for side in (HEIGHT, WIDTH, BATCH)})

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"--height {self.height} --width {self.width} --batch {self.batch}"


@dataclass(frozen=True)
class GraphProfile:
    """A profile in the units of one graph.

    Attributes:
        profile: the profile in pixels and results.
        spans: the sizes of each of the graph's symbols, in the graph's units.
        pixels: the pixels per unit of the graph's height and width.
        guided: whether one batch of the graph holds both halves of classifier-free guidance.
    """

    profile: Profile
    spans: Mapping[str, Span]
    pixels: int
    guided: bool

    def shapes(self, tensor: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """The tensor's shape at MIN, OPT and MAX."""
        return self._at(tensor, "min"), self._at(tensor, "opt"), self._at(tensor, "max")

    def outside(self, sizes: Mapping[str, int]) -> list[str]:
        """The symbols whose size is outside the profile."""
        return [symbol for symbol, span in self.spans.items() if sizes[symbol] not in span]

    def widened(self, sizes: Mapping[str, int]) -> Profile:
        """The smallest profile around this one that includes the graph's `sizes`."""
        profile = self.profile
        for side in self.outside(sizes):
            if side in _SIDES:
                profile = replace(profile, **{side: getattr(profile, side).including(sizes[side] * self.pixels)})
            elif side == BATCH:
                results = -(-sizes[BATCH] // HALVES) if self.guided else sizes[BATCH]
                profile = replace(profile, batch=profile.batch.including(results))
        return profile

    def limits(self, symbol: str) -> str:
        """The sizes of a symbol, for error texts."""
        span = self.spans[symbol]
        text = str(span.min) if span.fixed else f"{span.min} to {span.max}"
        if symbol in _SIDES and self.pixels > 1:
            low, high = span.min * self.pixels, span.max * self.pixels
            text += f" ({low} px)" if span.fixed else f" ({low} to {high} px)"
        return text

    def _at(self, tensor: TensorSpec, point: str) -> Shape:
        return tensor.shape({symbol: getattr(span, point) for symbol, span in self.spans.items()})


def graph_profiles(
    component: str, spec: GraphSpec, geometry: Geometry, profiles: Sequence[Profile]
) -> tuple[GraphProfile, ...]:
    """The profiles of one of a bundle's graphs, in the order in which an engine tries them.

    Heights and widths are rounded up to what the graphs take (`Geometry.multiple`), as in a run. A guided graph has
    twice as many samples as results with guidance, and as many without. So a fixed batch becomes two fixed profiles;
    a span becomes one profile.

    Args:
        component: the graph's name in the bundle.
        spec: the graph's signature.
        geometry: the bundle's geometry.
        profiles: one or more profiles.

    Raises:
        UsageError: the graph does not take a size, or has a symbol for which profiles have no size.
    """
    return tuple(
        GraphProfile(
            profile,
            _spans(component, spec, geometry, profile, batch),
            geometry.pixels_per_unit(component),
            role_of(component).guided,
        )
        for profile in profiles
        for batch in _batches(component, profile.batch)
    )


def choose(
    subject: str, spec: GraphSpec, profiles: Sequence[GraphProfile], shapes: Mapping[str, Shape], rebuild: str
) -> int:
    """The index of the first profile that takes inputs of these shapes.

    Args:
        subject: the graph's name in errors.
        spec: the graph's signature, which the shapes fit.
        profiles: the engine's profiles.
        shapes: the shape of every input by name.
        rebuild: the command that builds the engine, without its profiles, for errors.

    Raises:
        TensorError: no profile takes them; the text names the tensor, its shape, the sizes of the closest profile, and
            the command that builds an engine for such shapes.
    """
    sizes = _sizes(spec, shapes)
    outside = [profile.outside(sizes) for profile in profiles]
    for number, symbols in enumerate(outside):
        if not symbols:
            return number
    number = min(range(len(profiles)), key=lambda item: len(outside[item]))
    symbol = outside[number][0]
    tensor = next(tensor for tensor in spec.inputs if symbol in tensor.dims)
    wanted = [profile.profile for profile in profiles]
    wanted[number] = profiles[number].widened(sizes)
    raise TensorError(
        f"{subject}: `{tensor.name}` is {shapes[tensor.name]}; {symbol} must be {profiles[number].limits(symbol)} for"
        f" the engine that was built; build it for this shape: {rebuild} {as_options(wanted)}"
    )


def read_profiles(
    heights: Sequence[str] | None, widths: Sequence[str] | None, batches: Sequence[str] | None
) -> tuple[Profile, ...]:
    """The profiles from options that may be given several times: the first of each, the second of each, and so on.

    An option that is given once is used for every profile. None is the default.

    Raises:
        UsageError: a text is not a span, or options are given different numbers of times.
    """
    given = {HEIGHT: heights, WIDTH: widths, BATCH: batches}
    spans = {side: [Span.parse(text, f"--{side}") for text in texts] for side, texts in given.items() if texts}
    count = max(map(len, spans.values()), default=1)
    if odd := [side for side, items in spans.items() if len(items) not in (1, count)]:
        raise UsageError(
            f"--{odd[0]} is given {len(spans[odd[0]])} times; expected once or {count} times, as the others"
        )
    return tuple(
        Profile(**{side: items[number % len(items)] for side, items in spans.items()}) for number in range(count)
    )


def as_options(profiles: Iterable[Profile]) -> str:
    """The options of `k22 build` for these profiles."""
    return " ".join(map(str, dict.fromkeys(profiles)))


def _batches(component: str, batch: Span) -> tuple[Span, ...]:
    if not role_of(component).guided:
        return (Span(1, 1, 1),)
    guided = Span(HALVES * batch.min, HALVES * batch.opt, HALVES * batch.max)
    return (guided, batch) if batch.fixed else (replace(guided, min=batch.min),)


def _spans(component: str, spec: GraphSpec, geometry: Geometry, profile: Profile, batch: Span) -> dict[str, Span]:
    spans = {}
    for symbol in dict.fromkeys(dim for tensor in spec.inputs for dim in tensor.dims if isinstance(dim, str)):
        if symbol in _SIDES:
            unit = geometry.pixels_per_unit(component)
            span = Span(*(geometry.padded(size) // unit for size in _points(getattr(profile, symbol))))
        elif symbol == BATCH:
            span = batch
        elif symbol == TOKENS and (most := spec.ranges[TOKENS].max) is not None:
            span = Span(spec.ranges[TOKENS].min, most, most)
        else:
            raise UsageError(f"a profile has no size for `{symbol}` of {component}: this graph cannot be built")
        for size in _points(span):
            if fault := spec.ranges[symbol].fault(size):
                raise UsageError(f"with {profile}, {symbol} of {component} is {size}; it {fault}")
        spans[symbol] = span
    return spans


def _sizes(spec: GraphSpec, shapes: Mapping[str, Shape]) -> dict[str, int]:
    return {
        dim: size
        for tensor in spec.inputs
        for dim, size in zip(tensor.dims, shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }


def _points(span: Span) -> Shape:
    return span.min, span.opt, span.max
