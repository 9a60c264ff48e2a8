"""What a checkpoint is, wherever it lies: to know a model again without reading all of its weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from crossdraft.core.errors import CheckpointError
from crossdraft.core.weights import read_json, weight_files
from crossdraft.models.catalogue import family_of

# what config.json says of places, and of the program that wrote it
_NO_MATTER = ("_name_or_path", "mm_visual_tower", "transformers_version")
# what a prompt becomes depends on these as well
_BESIDE = ("tokenizer.json", "tokenizer.model", "preprocessor_config.json")


def fingerprint(folder: Path) -> str:
    """SHA-256 over config.json, the tokenizer, and of every tensor its name, type, shape and a part of its values.

    Of a matrix the row in the middle counts, of a vector all of it, so 14 GB are known by a few megabytes, and
    training shows wherever it changed. How the tensors are spread over files does not matter, nor where the folder
    is. Raises CheckpointError when the folder is no checkpoint or a file is damaged.
    """
    config = read_json(folder / "config.json")
    digest = hashlib.sha256(_text({key: value for key, value in config.items() if key not in _NO_MATTER}))
    for name in _BESIDE:
        if (folder / name).is_file():
            digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    digest.update(_tensors(folder))
    if family_of(config) == "eventgpt":
        from crossdraft.models.eventgpt import tower_beside

        if (tower := tower_beside(folder, config)) is not None:
            digest.update(_tensors(tower))
    return digest.hexdigest()


def _tensors(folder: Path) -> bytes:
    digests: dict[str, bytes] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for key in list(opened.keys()):
                    part = opened.get_slice(key)
                    shape = part.get_shape()
                    value = part[shape[0] // 2] if len(shape) > 1 and shape[0] else opened.get_tensor(key)
                    about = _text([key, str(part.get_dtype()), shape])
                    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                    digests[key] = hashlib.sha256(about + raw).digest()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or no safetensors file ({error}); fetch it again") from error
    return hashlib.sha256(b"".join(digests[key] for key in sorted(digests))).digest()


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
