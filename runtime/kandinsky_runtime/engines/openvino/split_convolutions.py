"""Convolutions in two parts by their output channels, for OpenVINO in bf16 on a CPU with AMX.

oneDNN divides the output channels of a convolution into blocks of 64, 48, 32 or 16, and estimates which is best. Blocks
of 48, three tiles wide, are allowed if 48 divides the channels and there are at most 768 of them (oneDNN's
`brg_blocking_t::fast_check_oc_block`). With these blocks, the same multiplications take 1.3 to 1.4 times as long as
with blocks of 32 or 64. oneDNN divides both of two parts well if 48 does not divide them. The results are concatenated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kandinsky_runtime.engines.openvino.nodes import stored_weights, with_constant
from kandinsky_runtime.engines.openvino.rewriting import rewrite_graph
from kandinsky_runtime.engines.openvino.rounded_weights import widened
from kandinsky_runtime.engines.rewrites import Outcome, require

BAD_BLOCK = 48
MOST_OUTPUTS = 768
# The convolutions for which oneDNN takes the bad blocks, according to measured times (docs/performance.md): kernels of
# several cells, 576 to 1024 input channels, maps of more than 16x16 cells.
INPUTS = range(576, 1025)
LEAST_CELLS = 17 * 17
# The parts have a multiple of this many channels: oneDNN's largest block, and the width of four tiles.
PART = 64


@dataclass(frozen=True)
class _BadlyDivided:
    """A convolution, and the Constant of its weights (O, I, h, w)."""

    convolution: Any
    weights: Any


def split_badly_cut_convolutions(model: Any) -> Outcome:
    """Write convolutions that oneDNN would divide badly as two, in place.

    The parts read the memory of the original weights, which are in the outcome's `keep_alive`.

    Args:
        model: an `openvino.Model` of static shapes.
    """
    return rewrite_graph(model, _is_candidate, _check, _rewrite)


def _is_candidate(node: Any) -> bool:
    return node.get_type_name() == "Convolution" and stored_weights(node) is not None


def _check(node: Any) -> _BadlyDivided:
    weights: Any = stored_weights(node)
    outputs, inputs, *kernel = weights.get_output_shape(0)
    require(len(kernel) == 2, f"its kernel has {len(kernel)} dimensions; expected 2")
    require(kernel[0] * kernel[1] > 1, "its kernel has a single cell")
    require(outputs % BAD_BLOCK == 0, f"{BAD_BLOCK} does not divide its {outputs} output channels")
    least = 2 * PART
    require(least <= outputs <= MOST_OUTPUTS, f"it has {outputs} output channels; expected {least} to {MOST_OUTPUTS}")
    most = INPUTS[-1]
    require(inputs in INPUTS, f"it has {inputs} input channels; expected {INPUTS[0]} to {most}")
    _, _, height, width = node.get_input_shape(0)
    require(height * width >= LEAST_CELLS, f"its map has {height * width} cells; expected at least {LEAST_CELLS}")
    return _BadlyDivided(node, weights)


def _rewrite(match: _BadlyDivided) -> Any:
    """Replace a convolution by two, and return the weights that they share."""
    import openvino
    from openvino import opset13 as ops

    node, whole = match.convolution, match.weights
    outputs, *rest = whole.get_output_shape(0)
    result, bias = with_constant(node.output(0), "Add")
    with_bias = result is not None and bias.shape == (1, outputs, 1, 1)
    attributes, first = node.get_attributes(), _first_part(outputs)
    parts = []
    for start, end in ((0, first), (first, outputs)):
        rows = openvino.Tensor(whole.get_tensor_view(), [start, 0, 0, 0], [end, *rest])
        # A copy would stay in memory in addition to what is compiled of it.
        weights = ops.constant(rows, shared_memory=True)
        part = ops.convolution(
            node.input_value(0),
            weights if whole.get_element_type() == openvino.Type.f32 else widened(weights),
            *(attributes[name] for name in ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")),
        )
        parts.append(ops.add(part, ops.constant(bias[:, start:end])) if with_bias else part)
    (result if with_bias else node.output(0)).replace(ops.concat(parts, 1).output(0))
    return whole


def _first_part(outputs: int) -> int:
    """About two thirds of the channels: a multiple of `PART` that `BAD_BLOCK` does not divide."""
    first = outputs * 2 // 3 // PART * PART
    return first if first % BAD_BLOCK else first - PART
