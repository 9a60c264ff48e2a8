import itertools
import math
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, SettingError
from crossdraft.evaluate.expected import expected_tokens, reach
from crossdraft.evaluate.latency import (
    FIGURES,
    Times,
    amdahl_ceiling,
    best_length,
    break_even_accepted,
    decode_share,
    decode_speedup,
    delay_ms,
    first_token_ms,
    free_drafts,
    hidden_ms,
    hiding_gain_ms,
    lead_ms,
    plain_ms,
    round_ms,
    speculative_ms,
    times_from_figures,
    times_from_profile,
    trimmed_length,
    usable_drafts,
    window_ms,
)

# what was measured of EventGPT-7B and Video-LLaVA-7B in 4 bits on an RTX 4090 (10,970 answers of 30 tokens)
STUDY = Times(
    target_encode_ms=0.0, target_prefill_ms=317.0, step_ms=14.0, verify_ms={2: 65.0, 21: 70.0}, draft_step_ms=10.0,
    event_encode_ms=9.0, event_prefill_ms=83.0, window="own-device",
)  # fmt: skip


def times(**changes: Any) -> Times:
    values: dict[str, Any] = {
        "target_encode_ms": 100.0, "target_prefill_ms": 200.0, "step_ms": 10.0, "verify_ms": {4: 13.0, 8: 17.0},
        "draft_step_ms": 2.0, "event_encode_ms": 20.0, "event_prefill_ms": 60.0, "adapter_ms": 1.0,
        "overhead_ms": 0.5, "window": "own-device",
    }  # fmt: skip
    return Times(**{**values, **changes})


rates = st.lists(st.floats(0, 1), min_size=1, max_size=10).map(tuple)


@st.composite
def any_times(draw: st.DrawFn) -> Times:
    ms = st.floats(0, 500)
    return Times(
        target_encode_ms=draw(ms), target_prefill_ms=draw(ms), step_ms=draw(st.floats(1, 50)),
        verify_ms={w: draw(st.floats(0.5, 200)) for w in draw(st.sets(st.integers(2, 32), min_size=1, max_size=4))},
        draft_step_ms=draw(st.floats(0, 20)), event_encode_ms=draw(ms), event_prefill_ms=draw(ms),
        adapter_ms=draw(st.floats(0, 5)), overhead_ms=draw(st.floats(0, 5)), contention=draw(st.floats(1, 3)),
        window=draw(st.sampled_from(["off", "sequential", "overlapped", "own-device"])),
    )  # fmt: skip


# --- one round --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(rates)
def test_expected_tokens_equal_the_enumeration_of_every_outcome(alphas: tuple[float, ...]) -> None:
    total = 0.0
    for pattern in itertools.product((True, False), repeat=len(alphas)):
        chance = math.prod(a if right else 1 - a for a, right in zip(alphas, pattern, strict=True))
        run = next((k for k, right in enumerate(pattern) if not right), len(pattern))
        total += chance * (run + 1)
    assert expected_tokens(alphas, len(alphas)) == pytest.approx(total)


def test_expected_tokens_equal_a_simulation() -> None:
    rng, alphas = random.Random(5), (0.9, 0.5, 0.8)
    emitted = 0
    for _ in range(20_000):
        run = next((k for k, alpha in enumerate(alphas) if rng.random() >= alpha), len(alphas))
        emitted += run + 1
    assert emitted / 20_000 == pytest.approx(expected_tokens(alphas, 3), abs=0.03)
    assert expected_tokens(alphas, 3) == pytest.approx(1 + 0.9 + 0.45 + 0.36)
    assert expected_tokens(alphas, 0) == 1.0 and reach(()) == ()


