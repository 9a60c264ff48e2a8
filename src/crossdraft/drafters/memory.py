"""What a stream already said: an n-gram model of the answers verified for its last clips, the latest counting most.

Neighbouring clips of a stream are described in nearly the same words, so the answers already verified are a better
draft than most trained heads, without a parameter and without a prefill. The counts live in a ``StreamMemory``,
which outlives requests: made by whoever composes the parts, one for all sessions, keyed by (stream_id, question).
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, CostCurve, Needs, Window
from crossdraft.core.records import read_record, write_record
from crossdraft.core.types import Draft, Step
from crossdraft.drafters.length import MAX_LENGTH, LengthChooser, Track, judged

KIND = "stream-memory"
Key = tuple[str | None, str]
# context -> token -> [occurrences, weight]
Table = dict[tuple[int, ...], dict[int, list[float]]]

# stands before an answer's first token, so that openings are known as openings; no vocabulary has it
START = -1
_NO_TOKEN = 1 << 31

# weights are kept relative to a clip of the past; beyond this factor they are counted anew, before floats overflow
_LARGEST = 1e100


class Shelf:
    """The last answers to one question about one stream, and the counts of their n-grams.

    A clip's weight is decay^(clips since). It is stored as decay^-(its number), so that time passing rescales
    nothing: adding and forgetting an answer touch that answer's n-grams alone.
    """

    def __init__(self, clips: int, order: int, decay: float) -> None:
        self.clips, self.order, self.decay = clips, order, decay
        self.answers: deque[tuple[int, ...]] = deque()
        self.table: Table = {}
        self._first = 0  # number of the oldest answer kept

    @property
    def scale(self) -> float:
        """What turns a stored weight into today's: the answer that comes next would weigh 1."""
        return self.decay ** (self._first + len(self.answers))

    def add(self, tokens: Sequence[int]) -> None:
        """Count an answer; forget the oldest when there are more than ``clips``."""
        if self.decay**self._first * _LARGEST < 1:
            self._recount()
        self._count(tuple(tokens), self.decay ** -(self._first + len(self.answers)), 1)
        self.answers.append(tuple(tokens))
        if len(self.answers) > self.clips:
            self._count(self.answers.popleft(), self.decay**-self._first, -1)
            self._first += 1

    def _recount(self) -> None:
        kept, self.answers, self.table, self._first = list(self.answers), deque(), {}, 0
        for tokens in kept:
            self.add(tokens)

    def _count(self, tokens: tuple[int, ...], weight: float, sign: int) -> None:
        text, table = (START, *tokens), self.table
        for end in range(1, len(text)):
            token = text[end]
            for start in range(max(0, end - self.order), end):
                context = text[start:end]
                if sign > 0:
                    entry = table.setdefault(context, {}).setdefault(token, [0, 0.0])
                    entry[0] += 1
                    entry[1] += weight
                    continue
                followers = table[context]
                entry = followers[token]
                entry[0] -= 1
                entry[1] -= weight
                # the occurrences decide, not the weight: a difference of floats need not come out as zero
                if not entry[0]:
                    del followers[token]
                    if not followers:
                        del table[context]


