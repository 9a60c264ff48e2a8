"""Chain passes of fixed shapes: recorded once as CUDA graphs and replayed without launching kernels one by one.

A pass is fixed by its cache's memory, its row count (rounded up to a power of two), the end of its key bucket, the
captured layers and those that do not attend. What varies (embeddings, positions, slots) lies in static tensors.
Padding rows write to the cache's last slot, which never holds a position. Without a CUDA device the same passes run
operator by operator, which is how the tests hold them against the plain ones.
"""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.nn.attention import attend_static, key_end

if TYPE_CHECKING:
    from crossdraft.nn.engine import Engine

# caches are made this long at least, so that one request's graphs serve the next
_STORAGE_STEP = 1024
_MAX_IDLE = 2
_ALL: frozenset[int] = frozenset()
"""Every layer attends."""


class StaticPass:
    """One recorded pass over one cache's memory. engine: a weak proxy will do."""

    def __init__(
        self,
        engine: "Engine",
        keys: Tensor,
        values: Tensor,
        rows: int,
        end: int,
        capture: Sequence[int],
        skip: frozenset[int],
        pool: Any,
    ) -> None:
        self.rows, self.end, self.capture, self.skip = rows, end, tuple(capture), skip
        self._engine, self._keys, self._values = engine, keys, values
        device = engine.device
        self._embeds = torch.zeros(rows, engine.config.hidden_size, dtype=engine.dtype, device=device)
        self._offsets = torch.arange(rows, device=device)
        self._columns = torch.arange(end, device=device)
        self._positions = torch.zeros(rows, dtype=torch.long, device=device)
        self._slots = torch.full((rows,), keys.shape[2] - 1, dtype=torch.long, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._record(pool)

    def _record(self, pool: Any) -> None:
        # the first runs choose kernels and allocate workspaces, which must not happen while recording
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._states, self._taps = self._compute()

    def _compute(self) -> tuple[Tensor, dict[int, Tensor]]:
        hidden = self._columns > self._positions[:, None]
        taps: dict[int, Tensor] = {}

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            keys, values = self._keys[layer], self._values[layer]
            return attend_static(q, k, v, keys, values, self._slots, hidden, self._engine.pins)

        turns = self._engine.turns.index_select(0, self._positions)
        states = self._engine.run_layers(self._embeds, turns, attend, self.capture, taps, skip=self.skip)
        return states, taps

    def __call__(self, embeds: Float[Tensor, "S D"], start: int) -> tuple[Tensor, dict[int, Tensor]]:
        """Rows at positions ``start``.. (S at most ``rows``): states and taps, each of S rows."""
        count = embeds.shape[0]
        self._embeds[:count] = embeds
        self._positions.copy_(self._offsets).add_(start)
        # padding rows look from the first row's position and write where nobody reads
        self._positions[count:] = start
        self._slots.copy_(self._positions)
        self._slots[count:] = self._keys.shape[2] - 1
        if self._graph is None:
            states, taps = self._compute()
            return states[:count], {k: v[:count] for k, v in taps.items()}
        self._graph.replay()
        # the recorded outputs are overwritten by the next replay
        return self._states[:count].clone(), {k: v[:count].clone() for k, v in self._taps.items()}


class StaticPasses:
    """The recorded passes of an engine, and the cache memory they were recorded over, kept for the next request."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = weakref.proxy(engine)
        self._passes: dict[tuple[int, int, int, tuple[int, ...], frozenset[int]], StaticPass] = {}
        self._idle: list[tuple[Tensor, Tensor]] = []
        self._pool = torch.cuda.graph_pool_handle() if engine.device.type == "cuda" else None

    def run(
        self,
        embeds: Float[Tensor, "S D"],
        cache: DenseCache,
        start: int,
        capture: Sequence[int],
        taps: dict[int, Tensor],
        skip: frozenset[int] = _ALL,
    ) -> Float[Tensor, "S D"]:
        """One pass within one key bucket; recorded when its shape, or ``skip``, is new."""
        rows = 1 << (embeds.shape[0] - 1).bit_length()
        end = key_end(start, self._engine.pins.bucket)
        memory = cache.keys.data_ptr()
        key = (memory, rows, end, tuple(capture), skip)
        if key not in self._passes:
            if skip:  # chosen anew for every prompt: a request's earlier choice will hardly come again
                self._passes = {k: v for k, v in self._passes.items() if k[0] != memory or k[-1] in (skip, _ALL)}
            self._passes[key] = StaticPass(
                self._engine, cache.keys, cache.values, rows, end, capture, skip, self._pool
            )
        states, got = self._passes[key](embeds, start)
        taps.update(got)
        return states

    def borrow(self, capacity: int) -> tuple[Tensor, Tensor]:
        """Memory for a cache of ``capacity`` positions: a dropped cache's if one is long enough, else new."""
        for i, (keys, _) in enumerate(self._idle):
            if keys.shape[2] > capacity:
                return self._idle.pop(i)
        engine = self._engine
        cfg = engine.config
        slots = (capacity // _STORAGE_STEP + 1) * _STORAGE_STEP
        shape = (cfg.num_layers, cfg.num_kv_heads, slots, cfg.head_dim)
        keys = torch.zeros(shape, dtype=engine.attention_dtype, device=engine.device)
        return keys, torch.zeros_like(keys)

    def lend(self, cache: DenseCache) -> None:
        """Take the memory of ``cache`` back when it is dropped."""
        weakref.finalize(cache, self._take_back, cache.keys, cache.values)

    def _take_back(self, keys: Tensor, values: Tensor) -> None:
        self._idle.append((keys, values))
        while len(self._idle) > _MAX_IDLE:
            dropped = self._idle.pop(0)[0].data_ptr()
            self._passes = {k: v for k, v in self._passes.items() if k[0] != dropped}

    def forget(self) -> None:
        """Drop all recorded passes and idle memory."""
        self._passes.clear()
        self._idle.clear()
