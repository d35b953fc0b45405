"""Trace a module to a Paddle static graph, without its weights."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kandinsky_export.errors import ExportError
from kandinsky_export.vendors import paddle
from kandinsky_runtime.bundle.spec import GraphSpec

_PIR_VERSION = 1
_REASON = re.compile(r"^\s*\w+(?:Error|Exception|Warning): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Traced:
    """A traced graph: its program, and the shape of each weight that it reads, by name."""

    program: Any
    weights: dict[str, tuple[int, ...]]

    def save(self, path: Path) -> None:
        """Write the program, without weights, as Paddle's JSON form of its intermediate representation.

        Raises:
            ExportError: the file is not whole; Paddle says nothing when it cannot write.
        """
        overwrite, readable, trainable = True, False, True  # paddle2onnx reads only programs saved as trainable
        paddle.core.serialize_pir_program(self.program, str(path), _PIR_VERSION, overwrite, readable, trainable)
        try:
            json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ExportError(f"Paddle could not write {path.name}; is the disk full?") from error


def trace(module: Any, signature: GraphSpec) -> Traced:
    """Trace `module` with the dynamic axes of `signature`; its parameters need no values.

    Raises:
        ExportError: Paddle cannot trace it, or the traced inputs are not the signature's.
    """
    specs = [
        paddle.static.InputSpec([dim if isinstance(dim, int) else -1 for dim in spec.dims], spec.dtype, spec.name)
        for spec in signature.inputs
    ]
    forward = paddle.jit.to_static(module.forward, input_spec=specs, full_graph=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Value do not have 'contiguous'")  # a no-op in a graph
            concrete = forward.concrete_program_specify_input_spec(with_hook=False, is_prim_infer=False)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ExportError(f"{type(module).__name__} cannot be traced: {_reason(error)}") from error
    feeds = [value for value in concrete.inputs if isinstance(value, paddle.pir.Value)]
    names = [spec.name for spec in signature.inputs]
    if [value.name for value in feeds] != names:
        raise ExportError(f"{type(module).__name__} was traced with {[v.name for v in feeds]}; expected {names}")
    return _pruned(concrete, feeds)


def _pruned(concrete: Any, feeds: list[Any]) -> Traced:
    """The program between the feeds and the outputs."""
    paddle.enable_static()
    try:
        program = paddle.static.normalize_program(concrete.main_program, feeds, list(concrete.outputs))
        block = program.global_block()
        for op in [op for op in block.ops if op.name() == "builtin.parameter" and op.result(0).use_empty()]:
            block.remove_op(op)  # a buffer or weight of the module that the forward does without
        parameters, _ = paddle.static.pir_io.get_pir_parameters(program)
        return Traced(program, {value.name: tuple(value.shape) for value in parameters})
    finally:
        paddle.disable_static()


def _reason(error: Exception) -> str:
    """The sentence of an error, which Paddle puts behind a listing of the traced code."""
    text = str(error).strip()
    reasons: list[str] = _REASON.findall(text)
    return reasons[-1].strip() if reasons else text
