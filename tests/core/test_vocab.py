import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.vocab import NO_TWIN, TokenMap


@settings(max_examples=100, deadline=None)
@given(target=st.integers(1, 9), draft=st.integers(1, 9))
def test_the_same_ids_as_far_as_both_go(target: int, draft: int) -> None:
    tokens = TokenMap.same(target, draft)
    shared = list(range(min(target, draft)))
    assert tokens.target_ids == shared + [NO_TWIN] * (draft - len(shared))
    assert tokens.draft_ids == shared + [NO_TWIN] * (target - len(shared))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_twins_spell_the_same_and_are_one_to_one(data: st.DataObject) -> None:
    words = st.lists(st.binary(min_size=1, max_size=2), unique=True, min_size=1, max_size=30)
    ours, theirs = data.draw(words), data.draw(words)
    sizes = (len(ours) + data.draw(st.integers(0, 3)), len(theirs) + data.draw(st.integers(0, 3)))
    spelled = [{word: i for i, word in enumerate(some)} for some in (ours, theirs)]
    shared = set(ours) & set(theirs)
    if not shared or 2 * len(shared) < min(len(ours), len(theirs)):
        with pytest.raises(SettingError, match=rf"mismatch.*{len(shared)} of {min(len(ours), len(theirs))} tokens"):
            TokenMap.by_spelling(*spelled, sizes)
        return
    tokens = TokenMap.by_spelling(*spelled, sizes)
    assert (len(tokens.draft_ids), len(tokens.target_ids)) == sizes
    assert torch.equal(tokens.to_target, torch.tensor(tokens.target_ids))
    for one, other, ids in ((ours, theirs, tokens.draft_ids), (theirs, ours, tokens.target_ids)):
        for i, twin in enumerate(ids):
            word = one[i] if i < len(one) else None
            assert twin == (other.index(word) if word in shared else NO_TWIN)


def test_ends_are_twins_whatever_they_are_called() -> None:
    words = {b"a": 0, b"b": 1}
    tokens = TokenMap.by_spelling(words, words, (4, 3), [(3, 2)])
    assert tokens.target_ids == [0, 1, 3] and tokens.draft_ids == [0, 1, NO_TWIN, 2]
    assert TokenMap.by_spelling(words, words, (2, 2), [(3, 2)]).target_ids == [0, 1]
