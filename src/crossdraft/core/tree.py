"""Pure functions on a tree's parent array. A chain is the tree with parents[i] == i - 1; -1 is the root."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossdraft.core.errors import SettingError

Array = np.ndarray
Parents = Sequence[int] | Tensor


def check_parents(parents: Sequence[int]) -> None:
    """SettingError unless every parent precedes its child and is -1 or a node."""
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise SettingError(
                f"node {node} has parent {parent}; a parent must be -1 (the root) or precede its child"
            )


# what comes every round is computed by numpy, whose small operations cost a tenth of torch's


def _jumps(parents: Parents) -> Iterator[Int[Array, "N+1"]]:
    """Each node's ancestor 1, 2, 4, ... levels up; N stands for "above the tree", also as the last entry."""
    up = parents.numpy(force=True) if isinstance(parents, Tensor) else np.asarray(parents, dtype=np.int64)
    size = len(up)
    jump = np.full(size + 1, size)
    jump[:size] = np.where(up < 0, size, up)
    while (jump < size).any():
        yield jump
        jump = jump[jump]


def depths(parents: Parents) -> Int[Tensor, "N"]:
    """Depth of each node; children of the root have depth 1."""
    depth = np.ones(len(parents) + 1, dtype=np.int64)
    depth[-1] = 0
    for jump in _jumps(parents):
        depth = depth + depth[jump]
    return torch.from_numpy(depth[:-1])


def ancestor_mask(parents: Parents) -> Bool[Tensor, "N N"]:
    """mask[i, j]: node j lies on the path from the root to node i, i itself included."""
    size = len(parents)
    mask = np.eye(size + 1, size, dtype=bool)
    for jump in _jumps(parents):
        mask = mask | mask[jump]
    return torch.from_numpy(mask[:-1])


def extend_paths(paths: Int[Array, "R D"], above: Int[Array, "K"], first: int) -> Int[Array, "K D+1"]:
    """Paths of K new nodes, numbered from ``first`` on, each under the last node of row ``above`` of ``paths``.

    For trees that grow level by level.
    """
    new = np.arange(first, first + len(above), dtype=paths.dtype)
    return np.concatenate((paths[above], new[:, None]), 1)


def path_to(parents: Sequence[int], node: int) -> list[int]:
    """Nodes from the root's child down to ``node``."""
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def leaves(parents: Sequence[int]) -> list[int]:
    """Nodes without children, in order."""
    inner = set(parents)
    return [n for n in range(len(parents)) if n not in inner]


def select(
    values: Float[Array, "N"], parents: Int[Array, "N"], count: int
) -> tuple[Int[Array, "K"], Int[Array, "K"]]:
    """The best connected tree of ``count`` nodes (or all, if fewer): indices of its nodes, rising, and its parents.

    values: of whole paths (products of probabilities, or sums of their logarithms), so that a child never outvalues
    its parent: then the ``count`` greatest values are connected, and no connected set has a greater sum. Of equal
    values the earlier nodes are kept; where nodes come level by level, those are the shallower ones.
    Source: Li et al., "EAGLE-2", arXiv 2406.16858, section 4.2 (re-ranking).
    """
    return subtree(parents, best_of(values, count))


def best_of(values: Float[Array, "N"], count: int) -> Int[Array, "K"]:
    """Places of the ``count`` greatest values (or all, if fewer), falling, of equal ones the earlier first."""
    return np.argsort(-values, kind="stable")[:count]


def subtree(parents: Int[Array, "N"], nodes: Int[Array, "K"]) -> tuple[Int[Array, "K"], Int[Array, "K"]]:
    """Connected nodes as a tree of their own: their places, rising, and their parents in it."""
    kept = np.sort(nodes)
    # the last entry is the root's: parent -1 indexes it
    place = np.full(len(parents) + 1, -2)
    place[-1], place[kept] = -1, np.arange(len(kept))
    above = place[parents[kept]]
    assert above.min(initial=-1) >= -1, "not connected: a child outvalues its parent"
    return kept, above


