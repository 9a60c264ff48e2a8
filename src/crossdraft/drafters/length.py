"""How long a draft should be: as long as the wider pass is expected to pay for itself.

A pass over a root and n drafted tokens emits 1 + P(1) + ... + P(n) tokens, where P(k) is the probability that the
first k are all right (methods: Leviathan et al., arXiv 2211.17192, with a measured cost in place of a constant).
The n with the most tokens per millisecond wins; n may be 0.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import CostCurve, TreeCostCurve

# passes of up to 32 rows share one arithmetic with plain decoding; a root and 31 drafted tokens
MAX_LENGTH = 31


@dataclass(frozen=True)
class AssumedCurve:
    """A cost curve that was NOT measured: each further row costs ``slope`` of a one-row pass.

    For trying things out; give a measured curve for real use. The default lies between what prepacked bf16 passes
    of 25M and 135M decoders were measured to cost on a CPU (1.7 and 1.5 one-row passes at 32 rows).
    """

    slope: float = 0.02

    def pass_ms(self, rows: int) -> float:
        """Cost in units of a one-row pass."""
        return 1.0 + self.slope * (rows - 1)


class LengthChooser:
    """Reads a cost curve once and answers "how many of these tokens?" for every draft.

    max_length: drafted tokens, at most; a hard cap whatever the curve says. trees: they are no chains; what trees
    cost counts where the curve knows it.
    """

    def __init__(self, costs: CostCurve, max_length: int = MAX_LENGTH, *, trees: bool = False) -> None:
        if max_length < 1:
            raise SettingError(
                f"max_length is {max_length}, must be 1 or more (to draft nothing use drafter 'none')"
            )
        self.max_length = max_length
        cost = costs.tree_ms if trees and isinstance(costs, TreeCostCurve) else costs.pass_ms
        self.pass_ms = [float(cost(n + 1)) for n in range(max_length + 1)]
        if not all(ms > 0 for ms in self.pass_ms):
            raise SettingError("the cost curve has passes that take no time; measure it again: crossdraft profile")
        # a wider pass that was measured to cost less was measured badly; never reward it
        for n in range(1, max_length + 1):
            self.pass_ms[n] = max(self.pass_ms[n], self.pass_ms[n - 1])

    def choose(self, chances: Iterable[float], draft_ms: float = 0.0, free: int = 0) -> int:
        """Best number of drafted tokens.

        chances: P(token k is right | those before it are), in order; read no further than can matter.
        draft_ms: time to draft one token; free: how many lie ready and cost nothing any more.
        """
        expected = reach = 1.0
        best, best_rate, spent = 0, 1.0 / self.pass_ms[0], 0.0
        for n, chance in enumerate(chances, 1):
            if n > self.max_length:
                break
            reach *= chance
            expected += reach
            spent += draft_ms if n > free else 0.0
            rate = expected / (self.pass_ms[n] + spent)
            if rate >= best_rate:
                best, best_rate = n, rate
            # even if all that follow were certain to be as right as this one
            elif (expected + reach * (self.max_length - n)) / (self.pass_ms[n] + spent) < best_rate:
                break
        return best


@dataclass
class Track:
    """Running acceptance: how often a drafted token of a kind was right, given that those before it were.

    kinds: number of kinds; prior: the assumed rate of each; weight: how many observations the prior is worth.
    Safe to share between sessions.
    """

    prior: Sequence[float]
    weight: float = 4.0
    _hits: list[float] = field(init=False)
    _tried: list[float] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock, repr=False)

    # older observations fade, so that a change of scene is noticed: about the last 200 count
    FADE = 1 - 1 / 200

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every observation."""
        self._hits = [p * self.weight for p in self.prior]
        self._tried = [self.weight] * len(self.prior)

    def rate(self, kind: int) -> float:
        """Estimated probability that a token of ``kind`` is right."""
        return self._hits[kind] / self._tried[kind]

    def learn(self, kinds: Sequence[int], accepted: int, judged: int) -> None:
        """A draft with tokens of ``kinds``: the first ``accepted`` were right; ``judged`` were looked at."""
        with self._lock:
            for at in range(min(judged, len(kinds))):
                kind = kinds[at]
                # the prior's share fades with the rest but never below its weight's worth of doubt
                self._hits[kind] = self._hits[kind] * self.FADE + (at < accepted)
                self._tried[kind] = self._tried[kind] * self.FADE + 1.0


def judged(step_accepted: int, emitted: int, drafted: int) -> int:
    """How many drafted tokens a step tells about: the accepted ones and, if the step goes on, the one refused.

    A step that ends with its last accepted token was cut (end token, budget, stop string): nothing was refused.
    """
    return min(drafted, step_accepted + (emitted > step_accepted))
