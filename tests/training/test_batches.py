"""Every sample once an epoch, nothing of a recording on both sides, and padding that is known as such."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, SettingError
from crossdraft.training.batches import Order, Pairs, split_recordings

Make = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.fixture
def pairs(lesson: Make) -> Pairs:
    return Pairs(lesson(recordings=8, clips=7, per_shard=5).store)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_sample_once_an_epoch(pairs: Pairs, data: st.DataObject) -> None:
    count = len(pairs.lengths)
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    size, multiple = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 3))
    window = data.draw(st.sampled_from([1, 2000, 1 << 40]))
    order = Order(pairs, places, size, data.draw(st.integers(0, 9)), multiple=multiple, window_bytes=window)
    for epoch in (0, 3):
        batches = order.epoch(epoch)
        assert len(batches) == order.num_batches and order.num_batches % multiple == 0
        assert sorted(np.concatenate(batches).tolist()) == sorted(places)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
        for at, batch in enumerate(batches):
            np.testing.assert_array_equal(order.batch(epoch * order.num_batches + at), batch)


def test_epochs_differ_and_seeds_decide(pairs: Pairs) -> None:
    places = range(len(pairs.lengths))
    one, again, other = (Order(pairs, places, 8, seed) for seed in (0, 0, 1))
    flat = [np.concatenate(order.epoch(e)).tolist() for order, e in ((one, 0), (again, 0), (one, 1), (other, 0))]
    assert flat[0] == flat[1] and flat[0] != flat[2] and flat[0] != flat[3]


def test_little_of_a_batch_is_padding(pairs: Pairs) -> None:
    """Bucketing leaves at most as much padding as sorting by length within each pool does; shuffled order more."""
    order = Order(pairs, range(len(pairs.lengths)), 7, 0)
    padded = sum(int(pairs.lengths[b].max()) * len(b) for b in order.epoch(0))
    rng = np.random.default_rng(0)
    shuffled = np.array_split(rng.permutation(len(pairs.lengths)), order.num_batches)
    assert padded <= 1.1 * pairs.lengths.sum()
    assert padded < sum(int(pairs.lengths[b].max()) * len(b) for b in shuffled)


def test_a_small_window_reads_shard_after_shard(pairs: Pairs) -> None:
    """Locality: with windows of one shard, a batch's worth of samples never comes from far away."""
    order = Order(pairs, range(len(pairs.lengths)), 1, 0, window_bytes=1)
    shards = [pairs.store.entries[int(b[0])].shard for b in order.epoch(0)]
    blocks = [shards[i : i + 16] for i in range(0, len(shards), 16)]
    assert all(len(set(block)) <= 5 for block in blocks)  # 16 samples of shards of 5: 3 whole ones and two ends
    assert len(set(shards)) == 12


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 55), min_size=1, max_size=6))
def test_a_batch_is_its_samples_padded(pairs: Pairs, places: list[int]) -> None:
    batch = pairs.take(places, CPU)
    assert batch.draft.dtype == batch.target.dtype == torch.float32 and batch.tokens is not None
    for row, place in enumerate(places):
        sample, k = pairs.store[place], int(pairs.lengths[place])
        assert batch.mask[row].tolist() == [True] * k + [False] * (batch.mask.shape[1] - k)
        torch.testing.assert_close(batch.draft[row, :k], sample.draft_states.float(), atol=0, rtol=0)
        torch.testing.assert_close(batch.target[row, :k], sample.target_states.float(), atol=0, rtol=0)
        assert torch.equal(batch.tokens[row, :k], sample.target_tokens)
        for padded in (batch.draft, batch.target, batch.tokens):
            assert not padded[row, k:].any()


def test_free_running_pairs_are_cut_to_the_shorter(lesson: Make) -> None:
    store = lesson(free_running=True).store
    pairs = Pairs(store)
    both = {
        (len(s.target_states) > len(s.draft_states)) for s in store if len(s.target_states) != len(s.draft_states)
    }
    assert both == {True, False}
    assert pairs.lengths.tolist() == [min(len(s.target_states), len(s.draft_states)) for s in store]
    batch = pairs.take(range(len(store)), CPU)
    assert batch.mask.sum(1).tolist() == pairs.lengths.tolist()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.001, 0.999), seed=st.integers(0, 99))
def test_whole_recordings_are_held_out(pairs: Pairs, share: float, seed: int) -> None:
    train, held_out = split_recordings(pairs.store, share, seed)
    assert train and held_out and not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(pairs.store.recordings)
    assert abs(len(held_out) - share * 8) <= 1
    assert (train, held_out) == split_recordings(pairs.store, share, seed)


def test_what_cannot_be_split_is_one_line(lesson: Make) -> None:
    store = lesson(recordings=1).store
    with pytest.raises(DataError, match=r"all samples are of one recording \('rec_0'\), so none can be held out"):
        split_recordings(store, 0.1, 0)
    with pytest.raises(DataError, match="has no samples yet"):
        split_recordings(replace(store, entries=()), 0.1, 0)
    for share in (0.0, 1.0):
        with pytest.raises(SettingError, match=f"validation is {share}"):
            split_recordings(store, share, 0)
