import numpy as np
import pytest

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import EventStream, VideoFrames
from crossdraft.data.align import align, load_aligned
from crossdraft.data.events import make_stream


def video(last_us: int = 700_000, frames: int = 8) -> VideoFrames:
    times = np.linspace(0, last_us, frames).astype(np.int64)
    return VideoFrames(np.zeros((frames, 2, 2, 3), np.uint8), times, "clip.mp4")


def events(times: list[int]) -> EventStream:
    n = len(times)
    return make_stream(np.arange(n), np.zeros(n, int), np.array(times), np.ones(n, int), (64, 48), "clip.npz")


def saved(path, stream: EventStream):
    np.savez(path, x=stream.x, y=stream.y, t=stream.t_us, p=stream.p, sensor_size=(64, 48))
    return path


# (event times, offset, what is left on the video's clock): the video shows 0 to 800,000 us
CASES = [
    ([0, 400_000, 799_999, 800_000], None, [0, 400_000, 799_999]),  # on the video's clock
    ([20, 900_000], None, [20]),
    ([51_835_949_776, 51_836_000_000], None, [0, 50_224]),  # on the camera's own clock: they begin together
    ([51_835_949_776, 51_836_949_776], None, [0]),
    ([51_835_949_776, 51_836_000_000], -51_835_900_000, [49_776, 100_000]),
    ([2_000_000, 2_300_000], -2_000_000, [0, 300_000]),
    ([0, 100, 200], -150, [50]),
]


@pytest.mark.parametrize(("times", "offset", "left"), CASES)
def test_events_come_onto_the_clock_of_the_video(tmp_path, times, offset, left):
    stream = events(times)
    for got in (
        align(video(), stream, offset),
        load_aligned(saved(tmp_path / "a.npz", stream), video(), None, offset),
    ):
        assert got.t_us.tolist() == left
        # x holds each event's place, so the right events are left
        assert [times[i] - times[got.x[0]] for i in got.x.tolist()] == [t - left[0] for t in left]


@pytest.mark.parametrize(
    ("times", "offset"), [([2_000_000, 3_000_000], None), ([0, 100], 10**9), ([0, 100], -200), ([-500, -3], None)]
)
def test_no_overlap_is_one_clear_line(tmp_path, times, offset):
    stream = events(times)
    for attempt in (
        lambda: align(video(), stream, offset),
        lambda: load_aligned(saved(tmp_path / "a.npz", stream), video(), None, offset),
    ):
        with pytest.raises(DataError, match=r"do not overlap the video .*--event-offset-us") as raised:
            attempt()
        assert "\n" not in str(raised.value)


def test_a_gap_within_the_span_is_no_overlap_either(tmp_path):
    stream = events([-1000, 5_000_000])
    with pytest.raises(DataError, match="do not overlap"):
        load_aligned(saved(tmp_path / "a.npz", stream), video())


def test_the_offset_that_the_error_names_helps():
    stream = events([2_000_000, 2_100_000])
    with pytest.raises(DataError) as raised:
        align(video(), stream)
    offset = int(str(raised.value).split("--event-offset-us ")[1].split(",")[0])
    assert align(video(), stream, offset).t_us.tolist() == [0, 100_000]


def test_a_picture_has_no_span(tmp_path):
    stream = events([5, 10_000_000])
    picture = video(frames=1)
    assert len(align(picture, stream)) == 2
    assert len(load_aligned(saved(tmp_path / "a.npz", stream), picture)) == 2
