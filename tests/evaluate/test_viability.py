from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.evaluate.expected import reach
from crossdraft.evaluate.latency import Times, amdahl_ceiling, decode_speedup, hiding_gain_ms
from crossdraft.evaluate.prediction import Acceptance
from crossdraft.evaluate.viability import (
    CaseVerdict,
    Flip,
    decode_case,
    flips,
    judge,
    lossless_case,
    prefill_case,
    production_case,
    threshold_of,
)

CASES = (prefill_case, decode_case, lossless_case, production_case)
TOKENS = 30


def times(**changes: Any) -> Times:
    values: dict[str, Any] = {
        "target_encode_ms": 0.0, "target_prefill_ms": 100.0, "step_ms": 10.0, "verify_ms": {2: 20.0, 3: 20.0},
        "draft_step_ms": 4.0, "event_prefill_ms": 60.0, "window": "own-device",
    }  # fmt: skip
    return Times(**{**values, **changes})


# the window's draft of two tokens: (1 + 0.6 + 0.3) x 10 = 19 ms against a pass of 20 ms
CLOSE = Acceptance((0.6, 0.5))


def by_case(verdicts: tuple[CaseVerdict, ...]) -> dict[str, CaseVerdict]:
    return {v.use_case.split(" (")[0]: v for v in verdicts}


def by_lever(found: tuple[Flip, ...]) -> dict[str, Flip]:
    return {f.lever: f for f in found}


# --- the inequalities, by hand ----------------------------------------------------------------------------------


def test_the_inequality_of_the_window() -> None:
    own = prefill_case(times(adapter_ms=0.5), CLOSE, TOKENS)
    assert (own.left, own.right, own.unit) == (pytest.approx(19.0), 20.5, "ms")
    assert own.margin == pytest.approx(hiding_gain_ms(times(adapter_ms=0.5), 0.9, 2)) and not own.holds
    assert own.numbers.startswith("(0.90 + 1) x 10.00 = 19.00 ms <= 20.50 ms = 0.50 + 20.00 + 0.00, n = 2")
    assert prefill_case(times(verify_ms={2: 12.0, 3: 12.0}), CLOSE, TOKENS).holds


def test_a_window_that_hides_nothing_gains_nothing() -> None:
    shut = prefill_case(times(window="off"), Acceptance((1.0, 1.0)), TOKENS)
    assert not shut.holds and shut.margin == pytest.approx(-60.0) and "n = 0" in shut.numbers
    late = prefill_case(times(event_prefill_ms=130.0, verify_ms={2: 10.0}), Acceptance((1.0,)), TOKENS)
    assert late.margin == pytest.approx(-30.0)


def test_the_inequality_of_a_round() -> None:
    own = decode_case(times(overhead_ms=1.0), CLOSE, TOKENS)
    # g = 1: 16 of 25 ms; g = 2: 19 of 29 ms, the better of the two
    assert (own.left, own.right) == (pytest.approx(19.0), 29.0) and not own.holds
    assert decode_case(times(draft_step_ms=0.1, verify_ms={3: 11.0}), CLOSE, TOKENS).holds


def test_the_inequality_of_an_exact_check() -> None:
    own = lossless_case(times(draft_step_ms=400.0, adapter_ms=9.0), CLOSE, TOKENS)
    assert (own.left, own.right) == (pytest.approx(1.9), 2.0) and not own.holds


def test_the_inequality_of_production() -> None:
    own = production_case(
        times(verify_ms={2: 10.0}, draft_step_ms=0.0, target_prefill_ms=10.0), Acceptance((1.0,)), 31
    )
    # 10 + 300 ms plainly; in time before that one token free, then two a step
    assert own.left == pytest.approx(310 / (60 + 150)) and own.right == 3.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple), st.floats(10, 60), st.floats(0, 20),
    st.floats(0, 300),
)  # fmt: skip
def test_the_inequalities_take_the_best_draft(
    alphas: tuple[float, ...], verify: float, draft: float, event: float
) -> None:
    own = times(verify_ms={2: verify, 5: verify + 3}, draft_step_ms=draft, event_prefill_ms=event)
    acceptance, lengths = Acceptance(alphas), range(1, len(alphas) + 1)
    assert decode_case(own, acceptance, TOKENS).holds == any(decode_speedup(own, alphas, g) > 1 for g in lengths)
    sure = lossless_case(own, acceptance, TOKENS)
    assert sure.holds == any(1 + sum(reach(alphas[:g])) > own.pass_ms(g + 1) / 10 for g in lengths)
    if decode_case(own, acceptance, TOKENS).holds:
        assert sure.holds  # the weakest of the demands
    assert production_case(own, acceptance, TOKENS).left <= amdahl_ceiling(own, TOKENS) + 1e-9


# --- answers and intervals --------------------------------------------------------------------------------------


def test_the_interval_decides() -> None:
    """0.9 accepted tokens; the window needs 1.0."""
    assert by_case(judge(times(), CLOSE, TOKENS))["cross-modal prefill"].answer == "NOT VIABLE"
    sure = by_case(judge(times(), CLOSE, TOKENS, interval=(0.8, 0.95)))["cross-modal prefill"]
    assert sure.answer == "NOT VIABLE" and sure.margin_interval == pytest.approx((-2.0, -0.5))
    torn = by_case(judge(times(), CLOSE, TOKENS, interval=(0.8, 1.1)))["cross-modal prefill"]
    assert torn.answer == "UNDETERMINED" and torn.margin_interval == pytest.approx((-2.0, 1.0))
    good = Acceptance((0.9, 0.8))
    assert by_case(judge(times(), good, TOKENS, interval=(1.3, 1.9)))["cross-modal prefill"].answer == "VIABLE"
    assert (
        by_case(judge(times(), good, TOKENS, interval=(0.5, 1.9)))["cross-modal prefill"].answer == "UNDETERMINED"
    )


