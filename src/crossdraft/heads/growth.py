"""A tree while a head grows it, level by level."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.tree import extend_paths
from crossdraft.nn import kernels

Array = np.ndarray


class Front(NamedTuple):
    """Nodes to be expanded. They hold until the tree grows.

    words (S,): the target's ids; rows (S,): which row of the level above each stands under, int64;
    paths (S, depth): int32, nodes down to each, numbered as they are expanded.
    """

    words: Int[Tensor, "S"]
    rows: Int[Tensor, "S"]
    paths: Int[Tensor, "S depth"]


class Growth:
    """The k best children of each row that is expanded; the k best of a level are those that may be expanded next.

    ids (draft,): the target's, of the words that can be drafted. k: at most as many. depth: levels at most.
    One serves a request: every draft begins anew, in the same memory.
    """

    def __init__(self, ids: Int[Array, "draft"], k: int, depth: int) -> None:
        self._ids, self._k = np.ascontiguousarray(ids, np.int64), k
        most = k + (depth - 1) * k * k
        self._words, self._values = np.empty(most, np.int64), np.empty(most, np.float32)
        self._expanded = np.empty(k * depth, np.int64)
        # of the last level's best: place among all nodes, row, word, value, path
        self._order, self._rows, self._word = (np.empty(k, np.int64) for _ in range(3))
        self._worth, self._paths = np.empty(k, np.float32), np.empty(k * depth, np.int32)
        self._spare = np.empty_like(self._paths)
        self._depth = depth
        self._fronts: dict[tuple[int, int], Front] = {}
        self._library = kernels.status().library if k <= kernels.MOST else None
        arrays = (
            self._ids, self._words, self._expanded, self._order, self._rows, self._word, self._values, self._worth,
            self._paths, self._spare,
        )  # fmt: skip
        self._tree = kernels.Tree(*(array.ctypes.data for array in arrays), len(self._ids), k)
        self.begin()

    def begin(self) -> None:
        """Nothing but the root."""
        self.sizes: list[int] = []
        """Nodes of each level."""
        self.used = 0
        """Nodes that were expanded."""

    def grow(self, scores: Float[Tensor, "R draft"]) -> None:
        """The level below rows with these logits: the root, or the first R of the ``front``."""
        rows, depth = scores.shape[0], len(self.sizes)
        assert rows <= (self._k if depth else 1) and depth < self._depth, (
            "more rows or levels than there is room for"
        )
        if depth:
            self.used += rows
        if self._library is not None and scores.dtype == torch.bfloat16 and scores.device.type == "cpu":
            kernels.grow(self._library, self._tree, scores, sum(self.sizes), self.used, depth)
        else:
            self._level(scores, rows, depth)
        self.sizes.append(rows * self._k)

    def _level(self, scores: Float[Tensor, "R draft"], rows: int, depth: int) -> None:
        k, made = self._k, sum(self.sizes)
        here = slice(made, made + rows * k)
        worth, above = self._worth[:rows] if depth else 0.0, self._paths[: rows * depth].reshape(rows, depth)
        found = scores.float().log_softmax(-1).topk(k)
        self._words[here] = self._ids[found.indices.numpy(force=True).ravel()]
        self._values[here] = (found.values.numpy(force=True).T + worth).T.ravel()
        if depth:
            self._expanded[self.used - rows : self.used] = self._order[:rows]
        order = np.argsort(-self._values[here], kind="stable")[:k]
        self._order[:], self._rows[:] = made + order, order // k
        self._word[:], self._worth[:] = self._words[here][order], self._values[here][order]
        self._paths[: k * (depth + 1)] = extend_paths(above, order // k, self.used).ravel()

    @property
    def worth(self) -> list[float]:
        """Logarithms of the chances of the paths to the k best nodes of the last level, falling."""
        return self._worth.tolist()

    def front(self, count: int) -> Front:
        """The best ``count`` nodes of the last level; of equal ones the first."""
        depth = len(self.sizes)
        if (count, depth) not in self._fronts:
            paths = self._paths[: count * depth].reshape(count, depth)
            of = self._word[:count], self._rows[:count], paths
            self._fronts[count, depth] = Front(*map(torch.from_numpy, of))
        return self._fronts[count, depth]

    @property
    def words(self) -> Int[Array, "N"]:
        """All nodes, by the target's ids, int64: level by level, row by row, the best first."""
        return self._words[: sum(self.sizes)]

    @property
    def values(self) -> Float[Array, "N"]:
        """Logarithms of the chances of the paths that end there, float32."""
        return self._values[: sum(self.sizes)]

    @property
    def expanded(self) -> Int[Array, "M"]:
        """Places among all nodes of those that were expanded, in this order."""
        return self._expanded[: self.used]

    @property
    def parents(self) -> Int[Array, "N"]:
        """Place of each node's parent; -1: the root."""
        return np.concatenate((_ROOT, self.expanded)).repeat(self._k)


_ROOT = np.array([-1])
