"""Inference: the decoder's weights packed, and passes whose rows do not depend on how many rows a pass has.

A token's state is computed from its own row, its position and the cache alone. What breaks this is kernels that
choose another order of summation for another row count or key length, so both are pinned here where need be:
linears and attention have a least number of rows, and keys end at a multiple of ``pins.bucket`` (the rest is
masked). How much pinning a machine needs is measured at load (``nn.selftest``). See docs/decoder.md.
"""

import copy
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.errors import SettingError
from crossdraft.core.tree import check_parents
from crossdraft.core.types import SIMILARITY, Exactness
from crossdraft.nn import kernels
from crossdraft.nn.attention import Attend, attend_chain, attend_masked, key_end
from crossdraft.nn.decoder import Decoder, DecoderConfig, DecoderLayer
from crossdraft.nn.graphs import StaticPasses
from crossdraft.nn.layer import PackedLayer, attention_dtype, rotations
from crossdraft.nn.linear import PackedLinear, can_prepack
from crossdraft.nn.norm import RowNorm
from crossdraft.nn.pins import Pins
from crossdraft.nn.seams import block_starts
from crossdraft.nn.selftest import pin
from crossdraft.nn.trees import TreePlan, attend_tree, tree_shape

TreeAttention = Literal["exact", "near-exact"]
"""exact: a tree's rows have the bits of plain decoding. near-exact: the usual masked attention, up to rounding."""


@dataclass(frozen=True)
class PassResult:
    """logits (S, V) float32; states of the captured layers {layer: (S, D)}."""

    logits: Float[Tensor, "S V"]
    states: dict[int, Tensor] = field(default_factory=dict)


