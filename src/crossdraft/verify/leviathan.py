"""Speculative sampling for drafts that were drawn: rejection with the residual, on chains and on sibling trees.

Sources: Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318 (chain); Miao et al., "SpecInfer", arXiv
2305.09781 (siblings, one after the other).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Draft, Sampling, Verdict
from crossdraft.verify.sampling import position_keys, process_logits, uniforms
from crossdraft.verify.walk import check_rows


class Chance(Protocol):
    """Where the random decisions of a walk come from; tests enumerate them instead."""

    def accepts(self, probability: float) -> bool:
        """True with this probability."""
        ...

    def draws(self, law: Float[Tensor, "V"]) -> int:
        """A token from ``law`` (float64, sums to one)."""
        ...


def acceptance(left: Float[Tensor, "V"], q: Float[Tensor, "V"], token: int) -> float:
    """Probability of keeping ``token``, drawn from ``q``, when ``left`` is what is still to be explained of p."""
    drawn = float(q[token])
    if drawn <= 0:
        raise SettingError(
            f"token {token} has probability 0 in the distribution it was said to be drawn from; "
            "a drafter that chooses tokens must give no probs"
        )
    return min(1.0, float(left[token]) / drawn)


def residual(left: Float[Tensor, "V"], q: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """What is still to be explained after a token drawn from ``q`` was rejected: max(0, left - q), normalised."""
    rest = (left - q).clamp_min_(0)
    total = rest.sum()
    # left == q: a rejection has probability 0 and only rounding brings us here; any law keeps the promise
    return rest / total if total > 0 else left


def walk(draft: Draft, p: Float[Tensor, "S V"], chance: Chance) -> Verdict:
    """Try the children of each node in order, each against what its elder siblings left of p; then draw.

    p: the target's law after the root and after every node, float64. ``draft.probs`` row i is the exact law that
    node i was drawn from *given its elder siblings*: the same row for all siblings when they were drawn with
    replacement, re-normalised rows when without. Lossless either way.
    """
    assert draft.probs is not None
    tokens = draft.tokens.tolist()
    node, path = -1, []
    while True:
        left = p[node + 1]
        for child in draft.children(node):
            q = draft.probs[child]
            if chance.accepts(acceptance(left, q, tokens[child])):
                node = child
                path.append(child)
                break
            left = residual(left, q)
        else:
            return Verdict(tuple(path), chance.draws(left))


class KeyedChance:
    """Decisions from a counter: the k-th decision of a round depends on (seed, position, k) alone."""

    def __init__(self, seed: int, position: int, count: int) -> None:
        key = position_keys(seed, "leviathan", torch.tensor([position]))
        self._numbers = iter(uniforms(key, count)[0].tolist())

    def accepts(self, probability: float) -> bool:
        """True with this probability."""
        return next(self._numbers) < probability

    def draws(self, law: Float[Tensor, "V"]) -> int:
        """A token from ``law`` by inversion of its distribution function."""
        steps = law.cumsum(0)
        at = int(torch.searchsorted(steps, next(self._numbers) * float(steps[-1]), right=True))
        # rounding may put the number on the very end: fall back to the last token that can be
        return at if at < len(law) and law[at] > 0 else int(law.nonzero()[-1])


@dataclass(frozen=True)
class LeviathanSampling:
    """Keep a drawn token with probability min(1, p/q), else draw from the residual.

    Accepts more than keyed sampling when drafts are drawn and q is near p, but equals plain sampling in law only,
    not token for token. A draft without ``probs`` is a point mass and judged as such: kept with probability
    p(token).
    """

    sampling: Sampling
    lossless: ClassVar[bool] = True
    name: ClassVar[str] = "leviathan"

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise SettingError("temperature 0 is greedy decoding; use rule 'greedy'")

    def __call__(self, draft: Draft, logits: Float[Tensor, "S V"], position: int) -> Verdict:
        """Judge ``draft``; ``position`` keys the random numbers. SettingError if the rows do not match."""
        check_rows(draft, logits)
        p = process_logits(logits, self.sampling).softmax(-1).cpu()
        if draft.probs is None:
            points = torch.zeros(len(draft), p.shape[1], dtype=p.dtype)
            points[torch.arange(len(draft)), draft.tokens] = 1
            drawn = Draft(draft.tokens, draft.parents, points, draft.source)
        else:
            drawn = Draft(draft.tokens, draft.parents, draft.probs.double().cpu(), draft.source)
        return walk(drawn, p, KeyedChance(self.sampling.seed, position, len(draft) + 1))
