"""From a folder of safetensors to checked weights: find, rename, compare, load. Pickles are refused."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError, CrossdraftError
from crossdraft.core.records import write_atomically

INDEX = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FETCHED = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja")

Rename = Callable[[str], str | None]
"""A checkpoint's key -> our parameter's name; None: known, but not used."""


@dataclass(frozen=True)
class Entry:
    """Where a stored tensor lies. shape and dtype are the file's own words."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


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


def read_json(path: Path, *, needed: bool = True) -> dict[str, Any]:
    """A JSON object from ``path``; {} when the file is not there and not needed. Raises CheckpointError."""
    try:
        body = json.loads(path.read_text())
    except FileNotFoundError as error:
        if not needed:
            return {}
        raise CheckpointError(
            f"{path.parent} has no {path.name}; is this a Hugging Face checkpoint folder?"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return body


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of ``folder``, all shards. CheckpointError when there are none, or a shard is not there."""
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{folder / INDEX} names no shards")
        names = sorted({str(s) for s in shards.values()})
        # a shard is a plain file name: an index must not point outside its folder
        if bad := [n for n in names if Path(n).name != n]:
            raise CheckpointError(f"{folder / INDEX} points outside the folder: {bad[0]}")
        if lacking := [n for n in names if not (folder / n).is_file()]:
            raise CheckpointError(f"{folder} lacks the shard {lacking[0]} that its index names; fetch it again")
        return [folder / n for n in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if pickles := sorted(p.name for s in ("*.bin", "*.pt", "*.pth") for p in folder.glob(s)):
        raise CheckpointError(
            f"{folder} holds pickled weights only ({pickles[0]}), which can run code when loaded; convert "
            "them in a sandbox with transformers: AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    raise CheckpointError(f"{folder} has no *.safetensors")


def read_headers(folder: Path) -> dict[str, Entry]:
    """Every stored tensor's place, shape and type, without reading weights. Raises CheckpointError."""
    found: dict[str, Entry] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for key in list(opened.keys()):
                    part = opened.get_slice(key)
                    found[key] = Entry(file, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or no safetensors file ({error}); fetch it again") from error
    return found


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
        try:
            with safe_open(file, framework="pt") as opened:
                for key in list(opened.keys()):
                    name = rename(key)
                    if name is not None:
                        state[name] = finite(opened.get_tensor(key), key, file).to(dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); fetch it again") from error
    module.load_state_dict(state, strict=False, assign=True)
    module.requires_grad_(False)


def finite(tensor: Tensor, key: str, file: Path) -> Tensor:
    """``tensor``. CheckpointError, naming ``key`` in ``file``, unless it is floating-point and finite."""
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{key} in {file} is {tensor.dtype}: quantised checkpoints are not supported; use the bf16 or fp16 one"
        )
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{key} in {file} has NaN or infinite values; the file is damaged, fetch or train it again"
        )
    return tensor


def save_weights(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write model.safetensors and config.json into ``folder``, each whole or not at all.

    Raises CrossdraftError when the disk is full or the folder cannot be written.
    """
    temporary = folder / ".model.safetensors.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # copies: safetensors refuses tensors that share memory (a tied head is left out by the caller)
        save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, temporary, {"format": "pt"})
        temporary.replace(folder / "model.safetensors")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CrossdraftError(f"cannot write {folder}: {error.strerror or error}; free some space") from error
    write_atomically(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
