"""Reading the two ends of a checkpoint gives what the loaded model has."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossdraft.core.errors import CheckpointError
from crossdraft.models import load_vlm, read_ends
from crossdraft.models.nano import nano_dir


@pytest.mark.parametrize("role", ["target", "event"])
def test_the_ends_are_those_of_the_model(role: str) -> None:
    ends, model = read_ends(nano_dir(role)), load_vlm(nano_dir(role), dtype=torch.float32)
    torch.manual_seed(0)
    states = torch.randn(3, model.hidden_size)
    torch.testing.assert_close(states @ ends.head.float().T, model.unembed(states).float(), atol=1e-4, rtol=1e-4)
    tokens = torch.tensor([1, 7, 30])
    assert torch.equal(ends.embeddings[tokens].float(), model.embed(tokens).float())


def test_a_tied_head_is_the_embedding_table(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    table = torch.randn(5, 4)
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    ends = read_ends(tmp_path)
    assert torch.equal(ends.head, table) and torch.equal(ends.embeddings, table)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no embed_tokens"):
        read_ends(tmp_path)
    save_file({"a.lm_head.weight": torch.ones(3, 2), "b.lm_head.weight": torch.ones(3, 2),
               "embed_tokens.weight": torch.ones(3, 2)}, tmp_path / "model.safetensors")  # fmt: skip
    with pytest.raises(CheckpointError, match="several tensors named lm_head"):
        read_ends(tmp_path)
    save_file({"embed_tokens.weight": torch.full((3, 2), torch.nan)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        read_ends(tmp_path)
