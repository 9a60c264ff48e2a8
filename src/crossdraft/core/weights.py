"""A folder of safetensors with a config.json: found, read, checked, written. Pickles are refused."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossdraft.core.errors import CheckpointError, CrossdraftError
from crossdraft.core.records import write_atomically

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MODEL = "convert them in a sandbox with transformers: AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR)"


@dataclass(frozen=True)
class Entry:
    """Where a stored tensor lies. shape and dtype are the file's own words."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


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


def weight_files(folder: Path, instead: str = _MODEL) -> list[Path]:
    """The safetensors of ``folder``, all shards. CheckpointError when there are none, or a shard is not there.

    instead: what to do about pickles.
    """
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
            f"{folder} holds pickled weights only ({pickles[0]}), which can run code when loaded; {instead}"
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


def read_tensors(file: Path, wanted: Callable[[str], bool] = lambda key: True) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``file`` whose keys are ``wanted``, one after the other. Raises CheckpointError."""
    try:
        with safe_open(file, framework="pt") as opened:
            for key in list(opened.keys()):
                if wanted(key):
                    yield key, opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or no safetensors file ({error}); fetch it again") from error


def read_labelled(
    path: Path, key: str, what: str, plural: str, *, weights: bool
) -> tuple[str | None, dict[str, Tensor]]:
    """A single file whose header says what it is: the header's text under ``key`` (None: it has none), and the
    tensors if ``weights``. what, plural: how such a file and such things are called. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(key)
            state = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"no such {what}: {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); {plural} are read from safetensors only"
        ) from error
    return header, state


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, what: str) -> None:
    """CheckpointError unless ``state`` holds the tensors of ``expected``, by name and shape. what: with article."""
    for name in sorted(expected.keys() | state.keys()):
        stored = tuple(state[name].shape) if name in state else None
        wanted = tuple(expected[name].shape) if name in expected else None
        if stored != wanted:
            raise CheckpointError(
                f"{path} does not hold {what}: {name} is {stored or 'missing'}, expected "
                f"{'none of that name' if wanted is None else wanted}; train it again"
            )


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


def save_weights(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], name: str = WEIGHTS) -> None:
    """Write ``name`` and config.json into ``folder``, each whole or not at all.

    Raises CrossdraftError when the disk is full or the folder cannot be written.
    """
    temporary = folder / f".{name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # copies: safetensors refuses tensors that share memory (a tied head is left out by the caller)
        save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, temporary, {"format": "pt"})
        temporary.replace(folder / name)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CrossdraftError(f"cannot write {folder}: {error.strerror or error}; free some space") from error
    write_atomically(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
