from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.data.scenes import COLOURS, HEADINGS, KINDS, SIZE, SPEEDS, make_stream

SEEDS = st.integers(0, 10_000)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, index=st.integers(0, 11), kind=st.sampled_from(["drive", "cut"]))
def test_any_clip_alone_is_the_same_clip(seed, index, kind):
    whole = make_stream(seed, 12, kind)
    if index:
        whole.clip(index - 1).frames(2)
    first, again = whole.clip(index), make_stream(seed, 12, kind).clip(index)
    assert np.array_equal(first.frames(2), again.frames(2))
    assert first.objects_at(first.middle_us) == again.objects_at(again.middle_us)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, index=st.integers(0, 10))
def test_neighbours_share_the_pictures_of_their_common_half(seed, index):
    stream = make_stream(seed, 12)
    here, after = stream.clip(index), stream.clip(index + 1)
    assert after.start_us == here.middle_us
    times = after.start_us + np.array([0, 250_000])
    assert np.array_equal(here.frames(times_us=times), after.frames(times_us=times))


def test_neighbours_of_a_cut_stream_show_different_scenes():
    stream = make_stream(5, 4, "cut")
    time = np.array([stream.clip(1).start_us])
    assert not np.array_equal(stream.clip(0).frames(times_us=time), stream.clip(1).frames(times_us=time))


def test_streams_of_different_seeds_are_unrelated():
    assert not np.array_equal(make_stream(1, 4).clip(0).frames(1), make_stream(2, 4).clip(0).frames(1))


def test_frames_are_those_that_video_llava_samples_of_the_video():
    clip = make_stream(3, 4).clip(2)
    every = clip.frames(None)
    assert every.shape == (20, SIZE, SIZE, 3) and every.dtype == np.uint8
    assert np.array_equal(clip.frames(8), every[[0, 2, 5, 8, 10, 13, 16, 19]])


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, index=st.integers(0, 11))
def test_objects_are_ordered_and_move_as_they_are_said_to(seed, index):
    clip = make_stream(seed, 12).clip(index)
    before = clip.objects_at(clip.middle_us)
    after = {o.track: o for o in clip.objects_at(clip.middle_us + 100_000)}
    assert [o.order for o in before] == list(range(len(before)))
    assert all(a.bottom >= b.bottom for a, b in pairwise(before))
    for o in before:
        assert o.kind in KINDS and o.colour in COLOURS and o.heading in HEADINGS and o.speed in SPEEDS
        assert 0 <= o.visible <= 1 and o.w > 0 and o.h > 0
        if o.track in after:
            new = after[o.track]
            moved = {
                "left": o.cx - new.cx,
                "right": new.cx - o.cx,
                "towards": min(new.bottom - o.bottom, new.h - o.h),
                "away": min(o.bottom - new.bottom, o.h - new.h),
            }
            assert moved[o.heading] > 0


def test_quick_objects_cover_at_least_three_times_the_way_of_slow_ones():
    ways = {speed: [] for speed in SPEEDS}
    for seed in range(12):
        stream = make_stream(seed, 16)
        for i in range(0, 16, 5):
            clip = stream.clip(i)
            after = {o.track: o for o in clip.objects_at(clip.middle_us + 100_000)}
            for o in clip.visible_objects():
                if o.heading in ("left", "right") and o.track in after:
                    ways[o.speed].append(abs(after[o.track].cx - o.cx))
    assert min(ways["quick"]) > 3 * max(ways["slow"])


def test_no_value_is_more_than_about_twice_as_frequent_as_another():
    seen = {name: Counter() for name in ("kind", "colour", "heading", "speed")}
    light, nums = Counter(), Counter()
    for seed in range(70):
        stream = make_stream(10_000 + seed, 24)
        for i in (11, 15, 19, 23):
            clip = stream.clip(i)
            objects = clip.visible_objects()
            light[clip.era.daylight] += 1
            nums[len(objects)] += 1
            for o in objects:
                for name, counter in seen.items():
                    counter[getattr(o, name)] += 1
    for counter in (*seen.values(), light):
        assert max(counter.values()) < 2.2 * min(counter.values()), counter
    assert max(nums[n] for n in (1, 2, 3, 4)) < 2.5 * min(nums[n] for n in (1, 2, 3, 4)), nums
    assert sum(nums[n] for n in (1, 2, 3, 4)) > 0.93 * sum(nums.values())


def test_wrong_settings_are_refused_in_one_line():
    with pytest.raises(SettingError, match="drive or cut"):
        make_stream(1, 4, "film")
    with pytest.raises(SettingError, match="0 clips"):
        make_stream(1, 0)
    with pytest.raises(SettingError, match="clips 0 to 3"):
        make_stream(1, 4).clip(4)
