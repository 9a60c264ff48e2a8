"""The target's output head, kept beside the states: with it, states become tokens without the model."""

from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from crossdraft.core.errors import DataError
from crossdraft.data.store.durable import write_durably
from crossdraft.data.store.sample import StoreIdentity, read_identity

HEAD_FILE = "target_head.safetensors"


def save_head(root: str | Path, weight: Float[Tensor, "V Dt"], source: str = "") -> Path:
    """Keep the head in the store ``root``: the logits of a state are weight @ state. Returns the file.

    source: where the weight came from. Raises DataError when it does not fit the store, CrossdraftError when it
    cannot be written.
    """
    root = Path(root)
    check_head(weight, read_identity(root), f"the head for {root}")
    path = root / HEAD_FILE
    write_durably(path, save({"weight": weight.detach().cpu().contiguous()}, {"format": "pt", "source": source}))
    return path


def load_head(root: str | Path) -> Float[Tensor, "V Dt"]:
    """The head of the store ``root``. DataError when it has none, or a damaged one, or one of another pair."""
    root = Path(root)
    path = root / HEAD_FILE
    if not path.is_file():
        raise DataError(f"{root}: has no {HEAD_FILE}, so its states cannot become tokens; extract or import one")
    return read_head(path, read_identity(root))


def read_head(path: str | Path, identity: StoreIdentity) -> Float[Tensor, "V Dt"]:
    """A head that ``save_head`` wrote, wherever it lies. DataError when it is damaged, or of another target than
    ``identity`` has."""
    path = Path(path)
    try:
        weight = load_file(path)["weight"]
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"{path}: is damaged or no saved head ({error}); extract or import it again") from error
    check_head(weight, identity, str(path))
    return weight


def kept_head(root: str | Path) -> Float[Tensor, "V Dt"] | None:
    """The head of the store ``root``; None where it keeps none. DataError for a damaged one."""
    return load_head(root) if (Path(root) / HEAD_FILE).is_file() else None


def check_head(weight: Tensor, identity: StoreIdentity, where: str) -> None:
    """DataError unless ``weight`` is a finite (vocabulary, target width) matrix."""
    vocab = identity.vocab_size
    if weight.ndim != 2 or weight.shape[1] != identity.target_width or vocab not in (None, weight.shape[0]):
        raise DataError(
            f"{where}: is {list(weight.shape)}, must be [{vocab or 'vocabulary'}, {identity.target_width}]"
        )
    if not (weight.is_floating_point() and weight.isfinite().all()):
        raise DataError(f"{where}: has values that are no finite numbers")
