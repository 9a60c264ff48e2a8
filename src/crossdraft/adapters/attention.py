"""Level 4: one attention layer over the draft's states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from crossdraft.adapters.base import DRAFT, Adapter, AdapterSettings
from crossdraft.nn.blocks import AttentionLayer, BlendedOutput


@dataclass(frozen=True, kw_only=True)
class AttentionSettings(AdapterSettings):
    """ffn_ratio: width over hidden width of the feed-forward."""

    num_heads: int = 8
    ffn_ratio: int = 2

    def layer(self, width: int, *, causal: bool) -> AttentionLayer:
        """The layer of this setting. SettingError when the heads do not divide the width."""
        ffn = max(1, width // self.ffn_ratio)
        return AttentionLayer(width, self.num_heads, ffn, causal=causal, dropout=self.dropout)


class L4(Adapter):
    """One attention layer that sees the whole draft, later states included; 100.7M parameters at width 4096.

    The study's: trained over 50 positions of which drafting has a few, so it changes its mind as the draft grows.
    """

    name = "l4"
    causal = False
    defaults: ClassVar = AttentionSettings()
    settings: AttentionSettings

    def __init__(self, width_in: int, width_out: int, settings: AttentionSettings) -> None:
        super().__init__(width_in, width_out, settings)
        self.layer = settings.layer(width_out, causal=self.causal)
        self.output = BlendedOutput(width_out)

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """The draft's states, changed a little by what stands around them."""
        return self.output(self.layer(given[DRAFT], mask), given[DRAFT])


class L4Causal(L4):
    """Level 4 with a causal mask: each state sees earlier ones only, as when drafting."""

    name = "l4_causal"
    causal = True
