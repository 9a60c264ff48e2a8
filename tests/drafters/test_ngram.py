from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.types import PromptView, Step
from crossdraft.drafters.length import AssumedCurve
from crossdraft.drafters.ngram import NGram, NGramSession


def session_of(text: list[int], costs: Any, **settings: Any) -> NGramSession:
    session = NGram(costs=costs, **settings).begin(None, None, None)  # type: ignore[arg-type]
    session.see_prompt(PromptView(tuple(text[:-1]), torch.empty(0)))
    session.observe(Step((text[-1],), is_prompt=True))
    return session


def drafted(session: NGramSession, room: int = 99) -> list[int]:
    return session.propose(room).tokens.tolist()


def naive(text: list[int], room: int, max_n: int = 3) -> list[int]:
    """The latest earlier match of the longest tail, found by scanning; a copy goes on into itself."""
    for n in range(min(max_n, len(text) - 1), 0, -1):
        tail = text[-n:]
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == tail and min(tail) >= 0:
                grown = list(text)
                for at in range(start + n, start + n + min(room, 31)):
                    if grown[at] < 0:
                        break
                    grown.append(grown[at])
                return grown[len(text) :]
    return []


@settings(max_examples=150, deadline=None)
@given(text=st.lists(st.integers(-1, 3), min_size=1, max_size=30), room=st.integers(1, 40))
def test_the_index_finds_what_a_scan_finds(text: list[int], room: int) -> None:
    class Free:
        def pass_ms(self, rows: int) -> float:
            return 1.0

    assert drafted(session_of(text, Free()), room) == naive(text, room)


def test_the_longest_and_latest_match_is_copied(free_width: Any) -> None:
    assert drafted(session_of([1, 2, 3, 9, 2, 3, 8, 1, 2, 3], free_width), 3) == [9, 2, 3]
    assert drafted(session_of([2, 3, 9, 2, 3, 8, 7, 2, 3], free_width), 2) == [8, 7]
    assert drafted(session_of([4, 5, 6], free_width)) == []


def test_placeholders_match_nothing_and_end_a_copy(free_width: Any) -> None:
    assert drafted(session_of([-1, -1, -1, -1], free_width)) == []
    assert drafted(session_of([7, 5, -1, -1, 7], free_width)) == [5]
    # an n-gram across a placeholder is no match; the token alone is
    assert drafted(session_of([-1, 7, 5, 6, -1, 7], free_width), 2) == [5, 6]


def test_a_loop_is_copied_into_itself(free_width: Any) -> None:
    assert drafted(session_of([1, 2, 3, 1, 2, 3], free_width), 7) == [1, 2, 3, 1, 2, 3, 1]


def test_matches_that_keep_failing_are_drafted_shorter() -> None:
    session = session_of([1, 2, 3, 4, 5, 6, 7, 8] * 3, AssumedCurve(0.1))
    first = len(drafted(session))
    for _ in range(12):
        session._drafted = 4
        session._track.learn([2] * 4, 0, 1)
    assert len(drafted(session)) < first


def test_settings_are_checked(free_width: Any) -> None:
    with pytest.raises(SettingError, match="min_n"):
        NGram(costs=free_width, min_n=4)
    with pytest.raises(SettingError, match="max_length"):
        NGram(costs=free_width, max_length=0)
