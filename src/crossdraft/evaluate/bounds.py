"""What figures can be at all: mean runs that given positions allow, and ceilings of speed-up.

Everything here is arithmetic on measured inputs; nothing is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from crossdraft.core.errors import MeasureError


@dataclass(frozen=True)
class RunBounds:
    """Mean runs that the acceptances at each position, taken alone, leave possible.

    minimum:     rejections fall into different samples wherever they can (Frechet's lower bound).
    independent: positions are accepted independently. Not a bound: texts are easy or hard as a whole, so the
                 truth usually lies above.
    maximum:     acceptances are nested: whoever is accepted later was accepted before (Frechet's upper bound).
    """

    minimum: float
    independent: float
    maximum: float


def run_bounds(marginals: Sequence[float] | Float[np.ndarray, "L"]) -> RunBounds:
    """Bounds of E[run] = sum_k P(positions 1..k all accepted), given each position's acceptance alone.

    marginals: share of *all* samples accepted at each position; a sample too short counts as rejected there.
    Both bounds are attained. Raises MeasureError when a share lies outside 0..1.
    Source: Frechet, "Généralisation du théorème des probabilités totales", Fund. Math. 25, 1935.
    """
    shares = np.asarray(marginals, dtype=np.float64)
    if shares.ndim != 1 or not len(shares) or not ((shares >= 0) & (shares <= 1)).all():
        raise MeasureError("bounds of a mean run need one share between 0 and 1 for each position")
    return RunBounds(
        minimum=float(np.maximum(0.0, 1.0 - np.cumsum(1.0 - shares)).sum()),
        independent=float(np.cumprod(shares).sum()),
        maximum=float(np.minimum.accumulate(shares).sum()),
    )


def assert_run_possible(
    mean_run: float, marginals: Sequence[float] | Float[np.ndarray, "L"], *, tolerance: float = 1e-6
) -> RunBounds:
    """The bounds of ``marginals``; MeasureError when ``mean_run`` lies outside them by more than ``tolerance``.

    tolerance: half a unit of the last printed digit, summed over positions, when figures come from a table.
    """
    bounds = run_bounds(marginals)
    # written so that NaN fails
    if not bounds.minimum - tolerance <= mean_run <= bounds.maximum + tolerance:
        raise MeasureError(
            f"a mean run of {mean_run:.3f} is impossible: the {len(marginals)} positions allow "
            f"{bounds.minimum:.3f} to {bounds.maximum:.3f}; look for runs that go past the last position, and for "
            "shares that leave out samples too short"
        )
    return bounds


def perfect_drafter_ceiling(num_drafts: int, draft_cost: float, verify_cost: float, overhead: float = 0.0) -> float:
    """Speed-up of decoding if every one of ``num_drafts`` drafts were accepted.

    All costs in steps of plain decoding: draft_cost of one draft token (c), verify_cost of a target pass over
    num_drafts + 1 tokens (v), overhead of a round.
    """
    return (num_drafts + 1) / (num_drafts * draft_cost + verify_cost + overhead)


def full_window_ceiling(
    *, plain_ms: float, step_ms: float, num_drafts: int, verify_ms: float, adapter_ms: float = 0.0
) -> float:
    """Speed-up of a request if all drafts written while the target prefilled were free and accepted, once.

    plain_ms: the request by plain decoding; step_ms: one step of it; verify_ms: the pass over num_drafts + 1
    tokens. The target's first token comes from its own prefill and is none of the drafts. What follows the one
    pass is plain decoding.
    """
    saved_ms = (num_drafts + 1) * step_ms - verify_ms - adapter_ms
    return plain_ms / (plain_ms - saved_ms)
