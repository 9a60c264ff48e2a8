import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Draft, Sampling
from crossdraft.verify import RULES, rule_for
from crossdraft.verify.greedy import Greedy


def rows(*best: int) -> torch.Tensor:
    logits = torch.zeros(len(best), 6)
    logits[range(len(best)), list(best)] = 1.0
    return logits


def test_accepts_up_to_the_first_surprise_and_gives_the_targets_own_token() -> None:
    verdict = Greedy()(Draft.chain([3, 4, 5]), rows(3, 4, 0, 2), 7)
    assert verdict.path == (0, 1) and verdict.bonus == 0
    verdict = Greedy()(Draft.chain([3, 4, 5]), rows(3, 4, 5, 2), 7)
    assert verdict.path == (0, 1, 2) and verdict.bonus == 2
    # a match behind a surprise counts for nothing
    verdict = Greedy()(Draft.chain([1, 4, 5]), rows(3, 4, 5, 2), 7)
    assert verdict.path == () and verdict.bonus == 3


def test_an_empty_draft_is_plain_decoding() -> None:
    verdict = Greedy()(Draft.chain([]), rows(4), 0)
    assert verdict.path == () and verdict.bonus == 4


def test_ties_go_to_the_lowest_id() -> None:
    assert Greedy()(Draft.chain([]), torch.ones(1, 6), 0).bonus == 0


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(SettingError, match="2 nodes needs 3 rows"):
        Greedy()(Draft.chain([1, 2]), rows(1, 2), 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), nodes=st.integers(0, 12))
def test_trees_are_walked_as_one_by_one(data: st.DataObject, nodes: int) -> None:
    tokens = data.draw(st.lists(st.integers(0, 2), min_size=nodes, max_size=nodes))
    parents = [data.draw(st.integers(-1, i - 1)) for i in range(nodes)]
    best = data.draw(st.lists(st.integers(0, 2), min_size=nodes + 1, max_size=nodes + 1))
    verdict = Greedy()(Draft(torch.tensor(tokens, dtype=torch.long), torch.tensor(parents)), rows(*best), 0)
    node, path = -1, []
    while True:
        hits = [i for i in range(nodes) if parents[i] == node and tokens[i] == best[node + 1]]
        if not hits:
            break
        node = hits[0]
        path.append(node)
    assert verdict.path == tuple(path) and verdict.bonus == best[node + 1]


def test_the_rule_follows_from_the_temperature() -> None:
    assert rule_for(Sampling()).name == "greedy"
    assert rule_for(Sampling(temperature=0.5)).name == "sampling"
    assert set(RULES) == {"greedy", "sampling", "leviathan", "typical"}
    assert all(rule_for(Sampling(temperature=t)).lossless for t in (0.0, 1.0))
