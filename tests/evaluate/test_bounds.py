import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import MeasureError
from crossdraft.evaluate.bounds import (
    assert_run_possible,
    full_window_ceiling,
    perfect_drafter_ceiling,
    run_bounds,
)
from crossdraft.evaluate.expected import expected_length

EXTRACT = json.loads((Path(__file__).parent / "run_bounds.json").read_text())
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "reference"
PILOT = [1.000, 1.000, 0.999, 0.692, 0.653, 0.556, 0.504, 0.423, 0.264, 0.182]
PUBLISHED = {
    "L1": (4.14, 4.60, 6.03),
    "L2": (4.97, 5.67, 7.95),
    "L3": (4.88, 5.68, 8.68),
    "L4": (5.22, 5.92, 8.80),
    "L4_5f_retrained": (5.32, 6.07, 10.15),
    "L4_1f": (5.23, 5.94, 9.50),
}


@pytest.mark.parametrize("level", PUBLISHED)
def test_the_bounds_of_every_level_to_two_decimals(level: str) -> None:
    figures = EXTRACT["levels"][level]
    shares = np.array(figures["accepted"]) / EXTRACT["num_samples"]
    bounds = assert_run_possible(figures["mean_run"], shares)
    assert tuple(round(b, 2) for b in (bounds.minimum, bounds.independent, bounds.maximum)) == PUBLISHED[level]


def test_the_pilot_claims_more_than_its_positions_allow() -> None:
    bounds = run_bounds(PILOT)
    assert bounds.maximum == pytest.approx(6.273, abs=5e-4)
    assert bounds.independent == pytest.approx(4.589, abs=5e-4)
    assert bounds.minimum == pytest.approx(4.034, abs=5e-4)
    with pytest.raises(MeasureError, match=r"6\.350 is impossible: the 10 positions allow 4\.034 to 6\.273"):
        assert_run_possible(6.35, PILOT, tolerance=10 * 0.0005)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published per-position figures are not beside this checkout")
def test_every_mean_run_of_the_real_files_is_possible_and_the_extract_is_theirs() -> None:
    checked = 0
    for path in sorted(REAL.glob("*.position_stats.json")):
        level = path.name.split(".")[0]
        positions = json.loads(path.read_text())
        stated = json.loads((REAL / f"{level}.acceptance_metrics.json").read_text())
        for theta in (80, 85, 90, 95):
            counts = [round(p[f"accept_{theta}"] * p["num_samples"]) for p in positions]
            assert_run_possible(stated[f"consecutive_mean_{theta}"], np.array(counts) / 11000, tolerance=1e-4)
            checked += 1
            if theta == 90 and level in EXTRACT["levels"]:
                assert counts == EXTRACT["levels"][level]["accepted"]
    assert checked == 36


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, list[int]]:
    samples = draw(st.integers(1, 9))
    return samples, draw(st.lists(st.integers(0, samples), min_size=1, max_size=6))


def mean_run(accepted: np.ndarray) -> float:
    return float(np.mean([next((i for i, a in enumerate(row) if not a), len(row)) for row in accepted.tolist()]))


@settings(max_examples=100, deadline=None)
@given(counts())
def test_both_bounds_are_attained(case: tuple[int, list[int]]) -> None:
    samples, accepted = case
    nested = np.array([[i < count for count in accepted] for i in range(samples)])
    # every position rejects the samples next in turn, round a circle
    disjoint, turn = np.ones((samples, len(accepted)), bool), 0
    for position, count in enumerate(accepted):
        disjoint[[(turn + i) % samples for i in range(samples - count)], position] = False
        turn += samples - count
    bounds = run_bounds(np.array(accepted) / samples)
    assert mean_run(nested) == pytest.approx(bounds.maximum, abs=1e-12)
    assert mean_run(disjoint) == pytest.approx(bounds.minimum, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)))
def test_no_outcome_escapes_the_bounds(rows: list[list[bool]]) -> None:
    accepted = np.array(rows)
    bounds = assert_run_possible(mean_run(accepted), accepted.mean(0))
    assert bounds.minimum <= bounds.independent + 1e-12 and bounds.independent <= bounds.maximum + 1e-12


def test_what_lies_outside_is_refused() -> None:
    assert_run_possible(1.5, [1.0, 0.5])
    for wrong in (1.4999, 1.5001, float("nan")):
        with pytest.raises(MeasureError, match="impossible"):
            assert_run_possible(wrong, [1.0, 0.5])
    for shares in ([], [1.1], [-0.1], [float("nan")], [[0.5]]):
        with pytest.raises(MeasureError, match="one share between 0 and 1"):
            run_bounds(shares)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.floats(0, 1), st.floats(0.01, 2), st.floats(1, 5), st.floats(0, 1))
def test_no_acceptance_beats_the_perfect_drafter(
    drafts: int, alpha: float, draft_cost: float, verify_cost: float, overhead: float
) -> None:
    cost = drafts * draft_cost + verify_cost + overhead
    ceiling = perfect_drafter_ceiling(drafts, draft_cost, verify_cost, overhead)
    assert expected_length(alpha, drafts) / cost <= ceiling * (1 + 1e-12)
    assert expected_length(1.0, drafts) / cost == pytest.approx(ceiling)


@pytest.mark.parametrize(
    ("plain_ms", "step_ms", "verify_ms", "ceiling"),
    [
        (722, 14.0, 70.0, 1.48),
        (1012, 15.17, 68.9, 1.35),
        (1410, 14.0, 70.0, 1.20),
        (722, 14.0, 1.15 * 14.0, 1.67),
        (1012, 15.17, 1.15 * 15.17, 1.45),
        (1410, 14.0, 1.15 * 14.0, 1.26),
    ],
)
def test_a_full_window_on_the_published_timings(
    plain_ms: float, step_ms: float, verify_ms: float, ceiling: float
) -> None:
    own = full_window_ceiling(
        plain_ms=plain_ms, step_ms=step_ms, num_drafts=21, verify_ms=verify_ms, adapter_ms=2.2
    )
    assert own == pytest.approx(ceiling, abs=0.006)