@dataclass(kw_only=True)
class StreamMemory:
    """Verified answers of the last ``clips`` clips of each (stream, question). Safe to share between threads.

    order: longest context in tokens; decay: what each clip back counts less; streams: shelves kept, the least
    recently used goes first; max_tokens: tokens of one answer that are kept. Defaults: the best found on 1,100 DSEC
    clips.
    """

    clips: int = 64
    order: int = 8
    decay: float = 0.95
    streams: int = 256
    max_tokens: int = 4096
    track: Track = field(init=False, repr=False)
    _shelves: OrderedDict[Key, Shelf] = field(init=False, default_factory=OrderedDict, repr=False)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        for name in ("clips", "order", "streams", "max_tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingError(f"{name} of a memory is {value}, must be a whole number of 1 or more")
        if not 0.5 <= self.decay <= 1:
            raise SettingError(
                f"decay of a memory is {self.decay}, must be between 0.5 and 1 (1: all clips count alike)"
            )
        if self.decay**self.clips * _LARGEST < 1:
            raise SettingError(
                f"with decay {self.decay} the oldest of {self.clips} clips count nothing; keep fewer"
            )
        self.track = Track(_PRIOR)

    def __len__(self) -> int:
        """Answers kept, over all streams and questions."""
        with self._lock:
            return sum(len(shelf.answers) for shelf in self._shelves.values())

    def learn(self, prompt: Prompt, tokens: Sequence[int]) -> None:
        """Remember a verified, complete answer."""
        with self._lock:
            self._shelf(_key(prompt)).add(tokens[: self.max_tokens])

    def shelf(self, prompt: Prompt) -> "Shelf | None":
        """What is remembered for ``prompt``'s stream and question; None if nothing."""
        with self._lock:
            return self._shelves.get(_key(prompt))

    def _shelf(self, key: Key) -> Shelf:
        if key not in self._shelves:
            self._shelves[key] = Shelf(self.clips, self.order, self.decay)
            if len(self._shelves) > self.streams:
                self._shelves.popitem(last=False)
        self._shelves.move_to_end(key)
        return self._shelves[key]

    @property
    def lock(self) -> threading.RLock:
        """Held while counts change; a reader of a shelf holds it too."""
        return self._lock

    def reset(self, stream_id: str | None = None) -> None:
        """Forget one stream, or everything."""
        with self._lock:
            if stream_id is None:
                self._shelves.clear()
                self.track.reset()
            for key in [key for key in self._shelves if key[0] == stream_id]:
                del self._shelves[key]

    def export(self) -> dict[str, Any]:
        """Settings and answers as plain JSON values; the counts follow from them."""
        with self._lock:
            shelves = [
                {"stream_id": stream, "question": question, "answers": [list(a) for a in shelf.answers]}
                for (stream, question), shelf in self._shelves.items()
            ]
        settings = {name: getattr(self, name) for name in ("clips", "order", "decay", "streams", "max_tokens")}
        return {"settings": settings, "shelves": shelves}

    @classmethod
    def restore(cls, body: Mapping[str, Any]) -> "StreamMemory":
        """A memory from what ``export`` gave. DataError when it is not that."""
        try:
            memory = cls(**body["settings"])
            for entry in body["shelves"]:
                shelf = memory._shelf((entry["stream_id"], str(entry["question"])))
                for answer in entry["answers"]:
                    if any(type(token) is not int or not 0 <= token < _NO_TOKEN for token in answer):
                        raise ValueError("an answer holds what is no token id")
                    shelf.add(answer[: memory.max_tokens])
        except SettingError as error:
            raise DataError(f"this is not an exported stream memory: {error}; export it again") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is not an exported stream memory: {error!r}; export it again") from error
        return memory

    def save(self, path: str | Path) -> Path:
        """Write the memory as a record. CrossdraftError when it cannot be written."""
        return write_record(path, KIND, self.export())

    @classmethod
    def load(cls, path: str | Path) -> "StreamMemory":
        """Read what ``save`` wrote. DataError when it cannot be used."""
        return cls.restore(read_record(path, KIND))


def _key(prompt: Prompt) -> Key:
    return prompt.stream_id, prompt.question


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The stream's verified answers as a draft: the likeliest continuation of the longest known context.

    memory: shared, outlives requests. costs: measured cost of a pass by its rows; decides how much is drafted.
    own_text: count the answer being written too. A prompt without ``stream_id`` belongs to the nameless stream.
    """

    memory: StreamMemory
    costs: CostCurve
    own_text: bool = True
    max_length: int = MAX_LENGTH
    name: ClassVar[str] = "memory"
    needs: ClassVar[Needs] = Needs()
    _chooser: LengthChooser = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chooser", LengthChooser(self.costs, self.max_length))

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "MemorySession":
        """A session that reads what is remembered for this stream and question."""
        return MemorySession(self, prompt, target.vocab_size)


class MemorySession:
    """One answer being written, with the counts of its own n-grams."""

    def __init__(self, settings: Memory, prompt: Prompt, vocab_size: int) -> None:
        self._settings, self._prompt, self._vocab_size = settings, prompt, vocab_size
        self._memory, self._order = settings.memory, settings.memory.order
        self._text: list[int] = [START]
        self._own: Table = {}
        self._kinds: list[int] = []

    def observe(self, step: Step) -> None:
        """Count what was said; learn how far such drafts can be trusted."""
        if not step.is_prompt and self._kinds:
            tried = judged(step.accepted, len(step.tokens), len(self._kinds))
            self._memory.track.learn(self._kinds, step.accepted, tried)
        for token in step.tokens:
            if self._settings.own_text:
                text, end = self._text, len(self._text)
                for start in range(max(0, end - self._order), end):
                    entry = self._own.setdefault(tuple(text[start:]), {}).setdefault(token, [0, 0.0])
                    entry[0] += 1
                    entry[1] += 1.0
            self._text.append(token)

    def propose(self, room: int) -> Draft:
        """The likeliest path, cut where a wider pass would not pay; empty when nothing is known."""
        settings = self._settings
        limit = min(room, settings.max_length)
        with self._memory.lock:
            tokens, kinds = self._path(limit)
        rate = self._memory.track.rate
        length = settings._chooser.choose([rate(kind) for kind in kinds])
        self._kinds = kinds[:length]
        return Draft.chain(tokens[:length], source="memory")

    def finish(self) -> None:
        """The answer is complete: remember it."""
        self._memory.learn(self._prompt, self._text[1:])

    def _path(self, limit: int) -> tuple[list[int], list[int]]:
        shelf = self._memory.shelf(self._prompt)
        table, scale = (shelf.table, shelf.scale) if shelf is not None else ({}, 1.0)
        tail, kinds = self._text[-self._order :], []
        for _ in range(limit):
            found = self._continue(tuple(tail[-self._order :]), table, scale)
            if found is None:
                break
            token, kind = found
            # a memory may come from a file, and the file from another model
            if token >= self._vocab_size:
                break
            tail.append(token)
            kinds.append(kind)
        return tail[len(tail) - len(kinds) :], kinds

    def _continue(self, tail: tuple[int, ...], table: Table, scale: float) -> tuple[int, int] | None:
        """(likeliest token, kind of the guess) from the longest context that is known; None if none is."""
        for start in range(len(tail)):
            context = tail[start:]
            told, own = table.get(context), self._own.get(context)
            if told is None and own is None:
                continue
            weights = {token: entry[1] * scale for token, entry in told.items()} if told else {}
            for token, entry in own.items() if own else ():
                weights[token] = weights.get(token, 0.0) + entry[1]
            best = max(weights, key=weights.__getitem__)
            return best, _kind(len(context), weights[best], sum(weights.values()))
        return None


# kinds of guesses, told apart by context length and by the share of the weight that agrees; how often each is
# right is learned from the stream (Track), starting from a plausible table
_SHARES = (0.5, 0.7, 0.85, 0.95)
_LENGTHS = (2, 4, 7)
# one faint old occurrence is less evidence than many: this much weight speaks against every guess
_DOUBT = 0.25


def _kind(length: int, best: float, total: float) -> int:
    share = best / (total + _DOUBT)
    column = sum(share >= edge for edge in _SHARES)
    return sum(length > edge for edge in _LENGTHS) * (len(_SHARES) + 1) + column


def _prior() -> Iterable[float]:
    for row in range(len(_LENGTHS) + 1):
        for column in range(len(_SHARES) + 1):
            yield 0.25 + 0.12 * row + 0.08 * column


_PRIOR = tuple(_prior())
