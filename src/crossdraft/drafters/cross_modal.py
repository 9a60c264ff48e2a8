"""The event model as a drafter: it sees the scene through its own sensor and goes on with the verified text.

While the target is still in prefill (the window), the event model prefills and runs ahead in its own words. From
then on it stays in step with the verified prefix: it goes back to where its own text left the verified one, reads
what was said instead, and drafts on from there. It drafts as long as that pays by the measured costs and its
running acceptance, and is silent otherwise. Greedy, so drafts are chosen, not drawn (no ``probs``).

With an adapter the words are the target's: its head reads the event model's adapted states, and the event model
reads the tokens so chosen.
"""

import time
from dataclasses import dataclass, field
from typing import ClassVar

from crossdraft.adapters import Adapter
from crossdraft.adapters.base import TARGET
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.types import LAST, Draft, Step
from crossdraft.drafters.adapted import AdaptedVoice, check_drafts
from crossdraft.drafters.follower import Follower, OwnVoice
from crossdraft.drafters.pace import Pace


@dataclass(frozen=True, kw_only=True)
class CrossModal:
    """The event model's tokens, in step with the verified text; both models share one vocabulary.

    event_model: drafts. costs: measured cost of a target pass by its rows.
    adapter: maps its states into the target's space, whose head then chooses the tokens; None: its own tokens.
    token_ms: measured time of one drafted token; None: timed while it runs.
    length: draft exactly so many tokens in every round, paying or not, for measurements; None: as many as pay.
    max_ahead: tokens drafted at most, in the window and in a round. room: cache positions behind its prompt, which
    bound the text that it can follow. retry_every: a request in so many drafts even if the last ones did not pay.
    Raises SettingError for values that make no sense and for an adapter that cannot draft (``check_drafts``).
    """

    event_model: VLM
    costs: CostCurve
    adapter: Adapter | None = None
    token_ms: float | None = None
    length: int | None = None
    max_ahead: int = 24
    room: int = 512
    retry_every: int = 8
    name: ClassVar[str] = "cross_modal"
    needs: Needs = field(init=False, repr=False, default=Needs(events=True))
    pace: Pace = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pace = Pace(
            self.costs, max_ahead=self.max_ahead, length=self.length, token_ms=self.token_ms,
            retry_every=self.retry_every,
        )  # fmt: skip
        if self.room <= self.max_ahead:
            raise SettingError(f"room is {self.room}, must be more than max_ahead ({self.max_ahead})")
        if self.adapter is not None:
            check_drafts(self.adapter)
        looks_at_target = self.adapter is not None and TARGET in self.adapter.inputs
        object.__setattr__(self, "needs", Needs(capture=(LAST,) if looks_at_target else (), events=True))
        object.__setattr__(self, "pace", pace)

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "CrossModalSession":
        """Prefill the event model and run ahead while the window is open, unless drafts have not paid lately.

        With a closed window nothing is hidden: the event model then reads the prompt only once a draft is expected
        to pay. Raises DataError and SettingError as the event model's ``encode`` and ``prefill`` do.
        """
        session = CrossModalSession(self, prompt, target)
        # even in a window it is not free: on a shared device the target slows down
        if window.is_open and session.pace.is_worth_asking:
            session.run_ahead(window)
        return session


class CrossModalSession:
    """One request: the event model's session, what it drafted ahead, and whether it is still worth asking."""

    def __init__(self, settings: CrossModal, prompt: Prompt, target: VLM) -> None:
        self._settings, self._prompt, self._vocab_size = settings, prompt, target.vocab_size
        self._voice: OwnVoice | AdaptedVoice = (
            OwnVoice() if settings.adapter is None else AdaptedVoice(settings.adapter, target, settings.room)
        )
        self._follower: Follower | None = None
        self._said: list[int] = []
        self.pace = settings.pace.request()

    def run_ahead(self, window: Window) -> None:
        """Read the prompt and write on, in the event model's own words, until the window closes.

        An adapter that reads the target's states has none to read yet, so only the prompt is read then.
        """
        if not self._voice.needs_event_model:
            return
        follower = self._read_prompt()
        if self._voice.needs_target_states:
            return
        while window.is_open and len(follower.text) < self._settings.max_ahead:
            if not self._is_known(self._next(follower, follower.text)):
                return

    def observe(self, step: Step) -> None:
        """Learn how often drafts are right, and what was said instead."""
        self.pace.learn(step)
        if self._voice.needs_target_states:
            self._voice.observe(len(self._said), step.states[LAST])
        self._said += step.tokens

    def propose(self, room: int) -> Draft:
        """What the event model would say next, as far as that is expected to pay; empty once it does not."""
        settings = self._settings
        if self.pace.is_silent:
            return Draft.chain([], source="cross_modal")
        ready = self._ready()
        length = self.pace.length(min(room, settings.room - len(self._said) - 1), len(ready))
        if not self._is_known(max(self._said)):
            self.pace.hush()
            length = 0
        if not length:
            return Draft.chain([], source="cross_modal")
        tokens = ready[:length]
        if len(tokens) < length:
            follower = self._read_prompt() if self._voice.needs_event_model else None
            start, ready_now = time.perf_counter(), len(tokens)
            if follower is not None:
                follower.follow([*self._said, *tokens])
            while len(tokens) < length and (not tokens or self._is_known(tokens[-1])):
                tokens.append(self._next(follower, [*self._said, *tokens]))
            settings.pace.took((time.perf_counter() - start) * 1e3, len(tokens) - ready_now)
        # an event model may have a few added tokens that the target does not know
        known = next((i for i, token in enumerate(tokens) if token >= self._vocab_size), len(tokens))
        self.pace.drafted(known)
        return Draft.chain(tokens[:known], source="cross_modal")

    def finish(self) -> None:
        """Nothing outlives the request but the running acceptance."""

    def _ready(self) -> list[int]:
        """What the event model already wrote behind the verified text, in agreement with it."""
        text = self._follower.text if self._follower is not None else []
        said = len(self._said)
        return text[said:] if text[:said] == self._said else []

    def _read_prompt(self) -> Follower:
        if self._follower is None:
            settings = self._settings
            self._follower = Follower(
                settings.event_model, self._prompt, settings.room, keep_states=self._voice.keeps_states
            )
        return self._follower

    def _is_known(self, token: int) -> bool:
        """Whether the event model can read ``token``: either side may have a few added ones."""
        return token < self._settings.event_model.vocab_size

    def _next(self, follower: Follower | None, text: list[int]) -> int:
        token = self._voice.choose(follower, text)
        if follower is not None and self._is_known(token):
            follower.add(token)
        return token
