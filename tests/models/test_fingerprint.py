"""A model is known again wherever it lies, and told from any other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossdraft.core.errors import CheckpointError
from crossdraft.models import fingerprint

Checkpoint = Callable[..., tuple[Path, object]]


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("llama")[0], tmp_path / "here")


def _split(folder: Path) -> None:
    """The same tensors in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard)
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def test_a_copy_elsewhere_and_otherwise_cut_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    known = fingerprint(folder)
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert fingerprint(copy) == known
    _split(copy)
    assert fingerprint(copy) == known
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "_name_or_path": "/old", "transformers_version": "9"}))
    assert fingerprint(copy) == known


def test_every_tensor_counts(folder: Path) -> None:
    known = fingerprint(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        trained = {key: value + 0.01 * (key == name) for key, value in tensors.items()}
        save_file(trained, folder / "model.safetensors")
        assert fingerprint(folder) != known, name
    renamed = {("x" + key if key == min(tensors) else key): value for key, value in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    assert fingerprint(folder) != known
    save_file({key: value.to(torch.float64) for key, value in tensors.items()}, folder / "model.safetensors")
    assert fingerprint(folder) != known
    save_file(tensors, folder / "model.safetensors")
    assert fingerprint(folder) == known


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_settings_and_words_count(folder: Path, name: str) -> None:
    known = fingerprint(folder)
    body = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**body, "rope_theta": 5.0}))
    assert fingerprint(folder) != known


def test_a_vision_tower_beside_an_event_model_counts(tmp_path: Path) -> None:
    tower = tmp_path / "visual_tower"
    tower.mkdir()
    (tmp_path / "config.json").write_text('{"model_type": "EventChat_llama", "mm_visual_tower": "openai/clip"}')
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    (tower / "config.json").write_text("{}")
    save_file({"vision_model.weight": torch.ones(2, 2)}, tower / "model.safetensors")
    known = fingerprint(tmp_path)
    save_file({"vision_model.weight": torch.zeros(2, 2)}, tower / "model.safetensors")
    assert fingerprint(tmp_path) != known


def test_what_is_no_checkpoint_is_one_line(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        fingerprint(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        fingerprint(folder)
