"""Attention over the cache: chains bit for bit, whatever the width of the pass, and the usual masked kind.

For one row: scores against the keys of its own path in the order of positions, padded with masked slots up to the
end of the row's own bucket; softmax; weighted sum of the values in the same slots. So the length of every sum is a
function of the row's position alone (libraries sum 320 and 384 terms in different orders, even when the last 64 are
zero). A pass that crosses the end of a bucket is done in two pieces. A tree's rows keep to the same arithmetic in
``nn.trees``. Where our own kernel can be had (``nn.kernels``), it does all of this by walking each row's path.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.nn import kernels
from crossdraft.nn.pins import Pins

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(q (S, H, G, d), k (S, H, d), v (S, H, d), layer) -> mixed values (S, H G d)."""


@lru_cache(maxsize=32)
def _staircase(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size): 0 where column <= row, else -inf."""
    return torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu_(1)


def key_end(position: int, bucket: int) -> int:
    """Number of key slots that a row at ``position`` looks at."""
    return (position // bucket + 1) * bucket


def attend_chain(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    cache: DenseCache,
    layer: int,
    start: int,
    pins: Pins,
    fresh: bool,
) -> Float[Tensor, "S HGd"]:
    """Rows at positions ``start``.. write their keys and values into their slots and attend causally.

    H key/value heads, G query heads for each; q carries the scale. fresh: the cache holds nothing before these rows
    and they attend to themselves only, through a fused kernel.
    """
    rows, heads, groups, dim = q.shape
    keys, values = cache.keys[layer], cache.values[layer]
    if not fresh and kernels.attends(rows, groups, keys):
        return kernels.attend(q, k, v, keys, values, kernels.Walk(start))
    keys[:, start : start + rows] = k.transpose(0, 1)
    values[:, start : start + rows] = v.transpose(0, 1)
    if fresh:
        out = F.scaled_dot_product_attention(
            q.reshape(1, rows, heads * groups, dim).transpose(1, 2),
            k.unsqueeze(0).transpose(1, 2),
            v.unsqueeze(0).transpose(1, 2),
            is_causal=True,
            scale=1.0,
            enable_gqa=groups > 1,
        )
        return out[0].transpose(0, 1).reshape(rows, -1)
    end = key_end(start, pins.bucket)
    if start + rows <= end:
        return _attend_bucket(q, keys, values, start, end, pins)
    pieces, done = [], 0
    while done < rows:
        count = min(rows - done, end - start - done)
        pieces.append(_attend_bucket(q[done : done + count], keys, values, start + done, end, pins))
        done, end = done + count, end + pins.bucket
    return torch.cat(pieces)


def _attend_bucket(q: Tensor, keys: Tensor, values: Tensor, start: int, end: int, pins: Pins) -> Tensor:
    """Rows that share a bucket: positions ``start``.. look at slots up to ``end``."""
    rows, heads, groups, dim = q.shape
    scores = torch.bmm(fold(q, pins.query_rows), keys[:, :end].transpose(1, 2))
    by_row = scores[:, : groups * rows].view(heads, groups, rows, end)
    by_row[..., start:].add_(_staircase(pins.bucket, q.dtype, q.device)[:rows, : end - start])
    out = torch.bmm(scores.softmax(-1), values[:, :end])[:, : groups * rows]
    return out.view(heads, groups, rows, dim).permute(2, 0, 1, 3).reshape(rows, -1)


def attend_static(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    keys: Float[Tensor, "H slots d"],
    values: Float[Tensor, "H slots d"],
    slots: Int[Tensor, "S"],
    hidden: Bool[Tensor, "S end"],
    pins: Pins,
) -> Float[Tensor, "S HGd"]:
    """As ``attend_chain`` for rows of one bucket, with all that varies in tensors, so that it can be recorded.

    slots: where each row's key and value go; hidden: slots that a row must not see.
    """
    keys.index_copy_(1, slots, k.transpose(0, 1))
    values.index_copy_(1, slots, v.transpose(0, 1))
    return _attend_hidden(q, keys, values, hidden, pins)


def attend_masked(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    cache: DenseCache,
    layer: int,
    start: int,
    hidden: Bool[Tensor, "S end"],
    pins: Pins,
) -> Float[Tensor, "S HGd"]:
    """The usual tree attention: rows write into slots ``start``.. as they come, and see what ``hidden`` leaves.

    One product each for scores and values, whatever the tree; a path's numbers are summed where its rows happen to
    lie, so the result equals a chain's only up to rounding. Every row must see one slot at least.
    """
    keys, values = cache.keys[layer], cache.values[layer]
    keys[:, start : start + len(k)] = k.transpose(0, 1)
    values[:, start : start + len(v)] = v.transpose(0, 1)
    return _attend_hidden(q, keys, values, hidden, pins)


def _attend_hidden(q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor, pins: Pins) -> Tensor:
    """Rows look at slots [0, end) but for the hidden ones."""
    rows, heads, groups, dim = q.shape
    end = hidden.shape[1]
    scores = torch.bmm(fold(q, pins.query_rows), keys[:, :end].transpose(1, 2))
    scores[:, : groups * rows].view(heads, groups, rows, end).masked_fill_(hidden, float("-inf"))
    out = torch.bmm(scores.softmax(-1), values[:, :end])[:, : groups * rows]
    return out.view(heads, groups, rows, dim).permute(2, 0, 1, 3).reshape(rows, -1)


def fold(q: Float[Tensor, "S H G d"], least: int) -> Float[Tensor, "H M d"]:
    """Query heads that share keys become rows: (H, G S, d), padded with zeros to ``least`` rows."""
    rows, heads, groups, dim = q.shape
    folded = q.permute(1, 2, 0, 3)
    if groups * rows >= least:
        return folded.reshape(heads, groups * rows, dim)
    padded = q.new_zeros(heads, least, dim)
    padded[:, : groups * rows].view(heads, groups, rows, dim).copy_(folded)
    return padded
