"""The most common opening of the target's answers to a question: the control of every other method."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.records import read_record, write_record
from crossdraft.core.types import Draft, Step
from crossdraft.drafters.length import MAX_LENGTH, LengthChooser

KIND = "openings"


class _Node:
    """How many answers went through here, and where they went on."""

    __slots__ = ("count", "next")

    def __init__(self) -> None:
        self.count = 0
        self.next: dict[int, _Node] = {}


class OpeningBook:
    """Openings of verified answers, counted for each question over all streams; outlives requests, safe to share.

    depth: tokens of an answer that are counted; answers: answers counted for one question, after which its opening
    is settled; questions: questions kept, the oldest goes first.
    """

    def __init__(self, depth: int = 48, answers: int = 1024, questions: int = 256) -> None:
        if min(depth, answers, questions) < 1:
            raise SettingError("depth, answers and questions of an opening book must be 1 or more")
        self.depth, self.answers, self.questions = depth, answers, questions
        self._roots: dict[str, _Node] = {}
        self._lock = threading.Lock()

    def learn(self, question: str, tokens: Sequence[int]) -> None:
        """Count a verified, complete answer."""
        with self._lock:
            if question not in self._roots and len(self._roots) >= self.questions:
                del self._roots[next(iter(self._roots))]
            node = self._roots.setdefault(question, _Node())
            if node.count >= self.answers:
                return
            node.count += 1
            for token in tokens[: self.depth]:
                node = node.next.setdefault(token, _Node())
                node.count += 1

    def opening(self, question: str) -> tuple[list[int], list[float]]:
        """The most common opening and, for each token, the share of answers that go on so, given those before.

        Of equally common continuations the lowest id is taken. It ends where fewer than two answers agree, unless
        only one is known.
        """
        tokens: list[int] = []
        shares: list[float] = []
        with self._lock:
            node = self._roots.get(question)
            least = 2 if node is not None and node.count > 1 else 1
            while node is not None and node.next:
                token, below = min(node.next.items(), key=lambda item: (-item[1].count, item[0]))
                if below.count < least:
                    break
                tokens.append(token)
                shares.append(below.count / (node.count + 0.5))
                node = below
        return tokens, shares

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._roots.clear()

    def save(self, path: str | Path) -> Path:
        """Write the present openings as a record: {question: tokens}."""
        return write_record(path, KIND, {"openings": {q: self.opening(q)[0] for q in list(self._roots)}})


def read_openings(path: str | Path) -> dict[str, list[int]]:
    """Openings that ``OpeningBook.save`` or a person wrote. DataError when they cannot be used."""
    body = read_record(path, KIND).get("openings")
    if not isinstance(body, dict) or not all(
        isinstance(tokens, list) and all(isinstance(t, int) and t >= 0 for t in tokens) for tokens in body.values()
    ):
        raise DataError(f"{path}: 'openings' must map questions to lists of token ids")
    return body


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The most common opening of the answers to this question, until the answer leaves it; then nothing.

    book: learns openings from verified answers. given: {question: tokens} fixed by the user, which win over the
    book.
    costs: measured cost of a pass by its rows; decides how much is drafted.
    """

    book: OpeningBook
    costs: CostCurve
    given: Mapping[str, Sequence[int]] = field(default_factory=dict)
    max_length: int = MAX_LENGTH
    name: ClassVar[str] = "constant"
    needs: ClassVar[Needs] = Needs()
    _chooser: LengthChooser = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chooser", LengthChooser(self.costs, self.max_length))

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "ConstantSession":
        """A session with this question's opening."""
        if prompt.question in self.given:
            tokens = list(self.given[prompt.question])
            return ConstantSession(self, prompt, tokens, [1.0] * len(tokens))
        return ConstantSession(self, prompt, *self.book.opening(prompt.question))


@dataclass
class ConstantSession:
    """An opening, and whether the answer still follows it."""

    settings: Constant
    prompt: Prompt
    opening: list[int]
    shares: list[float]
    said: list[int] = field(default_factory=list)
    follows: bool = True

    def observe(self, step: Step) -> None:
        """See whether the answer still follows the opening."""
        self.follows = self.follows and self._fits(step.tokens)
        self.said += step.tokens

    def _fits(self, tokens: Iterable[int]) -> bool:
        tokens = list(tokens)
        return self.opening[len(self.said) : len(self.said) + len(tokens)] == tokens

    def propose(self, room: int) -> Draft:
        """What is left of the opening, as far as it pays."""
        if not self.follows:
            return Draft.chain([], source="constant")
        at = len(self.said)
        length = min(room, self.settings._chooser.choose(self.shares[at : at + room]))
        return Draft.chain(self.opening[at : at + length], source="constant")

    def finish(self) -> None:
        """The answer is complete: count its opening."""
        self.settings.book.learn(self.prompt.question, self.said)


def book_of(answers: Mapping[str, Iterable[Sequence[int]]], **settings: Any) -> OpeningBook:
    """A book from answers seen before: {question: answers as token ids}."""
    book = OpeningBook(**settings)
    for question, own in answers.items():
        for tokens in own:
            book.learn(question, tokens)
    return book
