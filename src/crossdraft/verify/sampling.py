"""Sampling with noise keyed on (seed, position): drafting cannot change what is said at any temperature.

The target draws its own token y ~ p at every row by Gumbel-max; a drafted token is kept iff it is that y. This is
the point-mass case of speculative sampling (accept x with probability p(x), else draw from p without x). The noise
depends on the seed, the position in the answer and the token id alone, so plain decoding draws the very same
tokens.
Sources: Leviathan et al., arXiv 2211.17192 (rejection); Maddison et al., arXiv 1411.0030 (Gumbel-max).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.seeds import seed_for
from crossdraft.core.tree import depths
from crossdraft.core.types import Draft, Sampling, Verdict
from crossdraft.nn.argmax import argmax
from crossdraft.verify.walk import check_rows, follow

# splitmix64 (Steele, Lea, Flood, OOPSLA 2014), as signed 64-bit constants
_GOLDEN, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
_LOW = {bits: (1 << (64 - bits)) - 1 for bits in (27, 30, 31)}

# logits looked at together on a CPU: most drafts end before their last row, whose noise would be for nothing, and
# half a megabyte of float64 stays in the cache
_PIECE = 65_536


def process_logits(logits: Float[Tensor, "S V"], sampling: Sampling) -> Float[Tensor, "S V"]:
    """Temperature, then top-k, then top-p; removed tokens get -inf. float64, rows independent of each other.

    Exactly k tokens survive top-k; top-p keeps the fewest most probable tokens whose mass reaches p. Of equal
    logits the lower ids are kept, so the result does not depend on a sort's whims.
    Raises SettingError at temperature 0, which is not a distribution but the greedy rule.
    """
    if sampling.temperature == 0:
        raise SettingError("temperature 0 is greedy decoding; use rule 'greedy'")
    scaled = logits.double() / sampling.temperature
    cut_k = 0 < sampling.top_k < scaled.shape[-1]
    if not cut_k and sampling.top_p == 1:
        return scaled
    ranked, order = scaled.sort(dim=-1, descending=True, stable=True)
    if cut_k:
        ranked[:, sampling.top_k :] = -torch.inf
    if sampling.top_p < 1:
        mass = ranked.softmax(-1)
        # mass of the more probable tokens alone; the first token always stays
        ranked[mass.cumsum(-1) - mass >= sampling.top_p] = -torch.inf
    return torch.full_like(scaled, -torch.inf).scatter_(-1, order, ranked)


def uniforms(keys: Int[Tensor, "S"], count: int) -> Float[Tensor, "S C"]:
    """``count`` numbers in (0, 1) for each 64-bit key: float64 with 53 bits, the same on every device.

    Number i of a key is a hash of (key, i); no generator has a state.
    """
    mixed = torch.arange(1, count + 1, device=keys.device).mul_(_GOLDEN) + keys[:, None]
    shifted = torch.empty_like(mixed)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        # a right shift of a signed number drags the sign along: mask it off
        torch.bitwise_right_shift(mixed, bits, out=shifted)
        mixed ^= shifted.bitwise_and_(_LOW[bits])
        if factor != 1:
            mixed *= factor
    torch.bitwise_right_shift(mixed, 11, out=shifted)
    return shifted.bitwise_and_((1 << 53) - 1).double().add_(0.5).mul_(2.0**-53)


def position_keys(seed: int, purpose: str, positions: Int[Tensor, "S"]) -> Int[Tensor, "S"]:
    """One 64-bit key for each position of an answer, different for every seed and purpose."""
    # a hash of the position, not the position itself: neighbours must not share parts of their sequences
    own = seed_for(seed, purpose)
    mixed = (positions + 1) * _MIX_2 + own
    mixed = mixed ^ ((mixed >> 30) & _LOW[30])
    mixed = mixed * _MIX_1
    return mixed ^ ((mixed >> 27) & _LOW[27])


def draw(
    logits: Float[Tensor, "S V"], positions: Int[Tensor, "S"], seed: int, purpose: str = "verify"
) -> Int[Tensor, "S"]:
    """One token for each row of processed logits, by Gumbel-max with noise keyed on (seed, position)."""
    noise = uniforms(position_keys(seed, purpose, positions), logits.shape[-1])
    return argmax(noise.log_().neg_().log_().neg_().add_(logits))


@dataclass(frozen=True)
class KeyedSampling:
    """Keep a drafted token iff the target, with the noise of that position, draws it itself.

    Lossless in the strict sense: same seed, same tokens, whatever is drafted. ``probs`` of a draft play no part.
    """

    sampling: Sampling
    lossless: ClassVar[bool] = True
    name: ClassVar[str] = "sampling"

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise SettingError("temperature 0 is greedy decoding; use rule 'greedy'")

    def with_seed(self, seed: int) -> "KeyedSampling":
        """The same rule with other noise."""
        return replace(self, sampling=replace(self.sampling, seed=seed))

    def __call__(self, draft: Draft, logits: Float[Tensor, "S V"], position: int) -> Verdict:
        """Judge ``draft``, whose first token would be token number ``position`` of the answer.

        A row's noise is that of its depth. SettingError if the rows do not match the draft.
        """
        check_rows(draft, logits)
        if draft.is_chain:
            offsets = torch.arange(len(draft) + 1)
        else:
            offsets = torch.cat((torch.zeros(1, dtype=torch.long), depths(draft.parents.tolist())))
        positions = (offsets + position).to(logits.device)
        # on a CPU the rows of a long chain are drawn piece by piece, until the first surprise; on a GPU at once
        piece = len(logits)
        if draft.is_chain and logits.device.type == "cpu":
            piece = min(piece, max(1, _PIECE // logits.shape[1]))
        own: list[Tensor] = []
        for start in range(0, len(logits), piece):
            rows = slice(start, start + piece)
            own.append(draw(process_logits(logits[rows], self.sampling), positions[rows], self.sampling.seed).cpu())
            if start + piece <= len(draft) and not torch.equal(own[-1], draft.tokens[rows]):
                break
        seen = torch.cat(own)
        if len(seen) == len(logits):
            return follow(draft, seen)
        return follow(Draft(draft.tokens[: len(seen) - 1], draft.parents[: len(seen) - 1]), seen)
