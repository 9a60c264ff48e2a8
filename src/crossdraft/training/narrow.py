"""Computing a loss in fewer bits than its weights have.

On a CPU oneDNN compiles a bfloat16 product anew for each shape, which takes longer than the product itself; answers
of ever other lengths give ever other shapes (float32 goes through MKL, which compiles nothing). So rows are filled
up with zeros to whole blocks there, and what was compiled is used again.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

BLOCK = 64
"""Rows are filled up to a multiple of it."""


NARROW = {"float32": None, "bfloat16": torch.bfloat16}
"""What autocast computes in, by a training's dtype; None: it is off."""


@contextmanager
def narrowed(device: str, dtype: str) -> Iterator[None]:
    """Autocast for a training of this dtype on this device ("cpu", "cuda", "cuda:1"). Entered for each loss: it
    rounds every weight once."""
    kind, narrow = device.partition(":")[0], NARROW[dtype]
    blocks = WholeBlocks() if kind == "cpu" and narrow is not None else nullcontext()
    with torch.autocast(kind, narrow, enabled=narrow is not None), blocks:
        yield


class WholeBlocks(TorchFunctionMode):
    """While it is entered, linear layers under bfloat16 autocast on a CPU multiply whole blocks of rows.

    As autocast does, it rounds a weight once, however often it is used; enter it anew after weights have changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._narrow: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and _is_narrowed(args[0]):
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = input.to(torch.bfloat16).flatten(0, -2)
        out: Tensor = _Linear.apply(rows, self._rounded(weight))
        out = out.view(*input.shape[:-1], weight.shape[0])
        return out if bias is None else out + self._rounded(bias)

    def _rounded(self, weight: Tensor) -> Tensor:
        if id(weight) not in self._narrow:
            self._narrow[id(weight)] = weight, weight.to(torch.bfloat16)
        return self._narrow[id(weight)][1]


def _is_narrowed(rows: Tensor) -> bool:
    return (
        rows.device.type == "cpu" and rows.ndim > 1 and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )  # fmt: skip


class _Linear(torch.autograd.Function):
    """``rows weight'``, and its two gradients, all of whole blocks of rows."""

    @staticmethod
    def forward(ctx: Any, rows: Float[Tensor, "S in"], weight: Float[Tensor, "out in"]) -> Float[Tensor, "S out"]:
        blocks = _filled(rows)
        ctx.save_for_backward(blocks if ctx.needs_input_grad[1] else None, weight)
        return (blocks @ weight.t())[: len(rows)]

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "S out"]) -> tuple[Tensor | None, Tensor | None]:
        blocks, weight = ctx.saved_tensors
        grads = _filled(grad)
        of_rows = (grads @ weight)[: len(grad)] if ctx.needs_input_grad[0] else None
        return of_rows, grads.t() @ blocks if ctx.needs_input_grad[1] else None


def _filled(rows: Float[Tensor, "S D"]) -> Float[Tensor, "blocks D"]:
    return F.pad(rows, (0, 0, 0, -len(rows) % BLOCK)) if len(rows) % BLOCK else rows
