"""Expected tokens of a pass from acceptance rates, and back. No tensor library is needed for it."""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import numpy as np
from jaxtyping import Int

from crossdraft.core.errors import MeasureError

_ROUNDING = 1e-12


def reach(alphas: Sequence[float]) -> tuple[float, ...]:
    """P_k = alpha_1 ... alpha_k: chance that the first k drafted tokens are all accepted, for k = 1, 2, ...

    alphas: acceptance rate at each depth *given that all before it were accepted*, so the product is exact whatever
    depends on what. Source: Leviathan et al., arXiv 2211.17192, definition 3.1, by depth.
    """
    return tuple(accumulate(alphas, mul))


def expected_tokens(alphas: Sequence[float], drafted: int) -> float:
    """E[tau] = 1 + P_1 + ... + P_drafted: tokens of a pass over a chain, bonus or correction included.

    Source: arXiv 2211.17192, equation 1, which is this for one alpha at all depths.
    """
    return 1.0 + sum(reach(alphas[:drafted]))


def expected_length(alpha: float, drafted: int | Int[np.ndarray, "M"]) -> float:
    """E[tau] for a constant, independent acceptance rate; the mean over rounds when drafts differ in length.

    E[tau] = (1 - alpha^(gamma+1)) / (1 - alpha) for a chain of gamma drafts, gamma + 1 at alpha = 1.
    Source: Leviathan et al., ICML 2023, arXiv 2211.17192, equation 1.
    """
    lengths = np.atleast_1d(drafted)
    # a sum of powers, because the quotient loses its digits near alpha = 1
    return float(np.cumsum(alpha ** np.arange(lengths.max() + 1))[lengths].mean())


def fit_alpha(tau: float, drafted: int | Int[np.ndarray, "M"]) -> float:
    """The constant acceptance rate whose ``expected_length`` is ``tau``; to about 1e-15, by bisection.

    Raises MeasureError when no rate gives it: nothing was drafted, or tau lies outside 1..1 + mean drafts.
    """
    most = 1.0 + float(np.mean(drafted))
    if most == 1.0:
        raise MeasureError("an acceptance rate cannot be fitted: nothing was drafted")
    if not 1.0 <= tau <= most + _ROUNDING * most:
        raise MeasureError(f"no acceptance rate gives tau = {tau:.3f}: these drafts allow 1 to {most:.3f}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_length(middle, drafted) < tau else (low, middle)
    return (low + high) / 2
