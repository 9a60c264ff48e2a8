"""A training on disk: one safetensors file from which it goes on to the very numbers of an unbroken one."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from crossdraft.core.config import from_mapping
from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.records import write_atomically

STATE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Progress:
    """Where a training stands.

    ended_by: "steps", "minutes" or "patience"; "" as long as it goes on. best: the least of the watched figure, had
    after ``best_step`` steps; stale: epochs since. judged: the step of the last held-out figures; loss_sum: of the
    steps since.
    """

    step: int = 0
    spent_s: float = 0.0
    ended_by: str = ""
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    judged: int = 0
    loss_sum: float = 0.0


Weights = dict[str, Tensor]


def weights_of(module: nn.Module) -> Weights:
    """Copies of what learns, on the CPU."""
    return {
        n: p.detach().to("cpu", copy=True).contiguous() for n, p in module.named_parameters() if p.requires_grad
    }


def put_weights(module: nn.Module, weights: Weights) -> None:
    """Give the module what ``weights_of`` took."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def save_state(
    path: Path,
    module: nn.Module,
    optimiser: torch.optim.AdamW,
    progress: Progress,
    best: Weights | None,
    about: Mapping[str, Any],
) -> None:
    """Weights, Adam's moments, the best weights and the progress, at once; of an ended training the weights alone.

    about: what a training that goes on must share with this one, plain values. CrossdraftError when it cannot be
    written.
    """
    tensors = {f"weight/{name}": value for name, value in weights_of(module).items()}
    if not progress.ended_by:
        tensors |= {f"best/{name}": value for name, value in (best or {}).items()}
        for name, parameter in module.named_parameters():
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value.detach().cpu().contiguous()
    header = {"progress": json.dumps(asdict(progress)), "about": json.dumps(dict(about))}
    write_atomically(path, save(tensors, header))


def load_state(
    path: Path, module: nn.Module, optimiser: torch.optim.AdamW, about: Mapping[str, Any]
) -> tuple[Progress, Weights | None]:
    """Put a saved state into module and optimiser; returns its progress and the best weights, if it has any.

    Raises DataError for a damaged file, SettingError when it is of another training than ``about``.
    """
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            check_about(json.loads(header["about"]), about, path.parent)
            progress = from_mapping(Progress, json.loads(header["progress"]), str(path))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        put_weights(module, _named(tensors, "weight"))
        moments = {key: _named(tensors, key) for key in _MOMENTS}
        for name, parameter in module.named_parameters():
            if name in moments["step"]:
                optimiser.state[parameter] = {key: of[name].to(parameter.device) for key, of in moments.items()}
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError, RuntimeError) as error:
        raise DataError(f"{path}: is damaged or of another version ({error}); begin the training anew") from error
    return progress, _named(tensors, "best") or None


def check_about(theirs: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    """SettingError, naming the first difference, unless both are of one training."""
    difference = _first_difference(theirs, json.loads(json.dumps(ours)))
    if difference is not None:
        name, old, new = difference
        raise SettingError(
            f"{folder} holds another training ({name} was {old!r:.60}, now {new!r:.60}); choose another folder, or "
            "begin anew in this one (--restart)"
        )


def _first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """(name, theirs, ours), of settings within settings as "outer.inner"."""
    for name in dict.fromkeys((*ours, *theirs)):
        old, new = theirs.get(name), ours.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner, old, new = _first_difference(old, new) or ("", old, new)
            name = f"{name}.{inner}"
        return name, old, new
    return None


def _named(tensors: Mapping[str, Tensor], kind: str) -> Weights:
    return {key.removeprefix(f"{kind}/"): value for key, value in tensors.items() if key.startswith(f"{kind}/")}
