"""What every adapter is: a module from states along an answer to the target's states along the same answer.

State t is the one that predicts token t. What an adapter declares decides what it is given and how far its figures
can be trusted: one that sees the very state it is judged by says nothing about drafting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossdraft.core.errors import SettingError
from crossdraft.nn.losses import ALIGNMENT, LossConfig

DRAFT = "draft_states"
TARGET = "target_states"
TOKENS = "token_embeddings"

_LARGEST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What all levels share. Raises SettingError for a value that makes no sense."""

    dropout: float = 0.1

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.type is int:
                check_size(f.name, getattr(self, f.name))
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise SettingError(f"dropout is {self.dropout!r}, must be at least 0 and below 1")


def check_size(name: str, value: Any) -> None:
    """SettingError unless ``value`` is a whole number of 1 or more, and of a size that is meant."""
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise SettingError(f"{name} is {value!r}, must be a whole number from 1 to {_LARGEST}")


class Adapter(nn.Module):
    """Base of all levels; ``adapters.build_adapter`` makes one by name.

    width_in, width_out: of the event model's and of the target's states. With equal widths a level is the study's;
    else a trained linear projection to width_out comes before it.
    inputs: which of draft_states, target_states and token_embeddings it reads; the others never reach it.
    causal: output t depends on nothing after position t, so it can run along with decoding.
    pointwise: output t depends on position t alone, so drafting needs no earlier ones.
    sees_its_target: output t is computed from target state t, so it measures nothing about drafting.
    study_loss: what the study trained this level with.
    """

    name: ClassVar[str]
    defaults: ClassVar[Any]
    inputs: ClassVar[frozenset[str]] = frozenset({DRAFT})
    causal: ClassVar[bool] = True
    pointwise: ClassVar[bool] = False
    sees_its_target: ClassVar[bool] = False
    study_loss: ClassVar[LossConfig] = ALIGNMENT

    def __init__(self, width_in: int, width_out: int, settings: AdapterSettings) -> None:
        super().__init__()
        check_size("width_in", width_in)
        check_size("width_out", width_out)
        self.width_in, self.width_out = width_in, width_out
        self.settings: Any = settings
        is_study = width_in == width_out or DRAFT not in self.inputs
        self.front = nn.Identity() if is_study else nn.Linear(width_in, width_out)

    def forward(
        self,
        draft_states: Float[Tensor, "B K Din"] | None,
        *,
        mask: Bool[Tensor, "B K"] | None = None,
        target_states: Float[Tensor, "B K Dout"] | None = None,
        token_embeddings: Float[Tensor, "B K Dout"] | None = None,
    ) -> Float[Tensor, "B K Dout"]:
        """The target's states, as far as this level can guess them.

        mask: False where a position is padding. token_embeddings: row t is the target's input embedding of token t.
        Raises SettingError when an input that it takes is missing or of another width.
        """
        offered = {DRAFT: draft_states, TARGET: target_states, TOKENS: token_embeddings}
        given = {name: self._checked(name, offered[name]) for name in self.inputs}
        if DRAFT in given:
            given[DRAFT] = self.front(given[DRAFT])
        return self.adapt(given, mask)

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """The level itself; ``given`` holds its ``inputs``, each (B, K, width_out)."""
        raise NotImplementedError

    def _checked(self, name: str, value: Tensor | None) -> Tensor:
        what = name.replace("_", " ")
        if value is None:
            raise SettingError(f"adapter '{self.name}' takes {what}, but none were given")
        width = self.width_in if name == DRAFT else self.width_out
        if value.shape[-1] != width:
            raise SettingError(f"adapter '{self.name}' takes {what} of width {width}, but got {value.shape[-1]}")
        return value
