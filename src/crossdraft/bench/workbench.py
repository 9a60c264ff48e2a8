"""What every measurement works with: a loaded pair, a way to make drafters, and one way to answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from crossdraft.core.clock import Clock
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import (
    VLM,
    CostCurve,
    Drafter,
    DraftSession,
    Needs,
    Rule,
    Window,
)
from crossdraft.core.types import Draft, Generation, Limits, Step
from crossdraft.decode.loop import generate
from crossdraft.decode.wrapped import WrappedSession

NOTHING = Needs()
Report = Callable[[str, int, int], None]
"""Told what is being done, how much is done and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """A report that goes nowhere."""


class MakeDrafter(Protocol):
    """Makes a drafter of the catalogue for this pair; each call gives a new one with nothing remembered."""

    def __call__(self, name: str, costs: CostCurve | None = None, /) -> Drafter:
        """SettingError for an unknown name."""
        ...


@dataclass(frozen=True)
class Flat:
    """A cost curve on which width and drafting are free: drafts become as long as their method can make them."""

    event_token_ms = 0.0

    def pass_ms(self, rows: int) -> float:
        """The same for every width."""
        return 1.0


@dataclass(frozen=True)
class Workbench:
    """A pair ready to be measured. ``window``: when an event model runs, see decode.window."""

    target: VLM
    event_model: VLM | None
    make_drafter: MakeDrafter
    make_rule: Callable[[float, int], Rule]
    costs: CostCurve
    window: Any = "off"

    def answer(
        self,
        drafter: Drafter,
        prompt: Prompt,
        max_new_tokens: int,
        *,
        to_the_end: bool = True,
        rule: Rule | None = None,
        clock: Clock | None = None,
    ) -> Generation:
        """One answer with its times. to_the_end: stop at end tokens, else go on to ``max_new_tokens``."""
        limits = Limits(
            max_new_tokens=max_new_tokens, eos_token_ids=tuple(self.target.eos_token_ids) if to_the_end else ()
        )
        return generate(
            self.target, drafter, prompt, rule=rule or self.make_rule(0.0, 0), limits=limits, window=self.window,
            clock=clock or Clock(),
        )  # fmt: skip

    def contender(
        self, drafter: Drafter, prompts: Sequence[Prompt], max_new_tokens: int
    ) -> Callable[[int], Generation]:
        """``drafter`` as a contender of ``bench.paired``."""
        return lambda i: self.answer(drafter, prompts[i], max_new_tokens)


class _CappedSession(WrappedSession):
    def __init__(self, inner: DraftSession, width: int) -> None:
        super().__init__(inner)
        self.width = width

    def propose(self, room: int) -> Draft:
        return self.inner.propose(min(room, self.width - 1))


class Capped:
    """A drafter whose passes are at most ``width`` rows wide (the root is one of them)."""

    def __init__(self, inner: Drafter, width: int) -> None:
        self.inner, self.width = inner, width
        self.name: str = inner.name
        self.needs: Needs = inner.needs

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> DraftSession:
        """The inner drafter's session behind the cap."""
        return _CappedSession(self.inner.begin(prompt, target, window), self.width)


@dataclass
class _ScriptedSession:
    script: Sequence[int]
    width: int
    wrong_every: int
    vocab_size: int
    said: int = 0

    def observe(self, step: Step) -> None:
        self.said += len(step.tokens)

    def propose(self, room: int) -> Draft:
        ahead = list(self.script[self.said : self.said + min(room, self.width - 1)])
        ahead += [0] * (min(room, self.width - 1) - len(ahead))
        for i, token in enumerate(ahead):
            if (self.said + i) % self.wrong_every == self.wrong_every - 1:
                ahead[i] = (token + 1) % self.vocab_size
        return Draft.chain(ahead, source="scripted")

    def finish(self) -> None:
        pass


@dataclass
class Scripted:
    """Knows the answer and misspells every ``wrong_every``-th token: passes of exactly ``width`` rows, whatever the
    machine's costs, of which long stretches are accepted. A test instrument, not a method."""

    script: Sequence[int]
    width: int
    wrong_every: int = 11
    name: str = "scripted"
    needs: Needs = NOTHING

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> DraftSession:
        """A session at the script's first token."""
        return _ScriptedSession(self.script, self.width, self.wrong_every, target.vocab_size)


def shuffled_events(prompts: Sequence[Prompt], shift: int | None = None) -> list[Prompt]:
    """The control of every cross-modal figure: the same prompts with the events of another clip.

    Clip i gets the events of clip i + shift (default: half of the clips away, which in a stream is another scene).
    """
    shift = max(1, len(prompts) // 2) if shift is None else shift
    return [replace(p, events=prompts[(i + shift) % len(prompts)].events) for i, p in enumerate(prompts)]
