import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.cache.dense import DenseCache
from crossdraft.core.errors import SettingError
from crossdraft.core.tree import path_to
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine


@pytest.fixture(scope="module")
def engine():
    torch.manual_seed(5)
    config = DecoderConfig(
        vocab_size=53,
        hidden_size=48,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_positions=300,
    )
    return Engine(Decoder(config), torch.bfloat16)


def small(capacity=20):
    return DenseCache(num_layers=2, num_kv_heads=3, head_dim=4, capacity=capacity, dtype=torch.float32, bucket=16)


def write(cache, rows, seed=0):
    """Pretend that a chain pass wrote these rows."""
    cache.open_pass(rows)
    draw = torch.Generator().manual_seed(seed)
    part = slice(cache.length, cache.length + rows)
    cache.keys[:, :, part] = torch.randn(2, 3, rows, 4, generator=draw)
    cache.values[:, :, part] = torch.randn(2, 3, rows, 4, generator=draw)


def test_nothing_is_allocated_after_the_start():
    cache = small()
    where = cache.keys.data_ptr(), cache.values.data_ptr()
    for seed in range(4):
        write(cache, 5, seed)
        cache.commit([0, 2, 4])
    assert cache.length == 12
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == where
    assert cache.slots == 32
    assert cache.size_bytes == 2 * 2 * 3 * 4 * 32 * 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.sets(st.integers(0, 5))), max_size=4), st.integers(0, 20))
def test_commit_keeps_just_these_rows(passes, cut):
    cache, keys, values = small(24), torch.zeros(2, 3, 0, 4), torch.zeros(2, 3, 0, 4)
    for seed, (rows, wanted) in enumerate(passes):
        kept = sorted(r for r in wanted if r < rows)
        write(cache, rows, seed)
        part = slice(cache.length, cache.length + rows)
        keys = torch.cat((keys, cache.keys[:, :, part][:, :, kept]), 2)
        values = torch.cat((values, cache.values[:, :, part][:, :, kept]), 2)
        cache.commit(kept)
    assert cache.length == keys.shape[2]
    cut = min(cut, cache.length)
    cache.truncate(cut)
    assert cache.room == 24 - cut
    assert torch.equal(cache.keys[:, :, :cut], keys[:, :, :cut])
    assert torch.equal(cache.values[:, :, :cut], values[:, :, :cut])


@settings(max_examples=15, deadline=None)
@given(data=st.data(), prompt=st.integers(1, 125))
def test_after_commits_the_cache_equals_a_fresh_pass_over_the_committed_text(engine, data, prompt):
    """Whatever chains and trees were scored, kept and dropped: the same bits as plain decoding leaves."""
    ids = torch.randint(53, (160,), generator=torch.Generator().manual_seed(prompt))
    cache, fresh = engine.new_cache(200), engine.new_cache(200)
    for c in (cache, fresh):
        engine.prefill(engine.embed(ids[:prompt]), c)
    text: list[int] = []
    for seed in range(data.draw(st.integers(1, 4))):
        nodes = data.draw(st.integers(0, 7))
        parents = [data.draw(st.integers(-1, n - 1)) for n in range(nodes)]
        tokens = torch.randint(53, (nodes + 1,), generator=torch.Generator().manual_seed(seed))
        engine.score(tokens, cache, parents=parents)
        rows = [0]
        if nodes:
            path = path_to(parents, data.draw(st.integers(-1, nodes - 1)))
            rows += [n + 1 for n in path]
        cache.commit(rows)
        text += tokens[rows].tolist()
        if data.draw(st.booleans()):
            keep = data.draw(st.integers(0, len(text)))
            text = text[:keep]
            cache.truncate(prompt + keep)
    for token in text:
        engine.score(torch.tensor([token]), fresh)
        fresh.commit([0])
    assert cache.length == fresh.length == prompt + len(text)
    assert torch.equal(cache.keys[:, :, : cache.length], fresh.keys[:, :, : cache.length])
    assert torch.equal(cache.values[:, :, : cache.length], fresh.values[:, :, : cache.length])


def test_a_tree_leaves_the_committed_text_alone(engine):
    cache = engine.new_cache(100)
    engine.prefill(engine.embed(torch.arange(40)), cache)
    before = cache.keys[:, :, :40].clone(), cache.values[:, :, :40].clone()
    engine.score(torch.arange(6), cache, parents=[-1, -1, 0, 1, 2])
    assert torch.equal(cache.keys[:, :, :40], before[0])
    assert torch.equal(cache.values[:, :, :40], before[1])


def test_wrong_use_is_named():
    with pytest.raises(SettingError, match="capacity is 0"):
        small(0)
    cache = small(10)
    with pytest.raises(SettingError, match="cannot take 11"):
        cache.open_pass(11)
    write(cache, 4)
    for rows in ([4], [1, 0], [0, 0], [-1]):
        with pytest.raises(SettingError, match="last pass left 4 rows"):
            cache.commit(rows)
    cache.commit([0, 1])
    with pytest.raises(SettingError, match="last pass left 0 rows"):
        cache.commit([0])
    with pytest.raises(SettingError, match="cannot truncate the cache to 3"):
        cache.truncate(3)
