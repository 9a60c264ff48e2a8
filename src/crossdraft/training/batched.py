"""transformers' models over batches, without three things that cost a CPU a third of the time."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor
from transformers.cache_utils import Cache, DynamicLayer

from crossdraft.nn.linear import PackedLinear, can_prepack

_ROOM = 64
"""Positions that a layer's cache grows by."""


class _RoomyLayer(DynamicLayer):
    """Keys and values with room for further ones: a new token is written behind them, where transformers' own layer
    copies all of them for every token."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Float[Tensor, "B G S d"], value_states: Float[Tensor, "B G S d"], *_: Any, **__: Any
    ) -> tuple[Float[Tensor, "B G T d"], Float[Tensor, "B G T d"]]:
        """Append; returns all of them."""
        before, length = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        if self._room is None or self._room[0].shape[-2] < length:
            self._room = _wider(keys, key_states, before), _wider(values, value_states, before)
        for whole, new in zip(self._room, (key_states, value_states), strict=True):
            whole[:, :, before:length] = new
        keys, values = (whole[:, :, :length] for whole in self._room)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: Int[Tensor, "b"]) -> None:
        """Keep these requests; what the others held is given up at once."""
        super().batch_select_indices(indices)
        self._room = None


def _wider(old: Tensor, new: Tensor, before: int) -> Tensor:
    """Memory for ``before`` positions, which are copied, for the new ones, and for more."""
    batch, groups, count, size = new.shape
    whole = new.new_empty(batch, groups, before + count + _ROOM, size)
    if before:
        whole[:, :, :before] = old
    return whole


def roomy_cache(num_layers: int) -> Cache:
    """An empty cache for as many layers."""
    return Cache(layers=[_RoomyLayer() for _ in range(num_layers)])


class _Packed(nn.Module):
    """A linear layer with our packed weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._product = PackedLinear(linear.weight.detach(), linear.bias, True)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        """Rows through the layer."""
        rows = self._product(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])


def pack_linears(model: nn.Module) -> None:
    """Give a frozen model packed linears where they can be had and pay (bfloat16 on a CPU), in place."""
    first = next(model.parameters())
    if first.dtype != torch.bfloat16 or not can_prepack(first.dtype, first.device):
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, cast(nn.Module, _Packed(child)))


class OneDraw(LogitsProcessor):
    """Samples by one uniform number a row; ``generate`` then takes the only token that is left, as greedy.

    Its own sampling draws a number for every token of the vocabulary, which takes as long as a third of a pass.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Zero at the token that was drawn, -inf elsewhere. Uses torch's global generator."""
        shares = (scores / self._temperature).softmax(-1)
        # on a GPU a running sum is not summed in order: in float64 it falls by next to nothing where it should stay
        reached = shares.cumsum(-1, dtype=torch.float64 if shares.is_cuda else None)
        whole = reached[:, -1:]
        # below the whole, so that it falls on a token that has a share
        point = torch.minimum(torch.rand_like(whole) * whole, whole.nextafter(torch.zeros_like(whole)))
        drawn = torch.searchsorted(reached, point, right=True)
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn, 0.0)
