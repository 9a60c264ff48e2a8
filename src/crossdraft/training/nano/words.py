"""The pair's tokenizer, the prompts of both models, and answers cut into weighted tokens.

One byte-level BPE for both, trained on the scenes' answers, questions and the two templates, with the special
tokens where LLaMA has them: <unk> 0, <s> 1, </s> 2; then <image>, <video> and <pad>, as Video-LLaVA adds them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Role = Literal["target", "event"]

BOS, EOS = 1, 2
SPECIALS = ("<unk>", "<s>", "</s>", "<image>", "<video>", "<pad>")
VOCABULARY = 1280
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
FACT_WEIGHT = 4.0


def prompt_parts(role: Role, question: str) -> tuple[str, str]:
    """Text left and right of what the model watches, as the published templates have it."""
    if role == "target":
        return "USER: ", f"\n{question} ASSISTANT:"
    return f"{SYSTEM} USER: <ev_start>", f"<ev_end>\n{question} ASSISTANT:"


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A byte-level BPE over ``texts`` and both templates; adds <s> in front, as LLaMA's does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    templates = ["".join(prompt_parts(role, "")) for role in ("target", "event")]
    tokenizer.train_from_iterator([*templates * 20, *texts], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


@dataclass(frozen=True)
class Segment:
    """One question with its answer, behind the shared prefix.

    ids: right part of the prompt, answer, </s>. weights: of predicting each id, 0 in the prompt.
    facts: (position of the first token, category) of the words that state facts.
    """

    ids: list[int]
    weights: list[float]
    facts: list[tuple[int, str]]
    prompt_length: int


class Words:
    """Turns questions and answers into ids."""

    def __init__(self, tokenizer: Tokenizer, role: Role) -> None:
        self.tokenizer, self.role = tokenizer, role
        self._right = lru_cache(maxsize=256)(self._right_ids)

    def left(self) -> list[int]:
        """Ids in front of the visual tokens, <s> first."""
        return self.tokenizer.encode(prompt_parts(self.role, "")[0]).ids

    def _right_ids(self, question: str) -> tuple[int, ...]:
        text = prompt_parts(self.role, question)[1]
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def segment(self, qa: Mapping) -> Segment:
        """A question and this role's reference answer (a ``QA`` as a mapping)."""
        key = ("answer", "fact_spans") if self.role == "target" else ("event_answer", "event_fact_spans")
        right = list(self._right(qa["question"]))
        encoded = self.tokenizer.encode(qa[key[0]], add_special_tokens=False)
        weights, facts = [1.0] * len(encoded.ids), []
        for start, end, category in qa[key[1]]:
            inside = [i for i, (a, b) in enumerate(encoded.offsets) if a < end and b > start]
            facts.append((len(right) + inside[0], category))
            for i in inside:
                weights[i] = FACT_WEIGHT
        ids = [*right, *encoded.ids, EOS]
        return Segment(ids, [0.0] * len(right) + weights + [1.0], facts, len(right))


def corpus(questions: Sequence[Sequence[Mapping]]) -> Iterable[str]:
    """Everything the two models read or say about the clips."""
    for clip in questions:
        for qa in clip:
            yield qa["question"]
            yield qa["answer"]
            yield qa["event_answer"]
