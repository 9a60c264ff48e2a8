"""How hard a stream is to guess from its own past, measured exactly as on the outputs of the real models.

A plain n-gram memory (longest context up to 4, most frequent continuation) of the answers to the same question for
the last 16 clips drafts a chain of 16 tokens; the answer itself verifies it. Real DSEC answers give 4.04 tokens a
pass, pooled over all passes, the first token free and the bonus included; 12 % repeat their predecessor.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from crossdraft.data.scenes.lexicon import words
from crossdraft.data.scenes.stream import Stream

Answer = Sequence[Hashable]


Gram = tuple[tuple[Hashable, ...], Hashable]


def grams_of(answer: Answer, max_n: int = 4) -> list[Gram]:
    """Every context of 1 to ``max_n`` tokens in ``answer``, with the token that follows it."""
    tokens = tuple(answer)
    return [(tokens[i - n : i], tokens[i]) for i in range(1, len(tokens)) for n in range(1, min(max_n, i) + 1)]


class NGramMemory:
    """Counts of what followed each context of 1 to ``max_n`` tokens in some answers."""

    def __init__(self, max_n: int = 4):
        self.max_n = max_n
        self.counts: dict[tuple[Hashable, ...], dict[Hashable, int]] = {}

    def add(self, grams: Iterable[Gram]) -> None:
        """Remember an answer, given as ``grams_of`` it."""
        for context, token in grams:
            known = self.counts.setdefault(context, {})
            known[token] = known.get(token, 0) + 1

    def chain(self, prefix: Answer, width: int) -> list[Hashable]:
        """Up to ``width`` tokens: at each the most frequent continuation of the longest known context.

        Of equally frequent ones the first that was seen.
        """
        out = list(prefix[-self.max_n :])
        start = len(out)
        while len(out) - start < width:
            for n in range(min(self.max_n, len(out)), 0, -1):
                known = self.counts.get(tuple(out[-n:]))
                if known:
                    out.append(max(known, key=known.__getitem__))
                    break
            else:
                break
        return out[start:]


def passes(answer: Answer, memory: NGramMemory, width: int = 16) -> int:
    """Verification passes that ``answer`` takes when ``memory`` drafts; its first token is free."""
    done, count = 1, 0
    while done < len(answer):
        draft = memory.chain(answer[:done], width)
        accepted = 0
        while accepted < min(len(draft), len(answer) - done) and draft[accepted] == answer[done + accepted]:
            accepted += 1
        done += min(accepted + 1, len(answer) - done)
        count += 1
    return count


def memory_tau(
    answers: Sequence[Answer], clips: int = 16, width: int = 16, max_n: int = 4, start: int = 1
) -> tuple[int, int]:
    """(tokens, passes) of answers ``start`` on, each drafted from the ``clips`` before it."""
    tokens = num_passes = 0
    grams = [grams_of(answer, max_n) for answer in answers]
    for i in range(start, len(answers)):
        memory = NGramMemory(max_n)
        for earlier in grams[max(0, i - clips) : i]:
            memory.add(earlier)
        tokens += len(answers[i]) - 1
        num_passes += passes(answers[i], memory, width)
    return tokens, num_passes


def repeats(answers: Sequence[Answer]) -> tuple[int, int]:
    """(answers equal to the one before, neighbouring pairs)."""
    return sum(list(a) == list(b) for a, b in pairwise(answers)), max(len(answers) - 1, 0)


@dataclass(frozen=True)
class Calibration:
    """What one question's answers look like over all streams given."""

    question: str
    tau: float
    repeat_share: float
    mean_tokens: float
    min_tokens: int
    max_tokens: int


def calibrate(streams: Iterable[Stream], role: str = "target") -> dict[str, Calibration]:
    """Figures per kind of question and, under ``all``, pooled over every pass of every question."""
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for stream in streams:
        asked: defaultdict[str, list[list[str]]] = defaultdict(list)
        for i in range(len(stream)):
            for qa in stream.clip(i).questions():
                asked[qa.kind].append(words(qa.answer if role == "target" else qa.event_answer))
        for kind, answers in asked.items():
            figures = (*memory_tau(answers, start=min(16, len(answers) - 1)), *repeats(answers))
            for name in (kind, "all"):
                totals[name] = [a + b for a, b in zip(totals[name], figures, strict=True)]
                lengths[name] += [len(a) for a in answers]
    return {
        name: Calibration(
            name,
            tokens / max(num_passes, 1),
            same / max(pairs, 1),
            sum(lengths[name]) / len(lengths[name]),
            min(lengths[name]),
            max(lengths[name]),
        )
        for name, (tokens, num_passes, same, pairs) in totals.items()
    }
