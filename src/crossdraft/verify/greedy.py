"""Greedy verification: what is emitted is what one-token-at-a-time argmax would emit."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from crossdraft.core.types import Draft, Verdict
from crossdraft.nn.argmax import argmax
from crossdraft.verify.walk import check_rows, follow


@dataclass(frozen=True)
class Greedy:
    """Walk down the tree while some child is the target's own argmax.

    Lossless; ties go to the lowest id. One transfer from the logits' device per call.
    Source: Miao et al., "SpecInfer", ASPLOS 2024, arXiv 2305.09781 (greedy case).
    """

    lossless: ClassVar[bool] = True
    name: ClassVar[str] = "greedy"

    def __call__(self, draft: Draft, logits: Float[Tensor, "S V"], position: int) -> Verdict:
        """Judge ``draft``; ``position`` plays no part. SettingError if the rows do not match the draft."""
        check_rows(draft, logits)
        return follow(draft, argmax(logits).cpu())