def test_the_whole_range_is_an_interval() -> None:
    ends = by_case(judge(times(), CLOSE, TOKENS, interval=(0.0, 2.0)))["cross-modal prefill"]
    assert ends.margin_interval == pytest.approx((-10.0, 10.0))


def test_the_four_use_cases() -> None:
    verdicts = judge(times(), CLOSE, TOKENS, production=2.5)
    assert [v.use_case for v in verdicts] == [
        "cross-modal prefill", "same-model decode", "lossless token verify", "production (> 2.5x)",
    ]  # fmt: skip
    assert verdicts[3].inequality == "T_AR / T > 2.5" and verdicts[3].margin_interval is None
    assert all(len(v.flips) == 4 for v in verdicts)


@pytest.mark.parametrize("interval", [(1.0, 1.2), (0.1, 0.5), (-0.1, 1.0), (0.5, 2.5)])
def test_an_interval_that_cannot_be(interval: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="must lie within 0 to 2 accepted tokens and enclose the 0.900"):
        judge(times(), CLOSE, TOKENS, interval=interval)


def test_what_cannot_be_judged() -> None:
    with pytest.raises(SettingError, match="leaves nothing to draft"):
        judge(times(), CLOSE, 1)
    with pytest.raises(SettingError, match="production is 0"):
        judge(times(), CLOSE, TOKENS, production=0.0)


# --- what would turn the answer ---------------------------------------------------------------------------------


def test_each_lever_of_the_window_by_hand() -> None:
    """19 ms against 20: one accepted token, or a pass of 19 ms; no drafter and no window change that."""
    found = by_lever(flips(prefill_case, times(), CLOSE, TOKENS))
    assert found["acceptance"].now == pytest.approx(0.9) and found["acceptance"].needed == pytest.approx(1.0)
    assert found["verify cost"].now == 20.0 and found["verify cost"].needed == pytest.approx(19.0)
    assert found["verify cost"].unit == "ms for a pass over 3 rows"
    for lever in ("drafter cost", "window"):
        assert found[lever].needed is None
        assert found[lever].text == f"no value of the {lever} alone flips it"


def test_what_would_spoil_a_window_that_pays() -> None:
    """(1 + 0.9) x 10 = 19 ms against 12 for one token; 27.2 against 20 for two; the window holds ten."""
    own, acceptance = times(verify_ms={2: 12.0, 3: 20.0}), Acceptance((0.9, 0.9111111111))
    found = by_lever(flips(prefill_case, own, acceptance, TOKENS))
    assert found["drafter cost"].needed == pytest.approx(40.0)  # then not one token is written in 40 ms
    assert found["window"].now == 40.0 and found["window"].needed == pytest.approx(4.0)
    assert found["window"].text.startswith("window: 40.00 -> 4.00 ms")


def test_a_closed_window_may_be_opened() -> None:
    shut = times(window="off", verify_ms={2: 12.0})
    found = by_lever(flips(prefill_case, shut, Acceptance((0.9,)), TOKENS))["window"]
    assert found.now == -60.0 and found.needed == pytest.approx(4.0)


def test_each_lever_of_a_round_by_hand() -> None:
    """g = 1: tau 1.8 x 10 = 18 ms against 4 + 16."""
    own = times(verify_ms={2: 16.0})
    found = by_lever(flips(decode_case, own, Acceptance((0.8,)), TOKENS))
    assert found["acceptance"].needed is None  # even certain tokens give 20 ms against 20
    assert found["verify cost"].needed == pytest.approx(14.0)
    assert found["drafter cost"].needed == pytest.approx(2.0)
    assert found["window"].needed is None


def test_no_lever_lifts_amdahls_ceiling() -> None:
    own = times(target_prefill_ms=300.0)
    assert amdahl_ceiling(own, TOKENS) < 3
    assert all(f.needed is None for f in flips(production_case, own, Acceptance((0.9,) * 8), TOKENS))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(CASES), st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4).map(tuple), st.floats(10, 60),
    st.floats(0, 20), st.floats(0, 200), st.sampled_from(["off", "overlapped", "own-device"]),
)  # fmt: skip
def test_the_answer_turns_where_it_says(
    case: Any, alphas: tuple[float, ...], verify: float, draft: float, event: float, window: str
) -> None:
    """Put the needed verify cost or draft step in: the answer is the other one, and just before it is the same."""
    own = times(
        verify_ms={len(alphas) + 1: verify},
        draft_step_ms=draft,
        event_prefill_ms=event,
        window=window,
        contention=1.5,
    )
    acceptance = Acceptance(alphas)
    before = case(own, acceptance, TOKENS).holds
    needed = by_lever(flips(case, own, acceptance, TOKENS))["drafter cost"].needed
    if needed is None:
        for extreme in (0.0, 1e6):
            assert case(replace(own, draft_step_ms=extreme), acceptance, TOKENS).holds == before
    else:
        assert case(replace(own, draft_step_ms=needed), acceptance, TOKENS).holds != before
        nearly = needed + (draft - needed) * 1e-6
        assert case(replace(own, draft_step_ms=nearly), acceptance, TOKENS).holds == before


@settings(max_examples=40, deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100))
def test_a_threshold_is_found_to_the_last_bits(at: float, now: float, end: float) -> None:
    found = threshold_of(lambda x: x > at, now, end)
    if (now > at) == (end > at):
        assert found is None
    else:
        assert found == pytest.approx(at, abs=1e-9) and (found > at) == (end > at)
