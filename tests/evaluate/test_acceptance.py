import json
import math
import random
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, MeasureError
from crossdraft.core.types import Generation, Round
from crossdraft.evaluate.acceptance import (
    EDGES,
    THETAS,
    Rounds,
    as_record,
    match_by_cosine,
    round_figures,
    state_figures,
    tau_contribution,
    token_contribution,
    token_figures,
)
from crossdraft.evaluate.consecutive import Depths, Positions, Runs
from crossdraft.evaluate.expected import expected_length, expected_tokens, fit_alpha
from crossdraft.evaluate.intervals import Recordings
from crossdraft.evaluate.ragged import Cosines, Flags, Matches, Ranks

Rows = list[list[tuple[float, int]]]

# thresholds and edges themselves are drawn often: "above" is strict
COSINES = st.one_of(st.sampled_from(sorted({*EDGES, *THETAS})), st.floats(-1, 1))


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """A cosine and the rank of the target's token for each position of 1 to 8 samples, some without positions."""
    position = st.tuples(COSINES, st.integers(0, 12).map(lambda rank: max(0, rank - 3)))
    return draw(st.lists(st.lists(position, max_size=6), min_size=1, max_size=8).filter(any))


def recordings_of(many: int) -> Recordings:
    """Three recordings in turn, without intervals: values are what is compared here."""
    return Recordings.of(["abc"[i % 3] for i in range(many)], draws=0)


def cosines_of(case: Rows) -> Cosines:
    return Cosines.of([[c for c, _ in row] for row in case])


def matches_of(case: Rows) -> Matches:
    return Matches.of([[rank == 0 for _, rank in row] for row in case])


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def close(own: float, plain: float) -> None:
    assert own == pytest.approx(plain, abs=1e-9, nan_ok=True)


def run_of(row: list[bool]) -> int:
    return next((i for i, holds in enumerate(row) if not holds), len(row))


