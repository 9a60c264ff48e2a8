"""A level of a tree is the same by the library and by our own kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.heads.growth import grow
from crossdraft.nn import kernels


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 6), k=st.integers(1, 8), seed=st.integers(0, 99))
def test_it_is_the_best_of_all_children(rows: int, k: int, seed: int) -> None:
    """Against every child sorted: the k best of each row, and of these the k best with their paths."""
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, 20, generator=draw)
    worth = torch.randn(rows, generator=draw).numpy()
    paths = torch.arange(2 * rows, dtype=torch.int32).view(rows, 2).numpy()
    level = grow(scores, k, worth, paths, 40)
    chances = scores.double().log_softmax(-1).numpy() + worth[:, None].astype(np.float64)
    every = sorted((-chances[r, w], r, w) for r in range(rows) for w in range(20))
    best = [(r, w) for _, r, w in every][:k]
    assert list(zip(level.rows.tolist(), level.word.tolist(), strict=True)) == best
    assert level.worth == pytest.approx([chances[r, w] for r, w in best], abs=1e-5)
    assert level.paths.tolist() == [[2 * r, 2 * r + 1, 40 + i] for i, (r, _) in enumerate(best)]
    assert level.words[level.order].tolist() == level.word.tolist()
    for row in range(rows):
        mine = np.argsort(-chances[row])[:k]
        assert level.words.reshape(rows, k)[row].tolist() == mine.tolist()
        assert level.values.reshape(rows, k)[row] == pytest.approx(chances[row, mine], abs=1e-5)


def test_our_own_kernels_give_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = kernels.load(kernels.compiled(tmp_path_factory.mktemp("kernels"), ("-O2", "-fopenmp", "-fPIC")))
    # no two alike: of equal ones the library may take another
    scores = torch.randperm(200, generator=torch.Generator().manual_seed(0)).view(4, 50).bfloat16() / 16
    worth, paths = np.linspace(0, -2, 4, dtype=np.float32), np.arange(4, dtype=np.int32)[:, None]
    found = []
    for status in (kernels.Status(library), kernels.Status(None, "none here")):
        monkeypatch.setattr(kernels, "status", lambda status=status: status)
        found.append(grow(scores, 6, worth, paths, 4))
    for name in ("words", "order", "rows", "word", "paths"):
        assert np.array_equal(*(getattr(level, name) for level in found))
    for name in ("values", "worth"):
        assert np.allclose(*(getattr(level, name) for level in found), atol=1e-5)
