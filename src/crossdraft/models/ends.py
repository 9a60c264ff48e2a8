"""The two ends of a checkpoint's language model, read alone: input embeddings and output head."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossdraft.core.errors import CheckpointError
from crossdraft.core.weights import Entry, finite, read_headers
from crossdraft.models.loading import resolve_checkpoint

_EMBEDDINGS, _HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, eq=False)
class Ends:
    """embeddings: row of a token is its input embedding; head: logits of a state are head @ state. Stored dtype."""

    embeddings: Float[Tensor, "V D"]
    head: Float[Tensor, "V D"]


def read_ends(ref: str | Path) -> Ends:
    """Both ends of the checkpoint ``ref``, of whatever family; one without a head ties it to the embeddings.

    Nothing else is read, so this is cheap for a model of any size. Raises CheckpointError when there is no
    checkpoint, its tensors have no such names, or they are damaged.
    """
    folder = resolve_checkpoint(ref)
    headers = read_headers(folder)
    embeddings = _read(headers, _EMBEDDINGS, folder)
    if embeddings is None:
        raise CheckpointError(f"{folder} has no {_EMBEDDINGS}, so its output head is not known; name another one")
    head = _read(headers, _HEAD, folder)
    return Ends(embeddings, embeddings if head is None else head)


def _read(headers: dict[str, Entry], name: str, folder: Path) -> Tensor | None:
    keys = [key for key in headers if key == name or key.endswith(f".{name}")]
    if not keys:
        return None
    if len(keys) > 1:
        raise CheckpointError(f"{folder} has several tensors named {name}, so its ends are not known")
    key, file = keys[0], headers[keys[0]].file
    try:
        with safe_open(file, framework="pt") as opened:
            return finite(opened.get_tensor(key), key, file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); fetch it again") from error
