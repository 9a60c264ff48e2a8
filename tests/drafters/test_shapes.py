from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import EAGLE_1, StaticTree, ancestor_mask, depths
from crossdraft.drafters.shapes import chain_of, plan_of


@st.composite
def trees(draw: Any) -> StaticTree:
    """Any tree whose nodes come level by level, siblings with any different ranks."""
    paths: set[tuple[int, ...]] = {(draw(st.integers(0, 3)),)}
    for _ in range(draw(st.integers(0, 14))):
        above = draw(st.sampled_from([*sorted(paths), ()]))
        paths.add((*above, draw(st.integers(0, 3))))
    return StaticTree.of_paths(paths)


@given(tree=trees(), deepest=st.integers(1, 8))
def test_a_plan_fills_every_node_from_its_parent(tree: StaticTree, deepest: int) -> None:
    """Replayed with node numbers for guesses: every node is hung where the tree says."""
    plan = plan_of(tree, deepest)
    deep = depths(tree.parents)
    kept = int((deep <= deepest).sum())
    assert plan.parents.tolist() == list(tree.parents[:kept])
    assert plan.most == max(tree.ranks[:kept]) + 1
    mask = ancestor_mask(tree.parents[:kept])
    guesses, order, filled = [-1], [], []  # whose guesses each row holds; expanded nodes in the order of their pass
    for level in plan.levels:
        assert level.most == max(tree.ranks[n] for n in level.nodes.tolist()) + 1
        for node, row, rank in zip(level.nodes.tolist(), level.rows.tolist(), level.ranks.tolist(), strict=True):
            assert int(deep[node]) == level.depth
            assert guesses[row] == tree.parents[node] and rank == tree.ranks[node]
            filled.append(node)
        guesses = [int(level.nodes[i]) for i in level.inner]
        order += guesses
        assert set(guesses) == {p for p in tree.parents[:kept] if p >= 0 and int(deep[p]) == level.depth}
        assert level.paths.shape == (len(guesses), level.depth)
        for row, node in enumerate(guesses):
            path = [order[number] for number in level.paths[row].tolist()]
            assert path == mask[node].nonzero()[:, 0].tolist()
    assert filled == list(range(kept)) and not len(plan.levels[-1].inner)


def test_a_chain_and_a_cut() -> None:
    chain = chain_of(4)
    assert chain.parents == (-1, 0, 1, 2) and chain.ranks == (0, 0, 0, 0)
    assert [len(level.nodes) for level in plan_of(EAGLE_1, 2).levels] == [4, 8]
    assert len(plan_of(EAGLE_1, 0).parents) == 4, "one level at least"


def test_one_plan_for_all_rooms_that_are_wide_enough() -> None:
    assert plan_of(EAGLE_1, 5) is plan_of(EAGLE_1, 500)
    assert plan_of(EAGLE_1, 4) is not plan_of(EAGLE_1, 5)


def test_other_trees_are_refused() -> None:
    for tree in (StaticTree((), ()), StaticTree((-1, 0, -1), (0, 0, 1))):
        with pytest.raises(SettingError, match="level by level"):
            plan_of(tree, 3)
    assert torch.equal(plan_of(chain_of(1), 9).parents, torch.tensor([-1]))
