"""Draft trees of fixed form: which rank of its parent's guesses every node is, and how they are filled by level."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import check_parents, depths

Shape = Literal["dynamic", "static", "chain"]

# arXiv 2401.15077's code, mc_sim_7b_63: a node is the ranks on its path
_EAGLE_PATHS = (
    (0,), (1,), (2,), (3,),
    (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0),
    (0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1), (0, 2, 0), (0, 2, 1), (1, 0, 0),
    (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2),
    (0, 0, 0, 0, 0), (0, 0, 0, 0, 1),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one depth. rows: which expanded parent each hangs under; ranks: which of its guesses it is; most:
    ranks that are needed. inner: those (numbers within the level) that have children; seen: for each of these, which
    inner nodes up to and including this level lie on its path."""

    depth: int
    nodes: Int[Tensor, "n"]
    rows: Int[Tensor, "n"]
    ranks: Int[Tensor, "n"]
    most: int
    inner: Int[Tensor, "m"]
    seen: Bool[Tensor, "m used"]


@dataclass(frozen=True)
class StaticTree:
    """parents: as ``Draft.parents``, level by level; ranks: of each node among its parent's guesses, best first.

    Raises SettingError when they are no such tree.
    """

    parents: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        check_parents(self.parents)
        if not self.parents or len(self.ranks) != len(self.parents) or min(self.ranks) < 0:
            raise SettingError("a static tree needs one node or more, and one rank from 0 on for each")
        depth = depths(self.parents).tolist()
        if depth != sorted(depth):
            raise SettingError("the nodes of a static tree must come level by level")

    @classmethod
    def chain(cls, length: int) -> "StaticTree":
        """Every node is its parent's best guess."""
        return cls(tuple(range(-1, length - 1)), (0,) * length)

    @classmethod
    def of_paths(cls, paths: Sequence[Sequence[int]]) -> "StaticTree":
        """From the ranks on the way to each node. SettingError when a node's parent is not there."""
        listed = sorted((tuple(path) for path in paths), key=lambda path: (len(path), path))
        number = {path: n for n, path in enumerate(listed)}
        if any(len(path) > 1 and path[:-1] not in number for path in listed):
            raise SettingError("a static tree has a node without its parent")
        return cls(tuple(number.get(path[:-1], -1) for path in listed), tuple(path[-1] for path in listed))

    @classmethod
    def eagle(cls) -> "StaticTree":
        """The 25 nodes of EAGLE, arXiv 2401.15077: 4, 8, 8, 3 and 2 by level."""
        return cls.of_paths(_EAGLE_PATHS)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """How it is filled."""
        return _levels(self.parents, self.ranks)

    @cached_property
    def parents_tensor(self) -> Int[Tensor, "N"]:
        """``parents`` as a draft has them."""
        return torch.tensor(self.parents)

    @property
    def depth(self) -> int:
        """Its deepest level."""
        return len(self.levels)

    def down_to(self, depth: int) -> "StaticTree":
        """Without what lies deeper than ``depth`` (1 or more)."""
        return _cut(self, depth)


@lru_cache(maxsize=64)
def _cut(whole: StaticTree, depth: int) -> StaticTree:
    kept = int((depths(whole.parents) <= max(1, depth)).sum())
    return whole if kept == len(whole.parents) else StaticTree(whole.parents[:kept], whole.ranks[:kept])


@lru_cache(maxsize=64)
def _levels(parents: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Level, ...]:
    depth = depths(parents).tolist()
    has_children = set(parents)
    expanded = [[n for n in range(len(parents)) if depth[n] == d and n in has_children] for d in range(max(depth) + 1)]
    order = [n for level in expanded for n in level]
    levels = []
    for d in range(1, max(depth) + 1):
        nodes = [n for n in range(len(parents)) if depth[n] == d]
        rows = [0 if d == 1 else expanded[d - 1].index(parents[n]) for n in nodes]
        used = order[: sum(len(level) for level in expanded[: d + 1])]
        seen = torch.zeros(len(expanded[d]), len(used), dtype=torch.bool)
        for i, n in enumerate(expanded[d]):
            at = n
            while at >= 0:
                seen[i, used.index(at)] = True
                at = parents[at]
        own = [ranks[n] for n in nodes]
        levels.append(
            Level(
                d, torch.tensor(nodes), torch.tensor(rows), torch.tensor(own), max(own) + 1,
                torch.tensor([nodes.index(n) for n in expanded[d]], dtype=torch.long), seen,
            )
        )  # fmt: skip
    return tuple(levels)
