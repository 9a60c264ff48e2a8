"""Levels 1 to 3: residual bottlenecks at each position by itself. One class, four settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from crossdraft.adapters.base import DRAFT, Adapter, AdapterSettings
from crossdraft.core.errors import SettingError
from crossdraft.nn.blocks import BottleneckBlock


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings(AdapterSettings):
    """hidden_ratio: width over hidden width. norm "hidden": wide blocks, behind one norm of their common input."""

    num_blocks: int
    hidden_ratio: int
    norm: Literal["input", "hidden"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("input", "hidden"):
            raise SettingError(f"norm is {self.norm!r}, must be 'input' or 'hidden'")


class Bottleneck(Adapter):
    """Blocks, then a LayerNorm. With fresh weights the blocks are the identity: the output is the input, normed."""

    pointwise = True
    settings: BottleneckSettings

    def __init__(self, width_in: int, width_out: int, settings: BottleneckSettings) -> None:
        super().__init__(width_in, width_out, settings)
        hidden = max(1, width_out // settings.hidden_ratio)
        self.norm_in = nn.LayerNorm(width_out) if settings.norm == "hidden" else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                BottleneckBlock(width_out, hidden, norm=settings.norm, dropout=settings.dropout)
                for _ in range(settings.num_blocks)
            )
        )
        self.norm_out = nn.LayerNorm(width_out)

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """Each position by itself."""
        return self.norm_out(self.blocks(self.norm_in(given[DRAFT])))


class L1(Bottleneck):
    """One bottleneck block, width to a 16th and back; 2.1M parameters at width 4096."""

    name = "l1"
    defaults: ClassVar = BottleneckSettings(num_blocks=1, hidden_ratio=16, norm="input")


class L2(Bottleneck):
    """Three bottleneck blocks, width to a 16th and back; 6.3M parameters at width 4096."""

    name = "l2"
    defaults: ClassVar = BottleneckSettings(num_blocks=3, hidden_ratio=16, norm="input")


class L3(Bottleneck):
    """Three wide bottleneck blocks, width to a 4th and back; 25.2M parameters at width 4096."""

    name = "l3"
    defaults: ClassVar = BottleneckSettings(num_blocks=3, hidden_ratio=4, norm="hidden")


class L3TwoBlocks(Bottleneck):
    """Two wide bottleneck blocks, as the study describes its level 3; 16.8M parameters at width 4096."""

    name = "l3_2block"
    defaults: ClassVar = BottleneckSettings(num_blocks=2, hidden_ratio=4, norm="hidden")
