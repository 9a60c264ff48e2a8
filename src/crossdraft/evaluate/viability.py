"""Is it worth it? One inequality for each use case, with its numbers, its interval, and what would turn it.

The use cases are those of the study's note (section 5), which answered them from a share of cosines above 0.90.
Here each is an inequality between milliseconds that were measured, over tokens that were accepted.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from crossdraft.core.errors import SettingError
from crossdraft.evaluate.expected import expected_tokens, reach
from crossdraft.evaluate.latency import (
    HIDING,
    Times,
    amdahl_ceiling,
    best_length,
    decode_speedup,
    delay_ms,
    hidden_ms,
    hiding_gain_ms,
    lead_ms,
    plain_ms,
    round_ms,
    usable_drafts,
)
from crossdraft.evaluate.prediction import MAX_TOKENS, Acceptance

Answer = Literal["VIABLE", "NOT VIABLE", "UNDETERMINED"]
PRODUCTION = 3.0
"""The speed-up that the study's note calls production, end to end."""

_HUGE = 1e6
"""Where a search for a lever's threshold ends: milliseconds, or a factor on the cost of a pass."""


@dataclass(frozen=True)
class Inequality:
    """Holds when ``left > right``. text: in symbols; numbers: the same with the figures put in; unit of both
    sides."""

    left: float
    right: float
    unit: str
    text: str
    numbers: str

    @property
    def holds(self) -> bool:
        """Whether the use case pays."""
        return self.left > self.right

    @property
    def margin(self) -> float:
        """left - right, in ``unit``."""
        return self.left - self.right


@dataclass(frozen=True)
class Flip:
    """What one lever alone would have to become to turn the answer; ``needed`` is None when no value of it does."""

    lever: str
    now: float
    needed: float | None
    unit: str
    text: str


@dataclass(frozen=True)
class CaseVerdict:
    """The answer for one use case at the acceptance measured, and at both ends of its interval if one was given."""

    use_case: str
    answer: Answer
    inequality: str
    numbers: str
    margin: float
    margin_interval: tuple[float, float] | None
    unit: str
    flips: tuple[Flip, ...]


Case = Callable[[Times, Acceptance, int], Inequality]


def prefill_case(times: Times, acceptance: Acceptance, tokens: int) -> Inequality:
    """Drafting in the window, one verification: (A0 + 1) t > a + V(n + 1) + delay, ms, for the best n.

    Source: project derivation (see ``latency.hiding_gain_ms``).
    """
    alphas = acceptance.in_window
    most = usable_drafts(times, len(alphas), tokens)
    n = max(range(1, most + 1), key=lambda n: hiding_gain_ms(times, sum(reach(alphas[:n])), n), default=0)
    accepted, t, delay = sum(reach(alphas[:n])), times.step_ms, delay_ms(times)
    adapter, verify = (times.adapter_ms if n else 0.0), times.pass_ms(n + 1)
    left, right = (accepted + 1) * t, adapter + verify + delay
    return Inequality(
        left, right, "ms", "(A0 + 1) t > a + V(n + 1) + delay",
        f"({accepted:.2f} + 1) x {t:.2f} = {left:.2f} ms {_sign(left, right)} {right:.2f} ms = {adapter:.2f} + "
        f"{verify:.2f} + {delay:.2f}, n = {n} of at most {most} drafts in the window",
    )  # fmt: skip


def decode_case(times: Times, acceptance: Acceptance, tokens: int) -> Inequality:
    """Drafting again in every round: tau t > g t_d + a + V(g + 1) + o, ms, for the best g of 1 or more.

    Source: Leviathan et al., arXiv 2211.17192, theorem 3.8, with measured costs.
    """
    g = _best_draft(times, acceptance.decode)
    tau = expected_tokens(acceptance.decode, g)
    left, right = tau * times.step_ms, round_ms(times, g)
    return Inequality(
        left, right, "ms", "tau t > g t_d + a + V(g + 1) + o",
        f"{tau:.2f} x {times.step_ms:.2f} = {left:.2f} ms {_sign(left, right)} {right:.2f} ms = "
        f"{g} x {times.draft_step_ms:.2f} + {times.adapter_ms:.2f} + {times.pass_ms(g + 1):.2f} + "
        f"{times.overhead_ms:.2f}, g = {g}",
    )  # fmt: skip


