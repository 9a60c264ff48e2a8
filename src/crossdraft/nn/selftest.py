"""Which arithmetic is independent of the number of rows here: measured at load, on the engine's own weights.

One layer and the head run a few passes at several positions, split in different ways, as a chain and as a tree, and
every row is compared bit for bit with the same row alone. The first arrangement that passes is kept: natural row
counts if possible, else passes padded to more rows, else longer key buckets. Layers share their shapes, so what
holds for one holds for all.
"""

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.tree import path_to
from crossdraft.core.types import Exactness
from crossdraft.nn.attention import TreePlan
from crossdraft.nn.pins import Pins

if TYPE_CHECKING:
    from crossdraft.nn.engine import Engine

MIN_ROWS = (1, 2, 4, 8, 16, 32)
BUCKETS = (64, 256, 1024)
WIDTHS = (2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64)
# a wide pass crosses the end of a key bucket from each of these
_BASES = (44, 1004, 4012)
_SAMPLED = (0, 1, 5, 18, 19, 20, 21, 31, 40, 62)
_TREE = (-1, 0, 1, 2, -1, 4, 2, 6, 7, 0, 9, 10, 11, 5, 8, 14, 15, 16, 17, 18, -1, 19, 21)

_known: dict[tuple[object, ...], tuple[Pins, Exactness]] = {}


def pin(engine: "Engine") -> tuple[Pins, Exactness]:
    """The least pinning under which rows do not depend on the pass they are in, and how that was found.

    Results are remembered for equal shapes, dtype, device and thread count within the process. Where nothing
    passes, the pins are the natural ones and ``bit_exact`` is False.
    """
    cfg = engine.config
    shape = (cfg.hidden_size, cfg.intermediate_size, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.vocab_size)
    key = (*shape, cfg.max_positions, cfg.attention_bias, engine.dtype, str(engine.device), torch.get_num_threads())
    if key not in _known:
        _known[key] = _search(engine)
    return _known[key]


@torch.inference_mode()
def _search(engine: "Engine") -> tuple[Pins, Exactness]:
    linears = "oneDNN packed linears" if engine.prepacked else "F.linear (oneDNN's packed linears are not usable)"
    where = f"{str(engine.dtype).removeprefix('torch.')}, {engine.device.type}, {linears}"
    if engine.device.type == "cpu":
        where += f", {torch.get_num_threads()} threads"
    previous = engine.pins
    try:
        for bucket, min_rows in product(BUCKETS, MIN_ROWS):
            engine.pins = Pins(min_rows=min_rows, bucket=bucket, max_rows=64)
            width = min((_widest(engine, base) for base in _bases(engine)), default=0)
            if width < 32:
                continue
            pins = Pins(min_rows=min_rows, bucket=bucket, max_rows=width)
            engine.pins = pins
            if not _tree_agrees(engine):
                continue
            padding = "natural row counts" if min_rows == 1 else f"passes padded to {min_rows} rows"
            detail = (
                f"bit-exact for passes of 1 to {width} rows and trees ({where}; {padding}, keys padded to {bucket})"
            )
            return pins, Exactness(True, detail, width)
    finally:
        engine.pins = previous
    return Pins(), Exactness(False, f"not bit-exact: no row count passes the self-test ({where})")


def _bases(engine: "Engine") -> list[int]:
    last = engine.config.max_positions - WIDTHS[-1] - 1
    return [b for b in _BASES if b <= last] or [max(0, last // 2)]


def _scene(engine: "Engine", base: int) -> tuple[Tensor, DenseCache]:
    """Random rows of the embedding table, and a one-layer cache of plausible keys and values."""
    cfg = engine.config
    draw = torch.Generator().manual_seed(base)
    tokens = torch.randint(cfg.vocab_size, (WIDTHS[-1],), generator=draw)
    cache = DenseCache(
        num_layers=1,
        num_kv_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        capacity=base + WIDTHS[-1],
        dtype=engine.dtype,
        device=engine.device,
        bucket=engine.pins.bucket,
        spill=max(MIN_ROWS),
    )
    for part in (cache.keys, cache.values):
        part.copy_(torch.randn(part.shape, generator=draw, dtype=torch.float32))
    cache.length = base
    return engine.embed(tokens), cache


def _row_alone(engine: "Engine", embeds: Tensor, cache: DenseCache, position: int) -> tuple[Tensor, Tensor, Tensor]:
    states = engine.run_rows(embeds, cache, position, num_layers=1)
    return states, cache.keys[0, :, :, position].clone(), cache.values[0, :, position].clone()


def _widest(engine: "Engine", base: int) -> int:
    """Largest tested width up to which all widths agree with single rows; 0 if not even two rows do."""
    embeds, cache = _scene(engine, base)
    widest = 0
    rows = range(WIDTHS[-1]) if base == _BASES[0] else _SAMPLED
    whole = engine.run_rows(embeds, cache, base, num_layers=1)
    alone = {r: _row_alone(engine, embeds[r : r + 1], cache, base + r) for r in rows}
    logits = {r: engine.unembed(alone[r][0])[0] for r in _SAMPLED}
    same: Callable[[Tensor, Tensor], bool] = torch.equal
    for width in WIDTHS:
        states = whole if width == WIDTHS[-1] else engine.run_rows(embeds[:width], cache, base, num_layers=1)
        if width == WIDTHS[-1]:
            engine.run_rows(embeds, cache, base, num_layers=1)
        scores = engine.unembed(states)
        for r in (r for r in rows if r < width):
            state, k, v = alone[r]
            slot = base + r
            if not (
                same(states[r], state[0])
                and same(cache.keys[0, :, :, slot], k)
                and same(cache.values[0, :, slot], v)
                and (r not in logits or same(scores[r], logits[r]))
            ):
                return widest
        widest = width
    return widest


def _tree_agrees(engine: "Engine") -> bool:
    """Whether the rows of a tree equal plain passes along each of its paths."""
    base = _bases(engine)[0]
    embeds, cache = _scene(engine, base)
    rows = len(_TREE) + 1
    cache.open_pass(rows, is_tree=True)
    plan = TreePlan.build(_TREE, 0, rows, base, engine.pins, engine.device)
    states = engine.run_rows(embeds[:rows], cache, base, plan=plan, num_layers=1)
    for node in range(len(_TREE)):
        path = [0, *(n + 1 for n in path_to(_TREE, node))]
        # earlier keys and values first, then the row itself
        engine.run_rows(embeds[path], cache, base, num_layers=1)
        alone = engine.run_rows(embeds[path[-1:]], cache, base + len(path) - 1, num_layers=1)
        if not torch.equal(alone[0], states[node + 1]):
            return False
    return True
