"""Level 5 and its kin: a causal layer with learned positions, taught to align and to foresee the next state.

B1 and L5F of the study read the very target state that they are judged by: the identity would be perfect, and no
drafter has that state. They are kept to reproduce its figures and say so (``sees_its_target``). The sound variants
read the target's states one position late, which is what EAGLE's head does (arXiv 2401.15077).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossdraft.adapters.attention import AttentionSettings
from crossdraft.adapters.base import DRAFT, TARGET, TOKENS, Adapter
from crossdraft.core.errors import SettingError
from crossdraft.nn.blocks import BlendedOutput
from crossdraft.nn.losses import PREDICTION


@dataclass(frozen=True, kw_only=True)
class PredictiveSettings(AttentionSettings):
    """max_positions: length of the longest answer."""

    max_positions: int = 512


def delayed(rows: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """Each row one position later; the first is zero."""
    return F.pad(rows[:, :-1], (0, 0, 1, 0))


class Predictive(Adapter):
    """The common trunk: norm, positions, a causal layer, and an output blended into ``base``."""

    defaults: ClassVar = PredictiveSettings()
    study_loss = PREDICTION
    settings: PredictiveSettings

    def __init__(self, width_in: int, width_out: int, settings: PredictiveSettings) -> None:
        super().__init__(width_in, width_out, settings)
        self.norm = nn.LayerNorm(width_out)
        self.positions = nn.Parameter(torch.empty(settings.max_positions, width_out))
        self.layer = settings.layer(width_out, causal=True)
        self.output = BlendedOutput(width_out)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def predict(self, x: Tensor, base: Tensor, mask: Tensor | None) -> Tensor:
        """x, base: (B, K, width_out). SettingError when there are more positions than were trained."""
        if x.shape[1] > len(self.positions):
            raise SettingError(
                f"adapter '{self.name}' knows {len(self.positions)} positions, but got {x.shape[1]}; shorten the "
                "answers, or train it with more max_positions"
            )
        return self.output(self.layer(self.norm(x) + self.positions[: x.shape[1]], mask), base)


class L5(Predictive):
    """A causal layer over the draft's states, also taught the next state; 102.8M parameters at width 4096."""

    name = "l5"

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """From the draft's states so far."""
        return self.predict(given[DRAFT], given[DRAFT], mask)


class L5Tokens(Predictive):
    """Level 5 that also reads the token before each position, EAGLE's key input.

    Row t reads the embedding of token t - 1, never of the token that state t is to predict. Starts out as level 5.
    """

    name = "l5_tokens"
    inputs = frozenset({DRAFT, TOKENS})

    def __init__(self, width_in: int, width_out: int, settings: PredictiveSettings) -> None:
        super().__init__(width_in, width_out, settings)
        self.fuse = nn.Linear(2 * width_out, width_out)
        with torch.no_grad():
            self.fuse.weight.copy_(torch.cat((torch.zeros(width_out, width_out), torch.eye(width_out)), dim=1))
            self.fuse.bias.zero_()

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """From the draft's states and the tokens so far."""
        fused = self.fuse(torch.cat((delayed(given[TOKENS]), given[DRAFT]), dim=-1))
        return self.predict(fused, given[DRAFT], mask)


class _ReadsTarget(Predictive):
    """Reads the target's states: as they are, or late where it must not see its target."""

    def known(self, given: Mapping[str, Tensor]) -> Tensor:
        """The target's states as this level may see them."""
        return given[TARGET] if self.sees_its_target else delayed(given[TARGET])


class B1(_ReadsTarget):
    """Level 5 fed with the target's own states, the one it must give included: void as a bound (use b1_sound)."""

    name = "b1"
    inputs = frozenset({TARGET})
    sees_its_target = True

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """From the target's states."""
        known = self.known(given)
        return self.predict(known, known, mask)


class B1Sound(B1):
    """What the target's earlier states alone foretell: the bound that needs no event model."""

    name = "b1_sound"
    sees_its_target = False


class L5F(_ReadsTarget):
    """Level 5 over a gated mix with the target's states, the one it must give included: void (use l5f_sound)."""

    name = "l5f"
    inputs = frozenset({DRAFT, TARGET})
    sees_its_target = True

    def __init__(self, width_in: int, width_out: int, settings: PredictiveSettings) -> None:
        super().__init__(width_in, width_out, settings)
        self.gate = nn.Linear(2 * width_out, width_out)
        self.mix = nn.Linear(2 * width_out, width_out)

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """From the draft's states, as a change of the target's."""
        draft, known = given[DRAFT], self.known(given)
        both = torch.cat((draft, known), dim=-1)
        gate = torch.sigmoid(self.gate(both))
        return self.predict(gate * draft + (1 - gate) * known + self.mix(both), known, mask)


class L5FSound(L5F):
    """The draft's states together with the target's earlier ones; 169.9M parameters at width 4096."""

    name = "l5f_sound"
    sees_its_target = False
