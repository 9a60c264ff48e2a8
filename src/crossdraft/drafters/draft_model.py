"""A smaller model writes ahead in its own words: speculative sampling with any VLM or text model as the drafter.

Sources: Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318. The draft model's cache stays in step
with the verified text: after a rejection it goes back to where the texts part; of a fully accepted draft it lacks
the last token's entry, which is read together with the bonus.
"""

import time
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.types import Draft, Sampling, Step
from crossdraft.core.vocab import NO_TWIN, TokenMap
from crossdraft.drafters.follower import Follower
from crossdraft.drafters.pace import Pace
from crossdraft.nn.argmax import argmax
from crossdraft.verify.sampling import draw, process_logits

PURPOSE = "draft"
"""Of the random numbers: those of the rules serve other purposes, so that both are independent."""


@dataclass(frozen=True, kw_only=True)
class DraftModel:
    """A chain from a smaller model that follows the verified text with a cache of its own.

    draft_model: watches what it can of the prompt; a text-only one reads the question.
    costs: measured cost of a target pass by its rows. tokens: its vocabulary in the target's; None: the same ids.
    sampling: draw tokens by it, for ``LeviathanSampling`` with the same one; None: the likeliest, for greedy and
    keyed rules. token_ms: measured time of one drafted token; None: timed while it runs. length: draft exactly so
    many tokens in every round, paying or not; None: as many as pay. max_ahead: tokens drafted at most in a round.
    room: cache positions behind its prompt, which bound the text that it can follow. retry_every: a request in so
    many drafts even if the last ones did not pay. Raises SettingError for values that make no sense.
    """

    draft_model: VLM
    costs: CostCurve
    tokens: TokenMap | None = None
    sampling: Sampling | None = None
    token_ms: float | None = None
    length: int | None = None
    max_ahead: int = 16
    room: int = 512
    retry_every: int = 8
    name: ClassVar[str] = "draft_model"
    needs: ClassVar[Needs] = Needs()
    pace: Pace = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pace = Pace(
            self.costs, max_ahead=self.max_ahead, length=self.length, token_ms=self.token_ms,
            retry_every=self.retry_every,
        )  # fmt: skip
        if self.room <= self.max_ahead:
            raise SettingError(f"room is {self.room}, must be more than max_ahead ({self.max_ahead})")
        if self.sampling is not None and self.sampling.temperature == 0:
            raise SettingError("drafts are drawn at a temperature above 0; leave sampling out for greedy ones")
        known = self.draft_model.vocab_size
        if self.tokens is not None and len(self.tokens.to_target) != known:
            raise SettingError(f"the token map is for {len(self.tokens.to_target)} drafted tokens, not for {known}")
        object.__setattr__(self, "pace", pace)

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "DraftModelSession":
        """Nothing is read before a draft is expected to pay. SettingError for a map to another vocabulary."""
        tokens = self.tokens or TokenMap.same(target.vocab_size, self.draft_model.vocab_size)
        if tokens.target_size != target.vocab_size:
            raise SettingError(
                f"the token map is for a target of {tokens.target_size} tokens, '{target.name}' has "
                f"{target.vocab_size}"
            )
        return DraftModelSession(self, prompt, tokens)


class DraftModelSession:
    """One request: the draft model's session, and the verified text in its own ids."""

    def __init__(self, settings: DraftModel, prompt: Prompt, tokens: TokenMap) -> None:
        self._settings, self._prompt, self._tokens = settings, prompt, tokens
        self._follower: Follower | None = None
        self._heard: list[int] = []
        # a verified token without a twin: the draft model cannot read on, and another way to cut the text would not
        # be the text it was asked to continue
        self._lost = False
        self._to_target = tokens.to_target
        self.pace = settings.pace.request()

    def observe(self, step: Step) -> None:
        """Learn how often drafts are right, and what was said instead."""
        self.pace.learn(step)
        twins = [self._tokens.draft_ids[token] for token in step.tokens]
        self._lost = self._lost or NO_TWIN in twins
        if not self._lost:
            self._heard += twins

    def propose(self, room: int) -> Draft:
        """What the draft model would say next, as far as that is expected to pay; empty once it does not.

        Of a token without a twin nothing can be said, so a greedy draft ends before it; drawn ones avoid it.
        Raises DataError and SettingError as the draft model's ``encode`` and ``prefill`` do.
        """
        settings = self._settings
        if self._lost or self.pace.is_silent:
            return Draft.chain([], source=settings.name)
        length = self.pace.length(min(room, settings.room - len(self._heard) - 1))
        if not length:
            return Draft.chain([], source=settings.name)
        if self._follower is None:
            self._follower = Follower(settings.draft_model, self._prompt, settings.room)
        follower, start = self._follower, time.perf_counter()
        follower.follow(self._heard)
        tokens: list[int] = []
        laws: list[Tensor] = []
        while len(tokens) < length:
            own, law = self._choose(follower.logits(), len(follower.text))
            twin = self._tokens.target_ids[own]
            if twin == NO_TWIN:
                break
            follower.add(own)
            tokens.append(twin)
            laws += [] if law is None else [law]
        settings.pace.took((time.perf_counter() - start) * 1e3, len(tokens))
        self.pace.drafted(len(tokens))
        return Draft.chain(tokens, source=settings.name, probs=torch.stack(laws) if laws else None)

    def finish(self) -> None:
        """Nothing outlives the request but the running acceptance."""

    def _choose(self, logits: Float[Tensor, "1 W"], position: int) -> tuple[int, Tensor | None]:
        """The draft model's next token, and the law over the target's tokens that it was drawn from, if it was."""
        sampling = self._settings.sampling
        if sampling is None:
            return int(argmax(logits)), None
        self._to_target = twins = self._to_target.to(logits.device)
        # the law is what is left on tokens that the target has, and what is drawn from is just that
        processed = process_logits(logits.masked_fill(twins == NO_TWIN, -torch.inf), sampling)
        own = draw(processed, torch.tensor([position], device=logits.device), sampling.seed, PURPOSE)
        known = twins != NO_TWIN
        q = processed.softmax(-1)[0]
        law = q.new_zeros(self._tokens.target_size)
        law[twins[known]] = q[known]
        return int(own), law
