"""A head and a lookup in one tree: the head's guesses, and what the text said before, are verified in one pass.

A head is right about the next few words, a lookup about long passages that come again. Where passes of several
dozen rows cost little more than narrow ones, the lookup's chain beside the head's tree is nearly free; where they
do not, or a level of the head is dear, a long copy is better sent alone. Which it is shows while answers are
written. Source of the idea: Hu et al., "SAM Decoding", arXiv 2411.10666, which takes either the one or the other;
here both are in the tree unless the chain alone has given more.
"""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Drafter, DraftSession, Needs, SeesPrompt, Window
from crossdraft.core.tree import graft
from crossdraft.core.types import Draft, PromptView, Step
from crossdraft.drafters.length import LengthChooser, Track
from crossdraft.drafters.shapes import MAX_NODES

LOOKUPS = ("ngram", "memory", "constant")
"""Drafters whose drafts are chains that cost next to nothing."""


def parts_of(name: str) -> tuple[str, str | None]:
    """("eagle3", "ngram") of "eagle3+ngram", (name, None) of a name alone. SettingError for another lookup."""
    head, plus, lookup = name.partition("+")
    if not plus:
        return name, None
    if lookup not in LOOKUPS:
        raise SettingError(f"'{name}' adds '{lookup}' to a head's tree; what can be added: {', '.join(LOOKUPS)}")
    return head, lookup


_CLASSES = (1, 2, 4, 8, 16)
"""Chains of so many tokens and more are of one class: a lookup that is surer of itself copies more."""
_TRIED = 8
"""Rounds of a class in which both draft before it is asked what the head adds."""


class _Rates:
    """Tokens and milliseconds of rounds by the class of their chain, of the chain alone and of both together; older
    rounds fade. What the chain alone would have given is known in every round. Safe to share between sessions."""

    def __init__(self) -> None:
        self._alone = [[0.0, 0.0] for _ in _CLASSES]
        self._both = [[0.0, 0.0] for _ in _CLASSES]
        self._tried = [0] * len(_CLASSES)
        self._lock = threading.Lock()

    @staticmethod
    def kind(length: int) -> int:
        """The class of a chain of one token or more."""
        return max(place for place, least in enumerate(_CLASSES) if length >= least)

    def prefers_the_chain(self, length: int) -> bool:
        """Whether such chains have given more tokens a millisecond alone than both have together."""
        kind = self.kind(length)
        (alone, alone_ms), (both, both_ms) = self._alone[kind], self._both[kind]
        return self._tried[kind] >= _TRIED and alone * both_ms > both * alone_ms

    def learn(self, length: int, alone: tuple[float, float], both: tuple[float, float] | None) -> None:
        """A round: (tokens, ms) of the chain alone, and of both unless the head was not asked."""
        kind = self.kind(length)
        with self._lock:
            pairs = [(self._alone[kind], alone)]
            if both is not None:
                self._tried[kind] += 1
                pairs.append((self._both[kind], both))
            for kept, seen in pairs:
                kept[:] = (old * Track.FADE + new for old, new in zip(kept, seen, strict=True))


@dataclass(kw_only=True)
class Combined:
    """head: a drafter of trees or chains of chosen tokens. lookup: one of ``LOOKUPS``. Both keep what is theirs.

    costs: measured cost of a target pass by its rows. A head that is told how many nodes to draft always drafts.
    """

    head: Drafter
    lookup: Drafter
    costs: CostCurve
    name: str = field(init=False)
    needs: Needs = field(init=False, repr=False)
    rates: _Rates = field(init=False, repr=False, default_factory=_Rates)
    chain_ms: list[float] = field(init=False, repr=False)
    tree_ms: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if getattr(self.head, "sampling", None) is not None:
            raise SettingError("drawn drafts cannot stand beside copied ones in one tree; leave sampling out")
        self.name = f"{self.head.name}+{self.lookup.name}"
        self.needs = replace(self.head.needs, trees=True)
        self.chain_ms = LengthChooser(self.costs, MAX_NODES).pass_ms
        self.tree_ms = LengthChooser(self.costs, MAX_NODES, trees=True).pass_ms

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "CombinedSession":
        """Both begin."""
        return CombinedSession(
            self, self.head.begin(prompt, target, window), self.lookup.begin(prompt, target, window)
        )


class CombinedSession:
    """Both sessions, what the lookup drafted last, and what the round takes if both drafted in it."""

    def __init__(self, settings: Combined, head: DraftSession, lookup: DraftSession) -> None:
        self._settings, self._head, self._lookup = settings, head, lookup
        self._is_free = getattr(settings.head, "nodes", None) is None
        self._copied: tuple[int, ...] = ()
        self._both_ms: float | None = None
        self._has_read = False

    def see_prompt(self, view: PromptView) -> None:
        """Show it to those who look."""
        sessions: tuple[Any, ...] = (self._head, self._lookup)
        for session in sessions:
            if isinstance(session, SeesPrompt):
                session.see_prompt(view)

    def observe(self, step: Step) -> None:
        """The head learns what was said; the lookup also how much of its own chain was right."""
        self._head.observe(step)
        right = 0
        for own, said in zip(self._copied, step.tokens[: step.accepted], strict=False):
            if own != said:
                break
            right += 1
        self._lookup.observe(replace(step, accepted=right))
        if self._copied and not step.is_prompt:
            settings, length = self._settings, len(self._copied)
            both = None if self._both_ms is None else (float(len(step.tokens)), self._both_ms)
            settings.rates.learn(length, (right + 1.0, settings.chain_ms[length]), both)
            self._copied = ()

    def propose(self, room: int) -> Draft:
        """The head's tree with the lookup's chain in it: shared as far as the head guessed the same. The chain
        alone where that has given more."""
        settings, chain = self._settings, self._lookup.propose(room)
        self._copied, self._both_ms = tuple(chain.tokens.tolist()[:MAX_NODES]), None
        if len(chain) and self._is_free and settings.rates.prefers_the_chain(len(chain)):
            return replace(chain, source=settings.name)
        began = time.perf_counter()
        tree = self._head.propose(room)
        head_ms = (time.perf_counter() - began) * 1e3
        if not len(chain):
            self._has_read = True
            return replace(tree, source=settings.name)
        # parents come before children: whatever is cut off at the end, a tree is left
        kept = max(0, min(len(tree), MAX_NODES - len(chain)))
        tokens, parents = graft(tree.tokens[:kept], tree.parents[:kept], chain.tokens)
        if self._has_read:  # a head's first draft also reads the prompt
            self._both_ms = settings.tree_ms[min(len(tokens), MAX_NODES)] + head_ms
        self._has_read = True
        return Draft(tokens, parents, source=settings.name)

    def finish(self) -> None:
        """The lookup may keep what it learned."""
        self._head.finish()
        self._lookup.finish()
