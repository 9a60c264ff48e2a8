"""What passes between a drafter, the target and a rule.

Shape legend of the whole package: ``N`` draft nodes, ``S`` scored rows (N + 1), ``K`` committed tokens,
``P`` prompt positions, ``T`` cached positions, ``V`` vocabulary, ``D`` hidden size, ``L`` layers, ``F`` video
frames, ``E`` events. Sequence first; decoding has no batch axis (a session is one request).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import depths

LAST = -1
"""The last layer, after the final norm: what the output head reads."""

SIMILARITY = -2
"""Captured like a layer, but (S, L): cosine of a row's residual before and after the attention of each layer."""


@dataclass(frozen=True)
class Draft:
    """A tree of guesses under the root (the last committed token); a chain is the tree with parents[i] == i - 1.

    tokens:  guessed ids, on the CPU.
    parents: index of each node's parent, -1 for the root; a parent precedes its children.
    probs:   distribution each token was *drawn* from, in the order of the nodes.
             None means "chosen, not drawn" (a point mass), which every rule must verify losslessly.
    source:  who guessed, for the round's record.
    """

    tokens: Int[Tensor, "N"]
    parents: Int[Tensor, "N"]
    probs: Float[Tensor, "N V"] | None = None
    source: str = ""

    @classmethod
    def chain(cls, tokens: Sequence[int], source: str = "", probs: Float[Tensor, "N V"] | None = None) -> "Draft":
        """A draft without branches; an empty one is a fine answer ("I would rather not guess")."""
        return cls(torch.tensor(tokens, dtype=torch.long), torch.arange(-1, len(tokens) - 1), probs, source)

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @cached_property
    def is_chain(self) -> bool:
        """Whether every node hangs under its predecessor."""
        return bool((self.parents.numpy() == np.arange(-1, len(self) - 1)).all())

    @cached_property
    def depth(self) -> int:
        """Levels below the root: the length of the longest path."""
        return len(self) if self.is_chain else int(depths(self.parents).max())

    def children(self, node: int) -> list[int]:
        """Nodes directly under ``node`` (-1 is the root), in the order they were given."""
        return torch.nonzero(self.parents == node).flatten().tolist()


@dataclass(frozen=True)
class Scores:
    """The target's opinion on a draft.

    logits: row 0 follows the root, row i + 1 follows node i; float32.
    states: row-wise states of the captured layers, {layer: (S, D)}; -1 is the last layer after the final norm, -2
    (``SIMILARITY``) is (S, L).
    """

    logits: Float[Tensor, "S V"]
    states: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptView:
    """What the target made of a prompt, for drafters that look at it.

    tokens: ids, placeholders negative; embeds: input embeddings, pictures included; states: of the captured layers.
    """

    tokens: tuple[int, ...]
    embeds: Float[Tensor, "P D"]
    states: dict[int, Float[Tensor, "P D"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a rule made of a draft. path: accepted nodes, root to leaf; bonus: the target's own next token."""

    path: tuple[int, ...]
    bonus: int


@dataclass(frozen=True)
class Step:
    """What one round committed; all that a drafter ever learns from.

    tokens: committed ids: the accepted path, then the bonus; for the prompt's step, the first token alone.
    states: captured target states that *predicted* these tokens, {layer: (K, D)} (empty when none are captured).
    is_prompt: True for the step that ends the prefill.
    accepted: how many of the tokens came from the draft.
    """

    tokens: tuple[int, ...]
    states: dict[int, Tensor] = field(default_factory=dict)
    is_prompt: bool = False
    accepted: int = 0


@dataclass(frozen=True)
class Round:
    """One target pass after the prefill: who drafted, how much, how much was kept, where the time went.

    levels: how deep the draft was; None: a chain, as deep as it was long.
    """

    source: str
    drafted: int
    accepted: int
    emitted: int
    spans_ms: dict[str, float]
    levels: int | None = None

    @property
    def depth(self) -> int:
        """Levels of the draft: the most that could have been accepted."""
        return self.drafted if self.levels is None else self.levels


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 switch those filters off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kinds in (("temperature", int | float), ("top_k", int), ("top_p", int | float), ("seed", int)):
            if not isinstance(getattr(self, name), kinds):
                raise SettingError(f"{name} is {getattr(self, name)!r:.40}, must be a number")
        if not 0 <= self.temperature < math.inf:
            raise SettingError(f"temperature is {self.temperature}, must be 0 (greedy) or more, and finite")
        if self.top_k < 0:
            raise SettingError(f"top_k is {self.top_k}, must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top_p is {self.top_p}, must be above 0 and at most 1 (off)")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a generation ends. stop: strings that end the answer; they are cut from the text."""

    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise SettingError(
                f"max_new_tokens is {self.max_new_tokens!r:.40}, must be a whole number of 1 or more"
            )
        if any(not isinstance(s, str) for s in self.stop):
            raise SettingError(f"stop is {self.stop!r:.40}, must be texts")
        if any(not s for s in self.stop):
            raise SettingError("an empty stop string would end every answer at once; leave it out")


FinishReason = Literal["eos", "length", "stop", "cancelled"]


@dataclass(frozen=True)
class Exactness:
    """Whether passes of every supported width give bit-identical rows on this machine, and how that is known."""

    bit_exact: bool
    detail: str
    max_rows: int = 0


@dataclass
class Generation:
    """One answer and how it came about; the only thing that benchmarks and evaluation read.

    tokens include the end token when there was one. Times are wall-clock milliseconds that really passed.
    timeline: (what, start, end) in ms since the request began; empty unless the clock traces. "begin" is the
    drafter's own start: its prefill, and what it wrote in the window.
    """

    tokens: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "length"
    lossless: bool = True
    exactness: Exactness = Exactness(False, "not stated")
    spans_ms: dict[str, float] = field(default_factory=dict)
    window: dict[str, object] = field(default_factory=dict)
    timeline: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def num_drafted(self) -> int:
        """Drafted tokens over all rounds."""
        return sum(r.drafted for r in self.rounds)

    @property
    def num_accepted(self) -> int:
        """Accepted drafted tokens over all rounds."""
        return sum(r.accepted for r in self.rounds)

    @property
    def tau(self) -> float:
        """Acceptance length: tokens emitted per verification pass, bonus included (plain decoding: 1.0).

        The prefill, which gives the first token, is not a round. NaN when there was no round.
        """
        return sum(r.emitted for r in self.rounds) / len(self.rounds) if self.rounds else float("nan")

    @property
    def decode_ms(self) -> float:
        """Time of all rounds, from the first token to the last."""
        return self.spans_ms.get("decode", 0.0)

    @property
    def total_ms(self) -> float:
        """Time of the whole request, encoding and prefill included."""
        return self.spans_ms.get("total", 0.0)
