"""Head and embeddings of a checkpoint, without the rest of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossdraft.core.errors import CheckpointError
from crossdraft.models import load_vlm, read_matrices
from crossdraft.models.nano import nano_dir


def test_they_are_those_that_the_model_computes_with() -> None:
    head, embeddings = read_matrices(nano_dir("target"))
    model = load_vlm(nano_dir("target"), dtype=torch.float32)
    states = torch.randn(4, 320, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(states @ head.float().T, model.unembed(states), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embeddings[[5, 9]].float(), model.embed(torch.tensor([5, 9])))


def test_a_tied_head_is_the_embeddings(tmp_path: Path) -> None:
    table = torch.randn(5, 3)
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    assert all(torch.equal(matrix, table) for matrix in read_matrices(tmp_path))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"wte.weight": 0.0}, "has no embed_tokens.weight"),
        (
            {"a.embed_tokens.weight": 0.0, "b.embed_tokens.weight": 0.0},
            "has several tensors named embed_tokens.weight",
        ),
        (
            {"embed_tokens.weight": 0.0, "a.lm_head.weight": 0.0, "lm_head.weight": 0.0},
            "several tensors named lm_head",
        ),
        ({"embed_tokens.weight": float("nan")}, "has NaN or infinite values"),
    ],
)
def test_what_is_not_found_is_one_line(tensors: dict, message: str, tmp_path: Path) -> None:
    save_file({name: torch.full((5, 3), value) for name, value in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        read_matrices(tmp_path)
    assert "\n" not in str(error.value)
