"""What makes transformers' batches cheaper, against its own cache and linears; and the law of its draws."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from crossdraft.nn.linear import can_prepack
from crossdraft.training import batched
from crossdraft.training.batched import OneDraw, pack_linears, roomy_cache


def llama(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().to(dtype)


@torch.inference_mode()
def test_a_cache_with_room_holds_what_a_copied_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token beyond its room, with requests that leave the batch on the way."""
    monkeypatch.setattr(batched, "_ROOM", 5)
    model, tokens = llama(torch.float32), torch.randint(96, (4, 30), generator=torch.Generator().manual_seed(1))
    ours, theirs = roomy_cache(2), DynamicCache()
    for start, end in ((0, 7), *((at, at + 1) for at in range(7, 30))):
        if start in (12, 13, 20):
            on = torch.tensor({12: [0, 2, 3], 13: [2, 1], 20: [1]}[start])
            ours.batch_select_indices(on)
            theirs.batch_select_indices(on)
            tokens = tokens[on]
        got, want = (model(tokens[:, start:end], past_key_values=cache).logits for cache in (ours, theirs))
        assert torch.equal(got, want), start
        for mine, other in zip(ours.layers, theirs.layers, strict=True):
            assert torch.equal(mine.keys, other.keys) and torch.equal(mine.values, other.values)
    assert ours.get_seq_length() == theirs.get_seq_length() == 30


@torch.inference_mode()
def test_a_token_is_written_without_a_copy_of_the_others() -> None:
    layer = roomy_cache(1).layers[0]
    new = torch.ones(1, 2, 1, 8)
    places = {layer.update(new, new)[0].data_ptr() for _ in range(batched._ROOM)}
    assert len(places) == 1
    layer.batch_select_indices(torch.tensor([0]))
    assert layer._room is None, "what those hold that are gone is given up at once"


@torch.inference_mode()
def test_packed_linears_say_what_the_model_says() -> None:
    tokens = torch.randint(96, (3, 9), generator=torch.Generator().manual_seed(1))
    wide = llama(torch.float32)
    want = wide(tokens).logits
    pack_linears(wide)
    assert all(type(m) is not batched._Packed for m in wide.modules()), "float32 is left as it is"
    narrow = llama(torch.bfloat16)
    before = narrow(tokens).logits.float()
    pack_linears(narrow)
    packed = [m for m in narrow.modules() if isinstance(m, batched._Packed)]
    if can_prepack(torch.bfloat16, torch.device("cpu")):
        assert len(packed) == 15 and not any(isinstance(m, nn.Linear) for m in narrow.modules())
    else:
        assert not packed
    after = narrow(tokens).logits.float()
    assert after.shape == want.shape
    assert (after - want).abs().max() < 1.5 * (before - want).abs().max() + 1e-3


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, 1 - 2**-24])
def test_what_has_no_share_is_never_drawn(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    none = float("-inf")
    scores = torch.tensor(
        [[none, none, 1.0, none, 3.0, none, 2.0, none, none], [none] * 8 + [0.0], [0.0] + [none] * 8]
    )
    monkeypatch.setattr(batched.torch, "rand_like", lambda like: torch.full_like(like, number))
    left = OneDraw(0.7)(torch.zeros(3, 1, dtype=torch.long), scores)
    assert (left.isfinite().sum(1) == 1).all()
    assert scores[left.isfinite()].isfinite().all()


def test_the_number_is_a_place_in_the_running_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    drawn = []
    for number in (0.05, 0.15, 0.29, 0.31, 0.59, 0.61, 0.99):
        monkeypatch.setattr(batched.torch, "rand_like", lambda like, number=number: torch.full_like(like, number))
        drawn.append(int(OneDraw(1.0)(torch.zeros(1, 1, dtype=torch.long), shares.log()[None]).argmax()))
    assert drawn == [0, 1, 1, 2, 2, 3, 3]
