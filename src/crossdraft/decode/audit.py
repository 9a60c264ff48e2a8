"""Was it really the target's own answer? Re-score the tokens through fresh passes and report every doubt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.types import Generation
from crossdraft.decode.forced import CHUNK_ROWS, forced


@dataclass(frozen=True)
class Doubt:
    """A token that is not the reference's argmax: where, what was said, what the reference says, the logit gap."""

    position: int
    token: int
    reference: int
    gap: float


@dataclass(frozen=True)
class AuditReport:
    """Tokens checked and every one that is not the reference's argmax. ``detail``: the target's own exactness."""

    checked: int
    doubts: tuple[Doubt, ...]
    detail: str

    @property
    def passed(self) -> bool:
        """Whether every token is the reference's argmax."""
        return not self.doubts

    @property
    def verdict(self) -> str:
        """One line for people."""
        if self.passed:
            return f"audit: all {self.checked} tokens are the target's argmax ({self.detail})"
        worst = max(self.doubts, key=lambda doubt: doubt.gap)
        return (
            f"audit: {len(self.doubts)} of {self.checked} tokens are not the target's argmax, largest logit gap "
            f"{worst.gap:.4g} at token {worst.position} ({self.detail})"
        )


@torch.inference_mode()
def audit(
    target: VLM, prompt: Prompt, answer: Generation | Sequence[int], *, chunk_rows: int = CHUNK_ROWS
) -> AuditReport:
    """Re-score an answer: a fresh prefill, then chain passes of ``chunk_rows`` rows over the tokens (``forced``).

    For greedy answers; a sampled answer is *meant* to differ from the argmax. chunk_rows 1 is plain decoding.
    Raises DataError and SettingError as the target does.
    """
    tokens = list(answer.tokens if isinstance(answer, Generation) else answer)
    if not tokens:
        return AuditReport(0, (), target.exactness.detail)
    doubts: list[Doubt] = []
    at = 0
    for scores in forced(target, target.encode(prompt), tokens, chunk_rows=chunk_rows):
        part = tokens[at : at + len(scores.logits)]
        doubts += _doubts(scores.logits, part, at)
        at += len(part)
    return AuditReport(len(tokens), tuple(doubts), target.exactness.detail)


def _doubts(logits: torch.Tensor, tokens: Sequence[int], start: int) -> list[Doubt]:
    own = logits.argmax(-1).tolist()
    return [
        Doubt(start + i, token, best, float(logits[i, best] - logits[i, token]))
        for i, (token, best) in enumerate(zip(tokens, own, strict=True))
        if token != best
    ]
