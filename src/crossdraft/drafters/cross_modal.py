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
from crossdraft.drafters.length import LengthChooser, Track, judged


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
        if self.length is not None and not 1 <= self.length <= self.max_ahead:
            raise SettingError(f"length is {self.length}, must be from 1 to max_ahead ({self.max_ahead})")
        if self.adapter is not None:
            check_drafts(self.adapter)
        looks_at_target = self.adapter is not None and TARGET in self.adapter.inputs
        object.__setattr__(self, "needs", Needs(capture=(LAST,) if looks_at_target else (), events=True))
        object.__setattr__(self, "_chooser", LengthChooser(self.costs, self.max_ahead))
        # kinds: depth in the draft; beyond a few tokens all depths are alike
        object.__setattr__(self, "track", Track([0.6] * _DEPTHS))
        object.__setattr__(self, "_requests", [0])

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "CrossModalSession":
        """Prefill the event model and run ahead while the window is open, unless drafts have not paid lately.

        With a closed window nothing is hidden: the event model then reads the prompt only once a draft is expected
        to pay. Raises DataError and SettingError as the event model's ``encode`` and ``prefill`` do.
        """
        self._requests[0] += 1
        session = CrossModalSession(self, prompt, target)
        # even in a window it is not free: on a shared device the target slows down
        if window.is_open and session.is_worth_asking:
            session.run_ahead(window)
        return session


_DEPTHS = 4


class CrossModalSession:
    """One request: the event model's session, what it drafted ahead, and whether it is still worth asking."""

    def __init__(self, settings: CrossModal, prompt: Prompt, target: VLM) -> None:
        self._settings, self._prompt, self._vocab_size = settings, prompt, target.vocab_size
        self._voice: OwnVoice | AdaptedVoice = (
            OwnVoice() if settings.adapter is None else AdaptedVoice(settings.adapter, target, settings.room)
        )
        self._follower: Follower | None = None
        self._said: list[int] = []
        self._drafted = 0
        self._spent_ms, self._timed = 0.0, 0
        # a request in so many looks again, in its first draft, whether things have changed
        self._retry = settings._requests[0] % settings.retry_every == 1 or settings.retry_every == 1
        self.is_silent = False

    @property
    def is_worth_asking(self) -> bool:
        """Whether a draft is expected to pay, or this request looks again whether it does."""
        settings = self._settings
        if settings.length is not None or self._retry:
            return True
        return settings._chooser.choose(self._chances(settings.max_ahead), self._token_ms()) > 0

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
        if not step.is_prompt and self._drafted:
            tried = judged(step.accepted, len(step.tokens), self._drafted)
            kinds = [min(depth, _DEPTHS - 1) for depth in range(self._drafted)]
            self._settings.track.learn(kinds, step.accepted, tried)
        self._drafted = 0
        if self._voice.needs_target_states:
            self._voice.observe(len(self._said), step.states[LAST])
        self._said += step.tokens

    def propose(self, room: int) -> Draft:
        """What the event model would say next, as far as that is expected to pay; empty once it does not."""
        settings = self._settings
        if self.is_silent:
            return Draft.chain([], source="cross_modal")
        ready = self._ready()
        length = self._length(min(room, settings.max_ahead, settings.room - len(self._said) - 1), len(ready))
        if length <= 0 or not self._is_known(max(self._said)):
            # it did not pay now; following every word only to find that again would cost the more
            self.is_silent = settings.length is None
            return Draft.chain([], source="cross_modal")
        tokens = ready[:length]
        if len(tokens) < length:
            follower = self._read_prompt() if self._voice.needs_event_model else None
            if follower is not None:
                follower.follow([*self._said, *tokens])
            while len(tokens) < length and (not tokens or self._is_known(tokens[-1])):
                tokens.append(self._next(follower, [*self._said, *tokens]))
        # an event model may have a few added tokens that the target does not know
        known = next((i for i, token in enumerate(tokens) if token >= self._vocab_size), len(tokens))
        self._drafted = known
        return Draft.chain(tokens[:known], source="cross_modal")

    def _length(self, limit: int, ready: int) -> int:
        """How many tokens to draft: as many as pay, or the fixed number; at most ``limit``."""
        settings = self._settings
        if settings.length is not None:
            return min(limit, settings.length)
        length = min(limit, settings._chooser.choose(self._chances(limit), self._token_ms(), free=ready))
        if length <= 0 and self._retry and limit > 0:
            length = 1
        self._retry = False
        return length

    def _chances(self, limit: int) -> list[float]:
        """Running acceptance at each depth, given that all before were right."""
        return [self._settings.track.rate(min(depth, _DEPTHS - 1)) for depth in range(max(0, limit))]

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
        start = time.perf_counter()
        token = self._voice.choose(follower, text)
        if follower is not None and self._is_known(token):
            follower.add(token)
        self._spent_ms += (time.perf_counter() - start) * 1e3
        self._timed += 1
        return token

    def _token_ms(self) -> float:
        if self._settings.token_ms is not None:
            return self._settings.token_ms
        return self._spent_ms / self._timed if self._timed else 0.0
