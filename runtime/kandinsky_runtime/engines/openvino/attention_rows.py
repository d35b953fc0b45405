"""Queries, keys and values read from the rows of a picture without a transposition, for OpenVINO on the CPU.

The exporter's attention reads a picture (N, C, H, W) as (N, C, H x W). Each of its three matrix products transposes it
to rows of C channels. Convolutions leave the picture channels last in memory, so the rows already exist: read as
(N, H, W, C), which costs nothing, then as (N, H x W, C), once for all three products. Their operands stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kandinsky_runtime.engines.openvino.rewriting import rewrite_graph
from kandinsky_runtime.engines.rewrites import Outcome, require


@dataclass(frozen=True)
class _RowsProduct:
    """A matrix product of the rows of a picture, and the Reshape that makes its first operand."""

    product: Any
    flat: Any


def read_rows_in_place(model: Any) -> Outcome:
    """Let the matrix products of a picture's rows read them channels last, in place.

    Args:
        model: an `openvino.Model` of static shapes.
    """
    from openvino import opset13 as ops

    rows: dict[str, Any] = {}

    def rewrite(match: _RowsProduct) -> None:
        flat, product = match.flat, match.product
        name = flat.get_friendly_name()
        if name not in rows:
            batch, channels, height, width = flat.get_input_shape(0)
            last = ops.transpose(flat.input_value(0), ops.constant(np.array([0, 2, 3, 1])))
            rows[name] = ops.reshape(last, ops.constant(np.array([batch, height * width, channels])), False)
        transposed = product.get_attributes()["transpose_b"]
        product.output(0).replace(ops.matmul(rows[name], product.input_value(1), False, transposed).output(0))

    return rewrite_graph(model, _is_candidate, _check, rewrite)


def _is_candidate(node: Any) -> bool:
    return bool(node.get_type_name() == "MatMul" and node.get_attributes()["transpose_a"])


def _check(product: Any) -> _RowsProduct:
    flat = product.input_value(0).get_node()
    require(flat.get_type_name() == "Reshape", f"its rows come from a {flat.get_type_name()}, not from a Reshape")
    shape, rows = list(flat.get_input_shape(0)), list(flat.get_output_shape(0))
    require(len(shape) == 4, f"its rows are reshaped from {shape}, which is not a picture of 4 dimensions")
    expected = [*shape[:2], shape[2] * shape[3]]
    require(rows == expected, f"the picture {shape} is reshaped to {rows}; expected {expected}")
    return _RowsProduct(product, flat)
