"""The nodes that TensorRT's ONNX parser takes, by its published operator table and further known limits.

A rule looks at one node with the types and shapes of its tensors and gives the reasons why TensorRT would not take it,
or would compute something else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import onnx

from kandinsky_export.tensorrt.shapes import Origin, Site, Value

_MAX_VOLUME = 2**31 - 1
# A larger tensor is refused when the engine is built (TensorRT-RTX 1.7.1), whether or not it is fused away.
_LARGEST_VOLUME = 2**40

_TYPE_NAMES = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.INT4: "INT4",
}

# Operators whose output's shape is known only when the values are.
_DATA_DEPENDENT = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress"})
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
# Operator → the inputs that give a shape, a place or a count: TensorRT computes them before it runs, on the host.
_SHAPE_INPUTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
# Operator → the inputs that have to be known when the engine is built.
_CONSTANT_INPUTS = {
    "CumSum": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    **{
        f"Reduce{kind}": (1,)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
_RESIZE = {
    "mode": ("nearest", ("nearest", "linear")),
    "coordinate_transformation_mode": (
        "half_pixel",
        ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
    ),
    "nearest_mode": ("round_prefer_floor", ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
    "keep_aspect_ratio_policy": ("stretch", ("stretch",)),
    "antialias": (0, (0,)),
}


@dataclass(frozen=True)
class OperatorTable:
    """TensorRT's published operator support.

    Attributes:
        source: the page that published it.
        version: the version of TensorRT.
        opsets: the lowest and the highest.
        types: of each operator's data; None for an operator that is not supported.
    """

    source: str
    version: str
    opsets: tuple[int, int]
    types: Mapping[str, tuple[str, ...] | None]


def operator_table() -> OperatorTable:
    """The table that comes with this package."""
    data = json.loads((files("kandinsky_export.tensorrt") / "operators.json").read_text(encoding="utf-8"))
    types = {name: None if kinds is None else tuple(kinds) for name, kinds in data["operators"].items()}
    low, high = data["opsets"]
    return OperatorTable(data["source"], data["tensorrt"], (low, high), types)


def type_name(dtype: int) -> str:
    """A type as TensorRT's table calls it."""
    return _TYPE_NAMES.get(dtype) or str(onnx.TensorProto.DataType.Name(dtype))


def reasons(site: Site, table: OperatorTable, opset: int) -> Iterator[str]:
    """Why TensorRT would not take a node, or would compute something else."""
    name = site.node.op_type
    if site.node.domain not in ("", "ai.onnx"):
        yield f"the operator is of the domain {site.node.domain}, which has no importer"
        return
    if table.types.get(name) is None:
        yield f"the operator is not supported (by the table for TensorRT {table.version})"
        return
    if name in _DATA_DEPENDENT:
        yield "the shape of its output depends on the data: no buffer can be made for it before the run"
        return
    if name in _CONTROL_FLOW:
        yield "control flow is not looked into here, and no CUDA graph is captured over it"
        return
    if mixed := list(_mixed_types(site)):
        yield from mixed
        return
    if site.fault is not None:
        yield f"its output cannot be inferred: {site.fault}"
        return
    yield from _type_reasons(site, table)
    yield from _shape_reasons(site)
    if name in _RULES:
        yield from _RULES[name](site, opset)


def notes(site: Site) -> Iterator[str]:
    """Differences of TensorRT that lose nothing."""
    if any(value is not None and value.dtype == onnx.TensorProto.DOUBLE for value in (*site.inputs, *site.outputs)):
        yield "computes in FP32 in place of DOUBLE; its constants are the same in FP32"
    if _MAX_VOLUME < _volume(site) <= _LARGEST_VOLUME:
        yield "makes more than 2^31 - 1 elements, unless TensorRT fuses them away: if the build fails, lower MAX"


def _volume(site: Site) -> int:
    """The number of elements of a node's largest output, as far as shapes are known."""
    return max((math.prod(value.shape) for value in site.outputs if value is not None and value.shape), default=0)


def _mixed_types(site: Site) -> Iterator[str]:
    for variable, kinds in _bound_types(site).items():
        if len(kinds) > 1:
            yield f"mixes {' and '.join(sorted(kinds))} ({variable}): a strongly typed network converts nothing"


def _type_reasons(site: Site, table: OperatorTable) -> Iterator[str]:
    supported = table.types[site.node.op_type] or ()
    for value in _data_values(site):
        if value.dtype == onnx.TensorProto.DOUBLE:
            if value.array is not None and not np.array_equal(value.array.astype(np.float32), value.array):
                yield "has a DOUBLE constant that FP32 cannot hold: TensorRT narrows it"
        elif (kind := type_name(value.dtype)) not in supported:
            yield f"does not run in {kind}; it runs in {', '.join(supported)}"


