"""The event model as a drafter: it sees the scene through its own sensor and goes on with the verified text.

While the target is still in prefill (the window), the event model prefills and runs ahead in its own words. From
then on it stays in step with the verified prefix: it goes back to where its own text left the verified one, reads
what was said instead, and drafts on from there. It drafts as long as that pays by the measured costs and its
running acceptance, and is silent otherwise. Greedy, so drafts are chosen, not drawn (no ``probs``).
"""

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, VLMSession, Window
from crossdraft.core.types import Draft, Step
from crossdraft.drafters.length import LengthChooser, Track, judged

_NOTHING = Draft.chain([])


@dataclass(frozen=True, kw_only=True)
class CrossModal:
    """The event model's own tokens, in step with the verified text; both models share one vocabulary.

    event_model: drafts. costs: measured cost of a target pass by its rows.
    token_ms: measured time of one event-model token; None: timed while it runs.
    max_ahead: tokens drafted at most, in the window and in a round. room: cache positions behind its prompt, which
    bound the text that it can follow. retry_every: a request in so many drafts even if the last ones did not pay.
    """

    event_model: VLM
    costs: CostCurve
    token_ms: float | None = None
    max_ahead: int = 24
    room: int = 512
    retry_every: int = 8
    name: ClassVar[str] = "cross_modal"
    needs: ClassVar[Needs] = Needs(events=True)
    track: Track = field(init=False, repr=False, compare=False)
    _chooser: LengthChooser = field(init=False, repr=False, compare=False)
    _requests: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_ahead < 1:
            raise SettingError(f"max_ahead is {self.max_ahead}, must be 1 or more (to draft nothing use 'none')")
        if self.room <= self.max_ahead:
            raise SettingError(f"room is {self.room}, must be more than max_ahead ({self.max_ahead})")
        if self.retry_every < 1:
            raise SettingError(f"retry_every is {self.retry_every}, must be 1 or more")
        object.__setattr__(self, "_chooser", LengthChooser(self.costs, self.max_ahead))
        # kinds: depth in the draft; beyond a few tokens all depths are alike
        object.__setattr__(self, "track", Track([0.6] * _DEPTHS))
        object.__setattr__(self, "_requests", [0])

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "CrossModalSession":
        """Prefill the event model and run ahead while the window is open.

        With a closed window nothing is hidden: the event model then reads the prompt only once a draft is expected
        to pay. Raises DataError and SettingError as the event model's ``encode`` and ``prefill`` do.
        """
        self._requests[0] += 1
        session = CrossModalSession(self, prompt, target.vocab_size)
        if window.is_open:
            session.run_ahead(window)
        return session


_DEPTHS = 4


class _Follower:
    """An event-model session for any text: it goes back to the common part and reads the rest."""

    def __init__(self, model: VLM, prompt: Prompt, room: int) -> None:
        encoded = model.encode(prompt)
        self.session: VLMSession = model.prefill(encoded, (), room)
        self.text: list[int] = []
        # marks[n]: the position with n tokens of text, the last of them the root
        self._marks: dict[int, Any] = {0: self.session.mark()}
        self._logits: torch.Tensor | None = self.session.first.logits[-1:]
        self.vocab_size = model.vocab_size

    def follow(self, text: list[int]) -> None:
        """Bring the session to ``text``, reading what is new in one pass."""
        common = 0
        while common < min(len(text), len(self.text)) and text[common] == self.text[common]:
            common += 1
        while common not in self._marks:
            common -= 1
        if common < len(self.text):
            self.session.rewind(self._marks[common])
            self._marks = {n: mark for n, mark in self._marks.items() if n <= common}
            self.text, self._logits = self.text[:common], None
            if common == 0:
                self._logits = self.session.first.logits[-1:]
        if common == len(text):
            return
        if common == 0:
            self._root(text[0])
            common = 1
        if common < len(text):
            self.session.score(Draft.chain(text[common:-1]))
            self.session.commit(tuple(range(len(text) - 1 - common)), text[-1])
            self.text += text[common:]
            self._mark()

    def next(self) -> int:
        """The event model's own next token, which becomes part of its text."""
        if self._logits is None:
            self._logits = self.session.score(_NOTHING).logits
        token = int(self._logits[-1].argmax())
        self._root(token)
        return token

    def _root(self, token: int) -> None:
        self.session.commit((), token)
        self.text.append(token)
        self._mark()

    def _mark(self) -> None:
        self._logits = None
        self._marks[len(self.text)] = self.session.mark()


