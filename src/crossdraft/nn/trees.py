"""Attention of a draft tree with the bits of plain decoding.

A row of plain decoding adds up the values of its own path in the order of positions. In a tree pass rows lie as
they were drafted: a row's path is strewn among the others' rows. So scores are taken once against all rows and
moved to the columns of plain decoding for the softmax; its weights are moved back to where the values lie, with 0
on everybody else's. Inside one block of the library's sum (``nn.seams``) that changes no bits, and one product
mixes the whole tree. Where the tree does not fit into the block that its root stands in, it is mixed in parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.tree import ancestor_mask
from crossdraft.nn import kernels
from crossdraft.nn.attention import fold, key_end
from crossdraft.nn.pins import Pins

Array = np.ndarray
Starts = Callable[[int], Sequence[int]]
"""Number of key slots -> where the blocks of a sum over them begin (``block_starts``)."""


@dataclass(frozen=True)
class TreeShape:
    """Rows ``first``.. of a tree pass, wherever its root stands. Row 0 is the root, row n + 1 is node n.

    mask (R, R): of all rows up to the last, which lie on whose path; depths (R,): root 0.
    paths (S, W): the rows on each row's path, root first; hidden (S, W): what is padding there.
    """

    first: int
    mask: Bool[Array, "R R"]
    depths: Int[Array, "R"]
    paths: Int[Tensor, "S W"]
    hidden: Bool[Tensor, "S W"]

    @cached_property
    def walks(self) -> Int[Tensor, "S W"]:
        """``paths`` as our own kernel reads them."""
        return self.paths.int()

    @cached_property
    def lengths(self) -> Int[Tensor, "S"]:
        """Rows on each row's path, as our own kernel reads them."""
        return (~self.hidden).sum(1).int()

    @property
    def rows(self) -> int:
        """Rows of the pass so far, this piece's included."""
        return len(self.depths)


@lru_cache(maxsize=64)
def tree_shape(parents: tuple[int, ...], first: int, num_rows: int, device: torch.device) -> TreeShape:
    """The shape of rows ``first``..``first + num_rows - 1``; remembered, as fixed trees come every round."""
    mask = ancestor_mask([-1, *(p + 1 for p in parents[: first + num_rows - 1])])
    depths = mask.sum(1) - 1
    width = int(depths[first:].max()) + 1
    # parents precede children, so a path's rows rise
    row, ancestor = mask[first:].nonzero(as_tuple=True)
    paths = torch.zeros(num_rows, width, dtype=torch.long)
    paths[row, depths[ancestor]] = ancestor
    hidden = torch.arange(width) > depths[first:, None]
    return TreeShape(first, mask.numpy(), depths.numpy(), paths.to(device), hidden.to(device))


@dataclass(frozen=True)
class Layout:
    """Part of a tree whose values are laid out together: rows (n,) of the pass, all ancestors included.

    slots (n,): where their values go. members (A,): which rows of the group are mixed then; answered (A,): the same
    as rows of the piece.
    """

    rows: Int[Tensor, "n"]
    slots: Int[Tensor, "n"]
    members: Int[Tensor, "A"]
    answered: Int[Tensor, "A"]


@dataclass(frozen=True)
class Group:
    """Rows of a piece that look at the same number of key slots, ``end``.

    rows (A,): of the piece. columns (A, W): where the values of their paths lie, counted from the root's slot, with
    0 for padding. layouts: one after the other; none where the values lie well as they were written.
    """

    end: int
    rows: Int[Tensor, "A"]
    columns: Int[Tensor, "A W"]
    layouts: tuple[Layout, ...] = ()


