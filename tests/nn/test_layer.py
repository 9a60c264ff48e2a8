"""The packed layer against the trained one, and the masked attention against the chain."""

import pytest
import torch

from crossdraft.cache.dense import DenseCache
from crossdraft.nn.attention import attend_chain, attend_masked
from crossdraft.nn.decoder import Attention, DecoderConfig, DecoderLayer
from crossdraft.nn.layer import PackedLayer, attention_dtype, rotations
from crossdraft.nn.linear import can_prepack
from crossdraft.nn.pins import Pins
from crossdraft.nn.rope import rope_table

CPU = torch.device("cpu")
CONFIG = DecoderConfig(
    vocab_size=11, hidden_size=48, intermediate_size=80, num_layers=1, num_heads=6, num_kv_heads=2, head_dim=8
)


def cache_of(rows, cfg=CONFIG, dtype=torch.float32):
    return DenseCache(
        num_layers=1, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim, capacity=rows, dtype=dtype, device=CPU
    )


# a target's layer; EAGLE's, without input norm; EAGLE-3's, whose attention reads twice the residual's width
@pytest.mark.parametrize(("size", "norm"), [(None, True), (None, False), (96, False)])
def test_a_packed_layer_computes_what_the_module_does(size, norm):
    torch.manual_seed(3)
    layer = DecoderLayer(CONFIG, size, norm)
    x = torch.randn(13, 48)
    reads = None if size is None else torch.randn(13, size)
    cos, sin = (t[None, :, None] for t in rope_table(CONFIG.frequencies(), torch.arange(13)))
    with torch.no_grad():
        want = layer(x[None], cos, sin, None, None if reads is None else reads[None])[0]
    packed = PackedLayer(layer, torch.float32, CPU, can_prepack(torch.float32, CPU))
    cache = cache_of(20)
    before = x.clone()

    def attend(q, k, v, index):
        return attend_chain(q, k, v, cache, index, 0, Pins(), fresh=False)

    got = packed(x, rotations(CONFIG, 13, torch.float32, CPU), attend, 0, reads)
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.equal(x, before)


def test_a_layer_without_input_norm_has_no_weight_for_it():
    names = DecoderLayer(CONFIG, 96, False).state_dict()
    assert "input_layernorm.weight" not in names
    assert names["self_attn.k_proj.weight"].shape == (16, 96)


def test_mixing_over_other_keys_than_the_rows_own():
    torch.manual_seed(4)
    attention = Attention(CONFIG).double()
    x, other = torch.randn(2, 5, 48).double(), torch.randn(2, 9, 48).double()
    cos, sin = (t.double()[None, :, None] for t in rope_table(CONFIG.frequencies(), torch.arange(9)))
    q, _, _ = attention.project(x, cos[:, :5], sin[:, :5])
    _, k, v = attention.project(other, cos, sin)
    mask = torch.rand(5, 9) < 0.5
    mask[:, 0] = True
    got = attention.o_proj(attention.attend(q, k, v, mask))
    k, v = (t.repeat_interleave(3, dim=2) for t in (k, v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    weights = weights.masked_fill(~mask, -torch.inf).softmax(-1)
    want = attention.o_proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))
    assert torch.allclose(got, want, atol=1e-12)
    own = attention(x, cos[:, :5], sin[:, :5], None)
    causal = attention.attend(*attention.project(x, cos[:, :5], sin[:, :5]), None)
    assert torch.allclose(own, attention.o_proj(causal))


@pytest.mark.parametrize("start", [0, 30, 125])
def test_masked_attention_agrees_with_the_chain_and_with_each_path(start):
    draw = torch.Generator().manual_seed(start)
    chain, tree = cache_of(200), cache_of(200)
    for c in (chain, tree):
        shape = c.keys[0, :, :start].shape
        c.keys[0, :, :start] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        c.values[0, :, :start] = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    q = torch.randn(9, 2, 3, 8, generator=draw)
    k, v = (torch.randn(9, 2, 8, generator=draw) for _ in range(2))
    hidden = torch.zeros(9, start + 9, dtype=torch.bool)
    hidden[:, start:] = torch.ones(9, 9).triu(1).bool()
    want = attend_chain(q, k, v, chain, 0, start, Pins(query_rows=4), fresh=False)
    assert torch.allclose(attend_masked(q, k, v, tree, 0, start, hidden, Pins()), want, atol=1e-6)
    # rows 0, 2, 5 as one path: everything else is hidden from row 5
    path = [0, 2, 5]
    hidden[5, start:] = True
    hidden[5, [start + r for r in path]] = False
    got = attend_masked(q, k, v, tree, 0, start, hidden, Pins())[5]
    want = attend_chain(q[path], k[path], v[path], chain, 0, start, Pins(), fresh=False)[-1]
    assert torch.allclose(got, want, atol=1e-6)


def test_half_precision_attends_in_single_precision_on_a_cpu():
    assert attention_dtype(torch.bfloat16, CPU) == torch.float32
    assert attention_dtype(torch.float64, CPU) == torch.float64
