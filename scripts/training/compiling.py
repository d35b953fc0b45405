"""Compiled training steps, trusted only after their gradient was compared.

PyTorch 2.13 compiled MoVQ's nearest-neighbour spatial norms to a backward pass whose gradient was wrong (cosine of 0.5
with the eager one), without a message; training then never got beyond the mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._inductor import config as inductor_config

LEAST_COSINE = 0.97  # between gradients; bfloat16 against float32 alone gives 0.995

Function = Callable[..., tuple[torch.Tensor, ...]]


class CheckedCompile:
    """Compiles `function` for each shape that comes, and keeps the eager one where gradients differ.

    Args:
        function: from tensors to a tuple of tensors; it uses `model`.
        model: the model whose gradient is compared.
        enabled: whether to compile at all.
    """

    def __init__(self, function: Function, model: nn.Module, *, enabled: bool) -> None:
        self._function, self._model = function, model
        # Without it, the number of threads is part of the compiled code, and a run with another compiles for minutes.
        inductor_config.cpp.dynamic_threads = True
        self._compiled = torch.compile(function, dynamic=False) if enabled else None
        self._chosen: dict[Any, Function] = {}

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the function; the first call with a shape compiles and compares, which takes minutes."""
        shapes = tuple(item.shape for item in inputs)
        if shapes not in self._chosen:
            self._chosen[shapes] = self._choose(inputs)
        return self._chosen[shapes](*inputs)

    def _choose(self, inputs: tuple[torch.Tensor, ...]) -> Function:
        if self._compiled is None:
            return self._function
        eager, compiled = (self._gradient(function, inputs) for function in (self._function, self._compiled))
        cosine = float(nn.functional.cosine_similarity(eager, compiled, dim=0))
        right = cosine >= LEAST_COSINE
        print(
            f"compiled gradient against eager: cosine {cosine:.4f}; {'compiled' if right else 'eager'} is used",
            flush=True,
        )
        return self._compiled if right else self._function

    def _gradient(self, function: Function, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        self._model.zero_grad()
        torch.stack([output.float().square().mean() for output in function(*inputs)]).sum().backward()
        parts = [parameter.grad.flatten() for parameter in self._model.parameters() if parameter.grad is not None]
        self._model.zero_grad()
        return torch.cat(parts)
