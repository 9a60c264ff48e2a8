"""What a drafter will gain, from how often its tokens are accepted and what the passes cost.

Two ways to use an event model: ``one-shot`` drafts in the window, has that verified once and decodes plainly from
there; ``redraft`` also drafts again in every round from what was verified. Expectations are exact for the
acceptance given (the last round is cut at the budget, as the loop cuts it), so they can be held against
a stopwatch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from crossdraft.core.errors import DataError, SettingError
from crossdraft.evaluate.expected import expected_tokens, reach
from crossdraft.evaluate.latency import (
    Times,
    amdahl_ceiling,
    decode_share,
    first_token_ms,
    plain_ms,
    round_ms,
    usable_drafts,
)

Scheme = Literal["one-shot", "redraft"]
SCHEMES: tuple[Scheme, ...] = ("one-shot", "redraft")

MAX_TOKENS, MAX_DEPTH = 100_000, 256
"""Of an answer, and of a draft: what is more is a slip of the pen, and would be counted through for hours."""


@dataclass(frozen=True)
class Acceptance:
    """Acceptance rate alpha_k at depth k, given that all before it were accepted.

    decode: of drafts that follow what was verified. window: of the draft written in the window, counted after the
    target's own first token; empty means "as in ``decode``".
    """

    decode: tuple[float, ...]
    window: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.decode:
            raise SettingError("no acceptance rates were given; one for each depth of a draft is needed")
        if (depth := max(len(self.decode), len(self.window))) > MAX_DEPTH:
            raise SettingError(
                f"acceptance rates of {depth} depths were given; drafts have at most {MAX_DEPTH} tokens"
            )
        for alpha in (*self.decode, *self.window):
            if not 0 <= alpha <= 1:
                raise SettingError(f"an acceptance rate is {alpha}, must be between 0 and 1")

    @property
    def in_window(self) -> tuple[float, ...]:
        """The rates of the window's draft."""
        return self.window or self.decode

    @property
    def mean_accepted(self) -> float:
        """tau_draft, tokens: mean accepted drafts of a round that drafts to the last depth of ``decode``."""
        return sum(reach(self.decode))

    def shifted(self, shift: float) -> "Acceptance":
        """All rates moved by the share ``shift`` of their way to 1 (to 0 if negative): -1 accepts nothing, 1 all.

        One number for "better" and "worse" that keeps constant rates constant. Source: project derivation.
        """
        if shift >= 0:
            return Acceptance(
                tuple(a + shift * (1 - a) for a in self.decode), tuple(a + shift * (1 - a) for a in self.window)
            )
        return Acceptance(tuple(a * (1 + shift) for a in self.decode), tuple(a * (1 + shift) for a in self.window))


def alphas_from_runs(runs: Mapping[int, int] | Sequence[int], depth: int) -> tuple[float, ...]:
    """Acceptance rates from a distribution of run lengths, each of a draft of ``depth`` tokens.

    runs: run length in tokens -> how often, or how often by length 0, 1, 2, ... Exact whatever depends on what, for
    the rates are conditional. A depth that no run came near has rate 0. Source: project derivation.
    """
    counts = dict(runs) if isinstance(runs, Mapping) else dict(enumerate(runs))
    if depth < 1 or any(not 0 <= length <= depth for length in counts) or any(n < 0 for n in counts.values()):
        raise DataError(
            f"run lengths must lie between 0 and the draft's {depth} tokens and their counts be 0 or more"
        )
    return alphas_from_rounds(
        {"drafted": depth, "accepted": length, "emitted": length + 1, "weight": n} for length, n in counts.items()
    )