@dataclass(frozen=True)
class TreePlan:
    """Where the rows of one piece of a tree pass look, under a root at position ``base``."""

    shape: TreeShape
    base: int
    pins: Pins
    starts: Starts

    @cached_property
    def positions(self) -> Int[Tensor, "S"]:
        """The root's, + depth."""
        return torch.from_numpy(self._positions).to(self.shape.paths.device)

    @property
    def _positions(self) -> Int[Array, "S"]:
        return self.shape.depths[self.shape.first :] + self.base

    @property
    def _last(self) -> int:
        return self.base + self.shape.rows - 1

    @cached_property
    def raw_end(self) -> int:
        """Key slots that hold every row written so far."""
        return key_end(max(int(self._positions.max()), self._last), self.pins.bucket)

    @property
    def walk(self) -> kernels.Walk:
        """The same for our own kernel."""
        return kernels.Walk(self.base, self.shape.first, self.shape.walks, self.shape.lengths)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """How the values are laid out; our own kernel does not need to know."""
        shape, base, starts = self.shape, self.base, self.starts
        ends = (self._positions // self.pins.bucket + 1) * self.pins.bucket
        end = int(ends.max())
        if int(ends.min()) == end and self._last < next((s for s in starts(end) if s > base), end):
            return (Group(end, torch.arange(len(ends), device=shape.paths.device), shape.paths),)
        return tuple(_lay(shape, base, np.flatnonzero(ends == e), e, starts(e)) for e in sorted(set(ends.tolist())))


def _lay(shape: TreeShape, base: int, chosen: Array, end: int, starts: Sequence[int]) -> Group:
    """Lay out the paths of the piece's rows ``chosen``, as many at a time as the blocks before ``end`` take."""
    device, mask = shape.paths.device, shape.mask
    paths = shape.paths[:, : end - base].cpu().numpy()
    mine = chosen + shape.first
    edges = np.array([s for s in starts if base < s < end], dtype=np.int64)
    lows = np.concatenate(([base], edges))
    room = np.diff(lows, append=end)
    block = np.searchsorted(edges, shape.depths + base, side="right")  # (R,)
    in_block = block[:, None] == np.arange(len(lows))
    # the paths that are no part of another, neighbours side by side
    tips = chosen[mask[np.ix_(mine, mine)].sum(0) == 1]
    tips = tips[np.lexsort(paths[tips].T[::-1])]
    on = mask[tips + shape.first]  # (tips, R)
    new = on.copy()
    new[1:] &= ~on[:-1]
    whole, added = (x.astype(np.float32) @ in_block for x in (on, new))
    total = added.cumsum(0)  # (tips, blocks)
    columns = np.zeros((len(chosen), paths.shape[1]), dtype=np.int64)
    hidden = shape.hidden[:, : end - base].cpu().numpy()[chosen]
    waiting = np.ones(len(chosen), dtype=bool)
    layouts, at = [], 0
    while at < len(tips):
        fits = (total[at:] - total[at] + whole[at] <= room).all(1)
        stop = len(tips) if fits.all() else at + int(fits.argmin())
        laid = on[at:stop].any(0)
        # into each block from its beginning, in the order of rows: a parent comes before its child
        order = (in_block & laid[:, None]).cumsum(0)[np.arange(shape.rows), block]
        slots = lows[block] + order - 1
        members = np.flatnonzero(waiting & laid[mine])
        waiting[members] = False
        columns[members] = (slots - base)[paths[chosen[members]]]
        rows = np.flatnonzero(laid)
        parts = rows, slots[rows], members, chosen[members]
        layouts.append(Layout(*(torch.from_numpy(x).to(device) for x in parts)))
        at = stop
    columns[hidden] = 0
    return Group(end, torch.from_numpy(chosen).to(device), torch.from_numpy(columns).to(device), tuple(layouts))


def attend_tree(
    q: Float[Tensor, "S H G d"],
    k: Float[Tensor, "S H d"],
    v: Float[Tensor, "S H d"],
    cache: DenseCache,
    layer: int,
    plan: TreePlan,
    pins: Pins,
) -> Float[Tensor, "S HGd"]:
    """As ``attend_chain`` for a tree's rows, which write into slots base + row."""
    rows, heads, groups, dim = q.shape
    shape, base = plan.shape, plan.base
    written = slice(base + shape.first, base + shape.rows)
    keys, values = cache.keys[layer], cache.values[layer]
    if kernels.attends(rows, groups, keys):
        return kernels.attend(q, k, v, keys, values, plan.walk)
    keys[:, written] = k.transpose(0, 1)
    values[:, written] = v.transpose(0, 1)
    scores = torch.bmm(fold(q, pins.query_rows), keys[:, : plan.raw_end].transpose(1, 2))
    by_row = scores[:, : groups * rows].view(heads, groups, rows, plan.raw_end)
    # to the columns of plain decoding
    own = by_row[..., base:].gather(-1, shape.paths.expand(heads, groups, -1, -1))
    width = own.shape[-1]
    by_row[..., base : base + width] = own.masked_fill_(shape.hidden, float("-inf"))
    by_row[..., base + width :] = float("-inf")
    if not plan.groups[0].layouts:
        (group,) = plan.groups
        weights = scores[..., : group.end].softmax(-1)
        _strew(weights[:, : groups * rows].view(heads, groups, rows, group.end), base, group.columns)
        out = torch.bmm(weights, values[:, : group.end])[:, : groups * rows].view(heads, groups, rows, dim)
    else:
        out = _mix_in_turn(by_row, values, plan, pins)
    return out.permute(2, 0, 1, 3).reshape(rows, -1)


def _strew(weights: Float[Tensor, "H G A end"], base: int, columns: Int[Tensor, "A W"]) -> None:
    """Move the weights of each row's path from the columns of plain decoding to ``columns``, in place."""
    tree = weights[..., base:]
    path = tree[..., : columns.shape[1]]
    own = path.clone()
    path.zero_()
    # padding is 0: adding it changes nothing
    tree.scatter_add_(-1, columns.expand(*own.shape[:2], -1, -1), own)


def _mix_in_turn(
    scores: Float[Tensor, "H G S raw"], values: Float[Tensor, "H slots d"], plan: TreePlan, pins: Pins
) -> Float[Tensor, "H G S d"]:
    """One layout after the other; the values come back to where they were."""
    heads, groups, rows, _ = scores.shape
    placed = slice(plan.base, plan.base + plan.shape.rows)
    kept = values[:, placed].clone()
    out = scores.new_empty(heads, groups, rows, values.shape[2])
    for group in plan.groups:
        weights = scores[..., : group.end].index_select(2, group.rows).softmax(-1)
        _strew(weights, plan.base, group.columns)
        for part in group.layouts:
            values.index_copy_(1, part.slots, kept.index_select(1, part.rows))
            count = len(part.members)
            mine = weights.index_select(2, part.members).view(heads, groups * count, group.end)
            if groups * count < pins.query_rows:
                mine = F.pad(mine, (0, 0, 0, pins.query_rows - groups * count))
            mixed = torch.bmm(mine, values[:, : group.end])[:, : groups * count]
            out.index_copy_(2, part.answered, mixed.view(heads, groups, count, -1))
    values[:, placed] = kept
    return out
