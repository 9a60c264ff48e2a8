"""The event model's states, mapped by an adapter into the target's space, where its head makes tokens of them.

What an adapter may read while drafting is what exists then: the event model's states over the verified text and the
draft so far, the target's states over the verified text (one position late, so never the one to be guessed), and in
their place, behind the verified text, the adapter's own guesses, as EAGLE's head does (arXiv 2401.15077).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.adapters import Adapter
from crossdraft.adapters.base import DRAFT, TARGET, TOKENS
from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import VLM
from crossdraft.drafters.follower import Follower
from crossdraft.nn.argmax import argmax


def check_drafts(adapter: Adapter) -> None:
    """SettingError for an adapter that reads the very state it must give: nobody has that one while drafting."""
    if adapter.sees_its_target:
        raise SettingError(
            f"adapter '{adapter.name}' reads the very target state that it must give, which no drafter has; train "
            f"'{adapter.name}_sound', which reads the earlier ones"
        )


class AdaptedVoice:
    """One request's way from states to tokens. room: positions of the answer that can be followed.

    An adapter that looks back reads the whole answer so far for each token. Raises SettingError for an adapter that
    cannot draft (``check_drafts``).
    """

    def __init__(self, adapter: Adapter, target: VLM, room: int) -> None:
        check_drafts(adapter)
        self._adapter, self._target = adapter, target
        self.keeps_states = self.needs_event_model = DRAFT in adapter.inputs
        self.needs_target_states = TARGET in adapter.inputs
        weight = next(adapter.parameters(), torch.empty(0))
        self._dtype = weight.dtype
        self._head_dtype = target.embed(torch.zeros(1, dtype=torch.long)).dtype
        # rows 0 .. verified - 1 are the target's own states, later ones the adapter's guesses
        self._known = weight.new_zeros((room + 1, adapter.width_out)) if self.needs_target_states else None

    def observe(self, first: int, states: Float[Tensor, "K D"]) -> None:
        """The target's states that predicted the verified tokens ``first``, ``first`` + 1, ... of the answer."""
        assert self._known is not None
        upto = min(first + len(states), len(self._known))
        if first < upto:
            self._known[first:upto] = states[: upto - first].to(self._dtype)

    def choose(self, follower: Follower | None, text: Sequence[int]) -> int:
        """The token behind ``text``, which is the follower's where there is one."""
        count = len(text) + 1
        first = count - 1 if self._adapter.pointwise else 0
        given: dict[str, Tensor] = {}
        if follower is not None:
            given[DRAFT] = follower.states()[first:].to(self._dtype)
        if self._known is not None:
            given[TARGET] = self._known[first:count]
        if TOKENS in self._adapter.inputs:
            # the last one is a placeholder: the token that this state is to give
            given[TOKENS] = self._target.embed(torch.tensor([*text, 0])[first:]).to(self._dtype)
        rows = {name: values.unsqueeze(0) for name, values in given.items()}
        adapted = self._adapter(rows.pop(DRAFT, None), **rows)[0, -1]
        if self._known is not None:
            self._known[count - 1] = adapted
        return int(argmax(self._target.unembed(adapted[None].to(self._head_dtype))))
