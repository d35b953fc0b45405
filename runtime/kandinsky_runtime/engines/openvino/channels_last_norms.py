"""Group norms in the memory layout of the convolutions around them, for OpenVINO in bf16 on the CPU.

A convolution in bf16 works on channels-last memory. The converter's group norm (reshape to (N, G, C/G x H x W),
normalise, reshape back) needs channels first, so that the whole picture is turned over before it and after it. Written
as sums over the picture it stays where it is. With μ and σ² of a group (Wu and He, "Group Normalization", 2018) and K,
μ rounded to bf16:

    μ = mean(x),   σ² = mean(x²) - μ²,   y = (x - K) s + (β + (K - μ) s),   s = γ / √(σ² + ε)

The sums and what is made of them, three numbers to a channel, are kept in float32; the picture is read once for each
sum and once for y. OpenVINO rounds those three to bf16 where y is made of them. That loses nothing of K, and what it
loses of the others does not grow with |μ| / σ, as it would in y = x s + (β - μ s). σ² loses (μ/σ)² 2^-24 to the
difference, less than x itself loses to being kept in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.openvino.float32_marks import in_float32, marks_are_heeded
from kandinsky_runtime.engines.openvino.nodes import constant, fold_constants, only_reader, with_constant


@dataclass(frozen=True)
class _GroupNorm:
    """A group norm that was found: its input, its last output, and what it does in between."""

    source: Any
    result: Any
    groups: int
    epsilon: float
    gamma: npt.NDArray[np.float32]
    beta: npt.NDArray[np.float32]


def keep_channels_last(model: Any) -> int:
    """Write the group norms of an `openvino.Model` as sums over the picture, in place.

    Args:
        model: a graph of static shapes, whose constants are folded on the way.

    Returns:
        The number of norms that were rewritten. Others, and what looks like none, are left as they are, and so are all
        where this OpenVINO would not keep their sums in float32.
    """
    if not marks_are_heeded():
        return 0
    fold_constants(model)  # the shapes in between, which a fixed input shape makes constant
    norms = [_found(node) for node in model.get_ordered_ops() if node.get_type_name() == "MVN"]
    found = [norm for norm in norms if norm is not None]
    for norm in found:
        _rewrite(norm)
    model.validate_nodes_and_infer_types()
    return len(found)


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

    # OpenVINO writes a difference as a product and a sum, whose marks would be lost.
    minus, picture, last = np.float32(-1), whole([2, 3]), whole([2])
    mean = in_float32(ops.reduce_mean(grouped(ops.reduce_mean(norm.source, picture, True)), last, True))
    length = in_float32(ops.reduce_l2(grouped(ops.reduce_l2(norm.source, picture, True)), last, True))
    minus_mean = times(mean, minus)
    square = times(times(length, length), np.float32(1 / (each * height * width)))
    variance = in_float32(ops.relu(plus(square, times(mean, minus_mean))))  # rounding can take a flat one below zero
    deviation = in_float32(ops.power(plus(variance, np.float32(norm.epsilon)), np.float32(0.5)))
    scale = in_float32(ops.divide(by_channel(norm.gamma), deviation))
    near = in_float32(ops.convert(in_float32(ops.convert(mean, "bf16")), "f32"))
    shift = plus(by_channel(norm.beta), times(plus(near, minus_mean), scale))
    minus_near = in_float32(ops.broadcast(times(near, minus), whole([batch, norm.groups, each])))
    centred = ops.add(norm.source, spread(minus_near))
    norm.result.replace(ops.add(ops.multiply(centred, spread(scale)), spread(shift)).output(0))


def _found(node: Any) -> _GroupNorm | None:
    """The group norm around an MVN, if it is one as the exporter writes it."""
    reshape = node.input_value(0).get_node()
    attributes = node.get_attributes()
    axes = constant(node.input_value(1))
    if (
        reshape.get_type_name() != "Reshape"
        or not attributes["normalize_variance"]
        or attributes["eps_mode"] != "INSIDE_SQRT"
        or axes is None
        or axes.ravel().tolist() != [2]
    ):
        return None
    source = reshape.input_value(0)
    shape = list(source.get_shape())
    if len(shape) != 4 or list(node.get_output_shape(0))[:1] != shape[:1] or len(node.get_output_shape(0)) != 3:
        return None
    channels, groups = shape[1], node.get_output_shape(0)[1]
    if channels % groups:
        return None
    last = node.output(0)
    for kind, neutral in (("Multiply", 1), ("Add", 0)):  # an InstanceNormalization's own, which are left out in effect
        after, values = with_constant(last, kind)
        if after is not None:
            if not np.all(values == neutral):
                return None
            last = after
    back = only_reader(last)
    if back is None or back.get_type_name() != "Reshape" or list(back.get_output_shape(0)) != shape:
        return None
    last = back.output(0)
    factors = {"Multiply": np.ones(channels, np.float32), "Add": np.zeros(channels, np.float32)}
    for kind in factors:
        after, values = with_constant(last, kind)
        if after is None or list(values.shape[-3:]) != [channels, 1, 1]:
            break
        last, factors[kind] = after, values.reshape(channels).astype(np.float32)
    return _GroupNorm(source, last, groups, float(attributes["eps"]), factors["Multiply"], factors["Add"])