def check_runs(own: Runs, flags: list[list[bool]]) -> None:
    runs = sorted(map(run_of, flags))
    close(own.mean.value, mean(runs))
    close(own.median, (runs[len(runs) // 2] + runs[(len(runs) - 1) // 2]) / 2)
    assert own.longest == runs[-1]
    assert own.histogram.tolist() == [runs.count(n) for n in range(runs[-1] + 1)]
    assert own.bounds.minimum - 1e-9 <= own.mean.value <= own.bounds.maximum + 1e-9


def check_positions(own: Positions, flags: list[list[bool]]) -> None:
    assert len(own.reached) == max(map(len, flags))
    for k, reached in enumerate(own.reached):
        there = [row[k] for row in flags if len(row) > k]
        assert reached == len(there)
        close(own.of_all.values[k], sum(there) / len(flags))
        close(own.of_reached.values[k], sum(there) / len(there))


def check_depths(own: Depths, judgements: list[list[bool]]) -> None:
    """judgements: of each draft, what was judged: True for each accepted token, False for the one refused."""
    assert len(own.judged) == max(map(len, judgements))
    for k, judged in enumerate(own.judged):
        there = [row[k] for row in judgements if len(row) > k]
        assert judged == len(there)
        close(own.alpha.values[k], mean(there))


@settings(max_examples=40, deadline=None)
@given(rows())
def test_figures_of_cosines_by_brute_force(case: Rows) -> None:
    own = state_figures(cosines_of(case), recordings_of(len(case)))
    flat = [c for row in case for c, _ in row]
    close(own.cos_mean.value, mean(flat))
    close(own.cos_std, math.sqrt(mean([(c - mean(flat)) ** 2 for c in flat])))
    assert (own.num_samples, own.num_positions) == (len(case), len(flat))
    for k, value in enumerate(own.cos_by_position.values):
        close(value, mean([row[k][0] for row in case if len(row) > k]))
    assert [at.theta for at in own.accept_at] == list(THETAS)
    for at in own.accept_at:
        flags = [[c > at.theta for c, _ in row] for row in case]
        close(at.share.value, mean([c > at.theta for c in flat]))
        check_runs(at.runs, flags)
        check_positions(at.positions, flags)


@settings(max_examples=40, deadline=None)
@given(rows())
def test_figures_of_tokens_by_brute_force(case: Rows) -> None:
    ranks = Ranks.of([[rank for _, rank in row] for row in case])
    own = token_figures(matches_of(case), recordings_of(len(case)), ranks)
    flat = [rank for row in case for _, rank in row]
    assert own.top5 is not None and own.top10 is not None
    for share, k in ((own.top1, 1), (own.top5, 5), (own.top10, 10)):
        close(share.value, mean([rank < k for rank in flat]))
    flags = [[rank == 0 for _, rank in row] for row in case]
    check_runs(own.runs, flags)
    check_positions(own.positions, flags)
    check_depths(own.depths, [row[: run_of(row) + 1] for row in flags])
    assert token_figures(matches_of(case), recordings_of(len(case))).top5 is None


@settings(max_examples=40, deadline=None)
@given(rows())
def test_the_map_from_cosine_to_token_by_brute_force(case: Rows) -> None:
    own = match_by_cosine(cosines_of(case), matches_of(case), recordings_of(len(case)))
    flat = [(c, float(rank == 0)) for row in case for c, rank in row]
    for i, (low, high) in enumerate(pairwise(EDGES)):
        inside = [m for c, m in flat if low < c <= high or (i == 0 and c == -1)]
        assert own.counts[i] == len(inside)
        close(own.match.values[i], mean(inside))
    assert own.counts.sum() == len(flat)
    for above in own.above:
        chosen = [m for c, m in flat if c > above.theta]
        assert above.count == len(chosen)
        close(above.match.value, mean(chosen))
    x, y = zip(*flat, strict=True)
    sx, sy = (math.sqrt(mean([(v - mean(list(side))) ** 2 for v in side])) for side in (x, y))
    if sx > 1e-4 and sy > 0:
        covariance = mean([(c - mean(list(x))) * (m - mean(list(y))) for c, m in flat])
        assert own.pearson.value == pytest.approx(covariance / sx / sy, abs=1e-6)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(own.pearson.value)


@st.composite
def requests(draw: st.DrawFn) -> list[list[tuple[int, int, int]]]:
    """(drafted, accepted, emitted) of each round of 1 to 6 requests; a last one may be cut at accepted tokens."""

    def one(drafted: int, accepted: int, cut: bool) -> tuple[int, int, int]:
        return drafted, min(accepted, drafted), min(accepted, drafted) + (not (cut and accepted and drafted))

    a_round = st.builds(one, st.integers(0, 5), st.integers(0, 5), st.just(False))
    last = st.builds(one, st.integers(0, 5), st.integers(0, 5), st.booleans())
    request = st.one_of(st.just([]), st.tuples(st.lists(a_round, max_size=4), last).map(lambda r: [*r[0], r[1]]))
    return draw(st.lists(request, min_size=1, max_size=6).filter(any))


def generations(case: list[list[tuple[int, int, int]]]) -> list[Generation]:
    return [Generation(rounds=[Round("x", d, a, e, {}) for d, a, e in rounds]) for rounds in case]


@settings(max_examples=60, deadline=None)
@given(requests())
def test_figures_of_rounds_by_brute_force(case: list[list[tuple[int, int, int]]]) -> None:
    answers = generations(case)
    own = round_figures(Rounds.of(answers), recordings_of(len(case)))
    flat = [counts for rounds in case for counts in rounds]
    accepted = [a for _, a, _ in flat]
    close(own.tau.value, sum(e for _, _, e in flat) / len(flat))
    close(own.tau_per_request.value, mean([g.tau for g in answers if g.rounds]))
    close(own.tau_draft.value, mean(accepted))
    drafted = sum(d for d, _, _ in flat)
    close(own.draft_utilisation.value, sum(accepted) / drafted if drafted else math.nan)
    assert (own.num_requests, own.num_rounds) == (len(case), len(flat))
    assert own.histogram.tolist() == [accepted.count(n) for n in range(max(accepted) + 1)]
    judgements = [[True] * a + [False] * (e > a and d > a) for d, a, e in flat]
    check_depths(own.depths, judgements) if any(judgements) else close(len(own.depths.judged), 0)
    limits = np.array([d if e > a else a for d, a, e in flat])
    if limits.any():
        assert expected_length(own.alpha, limits) == pytest.approx(1 + mean(accepted), abs=1e-9)
    else:
        assert math.isnan(own.alpha)


def test_of_a_tree_its_levels_are_judged() -> None:
    """Seven nodes on three levels: a path that ends at level 1 says that level 2 was refused, and nothing of 3."""
    rounds = [Round("x", 7, accepted, accepted + 1, {}, 3) for accepted in (0, 1, 1, 3)]
    own = round_figures(Rounds.of([Generation(rounds=rounds)]), Recordings.of(["a"], draws=0))
    assert own.depths.judged.tolist() == [4, 3, 1]
    assert own.depths.alpha.values.tolist() == [3 / 4, 1 / 3, 1.0]
    assert own.draft_utilisation.value == pytest.approx(5 / 28)
    assert own.tau.value == pytest.approx(1 + 5 / 4)
    with pytest.raises(DataError, match="no deeper than"):
        Rounds.of([Generation(rounds=[Round("x", 7, 4, 5, {}, 3)])])


def test_pooled_and_per_request_tau_differ_and_have_their_names() -> None:
    """One request of one long round beside one of four plain ones: the mean of ratios flatters."""
    own = round_figures(Rounds.of(generations([[(8, 7, 8)], [(8, 0, 1)] * 4])), Recordings.of(["a", "b"]))
    assert own.tau.value == pytest.approx(12 / 5) and own.tau_per_request.value == pytest.approx(4.5)
    assert own.tau.low == 1.0 and own.tau.high == 8.0


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.integers(0, 12))
def test_expected_length_is_leviathans_quotient_and_the_enumerated_chain(alpha: float, gamma: int) -> None:
    own = expected_length(alpha, gamma)
    if alpha < 0.99:
        assert own == pytest.approx((1 - alpha ** (gamma + 1)) / (1 - alpha), rel=1e-12)
    assert own == pytest.approx(expected_tokens([alpha] * gamma, gamma), rel=1e-12)
    assert expected_length(1.0, gamma) == gamma + 1 and expected_length(0.0, gamma) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_expected_length_by_depth_is_the_enumerated_chain(alphas: list[float]) -> None:
    total = 0.0
    for outcome in product([True, False], repeat=len(alphas)):
        chance = math.prod(a if good else 1 - a for a, good in zip(alphas, outcome, strict=True))
        total += chance * (run_of(list(outcome)) + 1)
    assert expected_tokens(alphas, len(alphas)) == pytest.approx(total, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_measured_rates_by_depth_give_back_the_measured_length(flags: list[list[bool]]) -> None:
    own = token_figures(Matches.of(flags), recordings_of(len(flags)))
    assert expected_tokens(own.depths.alpha.values, len(own.depths.alpha.values)) == pytest.approx(
        1 + mean([*map(run_of, flags)])
    )


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
def test_alpha_is_found_again_from_the_length_it_gives(alpha: float, drafted: list[int]) -> None:
    lengths = np.array(drafted)
    tau = expected_length(alpha, lengths)
    assert expected_length(fit_alpha(tau, lengths), lengths) == pytest.approx(tau, abs=1e-9)
    assert fit_alpha(expected_length(alpha, 1), 1) == pytest.approx(alpha, abs=1e-9)


@pytest.mark.parametrize(
    ("c", "alpha", "gamma", "speedup"),
    [(0.05, 0.6, 4, 1.92), (0.05, 0.9, 13, 4.67), (0.10, 0.8, 6, 2.47), (0.20, 0.7, 3, 1.58), (0.71, 0.9, 2, 1.12)],
)
def test_leviathans_best_speedups(c: float, alpha: float, gamma: int, speedup: float) -> None:
    by_length = [expected_length(alpha, g) / (g * c + 1) for g in range(1, 30)]
    assert by_length.index(max(by_length)) + 1 == gamma
    assert max(by_length) == pytest.approx(speedup, abs=0.005)


def test_no_rate_gives_an_impossible_length() -> None:
    for tau in (0.9, 6.2, math.nan):
        with pytest.raises(MeasureError, match="no acceptance rate gives"):
            fit_alpha(tau, 5)
    with pytest.raises(MeasureError, match="nothing was drafted"):
        fit_alpha(1.0, 0)


def test_an_impossible_mean_run_never_leaves_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    matches = Matches.of([[True, False, True], [True, True]])
    whole = Flags.leading
    monkeypatch.setattr(Flags, "leading", lambda self: whole(self) + 1)
    with pytest.raises(MeasureError, match="impossible"):
        token_figures(matches, recordings_of(2))


@settings(max_examples=25, deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_the_contribution_is_right_minus_shuffled_clip(case: Rows, chance: random.Random) -> None:
    right = [[rank == 0 for _, rank in row] for row in case]
    wrong = [[chance.random() < 0.5 for _ in row] for row in case]
    own = token_contribution(Matches.of(right), Matches.of(wrong), recordings_of(len(case)))
    runs = [mean([*map(run_of, side)]) for side in (right, wrong)]
    close(own["run"].gap.value, runs[0] - runs[1])
    share = [mean([flag for row in side for flag in row]) for side in (right, wrong)]
    close(own["top1"].gap.value, share[0] - share[1])
    close(own["top1"].right.value, share[0])


def test_events_that_help_and_events_that_do_not() -> None:
    noise = np.random.default_rng(0)
    recordings = Recordings.of([str(i // 10) for i in range(200)])
    good, bad = (Matches(noise.random(2000) < p, np.full(200, 10)) for p in (0.8, 0.5))
    helps = token_contribution(good, bad, recordings)
    assert helps["run"].gap.low > 0 and helps["top1"].gap.low > 0.2
    nothing = token_contribution(bad, bad, recordings)
    assert (nothing["run"].gap.low, nothing["run"].gap.high) == (0.0, 0.0)

    rounds = [Rounds.of(generations([[(4, a, a + 1)] * 3 for _ in range(200)])) for a in (3, 1)]
    gap = tau_contribution(*rounds, recordings).gap
    assert (gap.value, gap.low, gap.high) == (2.0, 2.0, 2.0)


def test_the_prefills_own_token_can_be_left_out() -> None:
    matches = Matches.of([[True, True, False], [False, True], [True]])
    rest = matches.after(1)
    assert rest.leading().tolist() == [1, 1, 0] and rest.lengths.tolist() == [2, 1, 0]
    assert isinstance(rest, Matches) and rest.values.tolist() == [True, False, True]
    assert matches.leading().tolist() == [2, 0, 1]
    with pytest.raises(DataError, match="nothing to measure"):
        matches.after(3)


def test_cosines_never_become_accepted_tokens() -> None:
    cosines = Cosines.of([[0.95, 0.2]])
    assert not isinstance(cosines.above(0.9), Matches)
    with pytest.raises(DataError, match="matches must be booleans, these are float64"):
        Matches(cosines.values, cosines.lengths)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Cosines.of([[0.5], [0.1, float("nan")]]), "sample 1, position 1: the cosine is nan"),
        (lambda: Cosines.of([[1.5]]), "sample 0, position 0: the cosine is 1.5"),
        (lambda: Cosines.of([[1, 0]]), "floating-point"),
        (lambda: Cosines.of([]), "nothing to measure"),
        (lambda: Matches.of([[], []]), "nothing to measure"),
        (lambda: Ranks.of([[-1]]), "whole numbers from 0"),
        (lambda: Ranks.of([[0.0]]), "whole numbers from 0"),
        (lambda: Matches(np.ones(3, bool), np.array([2])), "2 positions are announced"),
        (lambda: Matches(np.ones((1, 2), bool), np.array([2])), "2 positions are announced"),
        (lambda: Matches(np.ones(2, bool), np.array([3, -1])), "one whole number, 0 or more"),
        (lambda: Matches(np.ones(2, bool), np.array([2.0])), "one whole number, 0 or more"),
        (lambda: Rounds.of(generations([[(1, 2, 3)]])), "accepts what was drafted"),
        (lambda: Rounds.of(generations([[(4, 2, 4)]])), "at most one more"),
        (lambda: round_figures(Rounds.of([Generation()]), recordings_of(1)), "no request has a round"),
        (lambda: round_figures(Rounds.of([Generation()]), recordings_of(2)), "recordings are given for 2"),
        (lambda: state_figures(Cosines.of([[0.5]]), recordings_of(2)), "recordings are given for 2"),
        (
            lambda: match_by_cosine(Cosines.of([[0.5]]), Matches.of([[True, True]]), recordings_of(1)),
            "do not have the same positions",
        ),
        (
            lambda: match_by_cosine(Cosines.of([[0.5]]), Matches.of([[True]]), recordings_of(1), edges=(0.0, 1.0)),
            "ascend from -1 to 1",
        ),
        (
            lambda: token_figures(Matches.of([[True]]), recordings_of(1), Ranks.of([[2]])),
            "has a rank above 0",
        ),
        (
            lambda: token_contribution(Matches.of([[True]]), Matches.of([[True, True]]), recordings_of(1)),
            "do not have the same positions",
        ),
    ],
)
def test_what_cannot_be_measured_has_its_own_line(build, says) -> None:
    with pytest.raises(DataError, match=says) as raised:
        build()
    assert "\n" not in str(raised.value)


def test_half_precision_and_rounded_cosines_are_taken() -> None:
    cosines = Cosines(np.array([1.004, -1.004, 0.5], np.float16), np.array([3]))
    own = match_by_cosine(cosines, Matches.of([[True, False, True]]), recordings_of(1))
    assert cosines.values.dtype == np.float64 and own.counts[[0, -1]].tolist() == [1, 1]


def test_figures_become_a_record() -> None:
    cosines, matches = Cosines.of([[0.99, 0.1], [0.97]]), Matches.of([[True, True], [True]])
    recordings = Recordings.of(["a", "b"])
    figures = {
        "states": state_figures(cosines, recordings),
        "tokens": token_figures(matches, recordings),
        "map": match_by_cosine(cosines, matches, recordings),
        "rounds": round_figures(Rounds.of(generations([[(2, 1, 2)], []])), recordings),
    }
    record = json.loads(json.dumps(as_record(figures), allow_nan=False))
    assert record["map"]["pearson"] == {"value": None, "low": None, "high": None}
    assert record["states"]["accept_at"][2]["runs"]["mean"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert record["tokens"]["positions"]["reached"] == [2, 1]
    assert record["rounds"]["tau"]["value"] == 2.0
