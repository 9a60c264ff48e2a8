import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossdraft.adapters import ADAPTERS, Adapter, build_adapter
from crossdraft.adapters.checkpoint import load_adapter, read_card, save_adapter
from crossdraft.core.errors import CheckpointError, CrossdraftError


def small(name: str) -> Adapter:
    torch.manual_seed(2)
    adapter = build_adapter(name, width_in=24, width_out=16, **({"num_layers": 2} if name == "l6" else {}))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    return adapter


@pytest.mark.parametrize("name", sorted(ADAPTERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_what_is_loaded(name, dtype, tmp_path) -> None:
    adapter = small(name).to(dtype)
    path = save_adapter(tmp_path / "new" / "adapter.safetensors", adapter, extraction="0f3a")
    loaded, card = load_adapter(path)
    assert (card.level, card.width_in, card.width_out, card.extraction) == (name, 24, 16, "0f3a")
    assert card == read_card(path)
    assert type(loaded) is type(adapter) and loaded.settings == adapter.settings and not loaded.training
    assert loaded.state_dict().keys() == adapter.state_dict().keys()
    for key, value in adapter.state_dict().items():
        assert loaded.state_dict()[key].dtype == dtype and torch.equal(loaded.state_dict()[key], value)
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    inputs = {k: torch.randn(1, 3, 16, dtype=dtype) for k in ("target_states", "token_embeddings")}
    draft = torch.randn(1, 3, 24, dtype=dtype)
    # kernels may round by where in memory a weight lies
    torch.testing.assert_close(loaded(draft, **inputs), adapter.eval()(draft, **inputs))
    assert [p.name for p in path.parent.iterdir()] == ["adapter.safetensors"]


def test_changed_settings_and_dtype(tmp_path) -> None:
    adapter = build_adapter("l5", width_in=16, width_out=16, max_positions=9, num_heads=2)
    loaded, card = load_adapter(save_adapter(tmp_path / "a", adapter, extraction="x"), dtype=torch.float64)
    assert card.settings["max_positions"] == 9 and loaded.positions.shape == (9, 16)
    assert loaded.positions.dtype == torch.float64 and card.dtype == "float32"


def test_level_6_is_stored_without_the_decoder(tmp_path) -> None:
    adapter = build_adapter("l6", width_in=16, width_out=16, num_layers=1)
    loaded, _ = load_adapter(save_adapter(tmp_path / "a", adapter, extraction="x"))
    parts = [f"layers.0.{name}.{side}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj")
             for side in ("down", "up")]  # fmt: skip
    assert sorted(loaded.state_dict()) == sorted(parts)


def test_other_models_are_refused_by_name(tmp_path) -> None:
    card = read_card(save_adapter(tmp_path / "a", small("l4"), extraction="0f3a"))
    card.check_widths(event_model="nano", width_in=24, target="nano", width_out=16)
    with pytest.raises(CheckpointError) as refused:
        card.check_widths(event_model="eventgpt-13b", width_in=5120, target="video-llava-7b", width_out=16)
    assert str(refused.value) == (
        "adapter 'l4' takes states of width 24, but event model 'eventgpt-13b' has 5120; it was trained on "
        "extraction run 0f3a: extract and train again for this event model"
    )
    with pytest.raises(CheckpointError, match="gives states of width 16, but target 'video-llava-7b' has 4096"):
        card.check_widths(event_model="nano", width_in=24, target="video-llava-7b", width_out=4096)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_adapter_is_not_written(bad: float, tmp_path) -> None:
    adapter = small("l1")
    with torch.no_grad():
        adapter.blocks[0].up.weight[1, 0] = bad
    with pytest.raises(CheckpointError, match="blocks.0.up.weight in adapter 'l1' has NaN or infinite values"):
        save_adapter(tmp_path / "a", adapter, extraction="x")
    assert not list(tmp_path.iterdir())


def rewritten(tmp_path, tensors=None, **card):
    """A checkpoint of l1 with some of its tensors or of its header changed."""
    path = save_adapter(tmp_path / "a", small("l1"), extraction="x")
    loaded, was = load_adapter(path)
    header = {"schema": 1, **vars(was), **card}
    state = {**loaded.state_dict(), **(tensors or {})}
    save_file(
        {k: v.clone() for k, v in state.items() if v is not None},
        path,
        {"crossdraft.adapter": json.dumps({k: v for k, v in header.items() if v is not None})},
    )
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": {"front.bias": torch.full((16,), float("nan"))}}, "front.bias in .* has NaN"),
        ({"tensors": {"front.bias": torch.zeros(16, dtype=torch.long)}}, "is torch.int64"),
        ({"tensors": {"front.bias": None}}, "front.bias is missing"),
        ({"tensors": {"front.bias": torch.zeros(5)}}, r"front.bias is \(5,\), expected \(16,\)"),
        ({"tensors": {"more": torch.zeros(5)}}, r"more is \(5,\), expected none of that name"),
        ({"level": "l7"}, "unknown adapter 'l7'"),
        ({"level": ["l1"]}, "another version or damaged"),
        ({"settings": {"rank": 2}}, "unknown key 'rank'"),
        ({"settings": {"num_blocks": 10**9}}, "num_blocks is 1000000000"),
        ({"settings": [1]}, "unreadable header"),
        ({"width_in": 10**12}, "width_in is 1000000000000"),
        ({"width_in": "24"}, "width_in is '24'"),
        ({"width_out": None}, "missing width_out"),
        ({"dtype": "int8"}, "unreadable header"),
        ({"schema": 2}, "newer version"),
        ({"schema": None}, "unreadable header"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(changes, message, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=message) as refused:
        load_adapter(rewritten(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_what_is_no_checkpoint_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such adapter checkpoint"):
        load_adapter(tmp_path / "none.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="read from safetensors only"):
        load_adapter(tmp_path / "old.pt")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="is no adapter checkpoint"):
        load_adapter(tmp_path / "other.safetensors")
    path = save_adapter(tmp_path / "cut", small("l1"), extraction="x")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="damaged"):
        load_adapter(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossdraftError, match="cannot write"):
        save_adapter(tmp_path / "file" / "adapter", small("l1"), extraction="x")
