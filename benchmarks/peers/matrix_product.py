"""The machine's own limit: a large matrix product in PyTorch, in bf16 and in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from worker import Job, Work, serve


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`product` is the side of the matrices."""
    torch.set_grad_enabled(False)
    side = job["product"]

    def product(dtype: torch.dtype) -> Work:
        left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
        return lambda: (left @ right) is None

    works = {"product-bf16": product(torch.bfloat16), "product-fp32": product(torch.float32)}
    return {"torch": torch.__version__}, works


if __name__ == "__main__":
    serve(make)
