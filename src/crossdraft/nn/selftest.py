"""Which arithmetic is independent of the number of rows here: measured at load, on the engine's own shapes.

Kernel libraries choose another order of summation for another number of rows; which ones do depends on the shape,
the dtype, the machine and the thread count. So each linear shape and the attention are run on a few rows in many
widths and compared bit for bit with rows alone, and get the least padding that makes them agree. Then one layer
runs as a whole, as a chain and as a tree. Layers share their shapes, so what holds for one holds for all.
"""

import math
import time
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.tree import leaves, path_to
from crossdraft.core.types import Exactness
from crossdraft.nn import kernels
from crossdraft.nn.linear import PackedLinear
from crossdraft.nn.pins import Pins

if TYPE_CHECKING:
    from crossdraft.nn.engine import Engine

MIN_ROWS = (1, 2, 4, 8, 16, 32, 64)
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 31, 32, 48, 63, 64)
# a graphics card takes wider passes at no more cost
_WIDER = {"cuda": (96, 128)}
# for weights whose every pass takes milliseconds
_FEW_WIDTHS = (1, 2, 3, 5, 8, 16, 31, 32, 48, 64)
_LARGE_WEIGHT = 8_000_000
# lengths of the sums in attention: libraries change their blocking somewhere between
_KEYS = (128, 384, 1024, 1152, 2176, 4096)
# a wide pass that starts here crosses the end of a key bucket
_BASES = (108, 1004)
# the tree below fits into the block of the sum at the first, and meets the beginning of another block at the second
_TREE_BASES = (300, 570)
_SAMPLED = (0, 1, 18, 19, 20, 31, 45)
_TREE = (-1, 0, 1, 2, -1, 4, 2, 6, 7, 0, 9, 10, 11, 5, 8, 14, 15, 16, 17, 18, -1, 19, 21)

_known_linears: dict[tuple[object, ...], tuple[int, int]] = {}
_known_quicker: dict[tuple[object, ...], int] = {}
_known_engines: dict[tuple[object, ...], tuple[Pins, Exactness]] = {}


def pin(engine: "Engine") -> tuple[Pins, Exactness]:
    """The least pinning under which rows do not depend on the pass they are in, and how that was found.

    Sets ``min_rows`` of the engine's linears. Results are remembered for equal shapes, dtype, device and thread
    count within the process. Where nothing passes, ``bit_exact`` is False.
    """
    cfg = engine.config
    shape = (cfg.hidden_size, cfg.intermediate_size, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim, cfg.vocab_size)
    key = (*shape, cfg.max_positions, cfg.attention_bias, *_place(engine))
    with torch.inference_mode():
        width = min(_pin_linear(linear, engine) for linear in engine.linears())
        _pad_where_quicker(engine)
        if key not in _known_engines:
            _known_engines[key] = _search(engine, width)
    return _known_engines[key]


def _tested(engine: "Engine") -> tuple[int, ...]:
    """Pass widths to try on the engine's device, rising."""
    return WIDTHS + _WIDER.get(engine.device.type, ())


def _few(engine: "Engine") -> tuple[int, ...]:
    return _FEW_WIDTHS + _WIDER.get(engine.device.type, ())


def _paddings(engine: "Engine") -> tuple[int, ...]:
    """Least row counts to try, rising: up to one count for all passes."""
    return tuple(n for n in (*MIN_ROWS, 128) if n <= _tested(engine)[-1])


def _place(engine: "Engine") -> tuple[object, ...]:
    return engine.dtype, str(engine.device), torch.get_num_threads(), engine.prepacked


def _pin_linear(linear: PackedLinear, engine: "Engine") -> int:
    """Set the linear's least row count; the widest pass up to which it then agrees with rows alone, or 0."""
    key = (linear.in_features, linear.out_features, linear.bias is None, *_place(engine))
    if key not in _known_linears:
        _known_linears[key] = _search_linear(linear, engine)
    linear.min_rows, width = _known_linears[key]
    return width


