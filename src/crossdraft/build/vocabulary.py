"""Whether two models speak the same tokens, and which of them are twins."""

import json
from dataclasses import dataclass
from typing import Protocol

from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import Tokenizer
from crossdraft.core.vocab import TokenMap
from crossdraft.models.tokenizer import TextTokenizer

# vocabularies of one family differ by a handful of added special tokens at most
MAX_ADDED_TOKENS = 128
PROBE = "A red car moves quickly to the left; 2 people wait. <x> [Y] 0.75 km/h, naïve\n\tindeed?"


class Speaks(Protocol):
    """The part of a model that turns text into ids."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of its tokens."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        ...


@dataclass(frozen=True)
class Speaker:
    """A model that is not loaded."""

    name: str
    vocab_size: int
    tokenizer: Tokenizer


def check_vocabulary(target: Speaks, event_model: Speaks) -> None:
    """SettingError unless both models cut text into the same ids; a drafted id must mean the same to the target."""
    if not _cut_alike(target, event_model):
        raise mismatch(f"'{target.name}' and '{event_model.name}' cut the same text into other ids")


def _cut_alike(one: Speaks, other: Speaks) -> bool:
    same = one.tokenizer.encode(PROBE) == other.tokenizer.encode(PROBE)
    return same and abs(one.vocab_size - other.vocab_size) <= MAX_ADDED_TOKENS


def token_map(target: Speaks, draft_model: Speaks) -> TokenMap:
    """The same ids where both cut text alike, else twins by spelling. SettingError when they share too little."""
    sizes = (target.vocab_size, draft_model.vocab_size)
    if _cut_alike(target, draft_model):
        return TokenMap.same(*sizes)
    ours, theirs = (getattr(speaker, "eos_token_ids", ())[:1] for speaker in (target, draft_model))
    ends = list(zip(ours, theirs, strict=False))
    return TokenMap.by_spelling(_spellings(target), _spellings(draft_model), sizes, ends)


def _spellings(speaker: Speaks) -> dict[bytes, int]:
    if not isinstance(speaker.tokenizer, TextTokenizer):
        raise SettingError(f"'{speaker.name}' has no tokenizer of a checkpoint, so its tokens cannot be compared")
    return speaker.tokenizer.spellings()


def mismatch(what: str) -> SettingError:
    """What is raised for models of two vocabularies."""
    return SettingError(
        f"vocabulary mismatch between target and event model: {what}; "
        "choose an event model of the target's language model family, or --event-model none"
    )


def vocab_size(config: str) -> int | None:
    """Of a config.json's text; None where it does not say."""
    try:
        body = json.loads(config)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None  # loading will say what is wrong with it
    text = body.get("text_config")
    size = body.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) else None
