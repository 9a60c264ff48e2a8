"""One level of a tree that a head grows: the children of its rows, and those that may be expanded next."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.tree import extend_paths
from crossdraft.nn import kernels

Array = np.ndarray


@dataclass(frozen=True)
class Level:
    """The k best children of each of R rows, and of all these the k best.

    words, values (R k,): row by row and by falling value: indices into the draft vocabulary, and the logarithms of
    the chances of the paths that end there.
    order (k,): places in these of the k best, by falling value, of equal ones the first; rows (k,): under which row
    each stands; word, worth (k,): as ``words`` and ``values``; paths (k, D + 1): of nodes, down to each.
    """

    words: Int[Array, "Rk"]
    values: Float[Array, "Rk"]
    order: Int[Array, "k"]
    rows: Int[Array, "k"]
    word: Int[Array, "k"]
    worth: Float[Array, "k"]
    paths: Int[Array, "k deeper"]


def grow(
    scores: Float[Tensor, "R draft"], k: int, worth: Float[Array, "R"], paths: Int[Array, "R D"], first: int
) -> Level:
    """The level below rows with these scores. worth: logarithms of their paths' chances, float32; paths: their
    nodes, int32; first: the number of the next level's first node, if it is expanded."""
    library = kernels.status().library
    own = scores.dtype == torch.bfloat16 and scores.device.type == "cpu" and k <= kernels.MOST
    if library is not None and own:
        return Level(*kernels.grow(library, scores, k, worth, paths, first))
    found = scores.float().log_softmax(-1).topk(k)
    words = found.indices.numpy(force=True).ravel()
    values = (found.values.numpy(force=True) + worth[:, None]).ravel()
    order = np.argsort(-values, kind="stable")[:k]
    rows = order // k
    return Level(words, values, order, rows, words[order], values[order], extend_paths(paths, rows, first))
