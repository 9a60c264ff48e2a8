"""Linear layers in bfloat16 multiply whole blocks of rows, and are otherwise what autocast makes of them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crossdraft.training.narrow import BLOCK, narrowed


class Products(TorchDispatchMode):
    """The rows of every product of two matrices, and what they are in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.seen.append((args[0].shape[0], args[0].shape[1], args[0].dtype))
        return func(*args, **(kwargs or {}))


def learn(device: str, dtype: str, linear: nn.Linear, x: Tensor, again: bool) -> tuple[Tensor, ...]:
    """A layer used once or twice: its output, and the gradients of inputs and weights."""
    x = x.clone().requires_grad_()
    linear.zero_grad()
    with narrowed(device, dtype):
        out = linear(x)
        if again:
            out = F.linear(torch.tanh(out), linear.weight.t())
        loss = out.float().square().mean()
    loss.backward()
    grads = [x.grad, linear.weight.grad, *([] if linear.bias is None else [linear.bias.grad])]
    return (out.detach().float(), *(g for g in grads if g is not None))


@settings(max_examples=30, deadline=None)
@given(
    lead=st.lists(st.integers(1, 70), min_size=1, max_size=2), biased=st.booleans(), again=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_linear_layer_up_to_rounding(lead: list[int], biased: bool, again: bool, seed: int) -> None:
    torch.manual_seed(seed)
    linear, x = nn.Linear(24, 40, bias=biased), torch.randn(*lead, 24)
    wanted = learn("cpu", "float32", linear, x, again)
    got = learn("cpu", "bfloat16", linear, x, again)
    assert len(wanted) == len(got)
    for one, other in zip(wanted, got, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).norm() <= 0.02 * one.norm()


def test_products_come_in_few_shapes() -> None:
    linear = nn.Linear(24, 40)
    with Products() as products:
        for rows in (1, 63, 64, 65, 130):
            learn("cpu", "bfloat16", linear, torch.randn(rows, 24), again=False)
    shapes = {(rows, inner) for rows, inner, _ in products.seen}
    assert {dtype for *_, dtype in products.seen} == {torch.bfloat16}
    # rows of inputs and of their gradients are whole blocks, and so is what a weight's gradient is summed over
    blocks = {BLOCK, 2 * BLOCK, 3 * BLOCK}
    assert shapes == {(b, inner) for b in blocks for inner in (24, 40)} | {(40, b) for b in blocks}


def test_a_weight_is_rounded_once_for_a_loss() -> None:
    linear, x = nn.Linear(8, 8, bias=False), torch.randn(3, 8)
    with narrowed("cpu", "bfloat16"):
        first = linear(x)
        with torch.no_grad():
            linear.weight.add_(1.0)
        assert torch.equal(linear(x), first)
    with narrowed("cpu", "bfloat16"):
        assert not torch.equal(linear(x), first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_autocast_leaves_alone_stays_alone(dtype: str) -> None:
    linear, x = nn.Linear(8, 8), torch.randn(3, 8)
    with torch.no_grad(), narrowed("cpu", dtype):
        assert linear(x).dtype == getattr(torch, dtype)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))
        assert linear(x[0]).shape == (8,)
    assert linear(x).dtype == torch.float32
