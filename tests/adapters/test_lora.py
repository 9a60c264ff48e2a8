import pytest
import torch
from torch import nn

from crossdraft.adapters import build_adapter
from crossdraft.adapters.lora import L6
from crossdraft.core.errors import SettingError
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine

# grouped queries, so that no two of the shapes agree
CONFIG = DecoderConfig(
    vocab_size=30,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG).double()


def adapter(*, is_trained: bool = True, **changes: object) -> L6:
    torch.manual_seed(1)
    built = build_adapter("l6", width_in=24, width_out=24, **{**L6.shape_of(CONFIG), "rank": 3, **changes})
    assert isinstance(built, L6)
    if is_trained:
        for parameter in built.parameters():
            nn.init.normal_(parameter, std=0.2)
    return built.double().eval()


def states(model: Decoder) -> torch.Tensor:
    ids = torch.arange(10).view(1, 10) % 30
    return model(model.embed_tokens(ids))[0]


def test_it_starts_as_the_decoder_itself() -> None:
    model = decoder()
    before = states(model)
    fresh = adapter(is_trained=False)
    fresh.inject(model)
    assert torch.equal(states(model), before)
    assert torch.equal(fresh(before), before)


def test_the_change_is_the_low_rank_product_by_hand() -> None:
    """One linear: W x + (alpha / rank) up (down x)."""
    model, change = decoder(), adapter(alpha=6.0)
    linear, part = model.layers[0].self_attn.k_proj, change.layers[0]["k_proj"]
    x = torch.randn(5, 24, dtype=torch.float64)
    change.inject(model)
    wanted = x @ linear.weight.T + 2.0 * (x @ part.down.weight.T) @ part.up.weight.T
    torch.testing.assert_close(linear(x), wanted, atol=1e-12, rtol=0)


def test_merged_equals_injected_and_comes_out_again() -> None:
    model, change = decoder(), adapter()
    names, weights = list(model.state_dict()), [p.clone() for p in model.parameters()]
    plain = states(model)
    change.inject(model)
    injected = states(model)
    assert (injected - plain).abs().max() > 1e-3
    change.merge()
    torch.testing.assert_close(states(model), injected, atol=1e-10, rtol=0)
    assert list(model.state_dict()) == names
    touched = [n for n, p in zip(names, weights, strict=True) if not torch.equal(model.state_dict()[n], p)]
    assert len(touched) == 8 and all("self_attn" in n for n in touched)
    change.unmerge()
    for parameter, before in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter, before, atol=1e-12, rtol=0)
    torch.testing.assert_close(states(model), injected, atol=1e-10, rtol=0)


def test_an_engine_packs_the_merged_weights() -> None:
    model, change = decoder(), adapter()
    change.inject(model)
    wanted = states(model)
    change.merge()
    engine = Engine(model, torch.float64, self_test=False)
    ids = torch.arange(10)
    got = engine.prefill(engine.embed(ids), engine.new_cache(10), capture=(-1,))
    torch.testing.assert_close(got.states[-1][-1], wanted[0, -1].detach(), atol=1e-8, rtol=0)


def test_only_the_low_rank_part_learns() -> None:
    model, change = decoder(), adapter(is_trained=False)
    change.inject(model)
    states(model).square().sum().backward()
    assert all(p.grad is None for p in model.parameters())
    for name, parameter in change.named_parameters():
        grad = parameter.grad
        # up is zero at the start, so down waits for it
        assert grad is not None and bool(grad.any()) == name.endswith("up.weight"), name
    assert not any("embed" in name for name in change.state_dict())


def test_dropout_follows_the_adapter() -> None:
    model, change = decoder(), adapter(dropout=0.5)
    change.inject(model)
    assert torch.equal(states(model), states(model))
    change.train()
    assert not torch.equal(states(model), states(model))


def test_a_half_precision_decoder_takes_a_single_precision_change() -> None:
    model, change = decoder().to(torch.bfloat16), adapter().float()
    change.inject(model)
    injected = states(model)
    assert injected.dtype == torch.bfloat16
    change.merge()
    assert model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16
    torch.testing.assert_close(states(model).float(), injected.float(), atol=0.15, rtol=0.05)


def test_out_of_turn_is_refused() -> None:
    model, change = decoder(), adapter()
    with pytest.raises(SettingError, match="inject it first"):
        change.merge()
    with pytest.raises(SettingError, match="is not merged"):
        change.unmerge()
    change.inject(model)
    with pytest.raises(SettingError, match="in a decoder already"):
        change.inject(decoder())
    with pytest.raises(SettingError, match="is not merged"):
        change.unmerge()
    change.merge()
    with pytest.raises(SettingError, match="merged already"):
        change.merge()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "changes 3 layers, but the decoder has 2"),
        ({"kv_width": 24}, r"changes a k_proj of \[24, 24\], but the decoder's is \[16, 24\]"),
    ],
)
def test_another_decoder_is_refused_untouched(changes: dict, message: str) -> None:
    model = decoder()
    before = states(model)
    with pytest.raises(SettingError, match=message):
        adapter(**changes).inject(model)
    assert torch.equal(states(model), before) and all(p.requires_grad for p in model.parameters())
