"""Attention left out and watched: the engine against the differentiable decoder; what a sketch leaves behind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.types import SIMILARITY
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine
from crossdraft.nn.rope import rope_table

CONFIG = DecoderConfig(
    vocab_size=61, hidden_size=48, intermediate_size=96, num_layers=5, num_heads=4, num_kv_heads=2, head_dim=16,
    max_positions=256,
)  # fmt: skip


def make_decoder() -> Decoder:
    torch.manual_seed(3)
    decoder = Decoder(CONFIG).double()
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(3.0 if p.ndim == 2 else 1.0)
    return decoder


DECODER = make_decoder()
ENGINE = Engine(DECODER, torch.float64, self_test=False)
TEXT = torch.randint(61, (40,), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def by_hand(tokens: Tensor, skip: frozenset[int] = frozenset()) -> tuple[Tensor, Tensor]:
    """All logits (T, V), and the cosines around each layer's attention (T, L), one layer after another."""
    cos, sin = (t[None, :, None].double() for t in rope_table(DECODER.frequencies(), torch.arange(len(tokens))))
    x, cosines = DECODER.embed_tokens(tokens)[None], []
    for i, layer in enumerate(DECODER.layers):
        added = layer.self_attn(layer.input_layernorm(x), cos, sin, None)
        y = x if i in skip else x + added
        cosines.append(((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1)))[0])
        x = y + layer.mlp(layer.post_attention_layernorm(y))
    return DECODER.unembed(DECODER.norm(x))[0], torch.stack(cosines, dim=-1)


@pytest.fixture(params=[False, True], ids=["plain", "static"])
def engine(request) -> Engine:
    return ENGINE.twin(static=request.param)


def test_similarity_equals_the_decoders(engine: Engine) -> None:
    """Of a prompt in one pass, and of the text behind it in another."""
    expected = by_hand(TEXT)[1]
    cache = engine.new_cache(100)
    seen = engine.prefill(engine.embed(TEXT[:25]), cache, (SIMILARITY,)).states[SIMILARITY]
    torch.testing.assert_close(seen.double(), expected[:25], atol=1e-6, rtol=0)
    more = engine.score(TEXT[25:], cache, capture=(1, SIMILARITY)).states
    assert more[1].shape == (15, 48)
    torch.testing.assert_close(more[SIMILARITY].double(), expected[25:], atol=1e-6, rtol=0)


def test_a_tree_is_watched_along_its_paths(engine: Engine) -> None:
    cache = engine.new_cache(100)
    engine.prefill(engine.embed(TEXT[:20]), cache)
    seen = engine.score(TEXT[20:24], cache, parents=[-1, 0, -1], capture=(SIMILARITY,)).states[SIMILARITY]
    other = by_hand(TEXT[[*range(21), 23]])[1][-1]
    torch.testing.assert_close(seen.double(), torch.stack([*by_hand(TEXT[:23])[1][20:], other]), atol=1e-6, rtol=0)


def test_watching_changes_no_bit(engine: Engine) -> None:
    results = []
    for capture in ((), (SIMILARITY,)):
        cache = engine.new_cache(100)
        engine.prefill(engine.embed(TEXT[:25]), cache, capture)
        results.append(engine.score(TEXT[25:], cache, capture=capture))
    assert torch.equal(results[0].logits, results[1].logits) and not results[0].states


@settings(max_examples=25, deadline=None)
@given(
    skip=st.frozensets(st.integers(0, 4)), static=st.booleans(), read=st.integers(1, 30), ahead=st.integers(1, 6)
)
def test_a_sketch_is_the_decoder_without_those_blocks(
    skip: frozenset[int], static: bool, read: int, ahead: int
) -> None:
    """It sees what the whole model left in the cache of the blocks that attend, and its own rows behind that."""
    engine = ENGINE.twin(static=static)
    cache = engine.new_cache(64)
    engine.prefill(engine.embed(TEXT[:read]), cache)
    keys, values = cache.keys[:, :, :read].clone(), cache.values[:, :, :read].clone()
    sketched = torch.cat([engine.sketch(int(t), cache, i, skip) for i, t in enumerate(TEXT[read : read + ahead])])
    assert torch.equal(cache.keys[:, :, :read], keys) and torch.equal(cache.values[:, :, :read], values)
    assert (cache.length, cache.pending_rows) == (read, 0)
    expected = mixed_by_hand(TEXT[: read + ahead], read, skip)[read:]
    torch.testing.assert_close(sketched.double(), expected.float().double(), atol=1e-4, rtol=1e-4)
    # a pass behind it finds nothing of it
    fresh = engine.new_cache(64)
    engine.prefill(engine.embed(TEXT[:read]), fresh)
    assert torch.equal(
        engine.score(TEXT[read : read + 2], cache).logits, engine.score(TEXT[read : read + 2], fresh).logits
    )


@torch.no_grad()
def mixed_by_hand(tokens: Tensor, read: int, skip: frozenset[int]) -> Tensor:
    """Logits of rows behind ``read`` without the blocks in ``skip``, those before as the whole model has them."""
    cos, sin = (t[None, :, None].double() for t in rope_table(DECODER.frequencies(), torch.arange(len(tokens))))
    x = DECODER.embed_tokens(tokens)[None]
    for i, layer in enumerate(DECODER.layers):
        added = layer.self_attn(layer.input_layernorm(x), cos, sin, None)
        if i in skip:
            added[:, read:] = 0
        x = layer.mlp(layer.post_attention_layernorm(x + added)) + x + added
    return DECODER.unembed(DECODER.norm(x))[0]


def test_recorded_sketches_do_not_pile_up() -> None:
    engine = ENGINE.twin(static=True)
    cache = engine.new_cache(64)
    engine.prefill(engine.embed(TEXT[:10]), cache)
    engine.score(TEXT[10:12], cache)
    cache.commit([0, 1])
    assert engine.static is not None
    before = len(engine.static._passes)
    for skip in ({1}, {2}, {1, 2}, {3}):
        engine.sketch(5, cache, 0, frozenset(skip))
        engine.sketch(5, cache, 1, frozenset(skip))
    assert len(engine.static._passes) == before + 1


def test_a_sketch_keeps_off_a_pass_that_waits_and_beyond_the_cache(engine: Engine) -> None:
    cache = engine.new_cache(12)
    engine.prefill(engine.embed(TEXT[:10]), cache)
    engine.score(TEXT[10:12], cache)
    with pytest.raises(SettingError, match="waits for its commit"):
        engine.sketch(5, cache, 0, frozenset())
    cache.commit([0, 1])
    with pytest.raises(SettingError, match="cannot take 1 more"):
        engine.sketch(5, cache, 0, frozenset())
