"""Group norms in the memory layout of the convolutions around them, for OpenVINO in bf16 on the CPU.

A convolution in bf16 works on channels-last memory. The converter's group norm (reshape to (N, G, C/G x H x W),
normalise, reshape back) needs channels first, so that the whole picture is transposed before and after it. As sums over
the picture, it needs no other layout. With μ and σ² of a group (Wu and He, "Group Normalization", 2018) and K, which is
μ rounded to bf16:

    μ = mean(x),   σ² = mean(x²) - μ²,   y = (x - K) s + (β + (K - μ) s),   s = γ / √(σ² + ε)

The sums and everything computed from them, three numbers per channel, stay in float32. The picture is read once for
each sum and once for y. OpenVINO rounds those three numbers to bf16 when it computes y. That changes nothing in K, and
the error of the others does not grow with |μ| / σ, as it would in y = x s + (β - μ s). The difference in σ² has an
error of (μ/σ)² 2^-24, less than the error of x itself in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.openvino.float32_marks import in_float32, marks_are_heeded
from kandinsky_runtime.engines.openvino.nodes import constant, fold_constants, only_reader, with_constant
from kandinsky_runtime.engines.openvino.rewriting import rewrite_graph
from kandinsky_runtime.engines.rewrites import Outcome, require

MARKS_ARE_IGNORED = "this OpenVINO ignores the marks that keep sums in float32"


@dataclass(frozen=True)
class _GroupNorm:
    """A group norm: its input, its last output, and its parameters."""

    source: Any
    result: Any
    groups: int
    epsilon: float
    gamma: npt.NDArray[np.float32]
    beta: npt.NDArray[np.float32]


def keep_channels_last(model: Any) -> Outcome:
    """Write the group norms of an `openvino.Model` as sums over the picture, in place.

    Args:
        model: a graph of static shapes. Its constants are folded.
    """
    heeded = marks_are_heeded()
    if heeded:
        fold_constants(model)  # the shapes in between, which are constant for a fixed input shape

    def check(node: Any) -> _GroupNorm:
        require(heeded, MARKS_ARE_IGNORED)
        return _check(node)

    return rewrite_graph(model, lambda node: node.get_type_name() == "MVN", check, _rewrite)


def _rewrite(norm: _GroupNorm) -> None:
    from openvino import opset13 as ops

    batch, channels, height, width = norm.source.get_shape()
    each = channels // norm.groups

    def whole(numbers: list[int]) -> Any:
        return ops.constant(np.array(numbers, np.int64))

    def grouped(value: Any) -> Any:
        return in_float32(ops.reshape(value, whole([batch, norm.groups, each]), False))

    def spread(value: Any) -> Any:
        return in_float32(ops.reshape(value, whole([batch, channels, 1, 1]), False))

    def by_channel(values: npt.NDArray[np.float32]) -> Any:
        return ops.constant(values.reshape(1, norm.groups, each))

    def plus(one: Any, other: Any) -> Any:
        return in_float32(ops.add(one, other))

    def times(one: Any, other: Any) -> Any:
        return in_float32(ops.multiply(one, other))

    # OpenVINO replaces a difference by a product and a sum, which would not be marked.
    minus, picture, last = np.float32(-1), whole([2, 3]), whole([2])
    mean = in_float32(ops.reduce_mean(grouped(ops.reduce_mean(norm.source, picture, True)), last, True))
    length = in_float32(ops.reduce_l2(grouped(ops.reduce_l2(norm.source, picture, True)), last, True))
    minus_mean = times(mean, minus)
    square = times(times(length, length), np.float32(1 / (each * height * width)))
    # In a flat picture, rounding can make the difference negative.
    variance = in_float32(ops.relu(plus(square, times(mean, minus_mean))))
    deviation = in_float32(ops.power(plus(variance, np.float32(norm.epsilon)), np.float32(0.5)))
    scale = in_float32(ops.divide(by_channel(norm.gamma), deviation))
    near = in_float32(ops.convert(in_float32(ops.convert(mean, "bf16")), "f32"))
    shift = plus(by_channel(norm.beta), times(plus(near, minus_mean), scale))
    minus_near = in_float32(ops.broadcast(times(near, minus), whole([batch, norm.groups, each])))
    centred = ops.add(norm.source, spread(minus_near))
    norm.result.replace(ops.add(ops.multiply(centred, spread(scale)), spread(shift)).output(0))


def _check(node: Any) -> _GroupNorm:
    """The group norm around an MVN, in the form of the exporter's."""
    reshape, attributes = node.input_value(0).get_node(), node.get_attributes()
    require(reshape.get_type_name() == "Reshape", f"its input is a {reshape.get_type_name()}, not a Reshape to groups")
    require(attributes["normalize_variance"], "it does not normalise the variance")
    require(attributes["eps_mode"] == "INSIDE_SQRT", f"its epsilon mode is {attributes['eps_mode']}, not INSIDE_SQRT")
    axes = constant(node.input_value(1))
    axes = None if axes is None else axes.ravel().tolist()
    require(axes == [2], f"it normalises over the axes {axes}; expected [2]")
    source = reshape.input_value(0)
    kind = source.get_element_type().to_string()
    require(kind == "f32", f"its input is {kind}; expected f32: the sums would be {kind}, too")
    shape, groups = list(source.get_shape()), list(node.get_output_shape(0))
    require(len(shape) == 4, f"its input has {len(shape)} dimensions, which is not a picture of 4")
    require(len(groups) == 3 and groups[0] == shape[0], f"its groups are {groups} for a picture of {shape}")
    channels = shape[1]
    require(channels % groups[1] == 0, f"{groups[1]} groups do not divide {channels} channels")
    last = node.output(0)
    for kind, neutral in (("Multiply", 1), ("Add", 0)):  # of an InstanceNormalization, without effect
        after, values = with_constant(last, kind)
        if after is not None:
            require(bool(np.all(values == neutral)), f"its {kind} within the groups is not {neutral} everywhere")
            last = after
    back = only_reader(last)
    require(back is not None, "its result within the groups has several readers or none")
    is_back = back.get_type_name() == "Reshape" and list(back.get_output_shape(0)) == shape
    require(is_back, f"its result goes to a {back.get_type_name()}, not to a Reshape back to {shape}")
    last = back.output(0)
    factors = {"Multiply": np.ones(channels, np.float32), "Add": np.zeros(channels, np.float32)}
    for kind in factors:
        after, values = with_constant(last, kind)
        if after is None or list(values.shape[-3:]) != [channels, 1, 1]:
            break
        last, factors[kind] = after, values.reshape(channels).astype(np.float32)
    return _GroupNorm(source, last, groups[1], float(attributes["eps"]), factors["Multiply"], factors["Add"])
