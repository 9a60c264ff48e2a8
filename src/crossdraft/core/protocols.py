"""Every seam of the package, in one file: models, drafters, rules, windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Draft, Exactness, PromptView, Scores, Step, Verdict

Mark = Any
"""Opaque position of a session, to come back to with ``rewind``."""


@dataclass(frozen=True)
class Needs:
    """What a drafter asks of the target, so that a wrong pairing is refused before any weight is loaded."""

    capture: tuple[int, ...] = ()
    trees: bool = False
    events: bool = False


class Tokenizer(Protocol):
    """The part of a tokenizer that decoding needs."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``, special tokens left out."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` alone: no BOS, no special tokens."""
        ...


class VLMSession(Protocol):
    """One request's cache and position. Between ``commit`` and ``score`` it holds a *root*: the last committed
    token, whose cache entry the next pass writes. Nobody else handles the root."""

    prompt: PromptView
    first: Scores

    @property
    def length(self) -> int:
        """Cached positions, the root not counted."""
        ...

    def score(self, draft: Draft) -> Scores:
        """One pass over the root and the draft; rows: root, then every node. Nothing is committed.

        Raises SettingError when the cache has no room left.
        """
        ...

    def commit(self, path: Sequence[int], bonus: int) -> None:
        """Keep the root and the nodes of ``path`` of the last scored draft, drop the rest; ``bonus`` is the new
        root. Right after prefill, ``commit((), first_token)`` sets the first root."""
        ...

    def mark(self) -> Mark:
        """The present position (root included), for ``rewind``."""
        ...

    def rewind(self, mark: Mark) -> None:
        """Go back to ``mark``: entries written after it are dropped."""
        ...

    def reroot(self, token: int) -> None:
        """Another root in place of the present one, which no pass has seen since ``commit`` or ``rewind``."""
        ...


class VLM(Protocol):
    """Weights that can continue a prompt. Holds nothing about a request, so sessions may run side by side.

    "Target" and "event model" are roles of a VLM, not types. One that has ``chains_only`` = True takes no trees.
    """

    name: str
    hidden_size: int
    vocab_size: int
    max_positions: int
    eos_token_ids: tuple[int, ...]
    tokenizer: Tokenizer

    @property
    def exactness(self) -> Exactness:
        """Whether passes of all widths agree bit for bit, as things stand now."""
        ...

    def encode(self, prompt: Prompt) -> Any:
        """Everything before the decoder: preprocessing, vision tower, projector, splice. Opaque to callers.

        Raises DataError when the prompt lacks what the model watches, or is longer than the context.
        """
        ...

    def prefill(self, encoded: Any, capture: tuple[int, ...] = (), room: int = 512) -> VLMSession:
        """Run the decoder over an encoded prompt; ``room``: cache positions to reserve behind it (answer tokens
        plus one draft; the cache never grows later).

        ``capture``: layers whose states ``Scores.states`` shall carry.
        """
        ...

    def embed(self, tokens: Int[Tensor, "K"]) -> Float[Tensor, "K D"]:
        """Input embeddings."""
        ...

    def unembed(self, states: Float[Tensor, "K D"]) -> Float[Tensor, "K V"]:
        """Output logits of last-layer states (after the final norm)."""
        ...


class Window(Protocol):
    """The time in which the target is still encoding and prefilling."""

    @property
    def is_open(self) -> bool:
        """Whether drafting is still hidden behind the target's prefill."""
        ...


class DraftSession(Protocol):
    """One request's state of a drafting method."""

    def observe(self, step: Step) -> None:
        """Told what was committed: first the prompt's step (its one token is the first root), then every round.

        Steps arrive already cut at the end token and the budget.
        """
        ...

    def propose(self, room: int) -> Draft:
        """Guess what follows the root, at most ``room`` tokens deep."""
        ...

    def finish(self) -> None:
        """The answer is complete: a method with a memory commits it here (not called when cancelled)."""
        ...


class Drafter(Protocol):
    """Settings and weights of a guessing strategy; one ``DraftSession`` for each request."""

    name: str
    needs: Needs

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> DraftSession:
        """Called while the target prefills (or before, when there is no window). May run its own model ahead
        while ``window.is_open``."""
        ...


@runtime_checkable
class SeesPrompt(Protocol):
    """A session that wants the target's prompt: its text ids, its embeddings and its captured states."""

    def see_prompt(self, view: PromptView) -> None:
        """Called once, after the target's prefill, before the first ``observe``."""
        ...


@runtime_checkable
class Sketches(Protocol):
    """A target's session that can guess by itself behind its committed positions, some attention left out.

    capture: layers whose states ``score`` gives; may be changed between passes, where a drafter needs them seldom.
    """

    capture: tuple[int, ...]

    def sketch(self, drafted: Sequence[int], skip: frozenset[int]) -> Float[Tensor, "1 V"]:
        """Logits behind the root and ``drafted``, by the model without the attention blocks of the layers ``skip``.

        Runs one row, for the last of these tokens; those before it must have been sketched since the last
        ``commit``, in order and with the same ``skip``. Mark and committed positions stay as they are.
        Raises SettingError when the cache has no room left, before the first root, or between ``score`` and
        ``commit``.
        """
        ...


@runtime_checkable
class SharesCache(Protocol):
    """A draft session that drafts on the target's own session: its weights, its committed cache."""

    def share(self, session: VLMSession) -> None:
        """Called once, after the target's prefill, before ``see_prompt`` and the first ``observe``.

        Whatever it does there while drafting, mark and committed positions must be as before when ``propose``
        returns. Raises SettingError for a session that cannot do what the method needs (see ``Sketches``).
        """
        ...


class Rule(Protocol):
    """Pure judgement: draft and logits in, verdict out."""

    lossless: bool
    name: str

    def __call__(self, draft: Draft, logits: Float[Tensor, "S V"], position: int) -> Verdict:
        """position: how many tokens were generated before this round's first one; it keys the sampling noise.

        Raises SettingError if the rows do not match the draft.
        """
        ...


class CostCurve(Protocol):
    """How much a wider verification pass costs."""

    def pass_ms(self, rows: int) -> float:
        """Measured (interpolated) milliseconds of a target pass over ``rows`` new positions."""
        ...


@runtime_checkable
class TreeCostCurve(CostCurve, Protocol):
    """A cost curve that knows trees apart from chains."""

    def tree_ms(self, rows: int) -> float:
        """Like ``pass_ms``, of a root and a tree of ``rows`` - 1 nodes."""
        ...