def _pad_where_quicker(engine: "Engine") -> None:
    """Let few rows run as four where that is quicker (oneDNN's few-row kernels read memory more slowly).

    It changes no bits: four rows were found to agree with the least count. Timed over all layers' weights, as they
    come from memory and not from a cache.
    """
    alike: dict[tuple[int, int], list[PackedLinear]] = {}
    for linear in engine.linears():
        if not linear.prepacked or linear.is_own:
            continue
        alike.setdefault((linear.in_features, linear.out_features), []).append(linear)
    for (inputs, outputs), linears in alike.items():
        key = (inputs, outputs, len(linears), *_place(engine))
        least = linears[0].min_rows
        if least >= 4:
            continue
        if key not in _known_quicker:
            row = torch.ones(1, inputs, dtype=engine.dtype)
            spent: dict[int, float] = {}
            for _, count in product(range(4), (least, 4)):
                for linear in linears:
                    linear.min_rows = count
                start = time.perf_counter()
                for linear in linears:
                    linear(row)
                spent[count] = min(spent.get(count, math.inf), time.perf_counter() - start)
            _known_quicker[key] = 4 if spent[4] < 0.95 * spent[least] else least
        for linear in linears:
            linear.min_rows = _known_quicker[key]


def _search_linear(linear: PackedLinear, engine: "Engine") -> tuple[int, int]:
    rows, weight = _cancelling(linear.in_features, linear.out_features, engine, engine.dtype)
    bias = None if linear.bias is None else torch.zeros_like(linear.bias)
    trial = PackedLinear(weight, bias, linear.prepacked)
    widths = _few(engine) if weight.numel() > _LARGE_WEIGHT else _tested(engine)
    whole = {w: trial(rows[:w]) for w in widths}
    best = (1, 0)
    for trial.min_rows in _paddings(engine):
        alone = {r: trial(rows[r : r + 1])[0] for r in _SAMPLED}
        agreed = 0
        for w in widths:
            got = whole[w] if w >= trial.min_rows else trial(rows[:w])
            if not all(torch.equal(got[r], alone[r]) for r in _SAMPLED if r < w):
                break
            agreed = w
        if agreed > best[1]:
            best = (trial.min_rows, agreed)
        if agreed == widths[-1]:
            break
    return best


