"""How long a request takes: a model with measured times for its inputs, nothing else.

Notation, in milliseconds unless said: t a plain step of the target; V(w) a target pass over w new positions and
v(w) = V(w) / t; t_d a draft step of the event model; E and P encode and prefill, of the target (_t) and of the
event model (_d); a the adapter; o what a drafting round costs besides; kappa by what factor a shared device
stretches the target's encode and prefill; N tokens of the answer, the first of which comes from the target's
prefill.

Everything returned here is *modelled*. What it is made of is a stopwatch's reading or an assumption, and ``Times``
says which of the two each figure is.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from crossdraft.core.curve import interpolate, points_of
from crossdraft.core.errors import DataError, SettingError
from crossdraft.evaluate.expected import expected_tokens

WINDOWS = ("off", "sequential", "overlapped", "own-device")
HIDING = ("overlapped", "own-device")
"""Windows in which the event model works while the target encodes and prefills."""

SHORTEST_MS, LONGEST_MS = 1e-6, 1e9
"""Between a nanosecond and twelve days: what is beyond is a slip of the pen, and sums of it would overflow."""

# what a latency profile calls the figures (bench.profile) -> what they are called here
_OF_PROFILE = {
    "target_encode_ms": "target_encode_ms",
    "target_prefill_ms": "target_prefill_ms",
    "event_encode_ms": "event_encode_ms",
    "event_prefill_ms": "event_prefill_ms",
    "event_token_ms": "draft_step_ms",
    "overhead_ms": "overhead_ms",
    "contention": "contention",
}


@dataclass(frozen=True, kw_only=True)
class Times:
    """What the parts of a request cost, all in milliseconds (``contention`` is a factor).

    verify_ms: rows of a target pass -> its time, one entry of 2 rows or more at least; one row is ``step_ms``. A
        wider pass that was measured to cost less than a narrower one counts as much as that one.
    draft_step_ms: one more drafted token, with an adapter that it passes through; 0 for a drafter that looks its
        tokens up. event_*: 0 without a model.
    adapter_ms: mapping one draft's states into the target's space where that is done once for each draft.
    overhead_ms: whatever else a drafting round costs, such as reading what was said instead of the last draft.
    contention: the target's encode and prefill take so many times as long while the event model shares its device.
    window: when the event model runs, as in ``decode.window``.
    assumed: names of the figures that no stopwatch gave; all others are measured.
    """

    target_encode_ms: float
    target_prefill_ms: float
    step_ms: float
    verify_ms: Mapping[int, float]
    draft_step_ms: float
    event_encode_ms: float = 0.0
    event_prefill_ms: float = 0.0
    adapter_ms: float = 0.0
    overhead_ms: float = 0.0
    contention: float = 1.0
    window: str = "off"
    assumed: frozenset[str] = frozenset()
    _curve: Mapping[int, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in FIGURES:
            value = getattr(self, name)
            if name not in ("verify_ms", "window") and not (math.isfinite(value) and 0 <= value <= LONGEST_MS):
                raise SettingError(f"{name} is {value}, must be a finite number from 0 to {LONGEST_MS:g}")
        if self.step_ms < SHORTEST_MS:
            raise SettingError(
                f"step_ms is {self.step_ms:g}: a step of the target takes time; measure it: crossdraft profile"
            )
        if self.contention < 1:
            raise SettingError(f"contention is {self.contention}, must be 1 (nothing is shared) or more")
        if self.window not in WINDOWS:
            raise SettingError(f"unknown window '{self.window}'; choose one of {', '.join(WINDOWS)}")
        if not any(rows > 1 for rows in self.verify_ms):
            raise SettingError("verify_ms needs the time of a pass over 2 rows or more: crossdraft profile")
        if not all(rows >= 1 and SHORTEST_MS <= ms <= LONGEST_MS for rows, ms in self.verify_ms.items()):
            raise SettingError("verify_ms must map rows (1 or more) to finite milliseconds above 0")
        if stray := self.assumed - set(FIGURES):
            raise SettingError(f"assumed names '{min(stray)}', which is no figure; known: {', '.join(FIGURES)}")
        points = {**self.verify_ms, 1: self.step_ms}
        heights = accumulate((points[rows] for rows in sorted(points)), max)
        object.__setattr__(self, "_curve", dict(zip(sorted(points), heights, strict=True)))

    def pass_ms(self, rows: int) -> float:
        """V(rows), ms: a target pass over ``rows`` new positions, interpolated, the last slope going on beyond."""
        return interpolate(self._curve, rows)

    def origin(self, name: str) -> Literal["measured", "assumed"]:
        """Whether the figure ``name`` was measured. SettingError for an unknown name."""
        if name not in FIGURES:
            raise SettingError(f"unknown figure '{name}'; known: {', '.join(FIGURES)}")
        return "assumed" if name in self.assumed else "measured"


FIGURES = tuple(f.name for f in dataclasses.fields(Times) if f.init and f.name != "assumed")


def times_from_profile(profile: Mapping[str, Any], **given: Any) -> Times:
    """``Times`` of a latency profile: what the profile holds is measured, all else is assumed.

    profile: the dictionary that ``crossdraft profile --json`` prints or the ``profile`` of the record it keeps.
    A measured adapter is run for every drafted token: its time becomes part of draft_step_ms, and adapter_ms 0.
    given: figures by the names of ``Times`` that the profile lacks or that shall replace the profile's; they count
        as assumed. DataError when the profile is damaged, SettingError when a figure is still missing.
    """
    measured: dict[str, Any] = {}
    try:
        curve = points_of(profile["target_pass_ms"])
        measured.update(verify_ms=curve, step_ms=curve[1])
        for theirs, ours in _OF_PROFILE.items():
            if profile.get(theirs) is not None:
                measured[ours] = float(profile[theirs])
        if profile.get("adapter_ms") is not None:
            measured["draft_step_ms"] = measured.get("draft_step_ms", 0.0) + float(profile["adapter_ms"])
            measured["adapter_ms"] = 0.0
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the latency profile is damaged ({error!r}); measure again: crossdraft profile") from error
    if profile.get("own_device"):
        measured["window"] = "own-device"
    return times_from_figures(given, measured)


def times_from_figures(given: Mapping[str, Any], measured: Mapping[str, Any] | None = None) -> Times:
    """``Times`` in which ``measured`` figures are measured and ``given`` ones, which win, are assumed.

    SettingError when one that has no default is missing or a name is unknown.
    """
    both = {**(measured or {}), **given}
    if unknown := [name for name in both if name not in FIGURES]:
        raise SettingError(f"unknown figure '{unknown[0]}'; known: {', '.join(FIGURES)}")
    needed = ("target_encode_ms", "target_prefill_ms", "step_ms", "verify_ms", "draft_step_ms")
    if missing := [name for name in needed if name not in both]:
        hint = " (0 for a drafter that looks its tokens up)" if missing == ["draft_step_ms"] else ""
        raise SettingError(f"not known: {', '.join(missing)}; measure the pair or give them{hint}")
    if both.get("window") in HIDING and not {"event_encode_ms", "event_prefill_ms"} <= set(both):
        raise SettingError(
            f"window '{both['window']}' needs event_encode_ms and event_prefill_ms; measure with an event model"
        )
    trusted = set(measured or {}) - set(given)
    return Times(**both, assumed=frozenset(FIGURES) - trusted)


def origins(times: Times) -> dict[str, dict[str, Any]]:
    """{figure: {"value", "origin"}}, ready for JSON."""
    return {
        name: {
            "value": {str(rows): ms for rows, ms in times.verify_ms.items()}
            if name == "verify_ms"
            else getattr(times, name),
            "origin": times.origin(name),
        }
        for name in FIGURES
    }


# --- one round --------------------------------------------------------------------------------------------------


def round_ms(times: Times, drafted: int) -> float:
    """g t_d + a + V(g + 1) + o, ms, for a chain of g = ``drafted`` tokens; a plain step for g = 0.

    Source: arXiv 2211.17192, theorem 3.8 (its denominator, with a measured verify cost in place of 1).
    """
    if drafted == 0:
        return times.step_ms
    own = drafted * times.draft_step_ms + times.adapter_ms + times.overhead_ms
    return own + times.pass_ms(drafted + 1)


def decode_speedup(times: Times, alphas: Sequence[float], drafted: int) -> float:
    """S_dec = E[tau] t / round, a ratio: decoding in rounds of ``drafted`` tokens against plain steps.

    Source: arXiv 2211.17192, theorem 3.8, with a measured verify cost.
    """
    return expected_tokens(alphas, drafted) * times.step_ms / round_ms(times, drafted)


def best_length(times: Times, alphas: Sequence[float]) -> int:
    """The draft length, at most ``len(alphas)`` and possibly 0, with the most tokens a millisecond; ties: shortest.

    Source: project derivation (the argmax of theorem 3.8 in arXiv 2211.17192 over measured costs).
    """
    return max(range(len(alphas) + 1), key=lambda g: (decode_speedup(times, alphas, g), -g))


# --- the window -------------------------------------------------------------------------------------------------


def lead_ms(times: Times) -> float:
    """kappa (E_t + P_t) - (E_d + P_d), ms: how much sooner than the target the event model is ready, negative when
    it is late. Without a hiding window the target waits for all of it: -(E_d + P_d). Source: project derivation."""
    event = times.event_encode_ms + times.event_prefill_ms
    return _target_ms(times) - event if times.window in HIDING else -event


def window_ms(times: Times) -> float:
    """W = max(0, lead), ms: how long the event model can write ahead unnoticed. Source: project derivation."""
    return max(0.0, lead_ms(times))


def first_token_ms(times: Times) -> float:
    """Time until target and event model have prefilled, ms: max(kappa (E_t + P_t), E_d + P_d) where the window
    hides one behind the other, else E_t + P_t + E_d + P_d. Source: project derivation."""
    return _target_ms(times) + max(0.0, -lead_ms(times))


def free_drafts(times: Times) -> float:
    """g0 = 1 + floor(W / t_d), tokens; infinite for t_d = 0, and 0 where the window hides nothing.

    The first comes from the event model's own prefill. Source: project derivation.
    """
    if times.window not in HIDING:
        return 0
    if times.draft_step_ms == 0:
        return math.inf
    return 1 + window_ms(times) // times.draft_step_ms


def usable_drafts(times: Times, depths: int, tokens: int) -> int:
    """How many free drafts are worth a verification: g0 - 1, at most ``depths`` and at most N - 2.

    The event model's first token stands where the target's own first token already stands, so it is worth nothing;
    and a pass must leave room for its own token. Source: project derivation.
    """
    return int(max(0, min(free_drafts(times) - 1, depths, tokens - 2)))


def delay_ms(times: Times) -> float:
    """How much later than with the target alone its first token comes, ms. Source: project derivation."""
    return first_token_ms(times) - times.target_encode_ms - times.target_prefill_ms


def hiding_gain_ms(times: Times, accepted: float, drafted: int) -> float:
    """(A0 + 1) t - a - V(g + 1) - delay, ms: what one verified window draft of g tokens gains over plain decoding.

    accepted: A0, counted after the target's own first token. Source: project derivation.
    """
    return (accepted + 1) * times.step_ms - times.adapter_ms - times.pass_ms(drafted + 1) - delay_ms(times)


def break_even_accepted(times: Times, drafted: int) -> float:
    """Smallest mean A0, in accepted tokens, at which ``hiding_gain_ms`` is not negative; never below 0.

    v(g + 1) + (a + delay) / t - 1. Source: project derivation. More than ``drafted`` means: out of reach.
    """
    return max(0.0, -hiding_gain_ms(times, 0.0, drafted) / times.step_ms)


def trimmed_length(times: Times, alphas: Sequence[float], most: int) -> int:
    """How many of at most ``most`` window drafts to verify: argmax of P_1 + ... + P_n - v(n + 1); ties: fewest.

    0 means that a plain step is better (then the adapter is not run either). Source: project derivation.
    """

    def worth(n: int) -> float:
        paid = times.pass_ms(n + 1) + (times.adapter_ms if n else 0.0)
        return expected_tokens(alphas, n) * times.step_ms - paid

    return max(range(min(most, len(alphas)) + 1), key=lambda n: (worth(n), -n))


# --- the whole request ------------------------------------------------------------------------------------------


def plain_ms(times: Times, tokens: int) -> float:
    """T_AR = E_t + P_t + (N - 1) t, ms: plain decoding, without an event model. Source: project derivation."""
    return times.target_encode_ms + times.target_prefill_ms + (tokens - 1) * times.step_ms


def speculative_ms(times: Times, tokens: int, tau: float, drafted: int) -> float:
    """T_SD = E_t + P_t + E_d + P_d + ceil((N - 1) / tau) (g t_d + a + V(g + 1) + o), ms: no hiding, rounds from the
    first token on. E_d = P_d = 0 for a drafter that uses the target's states. Source: project derivation."""
    own = times.event_encode_ms + times.event_prefill_ms
    rounds = math.ceil((tokens - 1) / tau)
    return times.target_encode_ms + times.target_prefill_ms + own + rounds * round_ms(times, drafted)


