"""Adapters on disk: one safetensors file whose header says what it is, for which widths and from which data."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from crossdraft.adapters import Adapter, build_adapter
from crossdraft.core.config import from_mapping
from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.records import write_atomically
from crossdraft.core.weights import check_shapes, read_labelled

SCHEMA = 1
_KEY = "crossdraft.adapter"
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """What a checkpoint holds. extraction: config hash of the run whose states it was trained on; event_model: the
    fingerprint of the one that a LoRA was trained in."""

    level: str
    width_in: int
    width_out: int
    dtype: str
    extraction: str
    settings: dict[str, Any]
    event_model: str | None = None

    def check_widths(self, *, event_model: str, width_in: int, target: str, width_out: int) -> None:
        """CheckpointError unless the models' states have the widths that the adapter was trained for."""
        for side, model, mine, theirs, verb in (
            ("event model", event_model, self.width_in, width_in, "takes"),
            ("target", target, self.width_out, width_out, "gives"),
        ):
            if mine != theirs:
                raise CheckpointError(
                    f"adapter '{self.level}' {verb} states of width {mine}, but {side} '{model}' has {theirs}; it "
                    f"was trained on extraction run {self.extraction}: extract and train again for this {side}"
                )


def save_adapter(path: str | Path, adapter: Adapter, *, extraction: str, event_model: str | None = None) -> Path:
    """Write the adapter to ``path``, whole or not at all.

    Raises CheckpointError when a weight is not finite (nothing is written), CrossdraftError when the disk is full.
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in adapter.state_dict().items()}
    dtypes = {str(value.dtype).removeprefix("torch.") for value in state.values()}
    if len(dtypes) > 1:
        raise CheckpointError(f"adapter '{adapter.name}' mixes {', '.join(sorted(dtypes))}; cast it to one dtype")
    for name, value in state.items():
        _check_finite(name, value, f"adapter '{adapter.name}'", "its training diverged; lower the learning rate")
    card = AdapterCard(
        level=adapter.name,
        width_in=adapter.width_in,
        width_out=adapter.width_out,
        dtype=dtypes.pop(),
        extraction=extraction,
        settings=asdict(adapter.settings),
        event_model=event_model,
    )
    write_atomically(path, save(state, {_KEY: json.dumps({"schema": SCHEMA, **asdict(card)})}))
    return path


def read_card(path: str | Path) -> AdapterCard:
    """What the checkpoint is, from its header alone. Raises CheckpointError."""
    return _open(Path(path))[0]


def load_adapter(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[Adapter, AdapterCard]:
    """The adapter, ready for inference, and its card. dtype: None keeps the stored one.

    Raises CheckpointError for a file that is missing, damaged, not an adapter's, or holds other tensors than its
    level has, or values that are not finite.
    """
    path = Path(path)
    card, state = _open(path, weights=True)
    try:
        with torch.device("meta"):
            adapter = build_adapter(card.level, width_in=card.width_in, width_out=card.width_out, **card.settings)
    except (SettingError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}; the file is from another version or damaged") from error
    check_shapes(state, adapter.state_dict(), path, f"an adapter '{card.level}'")
    for name in sorted(state):
        _check_finite(name, state[name], str(path), "the file is damaged; train it again")
    adapter.load_state_dict(state, assign=True)
    return adapter.to(device=device, dtype=dtype or _DTYPES[card.dtype]).eval(), card


def _open(path: Path, *, weights: bool = False) -> tuple[AdapterCard, dict[str, Tensor]]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the adapter's file in it (adapter.safetensors)")
    header, state = read_labelled(path, _KEY, "adapter checkpoint", "adapters", weights=weights)
    if header is None:
        raise CheckpointError(f"{path} is no adapter checkpoint of crossdraft; train one with it")
    try:
        body = json.loads(header)
        if body.pop("schema") > SCHEMA:
            raise CheckpointError(f"{path} was written by a newer version; update crossdraft")
        card = from_mapping(AdapterCard, body, str(path))
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, SettingError) as error:
        raise CheckpointError(f"{path} has an unreadable header ({error}); train the adapter again") from error
    if not isinstance(card.settings, dict) or card.dtype not in _DTYPES:
        raise CheckpointError(f"{path} has an unreadable header (settings or dtype); train the adapter again")
    return card, state


def _check_finite(name: str, value: Tensor, where: str, advice: str) -> None:
    if not value.is_floating_point():
        raise CheckpointError(f"{name} in {where} is {value.dtype}; adapters have floating-point weights")
    if not torch.isfinite(value).all():
        raise CheckpointError(f"{name} in {where} has NaN or infinite values; {advice}")