def lossless_case(times: Times, acceptance: Acceptance, tokens: int) -> Inequality:
    """Checking tokens exactly, drafts for nothing: tau > v(g + 1), for the best g of 1 or more. Without this no
    lossless method gains, however cheap its drafter. Source: arXiv 2211.17192, theorem 3.8 with c = 0."""
    free = dataclasses.replace(times, draft_step_ms=0.0, adapter_ms=0.0, overhead_ms=0.0)
    g = _best_draft(free, acceptance.decode)
    tau, ratio = expected_tokens(acceptance.decode, g), times.pass_ms(g + 1) / times.step_ms
    return Inequality(
        tau, ratio, "steps", "tau > v(g + 1)",
        f"{tau:.2f} {_sign(tau, ratio)} {ratio:.2f} = {times.pass_ms(g + 1):.2f} / {times.step_ms:.2f}, g = {g}",
    )  # fmt: skip


def production_case(times: Times, acceptance: Acceptance, tokens: int, threshold: float = PRODUCTION) -> Inequality:
    """The whole request ``threshold`` times as fast: T_AR / T > threshold, with the best n and g, either may be 0.

    Source: project derivation (see ``latency.hidden_ms``).
    """
    speedup = decode_speedup(times, acceptance.decode, best_length(times, acceptance.decode))
    most = usable_drafts(times, len(acceptance.in_window), tokens)
    accepted = [sum(reach(acceptance.in_window[:n])) for n in range(most + 1)]
    total = min(hidden_ms(times, tokens, accepted[n], n, speedup) for n in range(most + 1))
    plain, ceiling = plain_ms(times, tokens), amdahl_ceiling(times, tokens)
    return Inequality(
        plain / total, threshold, "x", f"T_AR / T > {threshold:g}",
        f"{plain:.1f} / {total:.1f} = {plain / total:.3f} {_sign(plain / total, threshold)} {threshold:g}; "
        f"Amdahl's ceiling {ceiling:.2f}",
    )  # fmt: skip


def judge(
    times: Times, acceptance: Acceptance, tokens: int, *, interval: tuple[float, float] | None = None,
    production: float = PRODUCTION,
) -> tuple[CaseVerdict, ...]:  # fmt: skip
    """The four verdicts for answers of ``tokens`` tokens.

    interval: low and high of ``acceptance.mean_accepted``, tokens; the rates are shifted as a whole to either end
        (see ``Acceptance.shifted``). UNDETERMINED when the inequality holds at one end only.
    Raises SettingError when the interval does not enclose the figure it belongs to.
    """
    if not 2 <= tokens <= MAX_TOKENS:
        why = "leaves nothing to draft" if tokens < 2 else "is too long"
        raise SettingError(f"an answer of {tokens} tokens {why}; give from 2 to {MAX_TOKENS}")
    if not (math.isfinite(production) and production > 0):
        raise SettingError(f"production is {production}, must be a speed-up above 0")
    ends = None if interval is None else tuple(_at(acceptance, end) for end in _checked(acceptance, interval))

    def production_of(times: Times, acceptance: Acceptance, tokens: int) -> Inequality:
        return production_case(times, acceptance, tokens, production)

    cases: dict[str, Case] = {
        "cross-modal prefill": prefill_case,
        "same-model decode": decode_case,
        "lossless token verify": lossless_case,
        f"production (> {production:g}x)": production_of,
    }
    return tuple(_judge_one(name, case, times, acceptance, tokens, ends) for name, case in cases.items())


def _judge_one(
    name: str, case: Case, times: Times, acceptance: Acceptance, tokens: int, ends: tuple[Acceptance, ...] | None
) -> CaseVerdict:
    here = case(times, acceptance, tokens)
    at_ends = [case(times, end, tokens) for end in ends or ()]
    held = {side.holds for side in (here, *at_ends)}
    answer: Answer = "UNDETERMINED" if len(held) > 1 else "VIABLE" if here.holds else "NOT VIABLE"
    return CaseVerdict(
        use_case=name, answer=answer, inequality=here.text, numbers=here.numbers, margin=here.margin,
        margin_interval=(at_ends[0].margin, at_ends[1].margin) if at_ends else None, unit=here.unit,
        flips=flips(case, times, acceptance, tokens),
    )  # fmt: skip


# --- what would turn it -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lever:
    """A figure that can be moved: from ``now`` to ``worse`` or to ``better``; ``move`` puts a value into effect."""

    name: str
    unit: str
    now: float
    worse: float
    better: float
    move: Callable[[float], tuple[Times, Acceptance]]
    show: Callable[[float], float]
    """What to print for a value of the lever, in ``unit``."""


def flips(case: Case, times: Times, acceptance: Acceptance, tokens: int) -> tuple[Flip, ...]:
    """For each lever alone, all else as it is: the value at which ``case`` turns, found by bisection.

    Acceptance moves as ``Acceptance.shifted``; the verify cost multiplies every pass over 2 rows or more, but no
    pass gets cheaper than a step; the drafter's cost is one draft step; the window is widened (up to the whole of
    the target's encode and prefill) by an event model that is ready sooner, beside the target. Each is monotone.
    """
    return tuple(_flip(lever, case, tokens) for lever in _levers(times, acceptance, case, tokens))


