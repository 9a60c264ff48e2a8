"""Medusa: heads on the target's last state, each of which guesses one token further ahead, all at once.

Source: Cai et al., arXiv 2401.10774, section 2.1; its legacy code for the variant that shares the target's head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossdraft.core.errors import SettingError
from crossdraft.core.types import LAST


@dataclass(frozen=True, kw_only=True)
class MedusaConfig:
    """hidden_size, vocab_size: the target's. heads: head k (from 0) on the state of position t guesses token
    t + 2 + k. own_head: every head has an output matrix of its own, which starts as the target's; else all share
    the target's. draft_vocab: how many tokens can be drafted (the most frequent ones); None: all."""

    hidden_size: int
    vocab_size: int
    heads: int = 4
    own_head: bool = False
    draft_vocab: int | None = None

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise SettingError(f"heads is {self.heads}, must be 1 or more")
        if self.draft_vocab is not None and not 1 <= self.draft_vocab <= self.vocab_size:
            raise SettingError(f"draft_vocab is {self.draft_vocab}, must be from 1 to {self.vocab_size}")

    @property
    def taps(self) -> tuple[int, ...]:
        """The target's layers that are read."""
        return (LAST,)


class MedusaHead(nn.Module):
    """``W2 (SiLU(W1 h + b) + h)`` for each head; W1 and b start at zero, so every head starts as the target's.

    d2t: (draft vocabulary,) the target's id of each token that can be drafted.
    """

    d2t: Tensor

    def __init__(self, config: MedusaConfig) -> None:
        super().__init__()
        self.config = config
        width, drafted = config.hidden_size, config.draft_vocab or config.vocab_size
        self.blocks = nn.ModuleList(_silent(width) for _ in range(config.heads))
        self.lm_heads = (
            nn.ModuleList(nn.Linear(width, drafted, bias=False) for _ in range(config.heads))
            if config.own_head
            else None
        )
        self.register_buffer("d2t", torch.arange(drafted))

    @property
    def num_trained(self) -> int:
        """Parameters of its own, also those that a training left as they were."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, states: Float[Tensor, "... D"], head: Float[Tensor, "draft D"] | None) -> list[Tensor]:
        """Logits (..., draft vocabulary) of every head. head: the target's rows of ``d2t`` where it is shared."""
        mixed = [F.silu(block(states)) + states for block in self.blocks]
        if self.lm_heads is not None:
            return [own(rows) for own, rows in zip(self.lm_heads, mixed, strict=True)]
        assert head is not None, "these heads share the target's"
        return [F.linear(rows, head.to(rows.dtype)) for rows in mixed]


def _silent(width: int) -> nn.Linear:
    """A linear map that gives zero."""
    block = nn.Linear(width, width)
    nn.init.zeros_(block.weight)
    nn.init.zeros_(block.bias)
    return block
