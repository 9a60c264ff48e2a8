import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossdraft.core import tree
from crossdraft.core.errors import SettingError


@st.composite
def parent_lists(draw: st.DrawFn) -> list[int]:
    size = draw(st.integers(0, 24))
    return [draw(st.integers(-1, node - 1)) for node in range(size)]


@settings(max_examples=100, deadline=None)
@given(parent_lists())
def test_the_mask_is_the_ancestor_relation(parents: list[int]) -> None:
    mask = tree.ancestor_mask(parents)
    assert mask.shape == (len(parents), len(parents))
    for node in range(len(parents)):
        assert set(torch.nonzero(mask[node]).flatten().tolist()) == set(tree.path_to(parents, node))


@settings(max_examples=100, deadline=None)
@given(parent_lists())
def test_depth_is_the_length_of_the_path(parents: list[int]) -> None:
    depths = tree.depths(parents).tolist()
    assert depths == [len(tree.path_to(parents, node)) for node in range(len(parents))]


@settings(max_examples=100, deadline=None)
@given(parent_lists())
def test_every_node_lies_on_the_path_to_some_leaf(parents: list[int]) -> None:
    tree.check_parents(parents)
    leaves = tree.leaves(parents)
    reached = {node for leaf in leaves for node in tree.path_to(parents, leaf)}
    assert reached == set(range(len(parents)))
    assert all(leaf not in parents for leaf in leaves)


@pytest.mark.parametrize("parents", [[0], [-2], [-1, 1], [-1, 0, 5]])
def test_a_parent_must_precede_its_child(parents: list[int]) -> None:
    with pytest.raises(SettingError, match="must be -1"):
        tree.check_parents(parents)


def test_a_chain_is_a_tree() -> None:
    parents = [-1, 0, 1, 2]
    assert tree.leaves(parents) == [3]
    assert tree.path_to(parents, 3) == [0, 1, 2, 3]
    assert torch.equal(tree.ancestor_mask(parents), torch.ones(4, 4).tril().bool())