def threshold_of(holds: Callable[[float], bool], now: float, end: float) -> float | None:
    """The value nearest to ``now`` on the way to ``end`` at which monotone ``holds`` is not what it is now, to the
    last bits of a float; None if it never changes. Source: bisection."""
    before = holds(now)
    if holds(end) == before:
        return None
    same, other = now, end
    for _ in range(100):
        middle = (same + other) / 2
        if middle in (same, other):
            break
        same, other = (middle, other) if holds(middle) == before else (same, middle)
    return other


def _flip(lever: _Lever, case: Case, tokens: int) -> Flip:
    def holds(value: float) -> bool:
        times, acceptance = lever.move(value)
        return case(times, acceptance, tokens).holds

    found = threshold_of(holds, lever.now, lever.worse if holds(lever.now) else lever.better)
    now = lever.show(lever.now)
    if found is None:
        text = f"no value of the {lever.name} alone flips it"
    else:
        text = f"{lever.name}: {_short(now)} -> {_short(lever.show(found))} {lever.unit}"
    return Flip(lever.name, now, None if found is None else lever.show(found), lever.unit, text)


def _levers(times: Times, acceptance: Acceptance, case: Case, tokens: int) -> tuple[_Lever, ...]:
    window = case is prefill_case
    rows = max(
        2, (usable_drafts(times, len(acceptance.in_window), tokens) if window else len(acceptance.decode)) + 1
    )
    event = times.event_encode_ms + times.event_prefill_ms
    lead = lead_ms(times)
    # without a hiding window an event model beside the target that is late by all it takes is the same thing
    ready = lead + event if times.window in HIDING else times.target_encode_ms + times.target_prefill_ms

    def accepted(shift: float) -> float:
        moved = acceptance.shifted(shift)
        return sum(reach(moved.in_window)) if window else moved.mean_accepted

    def verifying(factor: float) -> tuple[Times, Acceptance]:
        curve = {r: max(times.step_ms, factor * ms) for r, ms in times.verify_ms.items() if r > 1}
        return dataclasses.replace(times, verify_ms=curve), acceptance

    def drafting(ms: float) -> tuple[Times, Acceptance]:
        return dataclasses.replace(times, draft_step_ms=ms), acceptance

    def ahead(ms: float) -> tuple[Times, Acceptance]:
        mode = times.window if times.window in HIDING else "own-device"
        return dataclasses.replace(
            times, window=mode, event_encode_ms=0.0, event_prefill_ms=max(0.0, ready - ms)
        ), acceptance

    return (
        _Lever("acceptance", "accepted tokens a draft", 0.0, -1.0, 1.0,
               lambda shift: (times, acceptance.shifted(shift)), accepted),
        _Lever("verify cost", f"ms for a pass over {rows} rows", 1.0, _HUGE, 0.0, verifying,
               lambda f: verifying(f)[0].pass_ms(rows)),
        _Lever("drafter cost", "ms a draft step", times.draft_step_ms, _HUGE, 0.0, drafting, lambda ms: ms),
        _Lever("window", "ms that the event model is ready sooner", lead, min(lead, 0.0), ready, ahead,
               lambda ms: ms),
    )  # fmt: skip


# --- small parts ------------------------------------------------------------------------------------------------


def _best_draft(times: Times, alphas: tuple[float, ...]) -> int:
    return max(range(1, len(alphas) + 1), key=lambda g: decode_speedup(times, alphas, g))


def _checked(acceptance: Acceptance, interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    mean, most = acceptance.mean_accepted, len(acceptance.decode)
    # figures are quoted rounded
    if not (0 <= low <= mean + 0.005 and mean - 0.005 <= high <= most):
        raise SettingError(
            f"the interval {low:g} to {high:g} must lie within 0 to {most} accepted tokens and enclose the "
            f"{mean:.3f} that the acceptance rates give"
        )
    return low, high


def _at(acceptance: Acceptance, mean: float) -> Acceptance:
    """``acceptance`` shifted so that ``mean`` tokens of a draft are accepted."""
    if mean == acceptance.mean_accepted:
        return acceptance
    end = 1.0 if mean > acceptance.mean_accepted else -1.0
    found = threshold_of(
        lambda shift: acceptance.shifted(shift).mean_accepted >= mean if end > 0
        else acceptance.shifted(shift).mean_accepted > mean, 0.0, end,
    )  # fmt: skip
    return acceptance.shifted(end if found is None else found)


def _sign(left: float, right: float) -> str:
    return ">" if left > right else "<="


def _short(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) and abs(value) < 1e5 else f"{value:.2e}"
