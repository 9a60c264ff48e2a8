"""Where the kernel library cuts the sum over keys.

A matrix product adds up its terms in order, block by block, and a term of weight 0 changes nothing. So terms may
lie anywhere inside their block, with zeros between them, and the sum keeps its bits: many paths of a tree can be
mixed in one product, each with weight 0 on the others' values. Where blocks begin depends on the library, the dtype
and the number of terms. It is probed when a length is first met, and held against random terms.
"""

from functools import lru_cache

import torch
from torch import Tensor

# blocks of the libraries known begin at multiples of it; another beginning fails the check below
_STEP = 16
_ROWS = 64


@lru_cache(maxsize=4096)
def block_starts(
    end: int, heads: int, dim: int, query_rows: int, dtype: torch.dtype, device: torch.device, threads: int
) -> tuple[int, ...]:
    """First terms of the blocks of ``weights (heads, M, end) @ values (heads, end, dim)``, rising from 0.

    query_rows: least M. threads: how many compute it; a key of the memory only. Where terms cannot be moved at all,
    every term is a block of its own.
    """
    starts = (0, *_probed(end, dim, query_rows, dtype, device))
    movable = all(_may_move(starts, end, heads, dim, rows, dtype, device) for rows in {query_rows, _ROWS})
    return starts if movable else tuple(range(end))


def _probed(end: int, dim: int, query_rows: int, dtype: torch.dtype, device: torch.device) -> list[int]:
    """Multiples of ``_STEP`` where a sum begins anew: there, ones are not lost behind a term too large for them."""
    edges = torch.arange(_STEP, end, _STEP)
    weights = torch.zeros(1, max(len(edges), query_rows), end, dtype=torch.float64)
    row = torch.arange(len(edges))[:, None]
    # 1 is half of the last digit of it, and rounding to even drops it
    large = 2 / torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    weights[0, row, edges[:, None] - 1] = large
    weights[0, row, edges[:, None] + torch.arange(_STEP)] = 1
    values = torch.ones(1, end, dim, dtype=dtype, device=device)
    sums = [torch.bmm(part, values)[0, :, 0] for part in weights.to(device, dtype).split(_ROWS, dim=1)]
    found = torch.cat(sums)[: len(edges)].cpu().double() != large
    return edges[found].tolist()


def _may_move(
    starts: tuple[int, ...], end: int, heads: int, dim: int, rows: int, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether random terms give the same bits strewn over their blocks and pushed to their blocks' beginnings."""
    draw = torch.Generator().manual_seed(end)
    weights = torch.rand(heads, rows, end, generator=draw).to(device, dtype)
    values = torch.randn(heads, end, dim, generator=draw).to(device, dtype)
    strewn = (torch.rand(end, generator=draw) < 0.4).nonzero().flatten()
    first = torch.tensor(starts)
    block = torch.bucketize(strewn, first, right=True) - 1
    # a term's number within its block: its number in all, less that of its block's first
    pushed = first[block] + torch.arange(len(strewn)) - torch.searchsorted(block, block)
    return torch.equal(
        torch.bmm(_only(weights, strewn, strewn), values),
        torch.bmm(_only(weights, strewn, pushed), values.index_copy(1, pushed.to(device), values[:, strewn])),
    )


def _only(weights: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Weights of the terms ``source`` at the places ``target``, and 0 elsewhere."""
    placed = torch.zeros_like(weights)
    placed[..., target] = weights[..., source]
    return placed
