"""Layouts of a tree, the blocks of a sum, and the bits of both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.tree import path_to
from crossdraft.nn import engine as engine_module
from crossdraft.nn.pins import Pins
from crossdraft.nn.seams import block_starts
from crossdraft.nn.trees import TreePlan, tree_shape

CPU = torch.device("cpu")


@st.composite
def trees(draw: st.DrawFn, most: int = 24) -> list[int]:
    return [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(1, most)))]


def path_of(parents, row):
    return [0, *(n + 1 for n in path_to(parents, row - 1))] if row else [0]


@settings(max_examples=120, deadline=None)
@given(trees(), st.integers(0, 300), st.data())
def test_every_row_is_mixed_once_with_its_path_in_order_and_in_its_blocks(parents, base, data):
    total = len(parents) + 1
    first = data.draw(st.integers(0, total - 1))
    blocks = data.draw(st.sampled_from([1, 16, 48, 192, 10_000]))
    pins = Pins(bucket=64)
    shape = tree_shape(tuple(parents), first, total - first, CPU)
    plan = TreePlan(shape, base, pins, lambda end: tuple(range(0, end, blocks)))
    answered = []
    for group in plan.groups:
        edges = np.arange(0, group.end, blocks)

        def block(slot, edges=edges):
            return int(np.searchsorted(edges, slot, side="right"))

        for i, row in enumerate(group.rows.tolist()):
            path = path_of(parents, row + first)
            assert plan.positions[row] == base + len(path) - 1
            assert group.end == (int(plan.positions[row]) // 64 + 1) * 64
            slots = [base + c for c in group.columns[i].tolist()][: len(path)]
            assert slots == sorted(set(slots)) and slots[-1] < group.end
            assert [block(s) for s in slots] == [block(base + depth) for depth in range(len(path))]
            if not group.layouts:
                assert slots == [base + r for r in path]
        for layout in group.layouts:
            placed = dict(zip(layout.rows.tolist(), layout.slots.tolist(), strict=True))
            assert len(set(placed.values())) == len(placed)
            assert group.rows[layout.members].tolist() == layout.answered.tolist()
            for member, row in zip(layout.members.tolist(), layout.answered.tolist(), strict=True):
                path = path_of(parents, row + first)
                got = [base + c for c in group.columns[member].tolist()][: len(path)]
                assert got == [placed[r] for r in path]
            answered += layout.answered.tolist()
        if not group.layouts:
            answered += group.rows.tolist()
    assert sorted(answered) == list(range(total - first))


def test_one_layout_where_the_tree_fits_and_one_path_each_where_nothing_may_move():
    parents = [-1, -1, 0, 0, 1, 1, 4]
    shape = tree_shape(tuple(parents), 0, 8, CPU)
    roomy = TreePlan(shape, 20, Pins(), lambda end: (0,))
    assert [g.layouts for g in roomy.groups] == [()]
    strict = TreePlan(shape, 20, Pins(), range)
    assert len(strict.groups[0].layouts) == 4
    crossing = TreePlan(shape, 126, Pins(), lambda end: (0,))
    assert [g.end for g in crossing.groups] == [128, 256]


# blocks finer than the library's own are as good, down to one slot each: then it is path by path
@pytest.mark.parametrize("blocks", [1, 8, 64])
@settings(max_examples=8, deadline=None)
@given(parents=trees(20), length=st.sampled_from([3, 50, 115, 190]))
def test_finer_blocks_give_the_same_bits(half_engine, blocks, parents, length):
    ids = torch.randint(131, (length + len(parents) + 1,), generator=torch.Generator().manual_seed(length))
    cache = half_engine.new_cache(300)
    half_engine.prefill(half_engine.embed(ids[:length]), cache)
    want = half_engine.score(ids[length:], cache, parents=parents).logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "block_starts", lambda end, *_: tuple(range(0, end, blocks)))
        got = half_engine.score(ids[length:], cache, parents=parents).logits
    assert torch.equal(got, want)


def test_the_values_lie_as_written_after_a_tree_that_was_mixed_in_parts(half_engine):
    """The commit gathers rows: whatever was laid out meanwhile must be back."""
    ids = torch.randint(131, (150,), generator=torch.Generator().manual_seed(0))
    parents = [-1, -1, 0, 1, 2, 3]
    rows = {}
    for length in (60, 124):
        cache = half_engine.new_cache(200)
        half_engine.prefill(half_engine.embed(ids[:length]), cache)
        half_engine.score(ids[length : length + 7], cache, parents=parents)
        cache.commit([0, 2, 4, 6])
        fresh = half_engine.new_cache(200)
        half_engine.prefill(half_engine.embed(ids[:length]), fresh)
        for row in (0, 2, 4, 6):
            half_engine.score(ids[length + row : length + row + 1], fresh)
            fresh.commit([0])
        rows[length] = (cache.values[:, :, : cache.length], fresh.values[:, :, : fresh.length])
    assert all(torch.equal(*pair) for pair in rows.values())


@pytest.fixture
def blocks_of(monkeypatch):
    """``block_starts`` over a product of one's own."""

    def find(product, end=160, rows=4):
        block_starts.cache_clear()
        monkeypatch.setattr(torch, "bmm", product)
        try:
            return block_starts(end, 2, 8, rows, torch.float32, CPU, 1)
        finally:
            monkeypatch.undo()
            block_starts.cache_clear()

    return find


def in_blocks(starts):
    """A product that adds term after term within blocks, and then the blocks."""

    def product(a, b):
        out = torch.zeros(a.shape[0], a.shape[1], b.shape[2])
        for start, stop in zip(starts, [*starts[1:], a.shape[2]], strict=True):
            part = torch.zeros_like(out)
            for t in range(start, stop):
                part = part + a[..., t, None] * b[:, None, t]
            out = out + part
        return out

    return product


def test_the_blocks_of_a_sum_are_found(blocks_of):
    assert blocks_of(in_blocks([0])) == (0,)
    assert blocks_of(in_blocks([0, 48, 112])) == (0, 48, 112)


def test_a_sum_whose_terms_cannot_be_moved_is_told(blocks_of):
    every = tuple(range(160))

    def two_sums(a, b):
        return in_blocks([0])(a[..., ::2], b[:, ::2]) + in_blocks([0])(a[..., 1::2], b[:, 1::2])

    assert blocks_of(two_sums) == every
    # a block that begins where the probe does not look
    assert blocks_of(in_blocks([0, 53])) == every


def test_the_blocks_found_here_hold_for_this_machines_products():
    starts = block_starts(384, 3, 64, 4, torch.float32, CPU, torch.get_num_threads())
    assert starts[0] == 0 and list(starts) == sorted(set(starts)) and starts[-1] < 384
