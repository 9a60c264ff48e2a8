"""Drafting heads on disk: one safetensors file whose header says what it is, for which target, and what it cost."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from crossdraft.core.config import from_mapping
from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.records import write_atomically
from crossdraft.core.weights import check_shapes, read_labelled
from crossdraft.heads.feature import FeatureHead, FeatureHeadConfig
from crossdraft.heads.medusa import MedusaConfig, MedusaHead
from crossdraft.heads.recipes import Head
from crossdraft.heads.visual import VisualConfig
from crossdraft.nn.decoder import DecoderConfig

SCHEMA = 1
HEAD = "head.safetensors"
_KEY = "crossdraft.head"


@dataclass(frozen=True, kw_only=True)
class HeadCard:
    """What a checkpoint holds. method: the recipe it was trained by; target: that model's name; fingerprint: of its
    checkpoint ("" where unknown); trained_tokens, seconds: what the training saw and took; accuracies: of a head
    that guesses several tokens at once, [head][rank] = share of held-out tokens that this guess was."""

    method: str
    target: str
    fingerprint: str = ""
    trained_tokens: int = 0
    seconds: float = 0.0
    corpus: str = ""
    accuracies: list[list[float]] = field(default_factory=list)


def save_head(path: str | Path, head: Head, card: HeadCard, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write ``head`` to ``path`` in ``dtype``, whole or not at all.

    Raises CheckpointError when a weight is not finite (nothing is written), CrossdraftError when the disk is full.
    """
    state = {}
    for name, value in head.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"{name} of head '{card.method}' has NaN or infinite values; its training diverged"
            )
        state[name] = value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
    kind = "medusa" if isinstance(head, MedusaHead) else "feature"
    header = {"schema": SCHEMA, "kind": kind, "config": asdict(head.config), "card": asdict(card)}
    path = Path(path)
    write_atomically(path, save(state, {_KEY: json.dumps(header)}))
    return path


def read_head_card(path: str | Path) -> HeadCard:
    """What the checkpoint is, from its header alone. Raises CheckpointError."""
    return _open(Path(path))[1]


def load_head(path: str | Path) -> tuple[Head, HeadCard]:
    """The head in float32, ready for inference, and its card. Raises CheckpointError for anything else than a whole
    file of ours."""
    path = Path(path)
    head, card, state = _open(path, weights=True)
    check_shapes(state, head.state_dict(), path, f"a head '{card.method}'")
    for name in sorted(state):
        if state[name].is_floating_point() and not torch.isfinite(state[name]).all():
            raise CheckpointError(f"{name} in {path} has NaN or infinite values; the file is damaged")
    head.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in state.items()}, assign=True)
    if not bool((head.d2t >= 0).all() and (head.d2t < _vocab_size(head)).all()):
        raise CheckpointError(f"{path} drafts tokens that its target does not have; the file is damaged")
    return head.eval().requires_grad_(False), card


def _vocab_size(head: Head) -> int:
    return head.config.vocab_size if isinstance(head, MedusaHead) else head.config.layer.vocab_size


def _open(path: Path, *, weights: bool = False) -> tuple[Head, HeadCard, dict[str, Tensor]]:
    if path.is_dir():
        if not (path / HEAD).exists() and (path / "config.json").is_file():
            raise CheckpointError(
                f"{path} is a head in a published layout; convert it: crossdraft models convert-head {path} OUT "
                "--target DIR"
            )
        path = path / HEAD
    header, state = read_labelled(path, _KEY, "drafting head", "heads", weights=weights)
    if header is None:
        raise CheckpointError(
            f"{path} is no drafting head of crossdraft; train one, or convert a published one: crossdraft models "
            f"convert-head {path.parent} OUT --target DIR"
        )
    try:
        body = json.loads(header)
        if body["schema"] > SCHEMA:
            raise CheckpointError(f"{path} was written by a newer version; update crossdraft")
        card = from_mapping(HeadCard, body["card"], str(path))
        with torch.device("meta"):
            head = _build(body["kind"], body["config"], str(path))
    except (KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError, SettingError) as error:
        raise CheckpointError(f"{path} has an unreadable header ({error}); train the head again") from error
    return head, card, state


def _build(kind: str, config: dict[str, Any], where: str) -> Head:
    if kind == "medusa":
        return MedusaHead(from_mapping(MedusaConfig, config, where))
    visual = config.get("visual")
    if visual is not None:
        visual = from_mapping(VisualConfig, {**visual, "branches": tuple(visual["branches"])}, where)
    layer = from_mapping(DecoderConfig, config["layer"], where)
    own = {**config, "layer": layer, "taps": tuple(config["taps"]), "visual": visual}
    return FeatureHead(from_mapping(FeatureHeadConfig, own, where))
