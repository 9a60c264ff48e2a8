"""AdamW over groups of parameters, and the rate of every step: warm-up, then a cosine down to a floor."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crossdraft.core.errors import SettingError
from crossdraft.training.narrow import NARROW


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long, how fast, and which weights are kept. Raises SettingError for what makes no sense.

    steps: at most. minutes: wall clock after which the training ends earlier; None: no limit. The rate follows
    whichever is nearer its end.
    epoch: steps of an epoch; held-out figures are then taken after each, else every ``evaluate_every_s``.
    watch: the held-out figure by which weights are chosen: those with the least of it are kept; None: the last.
    patience: epochs without a better one, after which the training ends. show: a held-out figure to be told beside
    the loss, and as what.
    accumulate: parts, one after the other, of which a step's gradient is the mean. dtype: "bfloat16" computes the
    loss in it (autocast); weights and moments are always float32.
    slow: parameters whose names begin so learn at ``slow_rate`` times the rate of the others.
    warmup: share of the training in which the rate climbs; floor: share of the peak at its end.
    """

    steps: int
    peak_lr: float
    minutes: float | None = None
    epoch: int | None = None
    watch: str | None = None
    patience: int | None = None
    show: tuple[str, str] | None = None
    accumulate: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    warmup: float = 0.03
    floor: float = 0.03
    weight_decay: float = 0.05
    clip: float = 1.0
    slow: str | None = None
    slow_rate: float = 1.0
    save_every_s: float = 180.0
    evaluate_every_s: float = 120.0
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "epoch", "patience", "accumulate", "log_every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise SettingError(f"{name} is {value!r}, must be a whole number from 1 on")
        for name in ("peak_lr", "minutes", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingError(f"{name} is {value}, must be above 0")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise SettingError(f"weight_decay is {self.weight_decay}, must be 0 or more")
        if self.dtype not in NARROW:
            raise SettingError(f"dtype is '{self.dtype}', must be one of: {', '.join(NARROW)}")
        if (self.patience is not None and self.watch is None) or (self.watch is not None and self.epoch is None):
            raise SettingError("patience needs a figure to watch, and watching needs the steps of an epoch")


def make_optimiser(module: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """AdamW (0.9, 0.98) over what learns; matrices decay, vectors and scalars do not."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            rate = config.slow_rate if config.slow is not None and name.startswith(config.slow) else 1.0
            groups.setdefault((decay, rate), []).append(parameter)
    listed = [{"params": p, "weight_decay": decay, "rate": rate} for (decay, rate), p in groups.items()]
    return torch.optim.AdamW(listed, lr=config.peak_lr, betas=(0.9, 0.98), eps=1e-8, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, config: FitConfig, share: float) -> None:
    """The rate of the next step. share: how much of the training is behind it, 0 to 1."""
    if share < config.warmup:
        factor = (share + 1e-3) / (config.warmup + 1e-3)
    else:
        at = (share - config.warmup) / (1 - config.warmup)
        factor = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, at)))
    for group in optimiser.param_groups:
        group["lr"] = config.peak_lr * factor * group["rate"]
