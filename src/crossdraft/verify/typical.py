"""Typical acceptance: what the target finds plausible is kept, be it what the target would have said or not."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import ancestor_mask
from crossdraft.core.types import Draft, Sampling, Verdict
from crossdraft.verify.sampling import draw, process_logits
from crossdraft.verify.walk import check_rows


@dataclass(frozen=True)
class TypicalAcceptance:
    """Keep the longest path of which every token has p(token) > min(epsilon, delta exp(-H(p))); lossy.

    p: the target's processed distribution before the token, H its entropy in nats. Of equally long paths the
    likeliest wins, then the first. bonus: "greedy" is the target's argmax even at temperature > 0, as the authors'
    default; "drawn" draws it from p without the tokens below the threshold.
    Source: Cai et al., "Medusa", arXiv 2401.10774, section 2.3.1; the defaults and ties are those of its code.
    """

    sampling: Sampling
    epsilon: float = 0.09
    delta: float = 0.3
    bonus: Literal["greedy", "drawn"] = "greedy"
    lossless: ClassVar[bool] = False
    name: ClassVar[str] = "typical"

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise SettingError("temperature 0 is greedy decoding; use rule 'greedy'")
        for what in ("epsilon", "delta"):
            if not 0 < getattr(self, what) < 1:
                raise SettingError(f"{what} is {getattr(self, what)}, must be above 0 and below 1")
        if self.bonus not in ("greedy", "drawn"):
            raise SettingError(f"bonus is '{self.bonus}'; known: greedy, drawn")

    def __call__(self, draft: Draft, logits: Float[Tensor, "S V"], position: int) -> Verdict:
        """Judge ``draft``; ``position`` keys the noise of a drawn bonus. SettingError if the rows do not match."""
        check_rows(draft, logits)
        processed = process_logits(logits, self.sampling).cpu()
        p = processed.softmax(-1)
        threshold = self.threshold(p)
        path: tuple[int, ...] = ()
        if len(draft):
            before = draft.parents + 1
            likelihood = p[before, draft.tokens]
            path = _longest(draft, likelihood > threshold[before], likelihood)
        row = slice(path[-1] + 1, path[-1] + 2) if path else slice(0, 1)
        if self.bonus == "greedy":
            return Verdict(path, int(logits[row].argmax()))
        typical = processed[row].masked_fill(p[row] < threshold[row, None], -torch.inf)
        return Verdict(path, int(draw(typical, torch.tensor([position + len(path)]), self.sampling.seed)))

    def threshold(self, p: Float[Tensor, "S V"]) -> Float[Tensor, "S"]:
        """Probability that a token must exceed, for each distribution. The likeliest token never lies below it."""
        entropy = torch.special.entr(p).sum(-1)
        return (self.delta * (-entropy).exp()).clamp_max(self.epsilon)


def _longest(draft: Draft, kept: Tensor, likelihood: Tensor) -> tuple[int, ...]:
    """The longest path of kept nodes; of several, the one whose tokens are likeliest, then the first."""
    mask = ancestor_mask(draft.parents)
    whole = ~(mask & ~kept).any(-1)
    if not whole.any():
        return ()
    depth = mask.sum(-1) * whole
    # logarithms of kept nodes only: 0 x -inf is NaN
    worth = mask.to(likelihood.dtype) @ torch.where(kept, likelihood, 1).log()
    best = int(worth.masked_fill(depth < depth.max(), -torch.inf).argmax())
    return tuple(mask[best].nonzero().flatten().tolist())