@pytest.mark.parametrize(
    ("cost", "alpha", "speedup", "length"),
    [
        (0.05, 0.6, 1.92, 4), (0.05, 0.7, 2.35, 6), (0.05, 0.8, 3.09, 8), (0.05, 0.9, 4.67, 13),
        (0.10, 0.6, 1.67, 3), (0.10, 0.7, 1.98, 4), (0.10, 0.8, 2.47, 6), (0.10, 0.9, 3.43, 10),
        (0.20, 0.6, 1.40, 2), (0.20, 0.7, 1.58, 3), (0.20, 0.8, 1.87, 4), (0.20, 0.9, 2.37, 7),
        (0.71, 0.8, 1.05, 1), (0.71, 0.9, 1.12, 2),
    ],
)  # fmt: skip
def test_best_lengths_of_the_ideal_verifier(cost: float, alpha: float, speedup: float, length: int) -> None:
    ideal = times(verify_ms={32: 10.0}, draft_step_ms=10 * cost, adapter_ms=0.0, overhead_ms=0.0)
    alphas = (alpha,) * 24
    assert best_length(ideal, alphas) == length
    assert decode_speedup(ideal, alphas, length) == pytest.approx(speedup, abs=0.005)


def test_drafting_cannot_pay_where_the_drafter_costs_more_than_it_is_right() -> None:
    ideal = times(verify_ms={32: 10.0}, draft_step_ms=7.1, adapter_ms=0.0, overhead_ms=0.0)
    assert best_length(ideal, (0.7,) * 9) == 0
    assert max(decode_speedup(ideal, (0.7,) * 9, g) for g in range(1, 9)) == pytest.approx(0.994, abs=0.001)


@settings(max_examples=40, deadline=None)
@given(any_times(), rates)
def test_the_best_length_is_the_argmax(costs: Times, alphas: tuple[float, ...]) -> None:
    by_hand = [
        (1 + sum(math.prod(alphas[:k]) for k in range(1, g + 1))) / round_ms(costs, g)
        for g in range(len(alphas) + 1)
    ]
    best = best_length(costs, alphas)
    assert by_hand[best] == pytest.approx(max(by_hand))
    assert by_hand[best] > max(by_hand[:best], default=0.0)


def test_a_round_by_hand() -> None:
    assert round_ms(times(), 0) == 10.0
    assert round_ms(times(), 3) == pytest.approx(3 * 2 + 1 + 13 + 0.5)
    assert round_ms(times(), 9) == pytest.approx(9 * 2 + 1 + 19 + 0.5)  # the curve goes on with its last slope
    assert decode_speedup(times(), (0.5, 0.5), 2) == pytest.approx(1.75 * 10 / (4 + 1 + 12 + 0.5))


def test_a_wider_pass_is_never_believed_to_cost_less() -> None:
    assert times(verify_ms={2: 15.0, 8: 11.0, 9: 16.0}).pass_ms(8) == 15.0
    assert times(verify_ms={2: 6.0}).pass_ms(2) == 10.0


# --- the window -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "contention", "lead", "first", "free"),
    [
        ("own-device", 1.0, 220.0, 300.0, 111), ("own-device", 2.0, 220.0, 300.0, 111),
        ("overlapped", 1.5, 370.0, 450.0, 186), ("off", 1.0, -80.0, 380.0, 0), ("sequential", 1.5, -80.0, 380.0, 0),
    ],
)  # fmt: skip
def test_what_each_window_hides(window: str, contention: float, lead: float, first: float, free: int) -> None:
    own = times(window=window, contention=contention)
    assert (lead_ms(own), first_token_ms(own), free_drafts(own)) == (lead, first, free)
    assert window_ms(own) == max(0.0, lead)
    assert delay_ms(own) == first - 300.0


def test_a_late_event_model_is_waited_for() -> None:
    late = times(event_prefill_ms=330.0)
    assert (window_ms(late), first_token_ms(late), delay_ms(late)) == (0.0, 350.0, 50.0)
    assert free_drafts(late) == 1 and usable_drafts(late, 8, 50) == 0


def test_free_drafts_of_the_study() -> None:
    """A window of 225 ms and 10 ms a token: 23 tokens, of which the first is the target's own first token."""
    assert (window_ms(STUDY), free_drafts(STUDY)) == (225.0, 23)
    assert usable_drafts(STUDY, 31, 30) == 22
    assert (
        usable_drafts(STUDY, 8, 30) == 8 and usable_drafts(STUDY, 31, 5) == 3 and usable_drafts(STUDY, 31, 1) == 0
    )
    assert math.isinf(free_drafts(times(draft_step_ms=0.0)))


def test_the_study_gains_five_milliseconds() -> None:
    """4.4 accepted of 21 rows: 5.4 x 14 - 70 = 5.6 ms of 736; break-even at 4 accepted tokens."""
    assert hiding_gain_ms(STUDY, 4.4, 20) == pytest.approx(5.6)
    assert break_even_accepted(STUDY, 20) == pytest.approx(4.0)


