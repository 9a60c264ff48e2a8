"""Level 6: a low-rank change of the event model's attention, so that its own states become the target's.

Source: Hu et al., "LoRA", arXiv 2106.09685. Layout as in the PEFT library: ``down`` (rank, in) drawn, ``up``
(out, rank) zero, their product times alpha / rank.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossdraft.adapters.base import DRAFT, Adapter, AdapterSettings, check_size
from crossdraft.core.errors import SettingError
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.losses import DISTILLATION


@dataclass(frozen=True, kw_only=True)
class LoraSettings(AdapterSettings):
    """num_layers: of the event model's decoder. query_width, kv_width: of its q and k/v outputs; None: width_in."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    num_layers: int = 32
    query_width: int | None = None
    kv_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.alpha, int | float) and math.isfinite(self.alpha) and self.alpha > 0):
            raise SettingError(f"alpha is {self.alpha!r}, must be above 0")
        for name in ("query_width", "kv_width"):
            if (value := getattr(self, name)) is not None:
                check_size(name, value)


class LowRank(nn.Module):
    """``scale * up(down(dropout(x)))``: what is added to one linear's output."""

    def __init__(self, num_in: int, num_out: int, settings: LoraSettings) -> None:
        super().__init__()
        self.scale = settings.alpha / settings.rank
        self.dropout = nn.Dropout(settings.dropout)
        self.down = nn.Linear(num_in, settings.rank, bias=False)
        self.up = nn.Linear(settings.rank, num_out, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "B K In"]) -> Float[Tensor, "B K Out"]:
        """x: the linear's own input, which may be narrower than the change's weights."""
        return self.up(self.down(self.dropout(x.to(self.down.weight.dtype)))) * self.scale

    def change(self) -> Float[Tensor, "Out In"]:
        """The same as a change of the linear's weight."""
        return self.up.weight @ self.down.weight * self.scale


class LowRankChanges:
    """Low-rank changes of a decoder's linears, which its passes include from now on. The decoder is no part of
    them; its weights are the caller's to freeze."""

    def __init__(self, pairs: Iterable[tuple[nn.Linear, LowRank]]) -> None:
        self._pairs = list(pairs)
        self._hooks: list[RemovableHandle] = []
        self._hook()

    @property
    def hooked(self) -> bool:
        """Whether they are added in passing; else they are in the weights."""
        return bool(self._hooks)

    def merge(self) -> None:
        """Fold the changes into the weights."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._add(1)

    def unmerge(self) -> None:
        """Take them out again, up to rounding of the weights' dtype, and add them in passing."""
        self._add(-1)
        self._hook()

    def _hook(self) -> None:
        def adding(part: LowRank) -> Any:
            return lambda _, inputs, output: output + part(inputs[0]).to(output.dtype)

        self._hooks = [linear.register_forward_hook(adding(part)) for linear, part in self._pairs]

    @torch.no_grad()
    def _add(self, sign: int) -> None:
        for linear, part in self._pairs:
            # rounded once, if the weight is the narrower of the two
            linear.weight.copy_(linear.weight + sign * part.change())


class L6(Adapter):
    """LoRA on q, k, v and o of the event model's decoder; nothing runs behind it. 16.8M parameters at 32 x 4096.

    ``inject`` puts it into a decoder to train, ``merge`` folds it into the weights that an engine then packs. Its
    ``forward`` takes the states of a decoder so changed: the identity, or the projection if widths differ.
    """

    name = "l6"
    pointwise = True
    defaults: ClassVar = LoraSettings()
    study_loss = DISTILLATION
    settings: LoraSettings

    def __init__(self, width_in: int, width_out: int, settings: LoraSettings) -> None:
        super().__init__(width_in, width_out, settings)
        query, kv = settings.query_width or width_in, settings.kv_width or width_in
        shapes = {"q_proj": (width_in, query), "k_proj": (width_in, kv), "v_proj": (width_in, kv)}
        shapes["o_proj"] = (query, width_in)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: LowRank(*shape, settings) for name, shape in shapes.items()})
            for _ in range(settings.num_layers)
        )
        self._changes: LowRankChanges | None = None

    @staticmethod
    def shape_of(config: DecoderConfig) -> dict[str, Any]:
        """The settings that fit a decoder: ``build_adapter("l6", ..., **L6.shape_of(decoder.config))``."""
        return {
            "num_layers": config.num_layers,
            "query_width": config.num_heads * config.head_dim,
            "kv_width": config.num_kv_heads * config.head_dim,
        }

    def adapt(self, given: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """The states as they are."""
        return given[DRAFT]

    def inject(self, decoder: Decoder) -> None:
        """Let the decoder's passes include the change. Its own weights are frozen; dropout follows the adapter's
        mode.

        Raises SettingError when the adapter is in a decoder already, or this one has another shape.
        """
        if self._changes is not None:
            raise SettingError("adapter 'l6' is in a decoder already; build or load another one for this decoder")
        pairs = list(self._pairs(decoder))
        decoder.requires_grad_(False)
        self._changes = LowRankChanges(pairs)

    def merge(self) -> None:
        """Fold the change into the weights of the decoder it is in. SettingError unless injected, or twice."""
        if self._changes is None or not self._changes.hooked:
            raise SettingError("adapter 'l6' is in no decoder, or merged already; inject it first")
        self._changes.merge()

    def unmerge(self) -> None:
        """Take the change out of the weights again, up to rounding of their dtype, and go back to ``inject``'s
        state. SettingError unless merged."""
        if self._changes is None or self._changes.hooked:
            raise SettingError("adapter 'l6' is not merged; there is nothing to take out")
        self._changes.unmerge()

    def _pairs(self, decoder: Decoder) -> Iterator[tuple[nn.Linear, LowRank]]:
        if len(decoder.layers) != len(self.layers):
            raise SettingError(
                f"adapter 'l6' changes {len(self.layers)} layers, but the decoder has {len(decoder.layers)}; train "
                "one for this event model"
            )
        for layer, parts in zip(decoder.layers, self.layers, strict=True):
            for name, part in cast(nn.ModuleDict, parts).items():
                linear, change = cast(nn.Linear, getattr(layer.self_attn, name)), cast(LowRank, part)
                wanted = (change.up.out_features, change.down.in_features)
                if tuple(linear.weight.shape) != wanted:
                    raise SettingError(
                        f"adapter 'l6' changes a {name} of {list(wanted)}, but the decoder's is "
                        f"{list(linear.weight.shape)}; train one for this event model"
                    )
                yield linear, change