def _cancelling(inputs: int, outputs: int, engine: "Engine", dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows and weights whose large terms cancel, so that another order of summation shows in the rounded result."""
    draw = torch.Generator().manual_seed(inputs)
    count, device = _tested(engine)[-1], engine.device
    half, block = -(-inputs // 2), min(outputs, 512)
    columns = torch.randn(block, half, generator=draw)
    weight = torch.cat((columns, columns), dim=1)[:, :inputs]
    weight = weight.repeat(-(-outputs // block), 1)[:outputs]
    large = 256 * torch.randn(count, half, generator=draw)
    rows = torch.cat((large, -large), dim=1)[:, :inputs] + torch.randn(count, inputs, generator=draw)
    return rows.to(device, dtype), weight.to(device, dtype).contiguous()


def _search(engine: "Engine", width: int) -> tuple[Pins, Exactness]:
    linears = " and ".join(sorted({linear.kind for linear in engine.linears()}))
    if engine.device.type == "cpu" and engine.dtype == torch.bfloat16 and (why := kernels.status().why):
        linears += f" (our own: {why})"
    where = f"{str(engine.dtype).removeprefix('torch.')}, {engine.device.type}, {linears}"
    if engine.device.type == "cpu":
        where += f", {torch.get_num_threads()} thread(s)"
    if width < 32:
        return Pins(), Exactness(False, f"not bit-exact: a linear depends on the number of rows ({where})")
    linear_rows = max(linear.min_rows for linear in engine.linears())
    previous = engine.pins
    try:
        for max_rows, query_rows in product(sorted({width, 32}, reverse=True), _query_counts(engine)):
            engine.pins = Pins(query_rows=query_rows, max_rows=max_rows)
            agree = _products_agree(engine) and all(_layer_agrees(engine, base) for base in _bases(engine, _BASES))
            if agree and all(_tree_agrees(engine, base) for base in _bases(engine, _BASES + _TREE_BASES)):
                detail = (
                    f"bit-exact for passes of 1 to {max_rows} rows and for trees ({where}; linears padded to "
                    f"at most {linear_rows} row(s), queries to {query_rows}, key buckets of {engine.pins.bucket})"
                )
                return engine.pins, Exactness(True, detail, max_rows)
    finally:
        engine.pins = previous
    return Pins(), Exactness(False, f"not bit-exact: attention depends on the number of rows ({where})")


def _query_counts(engine: "Engine") -> list[int]:
    groups = engine.config.num_heads // engine.config.num_kv_heads
    return sorted({*_paddings(engine), *(n * groups for n in _paddings(engine) if n >= 32)})


def _bases(engine: "Engine", wanted: tuple[int, ...]) -> list[int]:
    last = engine.config.max_positions - _tested(engine)[-1] - 1
    return [b for b in wanted if b <= last] or [max(0, last // 2)]


def _scene(engine: "Engine", base: int) -> DenseCache:
    """A one-layer cache of random keys and values up to ``base``, with room for the widest pass."""
    cfg = engine.config
    cache = DenseCache(
        num_layers=1,
        num_kv_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        capacity=base + _tested(engine)[-1],
        dtype=engine.attention_dtype,
        device=engine.device,
        bucket=engine.pins.bucket,
    )
    draw = torch.Generator().manual_seed(base)
    for part in (cache.keys, cache.values):
        part.copy_(torch.randn(part.shape, generator=draw))
    cache.length = base
    return cache


def _widths(engine: "Engine") -> Iterator[int]:
    return (w for w in _tested(engine) if w <= engine.pins.max_rows)


def _products_agree(engine: "Engine") -> bool:
    """Whether the two matrix products of attention give the same rows in every width, at many key lengths."""
    cfg, pins = engine.config, engine.pins
    heads, dim, groups = cfg.num_kv_heads, cfg.head_dim, cfg.num_heads // cfg.num_kv_heads
    place = engine, engine.attention_dtype
    ends = [e for e in _KEYS if e <= -(-cfg.max_positions // pins.bucket) * pins.bucket]
    for end in ends:
        rows, weight = _cancelling(dim, heads * end, *place)
        keys = weight.view(heads, end, dim).transpose(1, 2)
        if not _product_agrees(rows.expand(heads, -1, -1), keys, groups, pins):
            return False
        rows, weight = _cancelling(end, heads * dim, *place)
        values = weight.view(heads, dim, end).transpose(1, 2).contiguous()
        if not _product_agrees(rows.expand(heads, -1, -1), values, groups, pins):
            return False
    return True


def _product_agrees(rows: Tensor, right: Tensor, groups: int, pins: Pins) -> bool:
    """rows (H, 64, n), right (H, n, m): ``groups`` rows at a time against all of them at once."""
    rows = rows.repeat(1, groups, 1)

    def product_of(first: int, count: int) -> Tensor:
        part = rows[:, first : first + count]
        return torch.bmm(F.pad(part, (0, 0, 0, max(0, pins.query_rows - count))), right)[:, :count]

    whole = product_of(0, groups * pins.max_rows)
    for row in (r for r in _SAMPLED if r < pins.max_rows):
        if not torch.equal(product_of(row * groups, groups), whole[:, row * groups : (row + 1) * groups]):
            return False
    few = [w for w in _FEW_WIDTHS if w <= pins.max_rows]
    return all(torch.equal(product_of(0, w * groups), whole[:, : w * groups]) for w in few)


def _layer_agrees(engine: "Engine", base: int) -> bool:
    """Whether a whole layer and the head give the same rows in every width."""
    cache, embeds = _scene(engine, base), _rows(engine, base)
    whole = engine.run_rows(embeds[: engine.pins.max_rows], cache, base, num_layers=1)
    logits = engine.unembed(whole)
    for row in (r for r in _SAMPLED if r < len(whole)):
        alone = engine.run_rows(embeds[row : row + 1], cache, base + row, num_layers=1)
        if not (torch.equal(alone[0], whole[row]) and torch.equal(engine.unembed(alone)[0], logits[row])):
            return False
    return all(
        torch.equal(engine.run_rows(embeds[:width], cache, base, num_layers=1), whole[:width])
        for width in _widths(engine)
    )


def _tree_agrees(engine: "Engine", base: int) -> bool:
    """Whether a tree's rows through one layer equal those of each of its paths as a chain."""
    cache, rows = _scene(engine, base), len(_TREE) + 1
    embeds = _rows(engine, base)[:rows]
    plan = engine.plan_tree(_TREE, base, 0, rows)
    states = engine.run_rows(embeds, cache, base, plan=plan, num_layers=1)
    paths = [[0, *(n + 1 for n in path_to(_TREE, leaf))] for leaf in leaves(_TREE)]
    return all(torch.equal(engine.run_rows(embeds[p], cache, base, num_layers=1), states[p]) for p in paths)


def _rows(engine: "Engine", seed: int) -> Tensor:
    """Embeddings of random tokens, as many as the widest pass tried has rows."""
    draw = torch.Generator().manual_seed(seed)
    return engine.embed(torch.randint(engine.config.vocab_size, (_tested(engine)[-1],), generator=draw))
