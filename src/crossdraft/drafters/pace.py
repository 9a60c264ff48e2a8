"""How many tokens to draft where every one costs a pass of a model: as many as pay, or a fixed number.

What pays follows from the measured cost of the target's passes, the time of a drafted token and how often tokens at
each depth were right lately. Where not even one pays, the request drafts no more: staying in step only to find that
again would cost the more. One request in so many looks whether things have changed.
"""

import itertools
import statistics
from collections import deque

from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import CostCurve
from crossdraft.core.types import Step
from crossdraft.drafters.length import LengthChooser, Track, judged

# kinds of the track: depth in the draft; beyond a few tokens all depths are alike
_DEPTHS = 4
_PRIOR = 0.6
_TIMED = 64


class Pace:
    """What a drafter knows over requests; safe to share between sessions.

    costs: of a target pass by its rows. max_ahead: tokens drafted at most in a round. length: exactly so many in
    every round, paying or not, for measurements; None: as many as pay. token_ms: measured time of one drafted
    token; None: the median of what the last drafts took for each. retry_every: a request in so many drafts even if
    the last ones did not pay. prior: assumed rate of acceptance before there are observations.
    Raises SettingError for values that make no sense.
    """

    def __init__(
        self, costs: CostCurve, *, max_ahead: int, length: int | None = None, token_ms: float | None = None,
        retry_every: int = 8, prior: float = _PRIOR,
    ) -> None:  # fmt: skip
        if max_ahead < 1:
            raise SettingError(f"max_ahead is {max_ahead}, must be 1 or more (to draft nothing use 'none')")
        if retry_every < 1:
            raise SettingError(f"retry_every is {retry_every}, must be 1 or more")
        if length is not None and not 1 <= length <= max_ahead:
            raise SettingError(f"length is {length}, must be from 1 to max_ahead ({max_ahead})")
        self.max_ahead, self.fixed = max_ahead, length
        self.chooser = LengthChooser(costs, max_ahead)
        self.track = Track([prior] * _DEPTHS)
        self._token_ms, self._retry_every = token_ms, retry_every
        self._took: deque[float] = deque(maxlen=_TIMED)
        self._requests = itertools.count()

    @property
    def token_ms(self) -> float:
        """Time of one drafted token; 0 before any was timed."""
        if self._token_ms is not None:
            return self._token_ms
        return statistics.median(self._took.copy()) if self._took else 0.0

    def took(self, ms: float, tokens: int) -> None:
        """Drafting so many tokens took so long together."""
        if tokens:
            self._took.append(ms / tokens)

    def request(self) -> "RequestPace":
        """The pace of a new request."""
        return RequestPace(self, next(self._requests) % self._retry_every == 0)


class RequestPace:
    """One request: whether it still drafts, and what became of its last draft. retry: draft once in any case."""

    def __init__(self, pace: Pace, retry: bool) -> None:
        self._pace, self._retry, self._drafted = pace, retry, 0
        self.is_silent = False

    @property
    def is_worth_asking(self) -> bool:
        """Whether a draft is expected to pay, or this request looks again whether it does."""
        pace = self._pace
        if pace.fixed is not None or self._retry:
            return True
        return pace.chooser.choose(self._chances(pace.max_ahead), pace.token_ms) > 0

    def length(self, limit: int, ready: int = 0) -> int:
        """Tokens to draft now, at most ``limit``; ``ready`` of them lie there already. 0 ends the drafting."""
        pace, limit = self._pace, min(limit, self._pace.max_ahead)
        if pace.fixed is not None:
            return max(0, min(limit, pace.fixed))
        length = min(limit, pace.chooser.choose(self._chances(limit), pace.token_ms, free=ready))
        if length <= 0 and self._retry and limit > 0:
            length = 1
        self._retry = False
        if length <= 0:
            self.hush()
        return max(0, length)

    def hush(self) -> None:
        """No draft can pay any more in this request; drafts of a fixed length are asked for again all the same."""
        self.is_silent = self._pace.fixed is None

    def drafted(self, count: int) -> None:
        """So many tokens go to the target."""
        self._drafted = count

    def learn(self, step: Step) -> None:
        """What became of the last draft."""
        if not step.is_prompt and self._drafted:
            tried = judged(step.accepted, len(step.tokens), self._drafted)
            kinds = [min(depth, _DEPTHS - 1) for depth in range(self._drafted)]
            self._pace.track.learn(kinds, step.accepted, tried)
        self._drafted = 0

    def _chances(self, limit: int) -> list[float]:
        """Running acceptance at each depth, given that all before were right."""
        return [self._pace.track.rate(min(depth, _DEPTHS - 1)) for depth in range(max(0, limit))]
