"""A row's bits do not depend on the pass it is in: chains, trees, buckets, widths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import path_to
from crossdraft.nn import kernels
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine
from crossdraft.nn.pins import Pins


def tokens(count, seed=0, vocab=131):
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(seed))


def prefilled(engine, length, capacity=400):
    cache = engine.new_cache(capacity)
    engine.prefill(engine.embed(tokens(length, seed=9)), cache)
    return cache


def plain(engine, cache, text, capture=(0, -1)):
    """Text, one token a pass: (logits, states) by position; the cache comes back as it was."""
    start, rows = cache.length, []
    for token in text:
        rows.append(engine.score(token.view(1), cache, capture=capture))
        cache.commit([0])
    cache.truncate(start)
    return rows


def test_the_self_test_finds_an_exact_arrangement(engine):
    assert engine.exactness.bit_exact, engine.exactness.detail
    assert engine.exactness.max_rows >= 32


# 118 and 250 let a pass cross the end of a key bucket
@pytest.mark.parametrize("length", [5, 118, 250])
def test_chains_of_every_width_equal_single_rows(engine, length):
    cache, text = prefilled(engine, length), tokens(32, seed=1)
    alone = plain(engine, cache, text)
    for width in (1, 2, 3, 5, 8, 13, 16, 24, 31, 32):
        wide = engine.score(text[:width], cache, capture=(0, -1))
        for i in range(width):
            assert torch.equal(wide.logits[i], alone[i].logits[0]), (width, i)
            for layer in (0, -1):
                assert torch.equal(wide.states[layer][i], alone[i].states[layer][0]), (width, i, layer)


def test_a_chain_wider_than_the_pinned_pass_is_cut(engine):
    cache, text = prefilled(engine, 40), tokens(80, seed=2)
    alone = plain(engine, cache, text, capture=())
    wide = engine.score(text, cache, capture=(1,))
    assert torch.equal(wide.logits, torch.cat([r.logits for r in alone]))
    assert wide.states[1].shape == (80, engine.config.hidden_size)


def assert_tree_equals_plain(engine, length, parents):
    cache, text = prefilled(engine, length), tokens(len(parents) + 1, seed=3)
    tree = engine.score(text, cache, parents=parents, capture=(1,))
    for node in range(-1, len(parents)):
        path = [0, *(n + 1 for n in path_to(parents, node))]
        alone = plain(engine, cache, text[path], capture=(1,))[-1]
        assert torch.equal(tree.logits[node + 1], alone.logits[0]), node
        assert torch.equal(tree.states[1][node + 1], alone.states[1][0]), node


@pytest.mark.parametrize("length", [6, 122])
def test_trees_equal_plain_text_along_each_path(engine, length):
    # three branches at the root, forks below, leaves at several depths
    parents = [-1, -1, -1, 0, 0, 1, 3, 3, 6, 8, 9, 10, 5, 12, 13, 14, 15, 16]
    assert_tree_equals_plain(engine, length, parents)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), length=st.integers(1, 140))
def test_any_tree_equals_plain_text_along_each_path(half_engine, data, length):
    nodes = data.draw(st.integers(1, 20))
    parents = [data.draw(st.integers(-1, node - 1)) for node in range(nodes)]
    assert_tree_equals_plain(half_engine, length, parents)


def test_a_tree_wider_than_the_pinned_pass_is_cut(small_engine):
    parents = [max(-1, node - 3) for node in range(90)]
    assert_tree_equals_plain(small_engine, 30, parents)


def close(got, want):
    # these weights make logits of 60
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("length", [6, 122])
@pytest.mark.parametrize("nodes", [5, 90])
def test_near_exact_trees_agree_with_plain_text_up_to_rounding(small_engine, length, nodes):
    """In one pass whatever the width, and said to be what it is."""
    near = small_engine.twin(tree_attention="near-exact")
    parents = [max(-1, node - 3) for node in range(nodes)]
    text = tokens(nodes + 1, seed=3)
    cache, fresh = prefilled(near, length), prefilled(small_engine, length)
    tree = near.score(text, cache, parents=parents, capture=(1,))
    exact = small_engine.score(text, fresh, parents=parents, capture=(1,))
    close(tree.logits, exact.logits)
    close(tree.states[1], exact.states[1])
    rows = [0, *(n + 1 for n in path_to(parents, nodes - 1))]
    for c in (cache, fresh):
        c.commit(rows)
    alone = prefilled(small_engine, length)
    for row in rows:
        small_engine.score(text[row].view(1), alone)
        alone.commit([0])
    for kept in ("keys", "values"):
        got, want, plain_text = (getattr(c, kept)[:, :, : alone.length] for c in (cache, fresh, alone))
        assert torch.equal(want, plain_text)
        close(got, plain_text)


def test_an_engine_says_which_tree_attention_it_has(small_engine):
    near = small_engine.twin(tree_attention="near-exact")
    assert small_engine.exactness.bit_exact and not near.exactness.bit_exact
    assert near.exactness.detail.startswith("near-exact trees")
    assert near.exactness.detail.endswith(small_engine.exactness.detail)
    # chains keep their bits
    cache, other, text = prefilled(small_engine, 20), prefilled(near, 20), tokens(9)
    assert torch.equal(small_engine.score(text, cache).logits, near.score(text, other).logits)
    with pytest.raises(SettingError, match="known: exact, near-exact"):
        small_engine.twin(tree_attention="rough")


def test_prefill_behind_other_text_equals_the_chain(engine):
    cache, text = prefilled(engine, 20), tokens(70, seed=4)
    alone = plain(engine, cache, text)
    more = engine.prefill(engine.embed(text), cache, capture=(0,))
    assert cache.length == 90
    assert torch.equal(more.logits[0], alone[-1].logits[0])
    assert torch.equal(more.states[0], torch.cat([r.states[0] for r in alone]))


def test_unembed_gives_the_same_bits_in_any_company(engine):
    states = torch.randn(40, engine.config.hidden_size, generator=torch.Generator().manual_seed(5))
    together = engine.unembed(states)
    assert together.dtype == torch.float32
    assert all(torch.equal(engine.unembed(states[i : i + 1])[0], together[i]) for i in range(40))


def test_caches_take_turns(engine):
    text = tokens(12, seed=6)
    one, two = prefilled(engine, 10), prefilled(engine, 33)
    alone = [r.logits for r in plain(engine, one, text)]
    for i, token in enumerate(text):
        got = engine.score(token.view(1), one).logits
        engine.score(text[: i + 1], two)
        one.commit([0])
        assert torch.equal(got, alone[i])


def test_the_callers_embeddings_stay_as_they_are(engine):
    embeds = engine.embed(tokens(9)).clone()
    before = embeds.clone()
    engine.prefill(embeds, engine.new_cache(20))
    assert torch.equal(embeds, before)


def test_wrong_use_is_named(small_engine):
    cache = prefilled(small_engine, 10, capacity=12)
    with pytest.raises(SettingError, match="cannot take 3 more"):
        small_engine.score(tokens(3), cache)
    with pytest.raises(SettingError, match="2 parents, got 1"):
        small_engine.score(tokens(3), prefilled(small_engine, 5), parents=[-1])
    with pytest.raises(SettingError, match="must be -1"):
        small_engine.score(tokens(2), prefilled(small_engine, 5), parents=[3])
    with pytest.raises(SettingError, match="context is 512"):
        small_engine.new_cache(513)


def test_an_unsupported_dtype_is_named(tiny_decoder):
    with pytest.raises(SettingError, match="float16"):
        Engine(tiny_decoder, torch.float16)


def test_the_self_test_sees_arithmetic_that_depends_on_the_row_count(monkeypatch, tiny_decoder):
    """It has teeth: a linear that adds its terms in another order for one row is padded, or told."""
    from crossdraft.nn import linear, selftest

    monkeypatch.setattr(selftest, "_known_linears", {})
    monkeypatch.setattr(selftest, "_known_engines", {})
    honest = linear.PackedLinear._apply

    def one_row_backwards(self, rows):
        out = honest(self, rows)
        return out + out.abs().max() * 2**-7 if rows.shape[0] == 1 else out

    monkeypatch.setattr(linear.PackedLinear, "_apply", one_row_backwards)
    padded = Engine(tiny_decoder, torch.bfloat16)
    assert padded.exactness.bit_exact
    assert all(x.min_rows >= 2 for x in padded.linears())

    monkeypatch.setattr(selftest, "_known_linears", {})
    monkeypatch.setattr(selftest, "_known_engines", {})
    monkeypatch.setattr(linear.PackedLinear, "_apply", lambda self, rows: honest(self, rows) * torch.rand(()))
    hopeless = Engine(tiny_decoder, torch.bfloat16)
    assert not hopeless.exactness.bit_exact
    assert "linear" in hopeless.exactness.detail
    assert hopeless.pins == Pins()


def test_without_oneDNN_the_engine_says_so(monkeypatch, tiny_decoder):
    from crossdraft.nn import engine as module

    monkeypatch.setattr(module, "can_prepack", lambda *_: False)
    engine = Engine(tiny_decoder, torch.bfloat16)
    assert "F.linear" in engine.exactness.detail
    cache = engine.new_cache(40)
    engine.prefill(engine.embed(tokens(9, vocab=61)), cache)
    assert engine.score(tokens(4, vocab=61), cache).logits.isfinite().all()


@pytest.mark.parametrize("parents", [None, [-1, -1, 0, 0, 3, 1]], ids=["chain", "tree"])
def test_a_pass_in_one_call_has_the_bits_of_its_layers(monkeypatch, parents):
    config = DecoderConfig(
        vocab_size=131, hidden_size=64, intermediate_size=192, num_layers=3, num_heads=4, num_kv_heads=2,
        head_dim=32, rms_norm_eps=1e-5, max_positions=512,
    )  # fmt: skip
    torch.manual_seed(3)
    engine = Engine(Decoder(config), torch.bfloat16)
    cache, text = prefilled(engine, 118), tokens(7, seed=8)
    capture = (1, -1, 0)

    def passes():
        result = engine.score(text, cache, parents=parents, capture=capture)
        written = cache.keys[:, :, 118:125].clone()
        rows = engine.run_rows(engine.embed(text), cache, 118, num_layers=2)
        return result.logits, *(result.states[layer] for layer in capture), written, rows

    assert engine._in_one_call(7, cache, capture) == (kernels.status().library is not None)
    whole = passes()
    monkeypatch.setattr(engine, "_in_one_call", lambda *_: False)
    assert all(torch.equal(a, b) for a, b in zip(whole, passes(), strict=True))


@pytest.mark.parametrize("length", [118, 250])
def test_static_passes_give_the_same_bits(half_engine, length):
    """What a CUDA device records: fixed shapes, positions in tensors, padding rows that nobody sees."""
    engine = half_engine
    static = engine.twin(static=True)
    assert static.static is not None
    cache, other, text = prefilled(engine, length), prefilled(static, length), tokens(80, seed=8)
    assert other.slots == 1024
    for width in (1, 3, 16, 19, 80):
        want = engine.score(text[:width], cache, capture=(0, -1))
        got = static.score(text[:width], other, capture=(0, -1))
        assert torch.equal(want.logits, got.logits)
        for layer in (0, -1):
            assert torch.equal(want.states[layer], got.states[layer])
    for c in (cache, other):
        c.commit(range(80))
    assert torch.equal(cache.keys[:, :, : cache.length], other.keys[:, :, : cache.length])
    parents = [-1, -1, 0, 1, 3]
    want, got = (e.score(text[:6], c, parents=parents) for e, c in ((engine, cache), (static, other)))
    assert torch.equal(want.logits, got.logits)


def test_a_dropped_cache_lends_its_memory_to_the_next(half_engine):
    static = half_engine.twin(static=True)
    first, second = static.new_cache(100), static.new_cache(100)
    where = first.keys.data_ptr()
    assert second.keys.data_ptr() != where
    del first
    assert static.new_cache(400).keys.data_ptr() == where
