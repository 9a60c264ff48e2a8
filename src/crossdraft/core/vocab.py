"""Tokens of one vocabulary in another one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from crossdraft.core.errors import SettingError

NO_TWIN = -1
MIN_SHARED = 0.5
"""Share of the smaller vocabulary that the larger one must have too; with less, no sentence could be followed."""


@dataclass(frozen=True)
class TokenMap:
    """Which token of a target is which of a draft model, one to one as far as it goes; -1 for one without a twin.

    to_target: of the draft model's W tokens; target_size: V.
    """

    to_target: Int[Tensor, "W"]
    target_size: int

    @classmethod
    def same(cls, target_size: int, draft_size: int) -> "TokenMap":
        """The same ids; what only the larger vocabulary has, has no twin."""
        ids = torch.arange(draft_size)
        return cls(torch.where(ids < target_size, ids, NO_TWIN), target_size)

    @classmethod
    def by_spelling(
        cls,
        target: Mapping[bytes, int],
        draft: Mapping[bytes, int],
        sizes: tuple[int, int],
        ends: Sequence[tuple[int, int]] = (),
    ) -> "TokenMap":
        """Tokens of equal bytes are twins. target, draft: bytes -> id; sizes: (V, W).

        ends: further twins (target's id, draft model's id), such as the tokens that end an answer.
        Raises SettingError when less than half of the smaller vocabulary is in both.
        """
        shared = [(target[word], draft[word]) for word in draft if word in target]
        least = min(len(target), len(draft))
        if len(shared) < MIN_SHARED * least or not shared:
            raise SettingError(
                f"vocabulary mismatch between target and draft model: {len(shared)} of {least} tokens are in both; "
                "choose a draft model whose tokenizer is nearer to the target's"
            )
        to_target = torch.full((sizes[1],), NO_TWIN, dtype=torch.long)
        for ours, theirs in (*shared, *ends):
            if ours < sizes[0] and theirs < sizes[1]:
                to_target[theirs] = ours
        return cls(to_target, sizes[0])

    @cached_property
    def target_ids(self) -> list[int]:
        """``to_target`` for single look-ups."""
        return self.to_target.tolist()

    @cached_property
    def draft_ids(self) -> list[int]:
        """The twin of each of the target's tokens."""
        ids = [NO_TWIN] * self.target_size
        for theirs, ours in enumerate(self.target_ids):
            if ours != NO_TWIN:
                ids[ours] = theirs
        return ids
