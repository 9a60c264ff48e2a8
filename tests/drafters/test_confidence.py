"""What a head promises, what is kept of it, and when it is no longer asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.drafters.confidence import Confidence


def test_at_first_every_promise_is_believed() -> None:
    confidence = Confidence(10.0, depth=3)
    assert confidence.factors().tolist() == [1.0, 1.0, 1.0] and confidence.pays


def test_factors_become_what_is_kept_of_a_promise() -> None:
    """Half is kept of the first level's promises, a quarter of the second's; of the third nothing is known."""
    confidence = Confidence(10.0, depth=3)
    for turn in range(4000):
        confidence.learn([0.8, 0.4], (2 if turn % 10 == 0 else 1) if turn % 10 < 4 else 0, False, 12.0)
    first, second, third = confidence.factors().tolist()
    assert first == pytest.approx(0.5, abs=0.05) and second == pytest.approx(0.25, abs=0.04)
    assert third == pytest.approx(second), "as one level above"


def test_what_an_answers_end_cut_off_is_not_held_against_the_head() -> None:
    cut, refused = Confidence(10.0, depth=2), Confidence(10.0, depth=2)
    for _ in range(50):
        cut.learn([0.9, 0.8], 1, True, 12.0)
        refused.learn([0.9, 0.8], 1, False, 12.0)
    assert cut.factors()[1] == pytest.approx(float(cut.factors()[0])) and refused.factors()[1] < 0.3


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 1.0), st.booleans()), max_size=60))
def test_factors_stay_sensible(rounds: list[tuple[int, float, bool]]) -> None:
    confidence = Confidence(5.0, depth=3)
    for kept, chance, cut in rounds:
        confidence.learn([chance, chance**2, chance**3][: kept + 1], kept, cut, 7.0)
    assert all(0 < factor <= 1 for factor in confidence.factors().tolist())


def test_how_sure_the_best_children_have_been() -> None:
    confidence = Confidence(10.0, depth=2)
    assert confidence.best_child == 1.0, "until something was seen"
    for _ in range(2000):
        confidence.learn([0.9], 1, False, 11.0, (1.5, 0.6))
    assert confidence.best_child == pytest.approx(0.4, abs=0.05)
    for _ in range(1500):
        confidence.learn([0.9], 1, False, 11.0)
    assert confidence.best_child > 0.95, "what was given up is tried again"


def test_a_level_that_was_given_up_is_tried_again() -> None:
    """Its factor goes back to that of the level above while rounds go on without it."""
    confidence = Confidence(10.0, depth=2)
    for _ in range(300):
        confidence.learn([0.9, 0.8], 1, False, 11.0)
    first, low = confidence.factors().tolist()
    for _ in range(1500):
        confidence.learn([0.9], 1, False, 11.0)
    assert low < 0.1 and confidence.factors()[1] > 0.9 and first > 0.9


def test_a_head_that_does_not_pay_is_asked_by_one_request_in_so_many() -> None:
    confidence = Confidence(10.0, depth=2, retry_every=4)
    first = confidence.request()
    while confidence.pays:
        assert first.ask()
        confidence.learn([0.9, 0.8], 0, False, 14.0)
    asked = [confidence.request().ask() for _ in range(8)]
    assert asked == [False, False, False, True, False, False, False, True]
    trial = [confidence.request() for _ in range(4)][-1]
    answers = [trial.ask() for _ in range(40)]
    assert answers == [True] * 12 + [False] * 28 and trial.is_silent


def test_it_is_asked_again_once_trials_pay() -> None:
    confidence = Confidence(10.0, depth=1)
    for _ in range(100):
        confidence.learn([0.9], 0, False, 15.0)
    assert not confidence.pays
    silent = [confidence.request() for _ in range(2)][1]
    assert not silent.ask()
    for _ in range(400):
        confidence.learn([0.9], 1, False, 15.0)
    assert confidence.pays and not silent.ask(), "what has fallen silent has digested nothing and stays so"
    assert confidence.request().ask()
