from typing import Any

import pytest

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Step
from crossdraft.drafters.length import AssumedCurve, LengthChooser
from crossdraft.drafters.pace import Pace


def test_lengths_are_those_that_pay() -> None:
    """By the measured time of a token and the running acceptance at each depth."""
    pace = Pace(AssumedCurve(0.05), max_ahead=9, token_ms=0.1, retry_every=99)
    request = pace.request()
    for _ in range(40):
        request.drafted(2)
        request.learn(Step((1, 2, 3), accepted=2))
    chances = [pace.track.rate(min(i, 3)) for i in range(9)]
    assert chances[0] > 0.9 and chances[2] == 0.6
    best = LengthChooser(AssumedCurve(0.05), 9).choose(chances, 0.1)
    assert request.length(20) == best > 1 and request.length(1) == 1
    assert request.length(20, ready=9) > best  # what lies ready costs nothing any more


def test_a_tokens_time_is_the_median_of_the_last_drafts() -> None:
    pace = Pace(AssumedCurve(), max_ahead=4)
    assert pace.token_ms == 0
    pace.took(900.0, 3)  # the first draft warms up
    for _ in range(3):
        pace.took(8.0, 4)
    pace.took(5.0, 0)  # nothing was drafted
    assert pace.token_ms == 2.0
    for _ in range(64):
        pace.took(12.0, 4)
    assert pace.token_ms == 3.0
    assert Pace(AssumedCurve(), max_ahead=4, token_ms=7.0).token_ms == 7.0


def test_where_nothing_pays_one_request_in_so_many_looks_again() -> None:
    pace = Pace(AssumedCurve(0.05), max_ahead=4, token_ms=50.0, retry_every=3)
    worth, lengths = [], []
    for _ in range(7):
        request = pace.request()
        worth.append(request.is_worth_asking)
        lengths.append([request.length(4), request.length(4)])
        assert request.is_silent
    assert worth == [True, False, False, True, False, False, True]
    assert lengths == [[1, 0], [0, 0], [0, 0]] * 2 + [[1, 0]]


def test_a_fixed_length_is_never_silent() -> None:
    request = Pace(AssumedCurve(1.0), max_ahead=4, length=3, token_ms=50.0).request()
    assert [request.length(9), request.length(2), request.length(0), request.length(-3)] == [3, 2, 0, 0]
    request.hush()
    assert not request.is_silent and request.is_worth_asking and request.length(9) == 3


def test_the_prompts_step_and_cut_steps_teach_nothing_wrong() -> None:
    pace = Pace(AssumedCurve(), max_ahead=4, prior=0.5)
    request = pace.request()
    request.drafted(3)
    request.learn(Step((1,), is_prompt=True))
    assert pace.track.rate(0) == 0.5
    request.drafted(3)
    request.learn(Step((1,), accepted=1))  # ends with an accepted token: the next was not refused
    assert pace.track.rate(0) > 0.5 and pace.track.rate(1) == 0.5
    before = pace.track.rate(0)
    request.learn(Step((1, 2)))  # nothing was drafted since
    assert pace.track.rate(0) == before


@pytest.mark.parametrize("wrong", [{"max_ahead": 0}, {"length": 5}, {"length": 0}, {"retry_every": 0}])
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Pace(AssumedCurve(), **({"max_ahead": 4} | wrong))
