import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, SettingError
from crossdraft.evaluate.expected import expected_tokens, reach
from crossdraft.evaluate.latency import Times, amdahl_ceiling, first_token_ms, hidden_ms, plain_ms, round_ms
from crossdraft.evaluate.prediction import (
    SCHEMES,
    Acceptance,
    alphas_from_rounds,
    alphas_from_runs,
    expected_decode,
    predict,
    run_law,
)

TIMES = Times(
    target_encode_ms=30.0, target_prefill_ms=70.0, step_ms=10.0, verify_ms={4: 13.0, 8: 17.0, 16: 30.0},
    draft_step_ms=1.5, event_encode_ms=10.0, event_prefill_ms=30.0, adapter_ms=1.0, overhead_ms=0.5,
    window="own-device",
)  # fmt: skip
rates = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(tuple)


# --- acceptance from what was observed --------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_rates_from_runs_give_the_mean_run_back(runs: list[int]) -> None:
    """The rates are conditional, so their products are the survival curve whatever depends on what."""
    alphas = alphas_from_runs({length: runs.count(length) for length in set(runs)}, 6)
    assert sum(reach(alphas)) == pytest.approx(sum(runs) / len(runs))
    for k, chance in enumerate(reach(alphas), 1):
        assert chance == pytest.approx(sum(r >= k for r in runs) / len(runs))
    law = run_law(alphas)
    assert law.sum() == pytest.approx(1)
    for length, chance in enumerate(law):
        assert chance == pytest.approx(runs.count(length) / len(runs), abs=1e-12)


def test_rates_from_runs_as_a_list() -> None:
    assert alphas_from_runs([2, 1, 1], 3) == pytest.approx((0.5, 0.5, 0.0))


def test_a_cut_round_refuses_nothing() -> None:
    rounds = [
        {"drafted": 3, "accepted": 1, "emitted": 2},  # right, wrong
        {"drafted": 3, "accepted": 2, "emitted": 2},  # the answer ended with the second: the third was not judged
        {"drafted": 1, "accepted": 1, "emitted": 2},
        {"drafted": 0, "accepted": 0, "emitted": 1},
    ]
    assert alphas_from_rounds(rounds) == pytest.approx((1.0, 0.5, 0.0))


@pytest.mark.parametrize("runs", [{4: 1}, {-1: 1}, {1: -2}])
def test_runs_that_cannot_be(runs: dict[int, int]) -> None:
    with pytest.raises(DataError, match="run lengths"):
        alphas_from_runs(runs, 3)


def test_rounds_that_cannot_be() -> None:
    with pytest.raises(DataError, match="3 of 2 drafted"):
        alphas_from_rounds([{"drafted": 2, "accepted": 3, "emitted": 4}])
    with pytest.raises(DataError, match="no drafted token was ever judged"):
        alphas_from_rounds([{"drafted": 0, "accepted": 0, "emitted": 1}])


@pytest.mark.parametrize("alphas", [(), (1.1,), (math.nan,), (0.5, -0.1)])
def test_rates_that_cannot_be(alphas: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="acceptance rate"):
        Acceptance(alphas)


@settings(max_examples=40, deadline=None)
@given(rates, st.floats(-1, 1), st.floats(-1, 1))
def test_a_shift_moves_every_rate_one_way(alphas: tuple[float, ...], a: float, b: float) -> None:
    acceptance = Acceptance(alphas, alphas[:1])
    low, high = acceptance.shifted(min(a, b)), acceptance.shifted(max(a, b))
    assert all(x <= y + 1e-12 for x, y in zip(low.decode + low.window, high.decode + high.window, strict=True))
    assert acceptance.shifted(0.0) == acceptance
    assert acceptance.shifted(1.0).decode == (1.0,) * len(alphas)
    assert acceptance.shifted(-1.0).mean_accepted == 0.0


# --- expectations against playing it out ------------------------------------------------------------------------


def played(
    times: Times, alphas: tuple[float, ...], drafted: int, left: int, rng: random.Random
) -> tuple[float, int]:
    """One answer's decoding, played round by round as the loop does it."""
    ms, rounds = 0.0, 0
    while left:
        g = min(drafted, left - 1, len(alphas))
        run = next((k for k in range(g) if rng.random() >= alphas[k]), g)
        ms, rounds, left = ms + round_ms(times, g), rounds + 1, left - run - 1
    return ms, rounds


def test_expected_decode_equals_a_simulation() -> None:
    rng, alphas = random.Random(11), (0.9, 0.6, 0.8, 0.7)
    runs = [played(TIMES, alphas, 4, 12, rng) for _ in range(4_000)]
    ms, rounds = expected_decode(TIMES, alphas, 4, 12)
    assert ms[12] == pytest.approx(sum(r[0] for r in runs) / len(runs), rel=0.02)
    assert rounds[12] == pytest.approx(sum(r[1] for r in runs) / len(runs), rel=0.02)


@settings(max_examples=30, deadline=None)
@given(rates, st.integers(0, 5), st.integers(0, 6))
def test_expected_decode_equals_the_enumeration(alphas: tuple[float, ...], drafted: int, tokens: int) -> None:
    def by_hand(left: int) -> float:
        if left == 0:
            return 0.0
        g = min(drafted, left - 1, len(alphas))
        total = round_ms(TIMES, g)
        for pattern in itertools.product((True, False), repeat=g):
            chance = math.prod(a if right else 1 - a for a, right in zip(alphas[:g], pattern, strict=True))
            run = next((k for k, right in enumerate(pattern) if not right), g)
            total += chance * by_hand(left - run - 1)
        return total

    assert expected_decode(TIMES, alphas, drafted, tokens)[0][tokens] == pytest.approx(by_hand(tokens))


