"""A head and a lookup in one tree: the head's guesses, and what the text said before, are verified in one pass.

A head is right about the next few words, a lookup about long passages that come again. The lookup costs nothing,
and where passes of several dozen rows cost little more than narrow ones, its chain beside the head's tree is nearly
free. Source of the idea: Hu et al., "SAM Decoding", arXiv 2411.10666, which takes either the one or the other; here
both are in the tree.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter, DraftSession, Needs, SeesPrompt, Window
from crossdraft.core.tree import graft
from crossdraft.core.types import Draft, PromptView, Step
from crossdraft.drafters.feature import MAX_NODES

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


@dataclass(kw_only=True)
class Combined:
    """head: a drafter of trees or chains of chosen tokens. lookup: one of ``LOOKUPS``. Both keep what is theirs."""

    head: Drafter
    lookup: Drafter
    name: str = field(init=False)
    needs: Needs = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if getattr(self.head, "sampling", None) is not None:
            raise SettingError("drawn drafts cannot stand beside copied ones in one tree; leave sampling out")
        self.name = f"{self.head.name}+{self.lookup.name}"
        self.needs = replace(self.head.needs, trees=True)

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "CombinedSession":
        """Both begin."""
        return CombinedSession(
            self.name, self.head.begin(prompt, target, window), self.lookup.begin(prompt, target, window)
        )


class CombinedSession:
    """Both sessions, and what the lookup drafted last."""

    def __init__(self, name: str, head: DraftSession, lookup: DraftSession) -> None:
        self._name, self._head, self._lookup = name, head, lookup
        self._copied: tuple[int, ...] = ()

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

    def propose(self, room: int) -> Draft:
        """The head's tree with the lookup's chain in it: shared as far as the head guessed the same."""
        tree, chain = self._head.propose(room), self._lookup.propose(room)
        self._copied = tuple(chain.tokens.tolist())
        if not len(chain):
            return replace(tree, source=self._name)
        # parents come before children: whatever is cut off at the end, a tree is left
        kept = max(0, min(len(tree), MAX_NODES - len(chain)))
        tokens, parents = graft(tree.tokens[:kept], tree.parents[:kept], chain.tokens)
        return Draft(tokens, parents, source=self._name)

    def finish(self) -> None:
        """The lookup may keep what it learned."""
        self._head.finish()
        self._lookup.finish()