@settings(max_examples=40, deadline=None)
@given(any_times(), st.integers(1, 31), st.floats(0.01, 5))
def test_the_gain_changes_its_sign_at_break_even(costs: Times, drafted: int, apart: float) -> None:
    at = break_even_accepted(costs, drafted)
    assert at >= 0
    assert hiding_gain_ms(costs, at + apart, drafted) > 0
    if at > apart:
        assert hiding_gain_ms(costs, at - apart, drafted) < 0
        assert hiding_gain_ms(costs, at, drafted) == pytest.approx(0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(any_times(), rates, st.integers(0, 12))
def test_the_trimmed_length_is_the_argmax(costs: Times, alphas: tuple[float, ...], most: int) -> None:
    longest = min(most, len(alphas))
    gains = [0.0] + [
        hiding_gain_ms(costs, sum(reach(alphas[:n])), n) + delay_ms(costs) for n in range(1, longest + 1)
    ]
    chosen = trimmed_length(costs, alphas, most)
    assert gains[chosen] == pytest.approx(max(gains), abs=1e-6)


# --- the whole request ------------------------------------------------------------------------------------------


def test_a_request_by_hand() -> None:
    own = times()
    assert plain_ms(own, 31) == 600.0
    assert decode_share(own, 31) == 0.5 and amdahl_ceiling(own, 31) == 2.0
    # 30 tokens at 4 a round: 8 rounds of 3 x 2 + 1 + 13 + 0.5
    assert speculative_ms(own, 31, 4.0, 3) == pytest.approx(300 + 80 + 8 * 20.5)
    # hidden: 300 + 1 + 13, then 31 - 2 - 2.5 steps
    assert hidden_ms(own, 31, 2.5, 3) == pytest.approx(314 + 26.5 * 10)
    assert hidden_ms(own, 31, 2.5, 3, speedup=2.0) == pytest.approx(314 + 26.5 * 5)
    assert hidden_ms(own, 31, 29.5, 3) == pytest.approx(314)
    assert plain_ms(own, 31) - hidden_ms(own, 31, 2.5, 3) == pytest.approx(hiding_gain_ms(own, 2.5, 3))


def test_amdahls_form_of_the_same_thing() -> None:
    """1 / ((1 - f) + P_d / T_AR + f / S_dec), for a drafter that hides nothing."""
    own, tokens, speedup = times(window="off"), 31, 1.7
    f, plain = decode_share(own, tokens), plain_ms(own, tokens)
    by_amdahl = 1 / ((1 - f) + 80.0 / plain + f / speedup)
    assert plain / hidden_ms(own, tokens, 0, 0, speedup) == pytest.approx(by_amdahl)


@settings(max_examples=40, deadline=None)
@given(any_times(), st.integers(2, 300), st.floats(1, 20), st.integers(1, 20))
def test_nothing_beats_amdahl(costs: Times, tokens: int, tau: float, drafted: int) -> None:
    best = min(
        speculative_ms(costs, tokens, tau, drafted),
        hidden_ms(costs, tokens, min(tau - 1, drafted), drafted, speedup=50.0),
        hidden_ms(costs, tokens, 0, 0, speedup=50.0),
    )
    assert plain_ms(costs, tokens) / best <= amdahl_ceiling(costs, tokens) * (1 + 1e-9)


def test_no_prefill_no_ceiling() -> None:
    assert math.isinf(amdahl_ceiling(times(target_encode_ms=0.0, target_prefill_ms=0.0), 9))


# --- where the figures come from --------------------------------------------------------------------------------

PROFILE = {
    "target_encode_ms": 10.0, "target_prefill_ms": 20.0, "target_pass_ms": [[1, 5.0], [8, 6.0]], "context": 140,
    "event_encode_ms": 1.0, "event_prefill_ms": 2.0, "event_token_ms": 3.0, "device": "cpu", "own_device": False,
}  # fmt: skip


@pytest.mark.parametrize("passes", [[[1, 5.0], [8, 6.0]], {"1": 5.0, "8": 6.0}, {1: 5.0, 8: 6.0}])
def test_a_profile_as_kept_as_printed_and_as_it_is(passes: Any) -> None:
    own = times_from_profile({**PROFILE, "target_pass_ms": passes}, adapter_ms=0.4)
    assert (own.step_ms, own.pass_ms(8), own.draft_step_ms, own.event_prefill_ms) == (5.0, 6.0, 3.0, 2.0)
    measured = {name for name in FIGURES if own.origin(name) == "measured"}
    assert measured == {
        "target_encode_ms", "target_prefill_ms", "step_ms", "verify_ms", "draft_step_ms", "event_encode_ms",
        "event_prefill_ms",
    }  # fmt: skip


def test_the_profile_of_this_package_is_understood() -> None:
    from dataclasses import asdict

    from crossdraft.bench.profile import LatencyProfile

    profile = LatencyProfile(10.0, 20.0, {1: 5.0, 8: 6.0}, 140, 1.0, 2.0, 3.0, own_device=True)
    own = times_from_profile(asdict(profile))
    assert own.window == "own-device" and own.origin("window") == "measured"
    assert own.pass_ms(4) == profile.pass_ms(4)


def test_what_was_measured_besides_passes_is_measured() -> None:
    own = times_from_profile({**PROFILE, "overhead_ms": 1.5, "contention": 1.25, "adapter_ms": None})
    assert (own.overhead_ms, own.contention, own.adapter_ms) == (1.5, 1.25, 0.0)
    assert own.origin("overhead_ms") == own.origin("contention") == "measured"
    assert own.origin("adapter_ms") == "assumed"


def test_a_measured_adapter_is_a_part_of_every_drafted_token() -> None:
    plain = times_from_profile(PROFILE)
    own = times_from_profile({**PROFILE, "adapter_ms": 0.5})
    assert (own.draft_step_ms, own.adapter_ms) == (3.5, 0.0)
    assert own.origin("adapter_ms") == own.origin("draft_step_ms") == "measured"
    assert round_ms(own, 6) == pytest.approx(round_ms(plain, 6) + 6 * 0.5)
    given = times_from_profile({**PROFILE, "adapter_ms": 0.5}, adapter_ms=2.0)
    assert given.adapter_ms == 2.0 and given.origin("adapter_ms") == "assumed"


def test_a_figure_given_by_hand_wins_and_is_assumed() -> None:
    own = times_from_profile(PROFILE, target_prefill_ms=99.0)
    assert own.target_prefill_ms == 99.0 and own.origin("target_prefill_ms") == "assumed"


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({}, "damaged"), ({**PROFILE, "target_pass_ms": [[8, 6.0]]}, "damaged"),
        ({**PROFILE, "target_pass_ms": 3}, "damaged"), ({**PROFILE, "target_encode_ms": "soon"}, "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_profile(profile: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        times_from_profile(profile)


def test_figures_that_are_missing_are_named() -> None:
    without = {key: value for key, value in PROFILE.items() if not key.startswith("event")}
    with pytest.raises(SettingError, match="not known: draft_step_ms.*looks its tokens up"):
        times_from_profile(without)
    with pytest.raises(SettingError, match="'overlapped' needs event_encode_ms"):
        times_from_profile(without, draft_step_ms=0.0, window="overlapped")
    with pytest.raises(SettingError, match="unknown figure 'drafts_ms'"):
        times_from_figures({"drafts_ms": 1.0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_ms": 0.0}, "step_ms is 0"), ({"target_prefill_ms": -1.0}, "target_prefill_ms is -1"),
        ({"adapter_ms": math.nan}, "finite"), ({"contention": 0.5}, "contention is 0.5"),
        ({"window": "ajar"}, "unknown window 'ajar'"), ({"verify_ms": {1: 5.0}}, "2 rows or more"),
        ({"verify_ms": {2: math.inf}}, "finite milliseconds"), ({"verify_ms": {0: 1.0, 2: 1.0}}, "rows"),
        ({"assumed": frozenset({"luck"})}, "'luck'"),
    ],
)  # fmt: skip
def test_times_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        times(**changes)
    with pytest.raises(SettingError, match="unknown figure"):
        times().origin("luck")


def test_the_model_needs_no_tensor_library() -> None:
    script = (
        "import sys; from crossdraft.evaluate import latency, prediction, published, replay, viability; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
