"""Prompt lookup: copy what followed the latest earlier occurrence of the text's last few tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.types import Draft, PromptView, Step
from crossdraft.drafters.length import MAX_LENGTH, LengthChooser, Track, judged


@dataclass(frozen=True, kw_only=True)
class NGram:
    """Copy what followed the latest earlier match of the sequence's tail, longest match first.

    Searches the prompt's text and the answer so far; image and event placeholders (negative ids) match nothing and
    end a copy. No weights, no training. Source: Saxena, "Prompt Lookup Decoding", 2023 (n = 3 and 10 tokens there).

    costs: measured cost of a pass by its rows; decides how much of a match is drafted.
    """

    costs: CostCurve
    max_n: int = 3
    min_n: int = 1
    max_length: int = MAX_LENGTH
    name: ClassVar[str] = "ngram"
    needs: ClassVar[Needs] = Needs()
    _chooser: LengthChooser = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.min_n <= self.max_n:
            raise SettingError(f"min_n {self.min_n} and max_n {self.max_n} must satisfy 1 <= min_n <= max_n")
        object.__setattr__(self, "_chooser", LengthChooser(self.costs, self.max_length))

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "NGramSession":
        """An empty index; the prompt is shown by the target's session."""
        return NGramSession(self)


class NGramSession:
    """The text so far and, for each n-gram in it, where it was last followed by something."""

    def __init__(self, settings: NGram) -> None:
        self._settings = settings
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        # a match of one token is right far less often than one of three; the answer itself tells how often
        sizes = range(settings.min_n, settings.max_n + 1)
        self._track = Track([1 - 0.7**n for n in sizes], weight=2.0)
        self._kind, self._drafted = 0, 0

    def see_prompt(self, view: PromptView) -> None:
        """Index the prompt."""
        self._extend(view.tokens)

    def observe(self, step: Step) -> None:
        """Index what was said; learn how often such matches are right."""
        if not step.is_prompt:
            tried = judged(step.accepted, len(step.tokens), self._drafted)
            self._track.learn([self._kind] * self._drafted, step.accepted, tried)
        self._extend(step.tokens)

    def propose(self, room: int) -> Draft:
        """A copy of what followed the longest, latest match; empty when nothing matches or a copy does not pay."""
        start, size = self._match()
        self._drafted = 0
        if size == 0:
            return Draft.chain([], source="ngram")
        self._kind = size - self._settings.min_n
        chance = self._track.rate(self._kind)
        limit = min(room, self._settings.max_length)
        length = min(limit, self._settings._chooser.choose([chance] * limit))
        copy = self._copy(start, length)
        self._drafted = len(copy)
        return Draft.chain(copy, source="ngram")

    def finish(self) -> None:
        """Nothing outlives the request."""

    def _extend(self, tokens: Sequence[int]) -> None:
        text, after, settings = self._text, self._after, self._settings
        for token in tokens:
            # index the n-grams that end just before this token: they are now followed by something
            end = len(text)
            for n in range(settings.min_n, min(settings.max_n, end) + 1):
                if text[end - n] < 0:
                    break  # longer n-grams hold this placeholder too
                after[tuple(text[end - n :])] = end
            text.append(token)

    def _match(self) -> tuple[int, int]:
        """(where the continuation starts, length of the matched tail); the length is 0 without a match."""
        text = self._text
        for n in range(min(self._settings.max_n, len(text)), self._settings.min_n - 1, -1):
            start = self._after.get(tuple(text[-n:]))
            if start is not None:
                return start, n
        return 0, 0

    def _copy(self, start: int, length: int) -> list[int]:
        """``length`` tokens from ``start``; a copy that reaches the end goes on with itself, as a loop would."""
        copy: list[int] = []
        ahead = self._text[start : start + length]
        period = len(self._text) - start
        for at in range(length):
            token = ahead[at] if at < len(ahead) else copy[at - period]
            if token < 0:
                break
            copy.append(token)
        return copy
