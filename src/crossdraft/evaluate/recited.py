"""Controls without a model: drafters that learn from text alone, in the real loop, against answers already known.

A target that recites a stored answer stands in for the model, so constant, stream memory and prompt lookup draft,
are judged and learn exactly as when decoding, at no cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import CostCurve, Drafter, Tokenizer
from crossdraft.core.registry import find
from crossdraft.core.types import Draft, Exactness, Generation, Limits, PromptView, Sampling, Scores
from crossdraft.data.store import PairedStates, Store
from crossdraft.decode.loop import generate
from crossdraft.drafters import DRAFTERS
from crossdraft.drafters.constant import OpeningBook
from crossdraft.drafters.length import AssumedCurve
from crossdraft.drafters.memory import StreamMemory
from crossdraft.verify import rule_for

FREE = AssumedCurve(0.0)
"""Width costs nothing: drafts are as long as their method can make them."""


@dataclass
class _Reciting:
    """One request: implements ``core.protocols.VLMSession`` over the known answer."""

    answer: Sequence[int]
    prompt: PromptView
    vocab_size: int
    said: int = 0
    first: Scores = field(init=False)

    def __post_init__(self) -> None:
        self.first = Scores(self._sure(0, 1))

    @property
    def length(self) -> int:
        return len(self.prompt.tokens) + self.said

    def _sure(self, first: int, count: int) -> Tensor:
        """Rows that are certain of tokens ``first``, ... of the answer."""
        logits = torch.zeros(count, self.vocab_size)
        ids = torch.tensor([self.answer[min(first + i, len(self.answer) - 1)] for i in range(count)])
        logits[torch.arange(count), ids] = 1.0
        return logits

    def score(self, draft: Draft) -> Scores:
        # behind a wrong token the rows do not matter: the rule never reads on
        return Scores(self._sure(self.said, len(draft) + 1))

    def commit(self, path: Sequence[int], bonus: int) -> None:
        self.said += len(path) + 1

    def mark(self) -> int:
        return self.said

    def rewind(self, mark: int) -> None:
        self.said = mark

    def reroot(self, token: int) -> None:
        pass  # what is recited does not depend on what was said


class Recited:
    """Implements ``core.protocols.VLM`` for one answer. vocab_size: of the model whose answer it is."""

    name = "recited"
    hidden_size = 1
    max_positions = 1 << 30
    eos_token_ids: tuple[int, ...] = ()
    exactness = Exactness(True, "a known answer, recited")

    def __init__(self, answer: Sequence[int], vocab_size: int, tokenizer: Tokenizer) -> None:
        self.answer, self.vocab_size, self.tokenizer = answer, vocab_size, tokenizer

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The question's own tokens: what prompt lookup may copy from."""
        return tuple(self.tokenizer.encode(prompt.question))

    def prefill(self, encoded: tuple[int, ...], capture: tuple[int, ...] = (), room: int = 512) -> _Reciting:
        """A session at the first token."""
        view = PromptView(tuple(encoded), torch.empty(len(encoded), 0))
        return _Reciting(self.answer, view, self.vocab_size)

    def embed(self, tokens: Tensor) -> Tensor:
        """There are no embeddings. Raises DataError."""
        raise DataError("a recited answer has no embeddings")

    def unembed(self, states: Tensor) -> Tensor:
        """There are no states. Raises DataError."""
        raise DataError("a recited answer has no states")


def controls(costs: CostCurve = FREE) -> dict[str, Drafter]:
    """The drafters that know nothing of the clip, with nothing learned yet, by the name of their row."""

    def made(name: str, **settings: Any) -> Drafter:
        drafter: Drafter = find("drafter", DRAFTERS, name)(costs=costs, **settings)
        return drafter

    return {
        "constant per question": made("constant", book=OpeningBook()),
        "stream memory": made("memory", memory=StreamMemory()),
        "prompt lookup": made("ngram"),
    }


def recite(
    store: Store, drafter: Drafter, tokenizer: Tokenizer, *, learn_from: Store | None = None
) -> list[Generation]:
    """One generation for each sample of ``store``, in its order, drafted by ``drafter``.

    learn_from: answers that the drafter goes through first, such as the ones that adapters were trained on. Raises
    DataError for a store without tokens, and when the two are of different targets.
    """
    for source in (store, learn_from):
        if source is not None and not source.identity.has_tokens:
            raise DataError(f"{source.root}: keeps texts, not tokens, so there is nothing to draft for; extract it")
    size = store.identity.vocab_size
    if learn_from is not None and learn_from.identity.vocab_size != size:
        raise DataError(f"{learn_from.root} and {store.root} are of different targets: their vocabularies differ")
    for sample in learn_from or ():
        _answer(sample, drafter, tokenizer, size)
    return [_answer(sample, drafter, tokenizer, size) for sample in store]


def _answer(sample: PairedStates, drafter: Drafter, tokenizer: Tokenizer, vocab_size: int | None) -> Generation:
    assert sample.target_tokens is not None
    tokens = sample.target_tokens.tolist()
    target = Recited(tokens, vocab_size or max(tokens) + 1, tokenizer)
    prompt = Prompt(sample.question, stream_id=sample.recording)
    return generate(target, drafter, prompt, rule=rule_for(Sampling()), limits=Limits(max_new_tokens=len(tokens)))