@st.composite
def valued_trees(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Parents and path values that never rise from parent to child; few distinct steps, so ties are common."""
    parents = [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(1, 9)))]
    values: list[float] = []
    for parent in parents:
        values.append((values[parent] if parent >= 0 else 1.0) * draw(st.sampled_from([1.0, 0.5, 0.25, 0.7])))
    return parents, values


def connected_sets(parents: list[int], count: int) -> Iterator[tuple[int, ...]]:
    for nodes in itertools.combinations(range(len(parents)), count):
        if all(parents[n] < 0 or parents[n] in nodes for n in nodes):
            yield nodes


@settings(max_examples=150, deadline=None)
@given(valued_trees(), st.integers(1, 10))
def test_selection_is_the_best_of_all_connected_sets(grown: tuple[list[int], list[float]], count: int) -> None:
    parents, values = grown
    kept, renumbered = tree.select(np.array(values, dtype=float), np.array(parents), count)
    nodes = kept.tolist()
    size = min(count, len(parents))
    assert len(nodes) == size and nodes == sorted(nodes)
    best = max(sum(values[n] for n in s) for s in connected_sets(parents, size))
    assert sum(values[n] for n in nodes) == pytest.approx(best, abs=1e-12)
    assert renumbered.tolist() == [nodes.index(parents[n]) if parents[n] >= 0 else -1 for n in nodes]
    # ties: no earlier node was left out for an equal one
    left = [n for n in range(len(parents)) if n not in nodes]
    assert not any(values[a] == values[b] and a < b for a in left for b in nodes)


def test_selection_refuses_values_that_are_not_of_paths() -> None:
    with pytest.raises(AssertionError, match="outvalues"):
        tree.select(np.array([0.1, 0.9]), np.array([-1, 0]), 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_static_tree_is_what_greedy_growth_gives(data: st.DataObject) -> None:
    heads, ranks = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    accuracies = torch.rand(heads, ranks, dtype=torch.float64, generator=draw)
    count = data.draw(st.integers(1, 12))
    worth = {
        path: float(torch.stack([accuracies[d, r] for d, r in enumerate(path)]).prod())
        for depth in range(1, heads + 1)
        for path in itertools.product(range(ranks), repeat=depth)
    }
    grown: set[tuple[int, ...]] = set()
    while len(grown) < min(count, len(worth)):
        open_nodes = [p for p in worth if p not in grown and (len(p) == 1 or p[:-1] in grown)]
        grown.add(max(open_nodes, key=lambda p: worth[p]))
    got = tree.static_tree(accuracies, count)
    assert got == tree.StaticTree.of_paths(grown)


def test_the_static_tree_of_eagle_is_the_published_one() -> None:
    assert len(tree.EAGLE_1) == 25 and tree.EAGLE_1.depth == 5
    assert torch.bincount(tree.depths(tree.EAGLE_1.parents)).tolist() == [0, 4, 8, 8, 3, 2]
    children = [tree.EAGLE_1.parents.count(n) for n in range(-1, 25)]
    assert children[:13] == [4, 3, 2, 2, 1, 3, 2, 2, 1, 0, 0, 0, 0]
    # the deepest path follows the likeliest guess everywhere
    deepest = tree.path_to(tree.EAGLE_1.parents, 23)
    assert [tree.EAGLE_1.ranks[n] for n in deepest] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("paths", [[(0, 1)], [(0,), (0,)], [()]])
def test_paths_that_are_no_tree_are_refused(paths: list[tuple[int, ...]]) -> None:
    with pytest.raises(SettingError, match="static tree"):
        tree.StaticTree.of_paths(paths)


@settings(max_examples=40, deadline=None)
@given(parent_lists(), st.integers(1, 4))
def test_paths_grown_level_by_level_are_the_whole_trees(parents: list[int], width: int) -> None:
    """Below the nodes at one depth, and below one another again."""
    assume(parents)
    deep = tree.depths(parents).tolist()
    nodes = [n for n in range(len(parents)) if deep[n] == max(deep)]
    paths = np.array([tree.path_to(parents, n) for n in nodes])
    above = np.arange(min(width, len(nodes)))
    grown = [*parents, *(nodes[row] for row in above)]
    paths = tree.extend_paths(paths, above, len(parents))
    assert paths.tolist() == [tree.path_to(grown, n) for n in range(len(parents), len(grown))]
    again = tree.extend_paths(paths, above[::-1], len(grown))
    grown += [len(parents) + row for row in above[::-1]]
    assert again.tolist() == [tree.path_to(grown, n) for n in range(len(grown) - len(above), len(grown))]


@settings(max_examples=150, deadline=None)
@given(parent_lists(), st.data())
def test_a_grafted_chain_is_in_the_tree_once(parents: list[int], data: st.DataObject) -> None:
    """Every path of the tree and of the chain is a path of the result, and no two nodes stand for the same path."""

    def paths(tokens: list[int], above: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[n] for n in tree.path_to(above, node)) for node in range(len(tokens))]

    tokens = data.draw(st.lists(st.integers(0, 3), min_size=len(parents), max_size=len(parents)))
    seen: set[tuple[int, ...]] = set()
    kept: list[int] = []
    for node, path in enumerate(paths(tokens, parents)):  # a tree whose siblings differ, as drafters make them
        if path not in seen and (parents[node] == -1 or parents[node] in kept):
            seen.add(path)
            kept.append(node)
    own = [tokens[n] for n in kept]
    above = [-1 if parents[n] == -1 else kept.index(parents[n]) for n in kept]
    chain = data.draw(st.lists(st.integers(0, 3), max_size=6))
    made, under = tree.graft(*(torch.tensor(x, dtype=torch.long) for x in (own, above, chain)))
    assert made[: len(own)].tolist() == own and under[: len(own)].tolist() == above
    found = paths(made.tolist(), under.tolist())
    assert len(set(found)) == len(found)
    assert set(found) == set(paths(own, above)) | {tuple(chain[: k + 1]) for k in range(len(chain))}
