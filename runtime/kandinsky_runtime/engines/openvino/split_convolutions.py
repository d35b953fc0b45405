"""Convolutions in two parts by their output channels, where OpenVINO's library would cut them badly, in bf16 on AMX.

oneDNN cuts the output channels of a convolution into blocks of 64, 48, 32 or 16 and estimates which is best. Blocks of
48, three tiles wide, are allowed where they come out even and there are at most 768 channels (its
`brg_blocking_t::fast_check_oc_block`); where it takes them, the same multiplications take 1.3 to 1.4 times as long as
in blocks of 32 or 64. Of two parts that 48 does not divide, it cuts both well. The results are put beside each other.
"""

from __future__ import annotations

from typing import Any

from kandinsky_runtime.engines.openvino.nodes import stored_weights, with_constant
from kandinsky_runtime.engines.openvino.rounded_weights import widened

BAD_BLOCK = 48
MOST_OUTPUTS = 768
# Where the library takes the bad blocks, as far as times tell (docs/performance.md): kernels of several cells, from 576
# to 1024 input channels, maps of more than 16x16 cells.
INPUTS = range(576, 1025)
LEAST_CELLS = 17 * 17
# Parts of a multiple of this many channels: the library's largest block, and the width of four tiles.
PART = 64


def split_badly_cut_convolutions(model: Any) -> list[Any]:
    """Write convolutions that oneDNN would cut badly as two, in place.

    Args:
        model: an `openvino.Model` of static shapes.

    Returns:
        The weights that were cut, one constant for each convolution that was split: the parts lie in their memory, so
        they must outlive the model and what is compiled of it. Other convolutions are left as they are.
    """
    import openvino
    from openvino import opset13 as ops

    cut = []
    for node in model.get_ordered_ops():
        whole = stored_weights(node) if node.get_type_name() == "Convolution" else None
        if whole is None or not _is_badly_cut(kernels := tuple(whole.get_output_shape(0)), node.get_input_shape(0)):
            continue
        outputs, *rest = kernels
        result, bias = with_constant(node.output(0), "Add")
        with_bias = result is not None and bias.shape == (1, outputs, 1, 1)
        attributes, first = node.get_attributes(), _first_part(outputs)
        parts = []
        for start, end in ((0, first), (first, outputs)):
            rows = openvino.Tensor(whole.get_tensor_view(), [start, 0, 0, 0], [end, *rest])
            # A copy would stay in memory beside what is compiled of it.
            weights = ops.constant(rows, shared_memory=True)
            part = ops.convolution(
                node.input_value(0),
                weights if whole.get_element_type() == openvino.Type.f32 else widened(weights),
                *(attributes[name] for name in ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")),
            )
            parts.append(ops.add(part, ops.constant(bias[:, start:end])) if with_bias else part)
        (result if with_bias else node.output(0)).replace(ops.concat(parts, 1).output(0))
        cut.append(whole)
    model.validate_nodes_and_infer_types()
    return cut


def _is_badly_cut(kernels: tuple[int, ...], picture: Any) -> bool:
    """Whether oneDNN cuts a convolution badly, by the shapes of its weights and of what it reads."""
    outputs, inputs, *kernel = kernels
    return (
        len(kernel) == 2
        and kernel[0] * kernel[1] > 1
        and outputs % BAD_BLOCK == 0
        and 2 * PART <= outputs <= MOST_OUTPUTS
        and inputs in INPUTS
        and picture[2] * picture[3] >= LEAST_CELLS
    )


def _first_part(outputs: int) -> int:
    """About two thirds of the channels, a multiple of `PART` that `BAD_BLOCK` does not divide."""
    first = outputs * 2 // 3 // PART * PART
    return first if first % BAD_BLOCK else first - PART
