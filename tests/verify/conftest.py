"""The law of what a rule emits, by enumeration, on a tiny vocabulary."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from crossdraft.core.types import Draft, Verdict

Law = dict[tuple[int, ...], float]


class Branching:
    """A ``Chance`` that takes every branch in turn: replays a script of decisions, then goes on with the first."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script, self.at, self.weight = list(script), 0, 1.0
        self.options: list[int] = []

    def _choose(self, weights: Sequence[float]) -> int:
        if self.at == len(self.script):
            self.script.append(0)
        pick = self.script[self.at]
        self.options = [*self.options[: self.at], len(weights)]
        self.at += 1
        self.weight *= weights[pick]
        return pick

    def accepts(self, probability: float) -> bool:
        return self._choose([probability, 1 - probability]) == 0

    def draws(self, law: torch.Tensor) -> int:
        return self._choose(law.tolist())


def branches(run: Callable[[Branching], Verdict]) -> Iterator[tuple[Verdict, float]]:
    """Every outcome of ``run`` and its probability."""
    script: list[int] = []
    while True:
        chance = Branching(script)
        yield run(chance), chance.weight
        script = chance.script[: chance.at]
        while script and script[-1] + 1 == chance.options[len(script) - 1]:
            script.pop()
        if not script:
            return
        script[-1] += 1


class Toy:
    """A target that knows the law of the next token after every short text, and what rules should give."""

    def __init__(self, vocab_size: int = 5, depth: int = 3, seed: int = 0) -> None:
        noise = torch.Generator().manual_seed(seed)
        self.vocab_size, self.depth = vocab_size, depth
        self.logits = {
            text: torch.randn(vocab_size, generator=noise, dtype=torch.float64) * 1.5
            for length in range(depth + 1)
            for text in itertools.product(range(vocab_size), repeat=length)
        }
        self.q = {text: torch.softmax(logits.flip(0) * 0.7, -1) for text, logits in self.logits.items()}

    branches = staticmethod(branches)

    def rows(self, draft: Draft) -> torch.Tensor:
        texts: list[tuple[int, ...]] = [()]
        for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True):
            texts.append((*texts[parent + 1], token))
        return torch.stack([self.logits[text] for text in texts])

    def law(self, length: int, process: Callable[[torch.Tensor], torch.Tensor]) -> Law:
        """The target's own law of the first ``length`` tokens."""
        law: Law = {(): 1.0}
        for _ in range(length):
            law = {
                (*text, token): weight * p
                for text, weight in law.items()
                for token, p in enumerate(process(self.logits[text][None])[0].softmax(-1).tolist())
            }
        return law

    def complete(self, outcomes: Iterator[tuple[Draft, Verdict, float]], length: int, process: Any) -> Law:
        """The law of the first ``length`` tokens when each verdict's text is continued by plain decoding."""
        law: Law = {}
        for draft, verdict, weight in outcomes:
            text = (*draft.tokens[list(verdict.path)].tolist(), verdict.bonus)
            parts: Law = {text[:length]: weight}
            for _ in range(length - len(text)):
                parts = {
                    (*t, token): w * p
                    for t, w in parts.items()
                    for token, p in enumerate(process(self.logits[t][None])[0].softmax(-1).tolist())
                }
            for t, w in parts.items():
                law[t] = law.get(t, 0.0) + w
        return law


def distance(a: Law, b: Law) -> float:
    return max(abs(a.get(text, 0.0) - b.get(text, 0.0)) for text in a.keys() | b.keys())


@pytest.fixture
def toy() -> Toy:
    return Toy()
