"""A tree that grows is the same by the library and by our own kernels, and holds the best of all children."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdraft.heads.growth import Growth
from crossdraft.nn import kernels


@pytest.fixture
def libraries(library: Any) -> list[Any]:
    """In plain floats, and this machine's own."""
    return [library, *([own] if (own := kernels.status().library) is not None else [])]


def grown(tree: Growth, levels: list[Tensor]) -> list[tuple[list[Any], ...]]:
    """The levels one by one, below as many of the last one's best as have scores; what was expanded each time."""
    tree.begin()
    fronts = []
    for level, scores in enumerate(levels):
        if level:
            front = tree.front(len(scores))
            assert front.paths.dtype == torch.int32 and front.words.dtype == front.rows.dtype == torch.int64
            fronts.append((*(part.tolist() for part in front), tree.worth[: len(scores)]))
        tree.grow(scores)
    return fronts


@st.composite
def drafts(draw: st.DrawFn) -> tuple[int, int, list[int], int]:
    """Words, children of a row, rows of each level, a seed."""
    width = draw(st.integers(1, 40))
    k = draw(st.integers(1, min(12, width)))
    return width, k, [1, *draw(st.lists(st.integers(1, k), max_size=4))], draw(st.integers(0, 99))


MOST = 70, kernels.MOST, [1, kernels.MOST, kernels.MOST], 0
"""As wide as our own kernels grow."""


@settings(max_examples=60, deadline=None)
@given(draft=drafts())
def test_it_is_the_best_of_all_children(draft: tuple[int, int, list[int], int]) -> None:
    """Against every child of every row, sorted; twice, since a second draft begins anew."""
    width, k, counts, seed = draft
    draw, ids = torch.Generator().manual_seed(seed), np.arange(width) * 3 + 1
    tree = Growth(ids, k, depth=6)
    for _ in range(2):
        levels = [torch.randn(count, width, generator=draw) for count in counts]
        fronts = grown(tree, levels)
        # (chance, row, word, place among all nodes, path of expanded nodes) of what may be expanded next
        rows: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        words, values, parents, expanded = [], [], [], []
        for level, scores in enumerate(levels):
            logs = scores.double().log_softmax(-1).numpy()
            if level:
                chosen = best[: len(scores)]
                told = [ids[w] for _, _, w, _ in chosen], [r for _, r, _, _ in chosen]
                number = len(expanded)
                paths = [[*rows[r][1], number + i] for i, (_, r, _, _) in enumerate(chosen)]
                assert fronts[level - 1][:3] == (*told, paths)
                assert fronts[level - 1][3] == pytest.approx([-value for value, *_ in chosen], abs=1e-4)
                expanded += [place for *_, place in chosen]
                rows = [(-value, tuple(path)) for (value, *_), path in zip(chosen, paths, strict=True)]
            best = []
            for row, (worth, _) in enumerate(rows):
                for word in np.argsort(-logs[row])[:k].tolist():
                    best.append((-(logs[row, word] + worth), row, word, len(words)))
                    words.append(ids[word])
                    values.append(logs[row, word] + worth)
                    parents.append(expanded[len(expanded) - len(rows) + row] if level else -1)
            best.sort()
        assert tree.words.tolist() == words and tree.values == pytest.approx(values, abs=1e-4)
        assert tree.parents.tolist() == parents and tree.expanded.tolist() == expanded
        assert tree.sizes == [count * k for count in counts] and tree.used == len(expanded)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draft=drafts(), spread=st.sampled_from([0.0, 1.0, 8.0]), spoilt=st.booleans(), which=st.integers(0, 1))
@example(draft=MOST, spread=1.0, spoilt=False, which=0)
@example(draft=MOST, spread=1.0, spoilt=True, which=1)
def test_our_own_kernels_sort_as_numpy_does(
    libraries: list[Any], draft: tuple[int, int, list[int], int], spread: float, spoilt: bool, which: int
) -> None:
    """Children many of which are equal, and some that are no numbers; each row's own are as if it were alone."""
    width, k, counts, seed = draft
    draw, ids = torch.Generator().manual_seed(seed), np.random.default_rng(seed).permutation(9 * width)[:width]
    levels = [(torch.randn(count, width, generator=draw) * spread).round().bfloat16() for count in counts]
    if spoilt:
        levels[-1][seed % counts[-1], 0] = float("nan")
    known = kernels.status
    try:
        kernels.status = lambda: kernels.Status(libraries[which % len(libraries)])
        tree, alone = Growth(ids, k, depth=6), Growth(ids, k, depth=1)
        fronts, made, paths = grown(tree, levels), 0, np.zeros((1, 0), np.int32)
        worth = np.zeros(1, np.float32)
        for level, scores in enumerate(levels):
            words, logs = [], []
            for row in scores:
                alone.begin()
                alone.grow(row[None])
                words.append(alone.words.copy())
                logs.append(alone.values.copy())
            values = (np.stack(logs) + worth[:, None]).ravel()
            here = slice(made, made + len(values))
            assert np.array_equal(tree.words[here], np.concatenate(words))
            assert np.array_equal(tree.values[here], values, equal_nan=True)
            order, made = np.argsort(-values, kind="stable")[:k], made + len(values)
            if level + 1 < len(levels):
                count = counts[level + 1]
                best = order[:count]
                word, rows, told, chances = fronts[level]
                assert word == np.concatenate(words)[best].tolist() and rows == (best // k).tolist()
                used = sum(counts[1 : level + 1])
                paths = np.column_stack([paths[best // k], np.arange(used, used + count)])
                assert told == paths.tolist() and chances == values[best].tolist()
                assert tree.expanded[used : used + count].tolist() == (here.start + best).tolist()
                worth = values[best]
    finally:
        kernels.status = known


def test_our_own_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    """As the library's operators, where no two are alike (of equal ones these may take another)."""
    draw = torch.Generator().manual_seed(0)
    levels = [torch.randperm(50 * rows, generator=draw).view(rows, 50).bfloat16() / 16 for rows in (1, 4, 3)]
    trees = []
    for status in (kernels.Status(library), kernels.Status(None, "none here")):
        monkeypatch.setattr(kernels, "status", lambda status=status: status)
        trees.append(Growth(np.arange(50)[::-1], 6, depth=3))
        trees[-1].fronts = grown(trees[-1], levels)
    for name in ("words", "parents", "expanded"):
        assert np.array_equal(*(getattr(tree, name) for tree in trees))
    assert np.allclose(*(tree.values for tree in trees), atol=1e-5)
    for mine, theirs in zip(*(tree.fronts for tree in trees), strict=True):
        assert mine[:3] == theirs[:3] and np.allclose(mine[3], theirs[3], atol=1e-5)


def test_there_is_room_for_what_was_asked_for() -> None:
    tree = Growth(np.arange(9), 3, depth=2)
    tree.grow(torch.zeros(1, 9))
    with pytest.raises(AssertionError, match="room"):
        tree.grow(torch.zeros(4, 9))
    tree.grow(torch.zeros(3, 9))
    with pytest.raises(AssertionError, match="room"):
        tree.grow(torch.zeros(1, 9))
    tree.begin()
    with pytest.raises(AssertionError, match="room"):
        tree.grow(torch.zeros(2, 9))
