"""Queries, keys and values from the rows of a picture as they lie in memory, for OpenVINO on the CPU.

The exporter's attention reads a picture (N, C, H, W) as (N, C, H x W) and has each of its three matrix products turn it
over to rows of C channels. In memory that is channels last, as convolutions leave it, the rows are there already: read
as (N, H, W, C), which is no work, then as (N, H x W, C), once for all three products, whose operands stay the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def read_rows_in_place(model: Any) -> int:
    """Have the matrix products of a picture's rows read them channels last, in place.

    Args:
        model: an `openvino.Model` of static shapes.

    Returns:
        The number of matrix products that were rewritten. Others are left as they are.
    """
    from openvino import opset13 as ops

    rows: dict[str, Any] = {}
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_a"]:
            continue
        flat = node.input_value(0).get_node()
        if flat.get_type_name() != "Reshape" or len(flat.get_input_shape(0)) != 4:
            continue
        batch, channels, height, width = flat.get_input_shape(0)
        if list(flat.get_output_shape(0)) != [batch, channels, height * width]:
            continue
        name = flat.get_friendly_name()
        if name not in rows:
            last = ops.transpose(flat.input_value(0), ops.constant(np.array([0, 2, 3, 1])))
            rows[name] = ops.reshape(last, ops.constant(np.array([batch, height * width, channels])), False)
        product = ops.matmul(rows[name], node.input_value(1), False, node.get_attributes()["transpose_b"])
        node.output(0).replace(product.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count
