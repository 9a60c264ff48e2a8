"""The two ends of a checkpoint's language model, read alone: input embeddings and output head."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossdraft.core.errors import CheckpointError
from crossdraft.core.registry import find
from crossdraft.models.catalogue import PARTS, family_of
from crossdraft.models.loading import read_headers, read_json, resolve_checkpoint

_EMBEDDINGS, _HEAD = "decoder.embed_tokens.weight", "decoder.lm_head.weight"


@dataclass(frozen=True, eq=False)
class Ends:
    """embeddings: row of a token is its input embedding; head: logits of a state are head @ state. Stored dtype."""

    embeddings: Float[Tensor, "V D"]
    head: Float[Tensor, "V D"]


def read_ends(ref: str | Path) -> Ends:
    """Both ends of the checkpoint ``ref``; a tied head is the embedding table.

    Nothing else is read, so this is cheap for a model of any size. Raises CheckpointError for a family whose layout
    is not known, and for a checkpoint that lacks them or is damaged.
    """
    folder = resolve_checkpoint(ref)
    family = family_of(read_json(folder / "config.json"))
    if family not in PARTS:
        raise CheckpointError(
            f"{folder} is of the family '{family}', whose head cannot be read alone; known: {', '.join(PARTS)}"
        )
    rename = find("model family", PARTS, family).rename
    files = {name: (key, entry.file) for key, entry in read_headers(folder).items() if (name := rename(key))}
    embeddings = _read(files, _EMBEDDINGS, folder)
    return Ends(embeddings, _read(files, _HEAD, folder) if _HEAD in files else embeddings)


def _read(files: dict[str, tuple[str, Path]], name: str, folder: Path) -> Tensor:
    if name not in files:
        raise CheckpointError(f"checkpoint {folder} lacks {name}; see: crossdraft models check {folder}")
    key, file = files[name]
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); fetch it again") from error
