from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError
from crossdraft.data.events import load_events, make_stream, parse_sensor_size, render_event_images

SENSOR = (64, 48)


def test_columns_become_the_one_internal_form(columns):
    stream = make_stream(columns["x"], columns["y"], columns["t"], columns["p"], SENSOR)
    assert [a.dtype for a in (stream.x, stream.y, stream.t_us, stream.p)] == [
        np.uint16,
        np.uint16,
        np.int64,
        np.uint8,
    ]
    for held, given_ in ((stream.x, "x"), (stream.y, "y"), (stream.t_us, "t"), (stream.p, "p")):
        np.testing.assert_array_equal(held, columns[given_])
    assert stream.sensor_size == SENSOR


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint8, np.uint64])
def test_polarity_in_every_customary_form(dtype):
    given_ = np.array([1, 0, 1], dtype) if dtype in (bool, np.uint8, np.uint64) else np.array([1, -1, 1], dtype)
    assert make_stream([0, 1, 2], [0, 0, 0], [5, 5, 6], given_, SENSOR).p.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": []}, "differ in length"),
        ({"x": [], "y": [], "t": [], "p": []}, "no events"),
        ({"x": [[0], [1]]}, "one-dimensional"),
        ({"x": [0, 64]}, "x = 64 lies outside the sensor"),
        ({"y": [48, 0]}, "y = 48 lies outside the sensor"),
        ({"x": [-1, 0]}, "x = -1 lies outside the sensor"),
        ({"t": [7, 6]}, "not sorted by time"),
        ({"t": np.array([2**63 - 1, -(2**63)])}, "not sorted by time"),
        ({"t": np.array([0, 2**63], np.uint64)}, "63 bits"),
        ({"t": np.array([-(2**63), 0])}, "beyond"),
        ({"t": np.array([0, 2**63 - 1])}, "beyond"),
        ({"t": [0.5, 1.5]}, "must hold integers"),
        ({"p": [0, 2]}, "polarity 2"),
        ({"p": np.array([-2, 1])}, "polarity -2"),
        ({"x": np.array([0, None])}, "must hold integers"),
    ],
)
def test_each_flaw_has_its_own_line(change, says):
    good = {"x": [0, 1], "y": [0, 1], "t": [0, 1], "p": [0, 1]}
    good.update(change)
    arrays = {key: np.asarray(value) for key, value in good.items()}
    with pytest.raises(DataError, match=says) as raised:
        make_stream(arrays["x"], arrays["y"], arrays["t"], arrays["p"], SENSOR, "clip.npz")
    assert str(raised.value).startswith("clip.npz: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [(0, 480), (640, -1), (640,), "big", (70000, 2), None])
def test_a_sensor_size_must_be_one(size):
    with pytest.raises(DataError, match="sensor size"):
        make_stream([0], [0], [0], [0], size)


def test_sensor_size_as_text():
    assert parse_sensor_size("640x480") == (640, 480)
    assert parse_sensor_size("1280 X 720") == (1280, 720)
    for wrong in ("640", "640x", "x480", "640x-480", "axb", "0x480"):
        with pytest.raises(DataError, match="sensor"):
            parse_sensor_size(wrong)


def test_the_sensor_size_is_never_guessed(tmp_path, columns):
    bare, told = tmp_path / "bare.npz", tmp_path / "told.npz"
    np.savez(bare, **columns)
    np.savez_compressed(told, **columns, sensor_size=np.array(SENSOR))
    with pytest.raises(DataError, match="--sensor 640x480"):
        load_events(bare)
    assert load_events(bare, SENSOR).sensor_size == SENSOR
    assert load_events(told).sensor_size == SENSOR
    with pytest.raises(DataError, match="says the sensor is 64x48, you gave 640x480"):
        load_events(told, (640, 480))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_span_is_what_cutting_the_whole_gives(tmp_path_factory, data):
    times = sorted(data.draw(st.lists(st.integers(-50, 50), min_size=1, max_size=40)))
    start = data.draw(st.none() | st.integers(-60, 60))
    end = data.draw(st.none() | st.integers(-60, 60))
    t = np.array(times)
    path = tmp_path_factory.mktemp("span") / "clip.npz"
    np.savez(path, x=np.arange(len(t)), y=np.zeros(len(t), int), t=t, p=np.ones(len(t), bool), width=64, height=1)
    keep = (t >= (-99 if start is None else start)) & (t < (99 if end is None else end))
    if not keep.any():
        with pytest.raises(DataError):
            load_events(path, None, start, end)
    else:
        part = load_events(path, None, start, end)
        assert part.t_us.tolist() == t[keep].tolist()
        assert part.x.tolist() == np.flatnonzero(keep).tolist()


def test_recordings_load_and_render(recordings: Path):
    for path in sorted(recordings.glob("*.np[yz]")):
        stream = load_events(path, (640, 480))
        assert len(stream) > 100_000 and stream.t_us[-1] - stream.t_us[0] < 51_000
        images = render_event_images(stream)
        assert [image.shape for image in images] == [(480, 640, 3)] * 5
        # occupied share of a fifth of a clip: 5-9 % on DSEC, a few more on the other camera
        shares = [float((image != 255).any(-1).mean()) for image in images]
        assert all(0.03 < share < 0.15 for share in shares), (path.name, shares)


def test_recordings_are_the_same_in_both_formats(recordings: Path):
    pairs = [(path, path.with_suffix(".npz")) for path in sorted(recordings.glob("*.npy"))]
    assert pairs
    for legacy, archive in pairs:
        a, b = load_events(legacy, (640, 480)), load_events(archive, (640, 480))
        for key in ("x", "y", "t_us", "p"):
            np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
