"""The processes of one launch, each with a device of its own.

Started by ``accelerate launch`` or ``torchrun``; a training that is started plainly is a launch of one and needs no
accelerate. Only what joins processes is used of it: see docs/decisions.md.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crossdraft.core.errors import SettingError


@dataclass(frozen=True)
class Ranks:
    """This process among ``count``. The first one evaluates, writes and decides."""

    index: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    def agree(self, value: Any) -> Any:
        """What the first process says."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def add_up(self, module: nn.Module, loss: float) -> float:
        """Leave the sum of all processes' gradients in each; returns the sum of their losses."""
        if self.count == 1:
            return loss
        from accelerate.utils import reduce

        for parameter in module.parameters():
            if parameter.requires_grad:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(own, "sum")
        return float(reduce(torch.tensor(loss, dtype=torch.float64, device=self._device_for(module)), "sum"))

    @staticmethod
    def _device_for(module: nn.Module) -> torch.device:
        return next(module.parameters()).device


def join(device: str = "cpu") -> Ranks:
    """Meet the other processes of this launch, if there are any.

    device: "cpu", "cuda" or "cuda:N"; with several processes each gets a GPU of its own. Raises SettingError when
    several were launched and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks(0, 1, torch.device(device))
    try:
        from accelerate import PartialState
    except ImportError:
        raise SettingError(
            "several processes were launched, and accelerate, which joins them, is missing; run: "
            "pip install 'crossdraft[train]'"
        ) from None
    state = PartialState(cpu=device == "cpu")
    return Ranks(state.process_index, state.num_processes, state.device)
