"""Pure functions on a tree's parent array. A chain is the tree with parents[i] == i - 1; -1 is the root."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crossdraft.core.errors import SettingError


def check_parents(parents: Sequence[int]) -> None:
    """SettingError unless every parent precedes its child and is -1 or a node."""
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise SettingError(
                f"node {node} has parent {parent}; a parent must be -1 (the root) or precede its child"
            )


def depths(parents: Sequence[int]) -> Int[Tensor, "N"]:
    """Depth of each node; children of the root have depth 1."""
    depth: list[int] = []
    for parent in parents:
        depth.append(1 if parent < 0 else depth[parent] + 1)
    return torch.tensor(depth, dtype=torch.long)


def ancestor_mask(parents: Sequence[int]) -> Bool[Tensor, "N N"]:
    """mask[i, j]: node j lies on the path from the root to node i, i itself included."""
    n = len(parents)
    mask = torch.eye(n, dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


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
