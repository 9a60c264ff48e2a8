"""Attention over the cache for chains and trees, in one arithmetic.

For one row, both compute: scores against the keys of its own path in the order of positions, padded with masked
slots up to the end of the row's own bucket; softmax; weighted sum of the values in the same slots. So the length of
every sum is a function of the row's position alone (libraries sum 320 and 384 terms in different orders, even when
the last 64 are zero). A pass that crosses the end of a bucket is done in two pieces. A chain has its path in place.
For a tree, scores are taken once against all rows and then moved to the columns that plain decoding would use;
values are laid into those very slots path by path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.cache.dense import DenseCache
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
    scores = torch.bmm(_fold(q, pins.query_rows), keys[:, :end].transpose(1, 2))
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
    scores = torch.bmm(_fold(q, pins.query_rows), keys[:, :end].transpose(1, 2))
    scores[:, : groups * rows].view(heads, groups, rows, end).masked_fill_(hidden, float("-inf"))
    out = torch.bmm(scores.softmax(-1), values[:, :end])[:, : groups * rows]
    return out.view(heads, groups, rows, dim).permute(2, 0, 1, 3).reshape(rows, -1)


def _fold(q: Float[Tensor, "S H G d"], least: int) -> Float[Tensor, "H M d"]:
    """Query heads that share keys become rows: (H, G S, d), padded with zeros to ``least`` rows."""
    rows, heads, groups, dim = q.shape
    folded = q.permute(1, 2, 0, 3)
    if groups * rows >= least:
        return folded.reshape(heads, groups * rows, dim)
    padded = q.new_zeros(heads, least, dim)
    padded[:, : groups * rows].view(heads, groups, rows, dim).copy_(folded)
    return padded


@dataclass(frozen=True)
class Branch:
    """Rows of a piece that lie on one path and in one bucket.

    path: the pass's rows on the path, root first. answered: rows of the piece. end: key slots they look at.
    """

    path: Int[Tensor, "depth"]
    answered: Int[Tensor, "A"]
    end: int


@dataclass(frozen=True)
class TreePlan:
    """Where the rows of one piece of a tree pass look.

    positions (S,): of the rows: root + depth. base: position of the root.
    first: index of the piece's first row in the whole pass.
    end: key slots that the deepest row looks at; raw_end: key slots that hold every row written so far.
    columns (S, end - base): pass row whose key belongs into that column for this row; hidden: columns that the row
    must not see. Every row of the piece is answered by exactly one branch.
    """

    positions: Int[Tensor, "S"]
    first: int
    base: int
    end: int
    raw_end: int
    columns: Int[Tensor, "S W"]
    hidden: Bool[Tensor, "S W"]
    branches: tuple[Branch, ...]

    @classmethod
    def build(
        cls, parents: Sequence[int], first: int, num_rows: int, base: int, pins: Pins, device: torch.device
    ) -> "TreePlan":
        """Plan rows ``first``..``first + num_rows - 1`` of the tree under the root at position ``base``."""
        above = [-1] + [p + 1 for p in parents]  # in rows: row 0 is the root
        trail: list[list[int]] = []
        for row, parent in enumerate(above[: first + num_rows]):
            trail.append([*(trail[parent] if parent >= 0 else []), row])
        mine = trail[first:]
        end = key_end(base + max(len(t) for t in mine) - 1, pins.bucket)
        columns = torch.zeros(num_rows, end - base, dtype=torch.long)
        hidden = torch.ones(num_rows, end - base, dtype=torch.bool)
        for i, t in enumerate(mine):
            columns[i, : len(t)] = torch.tensor(t)
            hidden[i, : len(t)] = False
        branches = []
        waiting = set(range(num_rows))
        for deepest in sorted(range(num_rows), key=lambda i: -len(mine[i])):
            if deepest not in waiting:
                continue
            # its ancestors' paths are prefixes of its own
            answered = [r - first for r in mine[deepest] if r - first in waiting]
            waiting -= set(answered)
            path = torch.tensor(mine[deepest], device=device)
            by_end: dict[int, list[int]] = {}
            for i in answered:
                by_end.setdefault(key_end(base + len(mine[i]) - 1, pins.bucket), []).append(i)
            branches += [Branch(path, torch.tensor(rows, device=device), e) for e, rows in by_end.items()]
        return cls(
            positions=torch.tensor([base + len(t) - 1 for t in mine]).to(device),
            first=first,
            base=base,
            end=end,
            raw_end=max(end, key_end(base + first + num_rows - 1, pins.bucket)),
            columns=columns.to(device),
            hidden=hidden.to(device),
            branches=tuple(branches),
        )


def attend_tree(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    cache: DenseCache,
    layer: int,
    plan: TreePlan,
    pins: Pins,
) -> Float[Tensor, "S HGd"]:
    """As ``attend_chain`` for a tree's rows: keys go to slot base + row, values into ``cache.pending``."""
    rows, heads, groups, dim = q.shape
    keys, values, kept = cache.keys[layer], cache.values[layer], cache.pending.values
    assert kept is not None
    base, end, stop = plan.base, plan.end, plan.first + rows
    keys[:, base + plan.first : base + stop] = k.transpose(0, 1)
    kept[layer, :, plan.first : stop] = v.transpose(0, 1)
    raw = torch.bmm(_fold(q, pins.query_rows), keys[:, : plan.raw_end].transpose(1, 2))[:, : groups * rows]
    raw = raw.view(heads, groups, rows, plan.raw_end)
    scores = raw.new_empty(heads, groups, rows, end)
    scores[..., :base] = raw[..., :base]
    columns = (plan.columns + base).expand(heads, groups, rows, end - base)
    scores[..., base:] = raw.gather(-1, columns).masked_fill_(plan.hidden, float("-inf"))
    out = q.new_empty(heads, groups, rows, dim)
    laid: Tensor | None = None
    for branch in plan.branches:
        if branch.path is not laid:
            laid = branch.path
            values[:, base : base + len(laid)] = kept[layer].index_select(1, laid)
        count = branch.answered.shape[0]
        part = scores[..., : branch.end].index_select(2, branch.answered).softmax(-1)
        part = part.view(heads, groups * count, branch.end)
        if groups * count < pins.query_rows:
            part = F.pad(part, (0, 0, 0, pins.query_rows - groups * count))
        mixed = torch.bmm(part, values[:, : branch.end])[:, : groups * count]
        out[:, :, branch.answered] = mixed.view(heads, groups, count, dim)
    return out.permute(2, 0, 1, 3).reshape(rows, -1)
