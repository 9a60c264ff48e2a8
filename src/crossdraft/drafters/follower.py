"""A drafting model kept in step with any text: it goes back to where the texts part and reads the rest."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, VLMSession
from crossdraft.core.types import LAST, Draft, Scores
from crossdraft.nn.argmax import argmax

_NOTHING = Draft.chain([])


class Follower:
    """One request's session of any VLM. What it thinks after its text is asked for when it is needed.

    text: what it has read or written so far, behind its prompt. keep_states: keep the state that predicted each of
    those tokens, for an adapter. Raises DataError and SettingError as the model's ``encode`` and ``prefill`` do.
    """

    # One pass reads what is new and already says what comes next, so a draft of n tokens takes n passes. The tokens
    # of that pass are committed together with the first one chosen behind them: until then they are only `_read`.
    def __init__(self, model: VLM, prompt: Prompt, room: int, *, keep_states: bool = False) -> None:
        encoded = model.encode(prompt)
        self.session: VLMSession = model.prefill(encoded, (LAST,) if keep_states else (), room)
        self.text: list[int] = []
        # marks[n]: the position with n tokens of text, the last of them a root that no pass has seen
        self._marks: dict[int, Any] = {0: self.session.mark()}
        self._logits: Tensor | None = self.session.first.logits[-1:]
        self._read = 0
        self._states: Tensor | None = None
        if keep_states:
            first = self.session.first.states[LAST][-1]
            self._states = first.new_zeros((room + 1, len(first)))
            self._states[0] = first

    def follow(self, text: Sequence[int]) -> None:
        """Bring the session to ``text``, reading what is new in one pass."""
        common = 0
        while common < min(len(text), len(self.text)) and text[common] == self.text[common]:
            common += 1
        if common == len(text) == len(self.text):
            return
        # a mark serves every text that shares all but its root
        at = max(n for n in self._marks if n <= min(common + 1, len(text)))
        self.session.rewind(self._marks[at])
        self._marks = {n: mark for n, mark in self._marks.items() if n <= at}
        if at > common:
            self.session.reroot(text[at - 1])
            self._marks[at] = self.session.mark()
        self.text, self._logits, self._read = list(text[:at]), None, 0
        if at == 0:
            self._logits = self.session.first.logits[-1:]
            if text:
                self.add(text[0])
                at = 1
        if at < len(text):
            scores = self.session.score(Draft.chain(text[at:]))
            self._keep(at, scores)
            self.text += text[at:]
            self._logits, self._read = scores.logits[-1:], len(text) - at

    def logits(self) -> Float[Tensor, "1 V"]:
        """What the model itself thinks comes next."""
        if self._logits is None:
            scores = self.session.score(_NOTHING)
            self._keep(len(self.text), scores)
            self._logits = scores.logits[-1:]
        return self._logits

    def states(self) -> Float[Tensor, "K D"]:
        """The states that predicted each token of the text, and the one that predicts the next."""
        assert self._states is not None, "this follower keeps no states"
        self.logits()
        return self._states[: len(self.text) + 1]

    def add(self, token: int) -> None:
        """``token`` is the next one of the text, whoever chose it."""
        self.logits()  # the root is committed with a pass over it
        self.session.commit(tuple(range(self._read)), token)
        self.text.append(token)
        self._logits, self._read = None, 0
        self._marks[len(self.text)] = self.session.mark()

    def _keep(self, first: int, scores: Scores) -> None:
        if self._states is not None:
            rows = scores.states[LAST]
            self._states[first : first + len(rows)] = rows


class OwnVoice:
    """The model's own next token: its argmax."""

    keeps_states = False
    needs_target_states = False
    needs_event_model = True

    def observe(self, first: int, states: Tensor) -> None:
        """It does not look at the target."""

    def choose(self, follower: Follower | None, text: Sequence[int]) -> int:
        """The token behind the follower's text."""
        assert follower is not None
        return int(argmax(follower.logits()[-1:]))