def test_without_drafts_and_with_perfect_ones() -> None:
    ms, rounds = expected_decode(TIMES, (0.5,), 0, 7)
    assert np.allclose(ms, 10.0 * np.arange(8)) and rounds[7] == 7
    # 8 tokens, 4 a round
    ms, rounds = expected_decode(TIMES, (1.0,) * 3, 3, 8)
    assert rounds[8] == 2 and ms[8] == pytest.approx(2 * (3 * 1.5 + 1.5 + 13.0))


def test_a_long_answer_comes_close_to_the_rate() -> None:
    alphas = (0.8,) * 4
    rounds = expected_decode(TIMES, alphas, 4, 4000)[1]
    assert 4000 / rounds[-1] == pytest.approx(expected_tokens(alphas, 4), rel=2e-3)


# --- predictions ------------------------------------------------------------------------------------------------


def test_one_shot_by_hand() -> None:
    """Always right for two tokens, never for a third: 100 ms, adapter, V(3), then 10 - 2 - 2 plain steps."""
    p = predict(TIMES, Acceptance((1.0, 1.0, 0.0)), 10, "one-shot")
    assert (p.window_drafted, p.drafted, p.window_accepted) == (2, 0, 2.0)
    assert p.total_ms == pytest.approx(100 + 1 + 12 + 6 * 10)
    assert p.total_ms == pytest.approx(hidden_ms(TIMES, 10, 2.0, 2))
    assert (p.plain_ms, p.rounds, p.tau_pooled) == (190.0, 7.0, pytest.approx(9 / 7))
    assert p.speedup_e2e == pytest.approx(190 / 173) and p.speedup_decode == pytest.approx(90 / 73)
    assert p.decode_share == pytest.approx(90 / 190) and p.ceiling == pytest.approx(1.9)


def test_redrafting_by_hand() -> None:
    """The window's two, then 4 + 2 of the six left: drafting 3 and 1."""
    p = predict(TIMES, Acceptance((1.0, 1.0, 1.0), window=(1.0, 1.0)), 10, drafted=3)
    assert (p.window_drafted, p.drafted, p.tau, p.rounds) == (2, 3, 4.0, 3.0)
    first, second = 3 * 1.5 + 1.5 + 13.0, 1.5 + 1.5 + 11.0
    assert p.total_ms == pytest.approx(100 + 1 + 12 + first + second)


def test_the_window_has_its_own_acceptance() -> None:
    deaf = predict(TIMES, Acceptance((0.9,) * 3, window=(0.0,) * 3), 30)
    assert deaf.window_drafted == 0 and deaf.drafted == 3
    assert predict(TIMES, Acceptance((0.0,) * 3, window=(0.9,) * 3), 30).window_drafted == 3


def test_nothing_is_drafted_where_nothing_is_accepted() -> None:
    for scheme in SCHEMES:
        p = predict(TIMES, Acceptance((0.0, 0.0)), 20, scheme)
        assert (p.drafted, p.window_drafted, p.tau, p.tau_pooled) == (0, 0, 1.0, 1.0)
        assert p.speedup_e2e == 1.0


def test_one_token_has_no_rounds() -> None:
    p = predict(replace(TIMES, assumed=frozenset({"adapter_ms"})), Acceptance((0.5,)), 1)
    assert (p.rounds, p.tau_pooled, p.total_ms, p.speedup_decode) == (0.0, None, 100.0, 1.0)
    assert p.assumed == ("adapter_ms",)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5), st.integers(1, 25),
    st.sampled_from(SCHEMES), st.sampled_from(["off", "own-device"]),
)  # fmt: skip
def test_more_acceptance_is_never_slower(
    pairs: list[tuple[float, float]], tokens: int, scheme: str, window: str
) -> None:
    times = replace(TIMES, window=window)
    worse = predict(times, Acceptance(tuple(map(min, pairs))), tokens, scheme)  # type: ignore[arg-type]
    better = predict(times, Acceptance(tuple(map(max, pairs))), tokens, scheme)  # type: ignore[arg-type]
    assert better.total_ms <= worse.total_ms + 1e-9
    assert better.speedup_e2e <= amdahl_ceiling(times, tokens) + 1e-9


@settings(max_examples=40, deadline=None)
@given(rates, st.integers(1, 20))
def test_the_plan_is_the_best_of_all_plans(alphas: tuple[float, ...], tokens: int) -> None:
    acceptance = Acceptance(alphas)
    chosen = predict(TIMES, acceptance, tokens)
    fixed = [predict(TIMES, acceptance, tokens, drafted=g).total_ms for g in range(len(alphas) + 1)]
    assert chosen.total_ms == pytest.approx(min(fixed))
    assert chosen.total_ms <= predict(TIMES, acceptance, tokens, "one-shot").total_ms + 1e-9
    # never slower than not drafting, but the event model that was started is waited for
    assert chosen.total_ms <= plain_ms(TIMES, tokens) - 100 + first_token_ms(TIMES) + 1e-9


def test_predictions_that_cannot_be_made() -> None:
    acceptance = Acceptance((0.5,))
    with pytest.raises(SettingError, match="answer of 0 tokens"):
        predict(TIMES, acceptance, 0)
    with pytest.raises(SettingError, match="unknown scheme 'twice'"):
        predict(TIMES, acceptance, 5, "twice")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="draft of 2 tokens.*0 to 1"):
        predict(TIMES, acceptance, 5, drafted=2)