def alphas_from_rounds(rounds: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """Acceptance rates by depth from rounds with ``drafted``, ``accepted`` and ``emitted`` tokens, as records have.

    alpha_k = rounds whose first k were accepted / rounds in which the k-th was judged. A round that was cut at its
    last accepted token (end token, budget) refused nothing; a depth that was drafted and never judged has rate 0. A
    round may carry a ``weight``: how many such rounds it stands for. DataError when nothing was judged.
    """
    hits: dict[int, float] = {}
    tried: dict[int, float] = {}
    depth = 0
    for r in rounds:
        drafted, accepted, emitted = (int(r[name]) for name in ("drafted", "accepted", "emitted"))
        if not 0 <= accepted <= min(drafted, emitted):
            raise DataError(f"a round has {accepted} of {drafted} drafted tokens accepted and {emitted} emitted")
        depth = max(depth, drafted)
        if depth > MAX_DEPTH:
            raise DataError(f"a round drafted {drafted} tokens; drafts have at most {MAX_DEPTH}")
        for k in range(1, min(drafted, accepted + (emitted > accepted)) + 1):
            tried[k] = tried.get(k, 0.0) + r.get("weight", 1)
            hits[k] = hits.get(k, 0.0) + r.get("weight", 1) * (k <= accepted)
    if not any(tried.values()):
        raise DataError("no drafted token was ever judged, so there are no acceptance rates")
    return tuple(hits[k] / tried[k] if tried.get(k) else 0.0 for k in range(1, depth + 1))


@dataclass(frozen=True)
class Prediction:
    """What is expected of one scheme; times in ms, all modelled.

    drafted, window_drafted: tokens of a round's draft and of the window's (0: none is worth it).
    tau: E[tau] of a decode round, tokens, as if answers were endless. rounds: expected target passes after the
    prefill. tau_pooled: (N - 1) / rounds, what a pooled tau over answers of N tokens should show; None without
    rounds.
    speedup_decode: plain decoding / what follows the first token. ceiling: Amdahl's; None if infinite.
    """

    scheme: Scheme
    tokens: int
    drafted: int
    window_drafted: int
    window_accepted: float
    tau: float
    rounds: float
    tau_pooled: float | None
    plain_ms: float
    total_ms: float
    speedup_decode: float
    speedup_e2e: float
    decode_share: float
    ceiling: float | None
    assumed: tuple[str, ...]


def run_law(alphas: Sequence[float]) -> Float[np.ndarray, "K"]:
    """Chance that exactly 0, 1, ..., n of a chain of n = ``len(alphas)`` tokens are accepted, (n + 1,) float64.

    Source: Leviathan et al., arXiv 2211.17192, section 3 (the capped geometric law), with a rate for each depth.
    """
    survive = np.array([1.0, *reach(alphas), 0.0])
    return survive[:-1] - survive[1:]


def expected_decode(
    times: Times, alphas: Sequence[float], drafted: int, tokens: int
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Expected ms and expected rounds until 0, 1, ..., ``tokens`` further tokens are out, each (tokens + 1,)
    float64.

    A round drafts ``drafted`` tokens, fewer when fewer can be used: it emits one of its own. Source: project
    derivation (renewal recursion).
    """
    ms, rounds = np.zeros(tokens + 1), np.zeros(tokens + 1)
    longest = min(drafted, len(alphas), max(tokens - 1, 0))
    laws = [run_law(alphas[:g]) for g in range(longest + 1)]
    costs = [round_ms(times, g) for g in range(longest + 1)]
    for left in range(1, tokens + 1):
        g = min(longest, left - 1)
        after = slice(left - 1 - g, left)  # what is left after g, g - 1, ..., 0 accepted
        ms[left] = costs[g] + laws[g][::-1] @ ms[after]
        rounds[left] = 1.0 + laws[g][::-1] @ rounds[after]
    return ms, rounds


def predict(
    times: Times, acceptance: Acceptance, tokens: int, scheme: Scheme = "redraft", drafted: int | None = None
) -> Prediction:
    """Expected time of an answer of ``tokens`` tokens and what it gains over plain decoding.

    drafted: tokens of a decode round's draft; default: whichever takes the least time. The window's draft is always
    cut to whatever takes the least time. SettingError for a draft longer than the acceptance rates known.
    Source: project derivation.
    """
    if not 1 <= tokens <= MAX_TOKENS:
        raise SettingError(f"an answer of {tokens} tokens cannot be predicted, it has from 1 to {MAX_TOKENS}")
    if scheme not in SCHEMES:
        raise SettingError(f"unknown scheme '{scheme}'; choose one of {', '.join(SCHEMES)}")
    depth = len(acceptance.decode)
    if drafted is not None and not 0 <= drafted <= depth:
        raise SettingError(f"a draft of {drafted} tokens was asked for, acceptance is known for 0 to {depth}")
    lengths = (0,) if scheme == "one-shot" else range(depth + 1) if drafted is None else (drafted,)
    # the shortest of equals, so that a draft that gains nothing is not made
    plans = (plan for g in lengths for plan in _plans(times, acceptance, tokens, g))
    total, rounds, g, n = min(plans, key=lambda plan: (plan[0], plan[2], plan[3]))
    plain, start = plain_ms(times, tokens), first_token_ms(times)
    ceiling = amdahl_ceiling(times, tokens)
    return Prediction(
        scheme=scheme, tokens=tokens, drafted=g, window_drafted=n,
        window_accepted=sum(reach(acceptance.in_window[:n])), tau=expected_tokens(acceptance.decode, g),
        rounds=rounds, tau_pooled=(tokens - 1) / rounds if rounds else None, plain_ms=plain, total_ms=total,
        speedup_decode=(tokens - 1) * times.step_ms / (total - start) if tokens > 1 else 1.0,
        speedup_e2e=plain / total, decode_share=decode_share(times, tokens),
        ceiling=ceiling if np.isfinite(ceiling) else None, assumed=tuple(sorted(times.assumed)),
    )  # fmt: skip


def _plans(
    times: Times, acceptance: Acceptance, tokens: int, drafted: int
) -> Iterable[tuple[float, float, int, int]]:
    """(ms, rounds, drafted, window_drafted) for every length of the window's draft."""
    ms, rounds = expected_decode(times, acceptance.decode, drafted, tokens - 1)
    start = first_token_ms(times)
    yield float(start + ms[-1]), float(rounds[-1]), drafted, 0
    for n in range(1, usable_drafts(times, len(acceptance.in_window), tokens) + 1):
        law = run_law(acceptance.in_window[:n])
        left = tokens - 2 - np.arange(n + 1)
        paid = start + times.adapter_ms + times.pass_ms(n + 1)
        yield float(paid + law @ ms[left]), float(1.0 + law @ rounds[left]), drafted, n
