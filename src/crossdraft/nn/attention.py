"""Attention over the cache for chains and trees, in one arithmetic.

For one row, both compute: scores against the keys of its own path in the order of positions, padded with masked
slots to a multiple of the bucket; softmax; weighted sum of the values in the same slots. A chain has its path in
place. For a tree, scores are taken once against all rows and then moved to the columns that plain decoding would
use; values are laid into those very slots path by path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.nn.pins import Pins


@lru_cache(maxsize=32)
def _staircase(rows: int, bucket: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(rows, rows + bucket): 0 where column <= row, else -inf."""
    return torch.full((rows, rows + bucket), float("-inf"), dtype=dtype, device=device).triu_(1)


def key_end(last: int, bucket: int) -> int:
    """Number of key slots that a row at position ``last`` looks at."""
    return (last // bucket + 1) * bucket


def attend_chain(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    cache: DenseCache,
    layer: int,
    start: int,
    pins: Pins,
    scale: float | None,
    first_pass: bool,
) -> Float[Tensor, "S HGd"]:
    """Rows at positions ``start``.. write their keys and values into their slots and attend causally.

    H key/value heads, G query heads for each. scale: factor on the scores, None when q carries it.
    first_pass: the cache holds nothing before these rows, so they attend to themselves only.
    """
    rows, heads, groups, dim = q.shape
    keys, values = cache.keys[layer], cache.values[layer]
    keys[:, :, start : start + rows] = k.permute(1, 2, 0)
    values[:, start : start + rows] = v.transpose(0, 1)
    if first_pass and rows > 64:
        out = F.scaled_dot_product_attention(
            q.reshape(1, rows, heads * groups, dim).transpose(1, 2),
            k.unsqueeze(0).transpose(1, 2),
            v.unsqueeze(0).transpose(1, 2),
            is_causal=True,
            scale=1.0 if scale is None else scale,
            enable_gqa=groups > 1,
        )
        return out[0].transpose(0, 1).reshape(rows, -1)
    end = key_end(start + rows - 1, pins.bucket)
    folded = q.permute(1, 2, 0, 3).reshape(heads, groups * rows, dim)
    scores = torch.bmm(folded, keys[:, :, :end])
    if scale is not None:
        scores.mul_(scale)
    by_row = scores.view(heads, groups, rows, end)
    by_row[..., start:].add_(_staircase(-(-rows // 64) * 64, pins.bucket, q.dtype, q.device)[:rows, : end - start])
    out = torch.bmm(scores.softmax(-1), values[:, :end])
    return out.view(heads, groups, rows, dim).permute(2, 0, 1, 3).reshape(rows, -1)


@dataclass(frozen=True)
class TreePlan:
    """Where the rows of one piece of a tree pass look.

    positions (S,): of the rows: root + depth. base: position of the root.
    first: index of the piece's first row in the whole pass; num_rows: its real rows (padding not counted).
    end: key slots that the deepest row needs; raw_end: key slots that hold every row written so far.
    columns (S, end - base): pass row whose key belongs into that column for this row; hidden: columns that the row
    must not see.
    paths: (rows on the path, root first; rows of the piece answered on it, padded to the pinned count; how many of
    them are real). Every row of the piece is answered on exactly one path.
    """

    positions: Int[Tensor, "S"]
    first: int
    num_rows: int
    base: int
    end: int
    raw_end: int
    columns: Int[Tensor, "S W"]
    hidden: Bool[Tensor, "S W"]
    paths: tuple[tuple[Tensor, Tensor, int], ...]

    @classmethod
    def build(
        cls,
        parents: Sequence[int],
        first: int,
        num_rows: int,
        base: int,
        pins: Pins,
        device: torch.device,
    ) -> "TreePlan":
        """Plan rows ``first``..``first + num_rows - 1`` of the tree; every row is answered on exactly one path."""
        above = [-1] + [p + 1 for p in parents]  # in rows: row 0 is the root
        trail: list[list[int]] = []
        for row, parent in enumerate(above[: first + num_rows]):
            trail.append([*(trail[parent] if parent >= 0 else []), row])
        mine = trail[first:]
        padded = mine + [mine[-1]] * max(0, pins.min_rows - num_rows)
        deepest = max(len(t) for t in padded)
        end = key_end(base + deepest - 1, pins.bucket)
        columns = torch.zeros(len(padded), end - base, dtype=torch.long)
        hidden = torch.ones(len(padded), end - base, dtype=torch.bool)
        for i, t in enumerate(padded):
            columns[i, : len(t)] = torch.tensor(t)
            hidden[i, : len(t)] = False
        paths = []
        open_rows = set(range(num_rows))
        for i in sorted(range(num_rows), key=lambda r: -len(mine[r])):
            if i not in open_rows:
                continue
            answered = [r - first for r in mine[i] if r >= first and r - first in open_rows]
            open_rows -= set(answered)
            # rows whose path is a prefix of this one; the padding repeats the last
            filled = answered + [answered[-1]] * max(0, pins.min_rows - len(answered))
            paths.append((torch.tensor(mine[i], device=device), torch.tensor(filled, device=device), len(answered)))
        positions = torch.tensor([base + len(t) - 1 for t in padded])
        return cls(
            positions=positions.to(device),
            first=first,
            num_rows=num_rows,
            base=base,
            end=end,
            raw_end=max(end, key_end(base + first + num_rows - 1, pins.bucket)),
            columns=columns.to(device),
            hidden=hidden.to(device),
            paths=tuple(paths),
        )


def attend_tree(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    cache: DenseCache,
    layer: int,
    plan: TreePlan,
    scale: float | None,
) -> Float[Tensor, "S HGd"]:
    """As ``attend_chain`` for a tree's rows: keys go to slot base + row, values into ``cache.pending``."""
    rows, heads, groups, dim = q.shape
    keys, values, kept = cache.keys[layer], cache.values[layer], cache.pending.values
    assert kept is not None
    real, base, end = plan.num_rows, plan.base, plan.end
    stop = plan.first + real
    keys[:, :, base + plan.first : base + stop] = k[:real].permute(1, 2, 0)
    kept[layer, :, plan.first : stop] = v[:real].transpose(0, 1)
    folded = q.permute(1, 2, 0, 3).reshape(heads, groups * rows, dim)
    raw = torch.bmm(folded, keys[:, :, : plan.raw_end])
    if scale is not None:
        raw.mul_(scale)
    raw = raw.view(heads, groups, rows, plan.raw_end)
    scores = raw.new_empty(heads, groups, rows, end)
    scores[..., :base] = raw[..., :base]
    columns = (plan.columns + base).expand(heads, groups, rows, end - base)
    scores[..., base:] = raw.gather(-1, columns).masked_fill_(plan.hidden, float("-inf"))
    weights = scores.softmax(-1)
    out = q.new_zeros(heads, groups, rows, dim)
    for path, answered, count in plan.paths:
        depth = path.shape[0]
        values[:, base : base + depth] = kept[layer].index_select(1, path)
        part = weights.index_select(2, answered)
        mixed = torch.bmm(part.view(heads, -1, end), values[:, :end]).view(heads, groups, -1, dim)
        out[:, :, answered[:count]] = mixed[:, :, :count]
    return out.permute(2, 0, 1, 3).reshape(rows, -1)
