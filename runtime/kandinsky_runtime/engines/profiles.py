"""Optimisation profiles: the sizes that a compiled engine takes, from pictures and results to the shape of each tensor.

A compiler of engines wants MIN, OPT and MAX for every input: it accepts what lies between MIN and MAX and is fastest at
OPT. Users think in pixels and results; this is the only place that turns one into the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.spec import GraphSpec, TensorSpec
from kandinsky_runtime.errors import TensorError, UsageError

Shape = tuple[int, ...]

BATCH, HEIGHT, WIDTH, TOKENS = "batch", "height", "width", "tokens"
_SIDES = (HEIGHT, WIDTH)
# The runtime encodes and decodes one picture at a time, whatever the number of results (`pipeline`).
_ONE_AT_A_TIME = frozenset({"movq_encoder", "movq_decoder"})
_IN_PIXELS = frozenset({"movq_encoder"})

_SPAN = re.compile(r"([0-9]{1,6})(?::([0-9]{1,6}):([0-9]{1,6}))?", re.ASCII)


@dataclass(frozen=True)
class Span:
    """The sizes from `min` to `max`, fastest at `opt`.

    Raises:
        UsageError: they are not in this order, or not all at least 1.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(f"the span {self.min}:{self.opt}:{self.max} must rise from MIN over OPT to MAX, from 1 on")

    @classmethod
    def parse(cls, text: str, option: str = "a span") -> Span:
        """Read `MIN:OPT:MAX`, or one number for a fixed size.

        Raises:
            UsageError: it is neither; `option` names it.
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
        """Whether it is a single size."""
        return self.min == self.max

    def including(self, size: int) -> Span:
        """The smallest span around this one with `size` in it."""
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
    """The pictures and batches that an engine is to take: height and width in pixels, batch in results of one run."""

    height: Span = Span(512, 768, 1024)
    width: Span = Span(512, 768, 1024)
    batch: Span = Span(1, 1, 4)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """The profile that `to_json` described.

        Raises:
            KeyError, TypeError, UsageError: it is none.
        """
        return cls(**{side: Span(**data[side]) for side in (HEIGHT, WIDTH, BATCH)})

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"--height {self.height} --width {self.width} --batch {self.batch}"


@dataclass(frozen=True)
class GraphProfile:
    """A profile as one graph sees it.

    Attributes:
        profile: where it comes from.
        spans: of each of the graph's symbols, in the graph's own units.
        pixels: per unit of the graph's height and width.
        guided: whether the graph runs both halves of classifier-free guidance in one batch.
    """

    profile: Profile
    spans: Mapping[str, Span]
    pixels: int
    guided: bool

    def shapes(self, tensor: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """The tensor's shape at MIN, OPT and MAX."""
        return self._at(tensor, "min"), self._at(tensor, "opt"), self._at(tensor, "max")

    def outside(self, sizes: Mapping[str, int]) -> list[str]:
        """The symbols whose size is not in the profile."""
        return [symbol for symbol, span in self.spans.items() if sizes[symbol] not in span]

    def widened(self, sizes: Mapping[str, int]) -> Profile:
        """The profile, with the graph's `sizes` in it."""
        profile = self.profile
        for side in self.outside(sizes):
            if side in _SIDES:
                profile = replace(profile, **{side: getattr(profile, side).including(sizes[side] * self.pixels)})
            elif side == BATCH:
                results = -(-sizes[BATCH] // 2) if self.guided else sizes[BATCH]
                profile = replace(profile, batch=profile.batch.including(results))
        return profile

    def limits(self, symbol: str) -> str:
        """The sizes of a symbol, for errors."""
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
    """What each profile is for one of a bundle's graphs, in the order in which an engine is to try them.

    The picture's size is rounded up to what the graphs take (`Geometry.multiple`), as a run does. A guided graph has
    batches of twice the results with guidance and of as many as the results without. A fixed batch becomes two fixed
    profiles, a span one.

    Args:
        component: the graph's name in the bundle.
        spec: its signature.
        geometry: the bundle's.
        profiles: at least one.

    Raises:
        UsageError: a size that the graph does not take, or a symbol for which no profile has a size.
    """
    return tuple(
        GraphProfile(
            profile,
            _spans(component, spec, geometry, profile, batch),
            1 if component in _IN_PIXELS else geometry.factor,
            component not in _ONE_AT_A_TIME,
        )
        for profile in profiles
        for batch in _batches(component, profile.batch)
    )


def choose(
    subject: str, spec: GraphSpec, profiles: Sequence[GraphProfile], shapes: Mapping[str, Shape], rebuild: str
) -> int:
    """The number of the first profile that takes inputs of these shapes.

    Args:
        subject: how errors name the graph.
        spec: its signature, which the shapes fit.
        profiles: of the engine.
        shapes: of every input, by name.
        rebuild: the command that builds the engine, without its profiles, for errors.

    Raises:
        TensorError: none does; names the tensor, what was got, the sizes of the profile that comes closest, and the
            command that builds an engine with such shapes.
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
    """The profiles that options given several times stand for: the first of each, the second of each, and so on.

    An option given once serves every profile; None stands for the default.

    Raises:
        UsageError: a text that is no span, or options given different numbers of times.
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
    """The options of `k22 build` that stand for these profiles."""
    return " ".join(map(str, dict.fromkeys(profiles)))


def _batches(component: str, batch: Span) -> tuple[Span, ...]:
    if component in _ONE_AT_A_TIME:
        return (Span(1, 1, 1),)
    guided = Span(2 * batch.min, 2 * batch.opt, 2 * batch.max)
    return (guided, batch) if batch.fixed else (replace(guided, min=batch.min),)


def _spans(component: str, spec: GraphSpec, geometry: Geometry, profile: Profile, batch: Span) -> dict[str, Span]:
    per_unit = 1 if component in _IN_PIXELS else geometry.factor
    spans = {}
    for symbol in dict.fromkeys(dim for tensor in spec.inputs for dim in tensor.dims if isinstance(dim, str)):
        if symbol in _SIDES:
            pixels = [_round_up(size, geometry.multiple) for size in _points(getattr(profile, symbol))]
            span = Span(*(size // per_unit for size in pixels))
        elif symbol == BATCH:
            span = batch
        elif symbol == TOKENS and (most := spec.ranges[TOKENS].max) is not None:
            span = Span(spec.ranges[TOKENS].min, most, most)
        else:
            raise UsageError(f"no profile has a size for `{symbol}` of {component}")
        for size in _points(span):
            if fault := spec.ranges[symbol].fault(size):
                raise UsageError(f"{profile} makes {symbol} of {component} {size}, which {fault}")
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


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