def _bound_types(site: Site) -> dict[str, set[str]]:
    """The types of the inputs that a node's schema wants to be of one type, by type variable."""
    formal = site.schema.inputs if site.schema else []
    variables = {item.type_param_str for item in site.schema.type_constraints} if site.schema else set()
    bound: dict[str, set[str]] = {}
    for number, value in enumerate(site.inputs):
        spec = formal[min(number, len(formal) - 1)] if formal else None
        if value is not None and spec is not None and spec.type_str in variables and spec.is_homogeneous:
            bound.setdefault(spec.type_str, set()).add(type_name(value.dtype))
    if site.node.op_type == "Pow":  # ONNX allows two types, TensorRT's element-wise layer does not
        bound = {"base and exponent": set().union(*bound.values())}
    return bound


def _data_values(site: Site) -> list[Value]:
    """The tensors whose types the table speaks of: the data that goes in, and what a conversion makes."""
    first = [site.inputs[0]] if site.inputs else list(site.outputs)
    made = list(site.outputs) if site.node.op_type in ("Cast", "CastLike", "Where") else []
    return [value for value in (*first, *made) if value is not None]


def _shape_reasons(site: Site) -> Iterator[str]:
    for places, most, text in (
        (_SHAPE_INPUTS, Origin.SHAPES, "takes a shape from data: TensorRT has to know it before the run"),
        (_CONSTANT_INPUTS, Origin.CONSTANT, "takes axes that are no constant"),
    ):
        for place in places.get(site.node.op_type, ()):
            value = site.inputs[place] if place < len(site.inputs) else None
            if value is not None and value.origin > most:
                yield text
                break
    for value in site.outputs:
        if value is not None and value.shape is None:
            yield "the shape of its output does not follow from the shapes of the graph's inputs"
    if _volume(site) > _LARGEST_VOLUME:
        yield "makes more than 2^40 elements, which TensorRT-RTX 1.7.1 refuses: lower MAX"


def _resize(site: Site, opset: int) -> Iterator[str]:
    for name, (default, allowed) in _RESIZE.items():
        if (value := site.attribute(name, default)) not in allowed:
            yield f"{name} is {value}; TensorRT takes {', '.join(map(str, allowed))}"
    axes, data = site.attribute("axes", None), site.inputs[0]
    if axes is not None and data is not None and data.shape is not None and list(axes) != list(range(len(data.shape))):
        yield f"axes are {list(axes)}; TensorRT takes all of them in order"


def _group_normalization(site: Site, opset: int) -> Iterator[str]:
    if opset >= 21:
        yield (
            "is that of opset 21, with scale and bias per channel, which TensorRT 10.7 does not take (NVIDIA/TensorRT"
            " #4336): write it as Reshape, InstanceNormalization, Reshape, Mul, Add"
        )
    if site.attribute("num_groups", 1) == 1:
        yield "with a single group comes out wrong in TensorRT 10.16 (NVIDIA/TensorRT #4756)"


def _layer_normalization(site: Site, opset: int) -> Iterator[str]:
    if sum(value is not None and bool(name) for name, value in zip(site.node.output, site.outputs, strict=True)) > 1:
        yield "has outputs after the first, which TensorRT does not compute"


def _pool(site: Site, opset: int) -> Iterator[str]:
    window = site.attribute("kernel_shape", ())
    if len(window) not in (2, 3):
        yield f"pools over {len(window)} dimensions; TensorRT does over 2 or 3"
    if any(step != 1 for step in site.attribute("dilations", ())):
        yield "has dilations, which TensorRT does not take"
    if len([name for name in site.node.output if name]) > 1:
        yield "returns indices, which TensorRT does not compute"


def _top_k(site: Site, opset: int) -> Iterator[str]:
    if site.attribute("sorted", 1) != 1:
        yield "is not sorted; TensorRT sorts"


def _scatter_nd(site: Site, opset: int) -> Iterator[str]:
    if (reduction := site.attribute("reduction", "none")) != "none":
        yield f"reduction is {reduction}; TensorRT takes none"


def _attention(site: Site, opset: int) -> Iterator[str]:
    if any(value is not None and value.shape is not None and len(value.shape) != 4 for value in site.inputs[:4]):
        yield "takes inputs that are not 4-D; TensorRT takes (batch, heads, length, width)"
    if any(value is not None for value in site.inputs[4:]) or len([name for name in site.node.output if name]) > 1:
        yield "keeps past keys and values, which TensorRT does not"
    if site.attribute("softcap", 0.0) or site.attribute("qk_matmul_output_mode", 0):
        yield "has softcap or qk_matmul_output_mode, which TensorRT does not take"


_RULES: Mapping[str, Callable[[Site, int], Iterator[str]]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "GroupNormalization": _group_normalization,
    "LayerNormalization": _layer_normalization,
    "MaxPool": _pool,
    "Resize": _resize,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