def hidden_ms(times: Times, tokens: float, accepted: float, drafted: int, speedup: float = 1.0) -> float:
    """T_hide = max(kappa (E_t + P_t), E_d + P_d + (g0 - 1) t_d) + a + V(g + 1) + max(0, N - 2 - A0) t / S_dec, ms.

    One draft of g = ``drafted`` tokens from the window, of which A0 = ``accepted`` are right; what is left is
    decoded ``speedup`` times as fast as plainly. g = 0: nothing is verified and every further token is decoded.
    Since g0 drafts are by definition ready in time, the maximum is ``first_token_ms``. Source: project derivation.
    """
    start = first_token_ms(times)
    if drafted == 0:
        return start + (tokens - 1) * times.step_ms / speedup
    rest = max(0.0, tokens - 2 - accepted)
    return start + times.adapter_ms + times.pass_ms(drafted + 1) + rest * times.step_ms / speedup


def decode_share(times: Times, tokens: int) -> float:
    """f = (N - 1) t / T_AR, a share: what part of plain decoding's time any drafting can shorten.

    Source: project derivation.
    """
    return (tokens - 1) * times.step_ms / plain_ms(times, tokens)


def amdahl_ceiling(times: Times, tokens: int) -> float:
    """1 / (1 - f), a ratio: no drafting can make the request faster, for it never shortens the target's prefill.

    Infinite if encode and prefill take no time. Source: Amdahl, AFIPS 1967, with f the decode share.
    """
    before = times.target_encode_ms + times.target_prefill_ms
    return plain_ms(times, tokens) / before if before else math.inf


def _target_ms(times: Times) -> float:
    stretch = times.contention if times.window == "overlapped" else 1.0
    return stretch * (times.target_encode_ms + times.target_prefill_ms)