class CrossModalSession:
    """One request: the event model's session, what it drafted ahead, and whether it is still worth asking."""

    def __init__(self, settings: CrossModal, prompt: Prompt, vocab_size: int) -> None:
        self._settings, self._prompt, self._vocab_size = settings, prompt, vocab_size
        self._follower: _Follower | None = None
        self._said: list[int] = []
        self._drafted = 0
        self._spent_ms, self._timed = 0.0, 0
        # a request in so many looks again, in its first draft, whether things have changed
        self._retry = settings._requests[0] % settings.retry_every == 1 or settings.retry_every == 1
        self.is_silent = False

    def run_ahead(self, window: Window) -> None:
        """Read the prompt and write on, in the event model's own words, until the window closes."""
        follower = self._read_prompt()
        while window.is_open and len(follower.text) < self._settings.max_ahead:
            self._next(follower)

    def observe(self, step: Step) -> None:
        """Learn how often drafts are right, and what was said instead."""
        if not step.is_prompt and self._drafted:
            tried = judged(step.accepted, len(step.tokens), self._drafted)
            kinds = [min(depth, _DEPTHS - 1) for depth in range(self._drafted)]
            self._settings.track.learn(kinds, step.accepted, tried)
        self._drafted = 0
        self._said += step.tokens

    def propose(self, room: int) -> Draft:
        """What the event model would say next, as far as that is expected to pay; empty once it does not."""
        settings = self._settings
        if self.is_silent:
            return Draft.chain([], source="cross_modal")
        ready = self._ready()
        token_ms = self._token_ms()
        track = settings.track
        limit = min(room, settings.max_ahead, settings.room - len(self._said) - 1)
        chances = [track.rate(min(depth, _DEPTHS - 1)) for depth in range(max(0, limit))]
        length = min(limit, settings._chooser.choose(chances, token_ms, free=len(ready), start_ms=token_ms))
        if length <= 0 and self._retry and limit > 0:
            length = 1
        self._retry = False
        if length <= 0 or max(self._said) >= settings.event_model.vocab_size:
            # it did not pay now; following every word only to find that again would cost the more
            self.is_silent = True
            return Draft.chain([], source="cross_modal")
        tokens = ready[:length]
        if len(tokens) < length:
            follower = self._read_prompt()
            follower.follow([*self._said, *tokens])
            while len(tokens) < length:
                tokens.append(self._next(follower))
        # an event model may have a few added tokens that the target does not know
        known = next((i for i, token in enumerate(tokens) if token >= self._vocab_size), len(tokens))
        self._drafted = known
        return Draft.chain(tokens[:known], source="cross_modal")

    def finish(self) -> None:
        """Nothing outlives the request but the running acceptance."""

    def _ready(self) -> list[int]:
        """What the event model already wrote behind the verified text, in agreement with it."""
        text = self._follower.text if self._follower is not None else []
        said = len(self._said)
        return text[said:] if text[:said] == self._said else []

    def _read_prompt(self) -> _Follower:
        if self._follower is None:
            self._follower = _Follower(self._settings.event_model, self._prompt, self._settings.room)
        return self._follower

    def _next(self, follower: _Follower) -> int:
        start = time.perf_counter()
        token = follower.next()
        self._spent_ms += (time.perf_counter() - start) * 1e3
        self._timed += 1
        return token

    def _token_ms(self) -> float:
        if self._settings.token_ms is not None:
            return self._settings.token_ms
        return self._spent_ms / self._timed if self._timed else 0.0
