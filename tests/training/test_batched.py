"""One draw a row: tokens without a share are never drawn, whatever the number."""

import pytest
import torch

from crossdraft.training import batched
from crossdraft.training.batched import OneDraw


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, 1 - 2**-24])
def test_what_has_no_share_is_never_drawn(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    none = float("-inf")
    scores = torch.tensor(
        [[none, none, 1.0, none, 3.0, none, 2.0, none, none], [none] * 8 + [0.0], [0.0] + [none] * 8]
    )
    monkeypatch.setattr(batched.torch, "rand_like", lambda like: torch.full_like(like, number))
    left = OneDraw(0.7)(torch.zeros(3, 1, dtype=torch.long), scores)
    assert (left.isfinite().sum(1) == 1).all()
    assert scores[left.isfinite()].isfinite().all()


def test_the_number_is_a_place_in_the_running_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    drawn = []
    for number in (0.05, 0.15, 0.29, 0.31, 0.59, 0.61, 0.99):
        monkeypatch.setattr(batched.torch, "rand_like", lambda like, number=number: torch.full_like(like, number))
        drawn.append(int(OneDraw(1.0)(torch.zeros(1, 1, dtype=torch.long), shares.log()[None]).argmax()))
    assert drawn == [0, 1, 1, 2, 2, 3, 3]
