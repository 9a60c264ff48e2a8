import numpy as np

from crossdraft.data.scenes import SIZE, make_stream
from crossdraft.data.scenes.world import World


def moving_alone(heading: str, speed: str):
    """A clip, an object of it that moves this way and its track, well inside the picture."""
    for seed in range(200):
        clip = make_stream(seed, 8).clip(3)
        for o in clip.visible_objects():
            if o.heading == heading and o.speed == speed and 30 < o.cx < 66 and o.visible > 0.95 and o.w > 10:
                return clip, o
    raise AssertionError("no such object in 200 streams")


def test_events_are_sorted_inside_the_clip_and_the_same_again():
    clip = make_stream(7, 6).clip(2)
    events, again = clip.events(), clip.events()
    assert events.sensor_size == (SIZE, SIZE)
    assert (np.diff(events.t_us) >= 0).all()
    assert clip.start_us <= events.t_us[0] and events.t_us[-1] < clip.end_us
    assert events.x.max() < SIZE and events.y.max() < SIZE
    assert set(np.unique(events.p)) == {0, 1}
    assert np.array_equal(events.t_us, again.t_us) and np.array_equal(events.x, again.x)
    assert 2_000 < len(events) < 200_000


def test_events_follow_the_object_that_moves():
    clip, o = moving_alone("right", "quick")
    events = clip.events()
    for t_us in (clip.middle_us - 100_000, clip.middle_us + 100_000):
        now = next(p for p in clip.objects_at(t_us) if p.track == o.track)
        around = events.between(t_us - 10_000, t_us + 10_000)
        inside = (abs(around.x + 0.5 - now.cx) < now.w / 2 + 2) & (abs(around.y + 0.5 - now.cy) < now.h / 2 + 2)
        share_of_area = (now.w + 4) * (now.h + 4) / SIZE**2
        assert inside.mean() > 3 * share_of_area


def test_quick_objects_make_more_events_than_slow_ones():
    rates = {}
    for speed in ("slow", "quick"):
        clip, o = moving_alone("left", speed)
        times = np.arange(clip.middle_us - 100_000, clip.middle_us + 100_000, 20_000)
        events, total = clip.events(), 0.0
        for t_us in times:
            now = next(p for p in clip.objects_at(int(t_us)) if p.track == o.track)
            part = events.between(int(t_us), int(t_us) + 20_000)
            inside = (abs(part.x + 0.5 - now.cx) < now.w / 2 + 1) & (abs(part.y + 0.5 - now.cy) < now.h / 2 + 1)
            total += inside.sum() / (now.w * now.h)
        rates[speed] = total
    assert rates["quick"] > 1.5 * rates["slow"]


def test_where_nothing_changes_there_is_only_noise(monkeypatch):
    from crossdraft.data.scenes import sense as module

    still = np.full((1, SIZE, SIZE), 90.0, np.float32)
    monkeypatch.setattr(module, "render", lambda world, times, luminance: np.repeat(still, len(times), 0))
    x, _, _, _ = module.sense(World(1, 2.0), 0, 1_000_000)
    expected = module.NOISE_HZ * SIZE**2
    assert abs(len(x) - expected) < 6 * expected**0.5


def test_a_step_of_light_makes_as_many_events_as_thresholds_fit(monkeypatch):
    from crossdraft.data.scenes import sense as module

    def step(world, times, luminance):
        grey = np.full((len(times), SIZE, SIZE), 40.0, np.float32)
        grey[len(times) // 2 :] = 160.0
        return grey

    monkeypatch.setattr(module, "render", step)
    monkeypatch.setattr(module, "NOISE_HZ", 0.0)
    _, _, t_us, p = module.sense(World(1, 2.0), 0, 1_000_000)
    change = np.log((160 + module.LOG_OFFSET) / (40 + module.LOG_OFFSET))
    assert p.all()
    assert abs(len(p) / SIZE**2 - change / module.THRESHOLD) < 0.6
    assert abs(t_us - 500_000).max() < 10_000
