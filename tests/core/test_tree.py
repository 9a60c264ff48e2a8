import pytest
import torch
from hypothesis import given, settings
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
