"""The target without some of its attention blocks drafts for the whole target, on the target's own cache.

ASD-style, after Metel et al., "Draft on the Fly", arXiv 2410.01028: which blocks are left out is decided for every
prompt, by how little they change the residual there. The paper's threshold, its two structural rules and the tokens
it averages over could not be verified; those below are ours.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Sketches, VLMSession, Window
from crossdraft.core.types import SIMILARITY, Draft, PromptView, Step
from crossdraft.drafters.pace import Pace
from crossdraft.nn.argmax import argmax


def choose_skips(
    similarity: Sequence[float], *, threshold: float, keep_ends: int, max_share: float, max_run: int
) -> frozenset[int]:
    """Layers whose attention is left out: those it changes least, first, as long as the guards allow.

    similarity: of each layer, the mean cosine of the residual before and after its attention. A layer can go at
    ``threshold`` and above, unless it is one of the first or last ``keep_ends``; never more than ``max_share`` of
    all layers go, and never more than ``max_run`` in a row.
    """
    layers = len(similarity)
    able = [i for i in range(keep_ends, layers - keep_ends) if similarity[i] >= threshold]
    chosen: set[int] = set()
    for layer in sorted(able, key=lambda i: -similarity[i]):
        if len(chosen) + 1 > max_share * layers:
            break
        if _run_around(layer, chosen) <= max_run:
            chosen.add(layer)
    return frozenset(chosen)


def _run_around(layer: int, chosen: set[int]) -> int:
    """Length of the unbroken run that ``layer`` would make with ``chosen``."""
    first, last = layer, layer
    while first - 1 in chosen:
        first -= 1
    while last + 1 in chosen:
        last += 1
    return last - first + 1


@dataclass(frozen=True, kw_only=True)
class LayerSkip:
    """The target without the attention blocks that change this prompt's states least; no weights, no prefill.

    Similarities are collected in the target's own prefill, as means over the last ``positions`` of the prompt.
    costs: measured cost of a target pass by its rows. threshold, keep_ends, max_share, max_run: ``choose_skips``.
    refresh_every: one round in so many is watched and the choice made anew behind it; None: once for a prompt.
    length: draft exactly so many tokens in every round, paying or not; None: as many as pay. token_ms: measured
    time of one drafted token; None: timed while it runs. max_ahead: tokens drafted at most in a round.
    retry_every: a request in so many drafts even if the last ones did not pay.
    Raises SettingError for values that make no sense. Source: arXiv 2410.01028, see the module.
    """

    costs: CostCurve
    threshold: float = 0.9
    positions: int = 32
    keep_ends: int = 1
    max_share: float = 0.5
    max_run: int = 2
    refresh_every: int | None = None
    length: int | None = None
    token_ms: float | None = None
    max_ahead: int = 8
    retry_every: int = 8
    name: ClassVar[str] = "layer_skip"
    needs: ClassVar[Needs] = Needs(capture=(SIMILARITY,))
    pace: Pace = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise SettingError(f"threshold is {self.threshold}, must be a cosine, from -1 to 1")
        if not 0 <= self.max_share <= 1:
            raise SettingError(f"max_share is {self.max_share}, must be a share of the layers, from 0 to 1")
        for name, least in (("positions", 1), ("keep_ends", 0), ("max_run", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"{name} is {getattr(self, name)}, must be {least} or more")
        if self.refresh_every is not None and self.refresh_every < 1:
            raise SettingError(f"refresh_every is {self.refresh_every}, must be 1 or more, or None to choose once")
        pace = Pace(
            self.costs, max_ahead=self.max_ahead, length=self.length, token_ms=self.token_ms,
            retry_every=self.retry_every, prior=0.9,
        )  # fmt: skip
        object.__setattr__(self, "pace", pace)

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "LayerSkipSession":
        """Nothing runs before the target's session is shared."""
        return LayerSkipSession(self)


class LayerSkipSession:
    """One request: the target's session, and which layers do not attend while it drafts (``skipped``)."""

    def __init__(self, settings: LayerSkip) -> None:
        self._settings = settings
        self.pace = settings.pace.request()
        self.skipped: frozenset[int] = frozenset()
        self._session: Sketches | None = None
        self._seen = torch.empty(0)
        self._rounds = 0

    def share(self, session: VLMSession) -> None:
        """Draft on ``session``. SettingError for one that cannot leave attention out."""
        if not isinstance(session, Sketches):
            raise SettingError(
                "drafter 'layer_skip' needs a target on crossdraft's own decoder, whose attention can be left out; "
                "choose another drafter"
            )
        self._session = session
        self._watch(False)  # the prompt was watched; watching every pass would cost 3 to 5 % of it

    def see_prompt(self, view: PromptView) -> None:
        """Choose the layers by the end of the prompt."""
        self._look(view.states[SIMILARITY])
        self._choose()

    def observe(self, step: Step) -> None:
        """Learn how often drafts are right; behind a watched pass, choose anew."""
        self.pace.learn(step)
        if not step.is_prompt and SIMILARITY in step.states:
            self._look(torch.cat((self._seen, step.states[SIMILARITY])))
            self._choose()
            self._watch(False)

    def propose(self, room: int) -> Draft:
        """What the target would say next with less attention, as far as that is expected to pay."""
        if self.pace.is_silent:
            return Draft.chain([], source=LayerSkip.name)
        assert self._session is not None, "the loop shares the target's session before the first draft"
        length = self.pace.length(room)
        tokens: list[int] = []
        start = time.perf_counter()
        for _ in range(length):
            tokens.append(int(argmax(self._session.sketch(tokens, self.skipped))))
        self._settings.pace.took((time.perf_counter() - start) * 1e3, length)
        self.pace.drafted(length)
        self._rounds += 1
        every = self._settings.refresh_every
        if every is not None and self._rounds % every == 0:
            self._watch(True)
        return Draft.chain(tokens, source=self.source)

    @property
    def source(self) -> str:
        """The name and the layers that do not attend, for the round's record."""
        return f"{LayerSkip.name} without {', '.join(map(str, sorted(self.skipped))) or 'none'}"

    def finish(self) -> None:
        """Nothing outlives the request but the running acceptance."""

    def _watch(self, on: bool) -> None:
        """Whether the next pass tells how much attention changes."""
        assert self._session is not None
        others = tuple(layer for layer in self._session.capture if layer != SIMILARITY)
        self._session.capture = (*others, SIMILARITY) if on else others

    def _look(self, rows: Tensor) -> None:
        self._seen = rows[-self._settings.positions :]

    def _choose(self) -> None:
        settings = self._settings
        self.skipped = choose_skips(
            self._seen.mean(0).tolist(), threshold=settings.threshold, keep_ends=settings.keep_ends,
            max_share=settings.max_share, max_run=settings.max_run,
        )  # fmt: skip
