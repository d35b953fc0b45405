"""Kernels are read from an engine's text and sorted by kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tensorrt_rtx.engine_program import (
    ATTENTION,
    CONVOLUTION,
    MOVE,
    NORM,
    OTHER,
    PRODUCT,
    Kernel,
    by_kind,
    programs,
)

PROGRAM = """header {
  version = 5
}
main {
 label bb1:
  shape_call={ name="__mye1_0" stream=0 }
  function={ name=__myl_CastMul fqn=__myl_CastMul_0x41 args={ "x.1" } layers="[ONNX Layer: x/fp16/Cast]
[ONNX Layer: Mul.0]" swap_ab=false }
  corrltn={ name="Conv.0" output={"y" } layers="[ONNX Layer: Conv.0]" }
  signal={ name="__mye2" }
}
shape_main {
 label bb2:
  mul={ name="__mye3" }
}
"""
INSIDE_A_KERNEL = """header {
  version = 4
}
main {
  inorm={ name="__mye4" }
}
"""


def test_the_steps_of_each_program(tmp_path: Path) -> None:
    engine = tmp_path / "graph.engine"
    engine.write_bytes(b"\0\xff".join(text.encode() for text in (PROGRAM, INSIDE_A_KERNEL, PROGRAM)))
    steps = [Kernel("function", "__myl_CastMul"), Kernel("corrltn", "Conv.0")]
    assert programs(engine) == [steps, steps]
    assert by_kind(steps) == {CONVOLUTION: 1, PRODUCT: 0, ATTENTION: 0, NORM: 0, MOVE: 0, OTHER: 1}


def test_a_file_without_a_program(tmp_path: Path) -> None:
    engine = tmp_path / "graph.engine"
    engine.write_text(INSIDE_A_KERNEL)
    with pytest.raises(ValueError, match=r"graph\.engine has no program that can be read"):
        programs(engine)


@pytest.mark.parametrize(
    ("step", "name", "kind", "label"),
    [
        ("function", "_gemm_mha_v2", ATTENTION, "_gemm_mha_v2"),
        ("function", "__myl_ReshSoft", ATTENTION, "ReshSoft"),
        ("corrltn", "Conv.1", CONVOLUTION, "corrltn"),
        ("deconvolution", "ConvTranspose.0", CONVOLUTION, "deconvolution"),
        ("fully_connected", "MatMul.1+MatMul.2", PRODUCT, "fully_connected"),
        ("runtime_fusion", "__myl_FcAddSilu", PRODUCT, "FcAddSilu"),
        ("function", "__myl_SiluGnor", NORM, "SiluGnor"),
        ("runtime_function", "__myl_Inor", NORM, "Inor"),
        ("function", "__myl_ReshCastCastMean", NORM, "ReshCastCastMean"),
        ("function", "__myl_ReshTranCast", MOVE, "ReshTranCast"),
        ("function", "__myl_AddReshTran", OTHER, "AddReshTran"),
        ("avgpool", "AveragePool.0", OTHER, "avgpool"),
    ],
)
def test_kinds(step: str, name: str, kind: str, label: str) -> None:
    kernel = Kernel(step, name)
    assert (kernel.kind, kernel.label) == (kind, label)
