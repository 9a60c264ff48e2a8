"""How far a head's own probabilities can be believed, and whether its drafts pay at all.

A tree is sized by what its head promises. Where the answer is drawn (temperature above 0), or the text is of a kind
that the head has not learned, it promises more than comes true: its trees are too large, and slower than none. So
promised and kept are compared as the answers go on, depth by depth, and what does not pay is not drafted.
"""

import itertools
import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from crossdraft.drafters.length import Track

_WEIGHT = 8.0
"""Rounds that the assumption "all promises are kept" is worth."""
_BESIDES = 1.15
"""What a round takes over passes and levels: choosing nodes, the rule, commits (measured: 7 to 15 %)."""
_GAIN, _ROUNDS = 1.25, 16
"""Before anything was seen: tokens for the time of one plain pass, and the rounds that this assumption is worth."""
_TRIAL = 12
"""Rounds in which a request that looks again drafts in any case."""


class Confidence:
    """What a drafter knows over requests; safe to share between sessions.

    plain_ms: measured time of a target pass without a draft. depth: levels of a draft at most. retry_every: a
    request in so many drafts for a while even if the last ones did not pay.
    """

    def __init__(self, plain_ms: float, depth: int, retry_every: int = 8) -> None:
        self._plain_ms, self._retry_every = plain_ms, retry_every
        self._promised, self._kept = [0.0] * depth, [0.0] * depth
        self._tokens, self._ms = _GAIN * _ROUNDS, _ROUNDS * plain_ms
        self._expanded = self._best_child = 0.0
        self._requests = itertools.count()
        self._lock = threading.Lock()

    def factors(self) -> Float[np.ndarray, "depth"]:
        """By what a node's own chance is multiplied, by its depth, at most 1: (kept + w f) / (promised + w), f the
        factor of the level above (1 at the top)."""
        factor, out = 1.0, []
        for promised, kept in zip(self._promised, self._kept, strict=True):
            factor = min(1.0, (kept + _WEIGHT * factor) / (promised + _WEIGHT))
            out.append(factor)
        return np.array(out)

    @property
    def pays(self) -> bool:
        """Whether rounds with drafts have lately given tokens faster than passes without."""
        return self._tokens * self._plain_ms >= _BESIDES * self._ms

    @property
    def best_child(self) -> float:
        """What an expanded node's most probable child has lately had of its parent's chance; 1 where nothing was
        expanded for long, so that levels that were given up are tried again."""
        return (self._best_child + _WEIGHT) / (self._expanded + _WEIGHT)

    def learn(
        self, promised: Sequence[float], kept: int, cut: bool, ms: float, expanded: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """A round. promised: sums of the chances of the nodes at each depth; kept: how deep what was said runs in
        the draft; cut: it ends there because the answer does, so that deeper nodes were not judged; ms: what such
        a round takes; expanded: summed chances of the nodes that were, and of the best child of each. What is seen
        of no more fades too, so that a level that was given up is tried again."""
        with self._lock:
            self._expanded = self._expanded * Track.FADE + expanded[0]
            self._best_child = self._best_child * Track.FADE + expanded[1]
            for depth in range(len(self._promised)):
                chance = promised[depth] if depth < len(promised) and (depth < kept or not cut) else 0.0
                self._promised[depth] = self._promised[depth] * Track.FADE + chance
                self._kept[depth] = self._kept[depth] * Track.FADE + (depth < kept)
            self._tokens = self._tokens * Track.FADE + kept + (not cut)
            self._ms = self._ms * Track.FADE + ms

    def request(self) -> "RequestConfidence":
        """Of a new request."""
        return RequestConfidence(self, next(self._requests) % self._retry_every == 0)


class RequestConfidence:
    """One request: whether it still drafts. trial: it does for a while in any case."""

    def __init__(self, shared: Confidence, trial: bool) -> None:
        self._shared, self._rounds = shared, _TRIAL if trial else 0
        self.is_silent = False

    def ask(self) -> bool:
        """Whether to draft in this round. Once it is no, it stays: what was not digested would have to be."""
        self._rounds -= 1
        self.is_silent = self.is_silent or (self._rounds < 0 and not self._shared.pays)
        return not self.is_silent
