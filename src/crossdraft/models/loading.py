"""From a checkpoint to checked weights: find, rename, compare, load."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError
from crossdraft.core.weights import Entry, finite, read_headers, read_tensors

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FETCHED = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja")

Rename = Callable[[str], str | None]
"""A checkpoint's key -> our parameter's name; None: known, but not used."""


@dataclass(frozen=True)
class KeyReport:
    """How a checkpoint's keys compare with a model's parameters."""

    understood: int
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the weights can be loaded; keys that are not ours do not matter, lacking ones do."""
        return not (self.missing or self.misshapen or self.unexpected)


def resolve_checkpoint(ref: str | Path) -> Path:
    """The local folder of ``ref``: a folder, or a hub id ("owner/name") that the user named, fetched once.

    Raises CheckpointError when there is neither.
    """
    path = Path(ref).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the folder with config.json and the safetensors")
    if not _HUB_ID.fullmatch(str(ref)):
        raise CheckpointError(f"no such checkpoint folder: {path}; give a folder, a hub id (owner/name) or nano")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(ref), allow_patterns=list(_FETCHED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"there is no folder '{ref}' and the hub gave none ({first}); check the name, and the way to the hub"
        ) from error


def compare(headers: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]], rename: Rename) -> KeyReport:
    """Hold stored keys against the parameters ``expected`` {name: shape}."""
    seen, unused, unexpected, misshapen = set(), [], [], []
    for key, entry in headers.items():
        name = rename(key)
        if name is None:
            unused.append(key)
        elif name not in expected:
            unexpected.append(key)
        else:
            seen.add(name)
            if entry.shape != expected[name]:
                misshapen.append(f"{key} is {list(entry.shape)}, expected {list(expected[name])}")
    missing = tuple(n for n in expected if n not in seen)
    return KeyReport(len(seen), tuple(unused), missing, tuple(unexpected), tuple(misshapen))


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """{parameter name: shape} of what a checkpoint must hold."""
    return {name: tuple(p.shape) for name, p in module.named_parameters(remove_duplicate=False)}


def load_weights(
    module: nn.Module, folder: Path, rename: Rename, dtype: torch.dtype, optional: Iterable[str] = ()
) -> None:
    """Fill ``module`` (parameters may be on the meta device) from ``folder``, each tensor cast to ``dtype``.

    optional: names that may be absent (a tied head). Raises CheckpointError that names the first missing,
    unexpected, wrong-shaped or non-finite tensors.
    """
    headers = read_headers(folder)
    expected = shapes(module)
    report = compare(headers, expected, rename)
    missing = [n for n in report.missing if n not in set(optional)]
    for what, names in (("lacks", missing), ("has unknown keys", report.unexpected), ("has", report.misshapen)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"checkpoint {folder} {what} {names[0]}{more}; see: crossdraft models check {folder}"
            )
    state: dict[str, Tensor] = {}
    for file in dict.fromkeys(e.file for e in headers.values()):
        for key, tensor in read_tensors(file, lambda key: rename(key) is not None):
            name = rename(key)
            assert name is not None
            state[name] = finite(tensor, key, file).to(dtype)
    module.load_state_dict(state, strict=False, assign=True)
    module.requires_grad_(False)
