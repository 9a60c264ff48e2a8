"""Each published formula must give the published figure from the published inputs.

Inputs: acceptance_metrics.json and two_phase_results_*.json of the study (xifan-zhang/EventGPT, commit 5987c00,
feasible/feature_alignment/tasks), 11,000 pairs; assumed there: drafter prefill 130, drafter step 25, target prefill
310, target step 25, adapter 1.5 ms, 50 tokens.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.evaluate.expected import expected_tokens, fit_alpha
from crossdraft.evaluate.latency import Times
from crossdraft.evaluate.prediction import Acceptance
from crossdraft.evaluate.published import (
    LABEL,
    all_published,
    capped_geometric,
    cross_modal,
    decode_speedup_gamma5,
    end_to_end,
    leviathan,
    prefill_speedup,
    run_over_overhead,
    same_model,
    token_adapter,
    two_phase,
)

ASSUMED = {"target_prefill_ms": 310.0, "draft_prefill_ms": 130.0, "step_ms": 25.0}
# consecutive_mean_90, sd_consecutive_gamma5, token_sd_decode_consecutive_mean
L1 = {"run": 5.959908962249756, "run5": 4.389999866485596, "tokens5": 3.4722726345062256}
L4 = {"run": 7.846817970275879, "run5": 4.710908889770508, "tokens5": 3.737727165222168}


def test_the_headline_is_a_run_length_over_an_assumption() -> None:
    assert f"{run_over_overhead(6.35, 0.1).speedup:.2f}" == "5.77"


@pytest.mark.parametrize(("level", "printed"), [(L1, "1.48"), (L4, "1.58")])
def test_prefill_speedup(level: dict[str, float], printed: str) -> None:
    assert f"{prefill_speedup(level['run'], draft_step_ms=25.0, **ASSUMED).speedup:.2f}" == printed


@pytest.mark.parametrize(("level", "printed"), [(L1, "5.08"), (L4, "5.39")])
def test_decode_speedup_gamma5(level: dict[str, float], printed: str) -> None:
    assert f"{decode_speedup_gamma5(level['run5'], adapter_ms=1.5, step_ms=25.0).speedup:.2f}" == printed


@pytest.mark.parametrize(("level", "cosine", "tokens"), [(L1, "0.91", "0.78"), (L4, "0.95", "0.82")])
def test_end_to_end(level: dict[str, float], cosine: str, tokens: str) -> None:
    assert f"{end_to_end(level['run5'], 5, 50, adapter_ms=1.5, **ASSUMED).speedup:.2f}" == cosine
    assert f"{end_to_end(level['tokens5'], 5, 50, adapter_ms=1.5, **ASSUMED).speedup:.2f}" == tokens


@pytest.mark.parametrize(
    ("window_run", "decode_run", "speedup"),
    [
        (3.8178181648254395, 0.7334545254707336, 1.5354252911267918),  # L1 then L5F
        (4.592454433441162, 0.7334545254707336, 1.553532675957938),  # L4 then L5F
        (0.0, 0.7334545254707336, 1.452014233861481),  # L5F alone
        (0.0, 0.5084545612335205, 1.312708725625973),  # B1 alone
    ],
)  # fmt: skip
def test_two_phase(window_run: float, decode_run: float, speedup: float) -> None:
    found = two_phase(window_run, decode_run, 50, adapter_ms=1.5, **ASSUMED).speedup
    assert found == pytest.approx(speedup, rel=1e-9)


def test_two_phase_to_the_printed_decimals() -> None:
    found = [two_phase(w, 0.7334545254707336, 50, adapter_ms=1.5, **ASSUMED).speedup for w in (3.81782, 4.59245)]
    assert [f"{x:.2f}" for x in found] == ["1.54", "1.55"]


def test_token_adapter() -> None:
    assert f"{token_adapter(0.279, 5).speedup:.2f}" == "1.39"


def test_the_notes_equations_do_not_give_the_notes_figures() -> None:
    """It prints 3.1x for acceptance 0.70, overhead 0.3 and 5.8x for 0.20, 0.01; no draft length gives either."""
    assert same_model(0.70, 5, 0.3).speedup == pytest.approx(2.262, abs=5e-4)
    assert cross_modal(0.20, 5, 0.01).speedup == pytest.approx(1.238, abs=5e-4)
    assert max(same_model(0.70, g, 0.3).speedup for g in range(1, 200)) < 2.6
    assert max(cross_modal(0.20, g, 0.01).speedup for g in range(1, 200)) < 1.3


def test_leviathans_best_figures() -> None:
    """Theorem 3.8 at its optimum, for c = 0.05 and 0.1."""
    assert leviathan(0.6, 4, 0.05).speedup == pytest.approx(1.92, abs=0.005)
    assert leviathan(0.8, 6, 0.10).speedup == pytest.approx(2.47, abs=0.005)
    assert leviathan(1.0, 3, 0.0).speedup == 4.0


def test_the_capped_geometric_law_against_a_simulation() -> None:
    rng, emitted = random.Random(3), 0
    for _ in range(10_000):
        emitted += 1 + next((k for k in range(5) if rng.random() >= 0.7), 5)
    assert emitted / 10_000 == pytest.approx(capped_geometric(0.7, 5), abs=0.06)
    assert capped_geometric(0.7, 5) == pytest.approx((1 - 0.7**6) / 0.3)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.integers(1, 20))
def test_one_rate_is_found_back_from_its_tokens(alpha: float, gamma: int) -> None:
    tau = capped_geometric(alpha, gamma)
    assert capped_geometric(fit_alpha(tau, gamma), gamma) == pytest.approx(tau, abs=1e-9)


def test_what_cannot_be_put_in() -> None:
    with pytest.raises(SettingError, match="acceptance rate is 1.2"):
        leviathan(1.2, 5, 0.1)
    with pytest.raises(SettingError, match="divides by the target's prefill"):
        prefill_speedup(1.0, target_prefill_ms=0.0, draft_prefill_ms=0.0, draft_step_ms=1.0, step_ms=1.0)


@pytest.mark.parametrize("alphas", [(0.9, 0.8, 0.7, 0.6, 0.5, 0.4), (0.3,)])
def test_all_of_them_from_one_pair(alphas: tuple[float, ...]) -> None:
    times = Times(
        target_encode_ms=0.0, target_prefill_ms=310.0, step_ms=25.0, verify_ms={2: 25.0}, draft_step_ms=25.0,
        event_prefill_ms=130.0, adapter_ms=1.5,
    )  # fmt: skip
    found = {p.name: p for p in all_published(times, Acceptance(alphas), 50)}
    assert len(found) == 9
    assert all(p.label == LABEL and p.formula and p.source and p.leaves_out and p.inputs for p in found.values())
    run5 = expected_tokens(alphas, 5) - 1
    assert found["decode speedup gamma5"].speedup == pytest.approx((run5 + 1) / 1.06)
    assert found["token adapter"].speedup == pytest.approx(run5 + 1, abs=1e-6)
    assert found["e2e"].inputs["gamma"] == min(5, len(alphas))
