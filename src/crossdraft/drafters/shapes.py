"""Draft trees of fixed form: which rank of its parent's guesses every node is, and how they are filled by level."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import StaticTree, depths, path_to

Shape = Literal["dynamic", "static", "chain"]
MAX_NODES = 63
"""A root and so many nodes: the widest pass that shares its arithmetic with plain decoding."""
MAX_DEPTH = 64
"""Levels of a tree, at most."""


def check_size(nodes: int | None, depth: int | None) -> None:
    """SettingError for a tree that is to have too many nodes or levels, or none; None: nothing is asked for."""
    for name, value, most in (("nodes", nodes, MAX_NODES), ("depth", depth, MAX_DEPTH)):
        if value is not None and not 1 <= value <= most:
            raise SettingError(f"{name} is {value}, must be from 1 to {most}")


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one depth. rows: which expanded parent each hangs under; ranks: which of its guesses it is;
    most: ranks that are needed. inner: those (numbers within the level) that have children; paths: for each of
    these, the nodes from the root's child down to it, numbered in the order in which inner nodes are passed on."""

    depth: int
    nodes: Int[Tensor, "n"]
    rows: Int[Tensor, "n"]
    ranks: Int[Tensor, "n"]
    most: int
    inner: Int[Tensor, "m"]
    paths: Int[Tensor, "m depth"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A static tree, ready to be filled. parents: as a draft has them; most: ranks that its widest level needs."""

    levels: tuple[Level, ...]
    parents: Int[Tensor, "N"]
    most: int


def chain_of(length: int) -> StaticTree:
    """Every node is its parent's best guess."""
    return StaticTree(tuple(range(-1, length - 1)), (0,) * length)


def plan_of(tree: StaticTree, deepest: int) -> Plan:
    """How ``tree`` is filled, without what lies deeper than ``deepest`` (1 or more).

    Raises SettingError unless its nodes come level by level.
    """
    # as long as the tree fits it is one plan, however much room an answer has left
    return _plan_of(tree, max(1, min(deepest, tree.depth)))


@lru_cache(maxsize=256)
def _plan_of(tree: StaticTree, deepest: int) -> Plan:
    deep = depths(tree.parents)
    if not len(tree) or bool((deep[1:] < deep[:-1]).any()):
        raise SettingError("a static tree has one node or more, level by level")
    kept = int((deep <= deepest).sum())
    parents, ranks, depth = tree.parents[:kept], tree.ranks[:kept], deep[:kept].tolist()
    has_children = set(parents)
    expanded = [[n for n in range(kept) if depth[n] == d and n in has_children] for d in range(max(depth) + 1)]
    number = {n: place for place, n in enumerate(n for level in expanded for n in level)}
    levels = []
    for d in range(1, max(depth) + 1):
        nodes = [n for n in range(kept) if depth[n] == d]
        rows = [0 if d == 1 else expanded[d - 1].index(parents[n]) for n in nodes]
        paths = [[number[m] for m in path_to(parents, n)] for n in expanded[d]]
        own = [ranks[n] for n in nodes]
        levels.append(
            Level(
                d, torch.tensor(nodes), torch.tensor(rows), torch.tensor(own), max(own) + 1,
                torch.tensor([nodes.index(n) for n in expanded[d]], dtype=torch.long),
                torch.tensor(paths, dtype=torch.int32).view(len(paths), d),
            )
        )  # fmt: skip
    return Plan(tuple(levels), torch.tensor(parents), max(ranks) + 1)