def descend(tokens: Tensor | Array, parents: Tensor | Array, wanted: Callable[[int], int | None]) -> list[int]:
    """The nodes of the path that is walked down as long as some child of the last node (-1: the root) is the token
    that is ``wanted`` there; of equal siblings the first."""
    child: dict[tuple[int, int], int] = {}
    for node, place in enumerate(zip(parents.tolist(), tokens.tolist(), strict=True)):
        child.setdefault(place, node)
    path = [-1]
    while (token := wanted(path[-1])) is not None and (below := child.get((path[-1], token))) is not None:
        path.append(below)
    return path[1:]


def spelling(tokens: Tensor | Array, parents: Tensor | Array, text: Iterable[int]) -> list[int]:
    """The nodes of the path that spells ``text``, as far as the tree has it."""
    said = iter(text)
    return descend(tokens, parents, lambda node: next(said, None))


def graft(
    tokens: Int[Tensor, "N"], parents: Int[Tensor, "N"], chain: Int[Tensor, "K"]
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """A tree with a chain of tokens under its root: (tokens, parents), the tree's own nodes first.

    As far as the tree has the chain's tokens on one path already, its nodes serve for both.
    """
    shared = spelling(tokens, parents, chain.tolist())
    rest = chain[len(shared) :]
    below = torch.arange(len(tokens) - 1, len(tokens) - 1 + len(rest))
    below[:1] = shared[-1] if shared else -1
    return torch.cat((tokens, rest)), torch.cat((parents, below))


@dataclass(frozen=True)
class StaticTree:
    """A tree that is fixed in advance, level by level.

    Node i takes guess number ``ranks[i]`` (0 = the likeliest) for the position behind ``parents[i]``.
    """

    parents: tuple[int, ...]
    ranks: tuple[int, ...]

    @classmethod
    def of_paths(cls, paths: Iterable[Sequence[int]]) -> "StaticTree":
        """From the published form: for every node, the ranks on its path from the root.

        Raises SettingError for a path whose beginning is missing, or that occurs twice.
        """
        ordered = sorted((tuple(p) for p in paths), key=lambda p: (len(p), p))
        place = {path: i for i, path in enumerate(ordered)} | {(): -1}
        for path in ordered:
            if not path or path[:-1] not in place:
                raise SettingError(f"static tree: path {path} needs its beginning {path[:-1]} as a node of its own")
        if len(place) != len(ordered) + 1:
            raise SettingError("static tree: a path occurs twice")
        return cls(tuple(place[p[:-1]] for p in ordered), tuple(p[-1] for p in ordered))

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def depth(self) -> int:
        """Depth of the deepest node."""
        return int(depths(self.parents).max()) if self.parents else 0


def static_tree(accuracies: Float[Tensor, "heads ranks"], count: int) -> StaticTree:
    """The ``count`` nodes of greatest expected acceptance.

    accuracies[d, r]: how often guess r, d + 1 levels down, is right. A node is worth the product along its path
    (heads taken as independent), so the sum over the tree is the expected number of accepted tokens.

    Equal to adding the best connected node again and again. Source: Cai et al., "Medusa", arXiv 2401.10774,
    section 2.3.3.
    """
    value = np.ones(1)
    above, worth, above_of, rank_of = np.array([-1]), [], [], []
    num_ranks, nodes = accuracies.shape[1], 0
    for level in accuracies.double().numpy(force=True):
        worths = (value[:, None] * level).ravel()
        # no tree of ``count`` nodes takes more than the best ``count`` of a level
        best = np.sort(np.argsort(-worths, kind="stable")[:count])
        value = worths[best]
        worth.append(value)
        above_of.append(above[best // num_ranks])
        rank_of.append(best % num_ranks)
        above = np.arange(nodes, nodes + len(best))
        nodes += len(best)
    kept, parents = select(np.concatenate(worth), np.concatenate(above_of), count)
    return StaticTree(tuple(parents.tolist()), tuple(np.concatenate(rank_of)[kept].tolist()))


EAGLE_1 = StaticTree.of_paths(
    [(a,) for a in range(4)]
    + [(a, b) for a, width in enumerate((3, 2, 2, 1)) for b in range(width)]
    + [(a, b, c) for a, b, width in ((0, 0, 3), (0, 1, 2), (0, 2, 2), (1, 0, 1)) for c in range(width)]
    + [(0, 0, 0, c) for c in range(3)]
    + [(0, 0, 0, 0, c) for c in range(2)]
)
"""The 25 nodes of EAGLE's public code (arXiv 2401.15077); at temperature > 0 ranks are the order of drawing."""
