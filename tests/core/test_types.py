import math

import pytest
import torch

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Draft, Generation, Limits, Round, Sampling


def test_a_chain_hangs_under_the_root() -> None:
    draft = Draft.chain([5, 6, 7])
    assert draft.is_chain and len(draft) == 3
    assert draft.parents.tolist() == [-1, 0, 1]
    assert draft.children(-1) == [0] and draft.children(2) == []
    assert len(Draft.chain([])) == 0


def test_the_depth_of_a_draft_is_its_longest_path() -> None:
    assert Draft.chain([]).depth == 0 and Draft.chain([5, 6, 7]).depth == 3
    assert Draft(torch.tensor([1, 2, 3, 4]), torch.tensor([-1, -1, 1, 0])).depth == 2
    assert Round("a", 4, 1, 2, {}).depth == 4 and Round("a", 4, 1, 2, {}, 2).depth == 2


def test_a_tree_is_no_chain() -> None:
    draft = Draft(torch.tensor([1, 2, 3]), torch.tensor([-1, -1, 0]))
    assert not draft.is_chain
    assert draft.children(-1) == [0, 1]


def test_tau_pools_over_rounds_and_counts_the_bonus() -> None:
    out = Generation(rounds=[Round("a", 4, 3, 4, {}), Round("a", 4, 0, 1, {}), Round("", 0, 0, 1, {})])
    assert out.tau == pytest.approx(2.0)
    assert (out.num_drafted, out.num_accepted) == (8, 3)
    assert math.isnan(Generation().tau)


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": 0.0}])
def test_sampling_cannot_be_wrong(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"max_new_tokens": 5, "stop": ("",)}])
def test_limits_cannot_be_wrong(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Limits(**wrong)  # type: ignore[arg-type]