class Engine:
    """A frozen copy of a decoder for inference. It holds nothing about a request, so caches may take turns on it.

    dtype: bfloat16, float32 or float64. The self-test at load sets ``exactness`` and the pins; ``self_test=False``
    leaves both at "not tested". static: chain passes of fixed shapes, which a CUDA device records as graphs and
    replays; by default on CUDA only. tree_attention: near-exact runs a tree of any width in one pass.
    Raises SettingError for another dtype or kind of attention.
    """

    def __init__(
        self,
        decoder: Decoder,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        *,
        self_test: bool = True,
        static: bool | None = None,
        tree_attention: TreeAttention = "exact",
    ) -> None:
        if dtype not in (torch.bfloat16, torch.float32, torch.float64):
            raise SettingError(f"dtype {dtype} is not supported by the decoder; use bfloat16 or float32")
        _check_trees(tree_attention)
        self.tree_attention = tree_attention
        self.config: DecoderConfig = decoder.config
        self.dtype, self.device = dtype, torch.device(device)
        cfg = self.config
        self.prepacked = can_prepack(dtype, self.device)
        self.attention_dtype = attention_dtype(dtype, self.device)
        self._wide = torch.float64 if dtype == torch.float64 else torch.float32
        with torch.no_grad():
            self._layers = [
                PackedLayer(cast(DecoderLayer, layer), dtype, self.device, self.prepacked)
                for layer in decoder.layers
            ]
            self._stack = _stack_of(self._layers)
            self._table = decoder.embed_tokens.weight.detach().to(self.device, dtype, copy=True)
            head = decoder.lm_head.weight.detach().to(self.device, dtype, copy=True)
            self._head = PackedLinear(head, None, self.prepacked)
            self._norm = RowNorm(decoder.norm.weight, cfg.rms_norm_eps, dtype, self.device)
            self.turns = rotations(cfg, cfg.max_positions, dtype, self.device)
        self.pins = Pins()
        self._tested = Exactness(False, "not tested")
        self.tested_threads = 0
        use_static = self.device.type == "cuda" if static is None else static
        self.static = StaticPasses(self) if use_static else None
        if self_test:
            self.run_self_test()

    def run_self_test(self) -> None:
        """Find the pins of this machine and thread count; called at load, and worth calling after a change of
        either. Caches made before must not be used after."""
        if self.static is not None:
            self.static.forget()
        self.pins, self._tested = pin(self)
        self.tested_threads = torch.get_num_threads()

    @property
    def exactness(self) -> Exactness:
        """What the self-test found, and whether trees keep to it."""
        if self.tree_attention == "exact":
            return self._tested
        return replace(
            self._tested, bit_exact=False, detail=f"near-exact trees, by choice; otherwise {self._tested.detail}"
        )

    def twin(self, *, static: bool | None = None, tree_attention: TreeAttention | None = None) -> "Engine":
        """The same weights and pins, with or without passes of fixed shapes, and with another tree attention."""
        other = copy.copy(self)
        if static is not None:
            other.static = StaticPasses(other) if static else None
        if tree_attention is not None:
            _check_trees(tree_attention)
            other.tree_attention = tree_attention
        return other

    def linears(self) -> list[PackedLinear]:
        """All linears, the head last."""
        return [x for w in self._layers for x in (w.qkv, w.out, w.gate_up, w.down)] + [self._head]

    def new_cache(self, capacity: int) -> DenseCache:
        """An empty cache of ``capacity`` positions. SettingError beyond the model's positions."""
        cfg = self.config
        if capacity > cfg.max_positions:
            raise SettingError(
                f"{capacity} positions are asked for, but the model's context is {cfg.max_positions}; "
                "shorten the prompt or the answer"
            )
        storage = None if self.static is None else self.static.borrow(capacity)
        cache = DenseCache(
            storage=storage,
            num_layers=cfg.num_layers,
            num_kv_heads=cfg.num_kv_heads,
            head_dim=cfg.head_dim,
            capacity=capacity,
            dtype=self.attention_dtype,
            device=self.device,
            bucket=self.pins.bucket,
        )
        if self.static is not None:
            self.static.lend(cache)
        return cache

    def embed(self, tokens: Int[Tensor, "K"]) -> Float[Tensor, "K D"]:
        """Input embeddings."""
        return self._table.index_select(0, tokens.to(self.device))

    @torch.inference_mode()
    def unembed(self, states: Float[Tensor, "K D"]) -> Float[Tensor, "K V"]:
        """Logits, float32, of states after the final norm; the same bits whatever other rows come along."""
        states = states.to(self.device, self.dtype)
        pieces = [self._head(part) for part in states.split(self.pins.max_rows)]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).float()

    @torch.inference_mode()
    def prefill(self, embeds: Float[Tensor, "P D"], cache: DenseCache, capture: Sequence[int] = ()) -> PassResult:
        """Read a prompt and commit it. logits (1, V): the last position only; states {layer: (P, D)}.

        On an empty cache this is one pass; behind other positions it goes in pieces of ``pins.max_rows``.
        Raises SettingError when the cache has no room.
        """
        rows = embeds.shape[0]
        cache.check_room(rows)
        embeds = embeds.to(self.device, self.dtype)
        taps: dict[int, Tensor] = {}
        if cache.length == 0:
            cache.open_pass(rows)
            states = self._run_chain(embeds, cache, 0, capture, taps, fresh=True)
        else:
            states = self._chain(embeds, cache, capture, taps)
        cache.commit(range(rows))
        return PassResult(self.unembed(states[-1:]), taps)

    @torch.inference_mode()
    def score(
        self,
        tokens: Int[Tensor, "S"],
        cache: DenseCache,
        parents: Sequence[int] | None = None,
        capture: Sequence[int] = (),
    ) -> PassResult:
        """One pass over the root and a draft, behind what is committed; nothing is committed here.

        parents: as ``Draft.parents`` (node 0 is row 1); None for a chain. A row's bits are those that a 1-row pass
        over its own path would give, if ``exactness.bit_exact`` (a chain's even where trees are near-exact).
        Raises SettingError for a bad tree or when the cache has no room.
        """
        embeds = self.embed(tokens)
        taps: dict[int, Tensor] = {}
        if parents is not None and len(parents) != len(tokens) - 1:
            raise SettingError(f"{len(tokens)} rows need {len(tokens) - 1} parents, got {len(parents)}")
        if parents is None or list(parents) == list(range(-1, len(parents) - 1)):
            states = self._chain(embeds, cache, capture, taps)
        else:
            check_parents(parents)
            run = self._tree if self.tree_attention == "exact" else self._masked_tree
            states = run(embeds, cache, parents, capture, taps)
        return PassResult(self.unembed(states), taps)

    def plan_tree(self, parents: Sequence[int], base: int, first: int, num_rows: int) -> TreePlan:
        """Where rows ``first``.. of a tree pass look whose root stands at position ``base``."""
        cfg, threads = self.config, torch.get_num_threads()

        def starts(end: int) -> tuple[int, ...]:
            sizes = cfg.num_kv_heads, cfg.head_dim, self.pins.query_rows
            return block_starts(end, *sizes, self.attention_dtype, self.device, threads)

        shape = tree_shape(tuple(parents), first, num_rows, self.device)
        return TreePlan(shape, base, self.pins, starts)

    @torch.inference_mode()
    def sketch(self, token: int, cache: DenseCache, ahead: int, skip: frozenset[int]) -> Float[Tensor, "1 V"]:
        """Logits of one guessed row at position ``cache.length + ahead``, without the attention blocks in ``skip``.

        Behind the committed positions it sees the ``ahead`` rows that were sketched before it. Nothing is opened
        and nothing committed: its key and value lie in a slot that the next pass writes over.
        Raises SettingError when the cache has no room, and while a pass waits for its commit in those slots.
        """
        if cache.pending_rows:
            raise SettingError("a pass waits for its commit; sketch before it or after")
        cache.check_room(ahead + 1)
        embeds, start = self.embed(torch.tensor([token])), cache.length + ahead
        if self.static is not None:
            return self.unembed(self.static.run(embeds, cache, start, (), {}, skip))
        return self.unembed(self._run_chain(embeds, cache, start, (), {}, skip=skip))

    def run_rows(
        self,
        embeds: Float[Tensor, "S D"],
        cache: DenseCache,
        start: int,
        plan: TreePlan | None = None,
        num_layers: int | None = None,
    ) -> Float[Tensor, "S D"]:
        """One pinned pass at positions ``start``.., without bookkeeping; states after the final norm.

        num_layers: run only the first so many. For the self-test and for measurements.
        """
        if plan is not None:
            return self._run_tree(embeds, cache, plan, (), {}, num_layers)
        return self._run_chain(embeds, cache, start, (), {}, num_layers)

    def _chain(self, embeds: Tensor, cache: DenseCache, capture: Sequence[int], taps: dict[int, Tensor]) -> Tensor:
        rows = embeds.shape[0]
        cache.open_pass(rows)
        parts = []
        done = 0
        while done < rows:
            start = cache.length + done
            count = min(rows - done, self.pins.max_rows)
            got: dict[int, Tensor] = {}
            if self.static is not None:
                count = min(count, key_end(start, self.pins.bucket) - start)
                states = self.static.run(embeds[done : done + count], cache, start, capture, got)
            else:
                states = self._run_chain(embeds[done : done + count], cache, start, capture, got)
            parts.append((states, got))
            done += count
        return _join(parts, taps)

    def _tree(
        self,
        embeds: Tensor,
        cache: DenseCache,
        parents: Sequence[int],
        capture: Sequence[int],
        taps: dict[int, Tensor],
    ) -> Tensor:
        rows, width = embeds.shape[0], self.pins.max_rows
        cache.open_pass(rows)
        parts = []
        for start in range(0, rows, width):
            part = embeds[start : start + width]
            plan = self.plan_tree(parents, cache.length, start, len(part))
            got: dict[int, Tensor] = {}
            parts.append((self._run_tree(part, cache, plan, capture, got), got))
        return _join(parts, taps)

    def _masked_tree(
        self,
        x: Tensor,
        cache: DenseCache,
        parents: Sequence[int],
        capture: Sequence[int],
        taps: dict[int, Tensor],
    ) -> Tensor:
        rows, start = x.shape[0], cache.length
        cache.open_pass(rows)
        shape = tree_shape(tuple(parents), 0, rows, self.device)
        hidden = torch.zeros(rows, start + rows, dtype=torch.bool, device=self.device)
        hidden[:, start:] = torch.from_numpy(~shape.mask).to(self.device)
        positions = torch.from_numpy(shape.depths).to(self.device) + start

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            return attend_masked(q, k, v, cache, layer, start, hidden, self.pins)

        return self.run_layers(x, self.turns.index_select(0, positions), attend, capture, taps)

    def _run_chain(
        self,
        x: Tensor,
        cache: DenseCache,
        start: int,
        capture: Sequence[int],
        taps: dict[int, Tensor],
        num_layers: int | None = None,
        fresh: bool = False,
        skip: Set[int] = frozenset(),
    ) -> Tensor:
        """Rows at positions ``start``.. . fresh: a prompt's first pass, which attends to itself only and whose
        arithmetic nothing else has to match. skip: layers that do not attend."""

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            return attend_chain(q, k, v, cache, layer, start, self.pins, fresh)

        turns = self.turns[start : start + len(x)]
        if fresh or skip or not self._in_one_call(len(x), cache, capture):
            return self.run_layers(x, turns, attend, capture, taps, num_layers, skip)
        return self._run_stack(x, turns, cache, kernels.Walk(start), capture, taps, num_layers)

    def _run_tree(
        self,
        x: Tensor,
        cache: DenseCache,
        plan: TreePlan,
        capture: Sequence[int],
        taps: dict[int, Tensor],
        num_layers: int | None = None,
    ) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            return attend_tree(q, k, v, cache, layer, plan, self.pins)

        turns = self.turns.index_select(0, plan.positions)
        if not self._in_one_call(len(x), cache, capture):
            return self.run_layers(x, turns, attend, capture, taps, num_layers)
        return self._run_stack(x, turns, cache, plan.walk, capture, taps, num_layers)

    def _in_one_call(self, rows: int, cache: DenseCache, capture: Sequence[int]) -> bool:
        """Whether our own kernels have all of a pass; its bits are those of ``run_layers``."""
        return self._stack is not None and SIMILARITY not in capture and self._stack.takes(rows, cache.keys)

    def _run_stack(
        self,
        x: Tensor,
        turns: Tensor,
        cache: DenseCache,
        walk: kernels.Walk,
        capture: Sequence[int],
        taps: dict[int, Tensor],
        num_layers: int | None,
    ) -> Tensor:
        assert self._stack is not None, "ask _in_one_call() first"
        x = self._stack(x, turns, cache.keys, cache.values, walk, taps, capture, num_layers)
        return self._finish(x, capture, taps)

    def run_layers(
        self,
        x: Float[Tensor, "S D"],
        turns: Complex[Tensor, "S 1 half"],
        attend: Attend,
        capture: Sequence[int],
        taps: dict[int, Tensor],
        num_layers: int | None = None,
        skip: Set[int] = frozenset(),
    ) -> Float[Tensor, "S D"]:
        """Rows through all layers (or the first ``num_layers``) and the final norm; captured states go to ``taps``.

        turns: rotations of the rows' positions. attend: (q, k, v, layer) -> mixed values (S, heads x head_dim).
        skip: layers whose attention is left out; their feed-forward runs.
        """
        lengths: list[Tensor] = []
        for i, layer in enumerate(self._layers[:num_layers]):
            # a new tensor either way: the caller's embeddings stay as they are
            mixed = x.clone() if i in skip else layer.mix(x, turns, attend, i)
            if SIMILARITY in capture:
                lengths += [
                    torch.linalg.vector_norm(rows, dim=-1, dtype=self._wide) for rows in (x, mixed, mixed - x)
                ]
            x = layer.feed(mixed)
            if i in capture:
                taps[i] = x
        if lengths:
            # by the law of cosines: three lengths a layer are less work than products of widened rows
            a, b, c = torch.stack(lengths, dim=-1).unflatten(-1, (-1, 3)).unbind(-1)  # (S, L) each
            taps[SIMILARITY] = (a * a + b * b - c * c) / (2 * a * b)
        return self._finish(x, capture, taps)

    def _finish(self, x: Tensor, capture: Sequence[int], taps: dict[int, Tensor]) -> Tensor:
        x = self._norm(x)
        if -1 in capture:
            taps[-1] = x
        return x


def _stack_of(layers: Sequence[PackedLayer]) -> kernels.Stack | None:
    """All layers in one call, where our own kernels have each of them."""
    own, library = [layer.own for layer in layers if layer.own is not None], kernels.status().library
    return None if library is None or len(own) < len(layers) else kernels.Stack(library, own)


def _check_trees(kind: str) -> None:
    if kind not in get_args(TreeAttention):
        raise SettingError(f"tree attention is '{kind}'; known: {', '.join(get_args(TreeAttention))}")


def _join(parts: list[tuple[Tensor, dict[int, Tensor]]], taps: dict[int, Tensor]) -> Tensor:
    """Put the pieces of a pass together (one piece: as it is)."""
    if len(parts) == 1:
        taps.update(parts[0][1])
        return parts[0][0]
    taps.update({k: torch.cat([p[1][k] for p in parts]) for k in parts[0][1]})
    return torch.cat([p[0] for p in parts])
