"""Events from an ordinary video, for those without an event camera (extra ``simulate``, package eventcv).

The pixel model is that of v2e (Hu et al., CVPRW 2021): log-intensity changes past a threshold, with threshold
spread, bandwidth, leak and shot noise. eventcv would call an ffmpeg program to read videos; PyAV reads them here,
so that none need be installed.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import EventStream
from crossdraft.core.records import cannot_write
from crossdraft.data.events import make_stream
from crossdraft.data.formats import MOST_EVENTS
from crossdraft.data.video import read_grey_frames

INSTALL_SIMULATE = 'pip install "crossdraft[simulate]"'

# (stage, done, total); total is 0 where it is not known
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class SensorModel:
    """The simulated camera. Defaults are eventcv's, which follow v2e.

    threshold: change of log intensity that makes an event; threshold_spread: its deviation from pixel to pixel.
    longest_edge_px: frames are scaled down to it first; 640 as the sensors that EventGPT's data come from.
    noise: leak and shot noise of a real sensor; off gives events of real changes alone.
    """

    threshold: float = 0.2
    threshold_spread: float = 0.03
    longest_edge_px: int = 640
    noise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise SettingError(f"threshold is {self.threshold}, must be above 0")
        if not 0 <= self.threshold_spread < self.threshold:
            raise SettingError(f"threshold_spread is {self.threshold_spread}, must be 0 up to the threshold")
        if self.longest_edge_px < 16:
            raise SettingError(f"longest_edge_px is {self.longest_edge_px}, must be 16 or more")


def simulate_events(
    video_path: str | Path,
    out_npz: str | Path,
    sensor: SensorModel | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
    progress: Progress | None = None,
) -> EventStream:
    """Simulate an event camera watching a video, write ``out_npz`` (x, y, t, p, sensor_size) and return the events.

    Event times are on the video's clock: 0 is its first frame. The file appears whole or not at all.

    Raises:
        DataError: eventcv is missing, the video cannot be read, fewer than two frames, nothing moves in it.
    """
    sensor = SensorModel() if sensor is None else sensor
    out_npz = Path(out_npz)
    if out_npz.suffix != ".npz":
        raise SettingError(f"{out_npz}: the output must end in .npz")
    if not out_npz.parent.is_dir():
        raise DataError(f"{out_npz.parent}: no such folder; create it first")
    simulate = _simulator(video_path)
    tell = progress or (lambda stage, done, total: None)
    frames, times_us = read_grey_frames(
        video_path, sensor.longest_edge_px, start_us, end_us, lambda done: tell("frames", done, 0)
    )
    if len(frames) < 2:
        raise DataError(f"{video_path}: one frame shows no change; give a video with two or more")
    tell("events", 0, len(frames))
    events = _simulate(simulate, frames, times_us, sensor, str(video_path))
    _save(out_npz, events)
    tell("events", len(frames), len(frames))
    return events


def _simulator(video_path: str | Path) -> Callable:
    try:
        import eventcv
    except ImportError:
        raise DataError(
            f"{video_path}: simulating events needs the package eventcv; run: {INSTALL_SIMULATE}"
        ) from None
    return eventcv.simulate


def _simulate(
    simulate: Callable, frames: np.ndarray, times_us: np.ndarray, sensor: SensorModel, name: str
) -> EventStream:
    fps = 1e6 * (len(frames) - 1) / float(times_us[-1] - times_us[0])
    settings = {} if sensor.noise else {"leak_rate_hz": 0.0, "shot_noise_rate_hz": 0.0}
    made = simulate(
        frames,
        fps=fps,
        pos_thres=sensor.threshold,
        neg_thres=sensor.threshold,
        sigma_thres=sensor.threshold_spread,
        seed=sensor.seed,
        **settings,
    )
    if len(made) == 0:
        raise DataError(f"{name}: nothing changes in this video, so there are no events; give one with motion")
    if len(made) > MOST_EVENTS:
        raise DataError(
            f"{name}: {len(made)} events are more than the {MOST_EVENTS} that fit one recording; cut the video's "
            "span or scale it down"
        )
    columns = made.numpy()  # (E, 4) uint64: x, y, t in us, p
    # the simulator knows a constant frame rate only; real frame times may be uneven, so its clock is bent onto them
    even_us = np.arange(len(frames)) * (1e6 / fps)
    t_us = np.round(np.interp(columns[:, 2], even_us, times_us)).astype(np.int64)
    height, width = frames.shape[1:]
    return make_stream(columns[:, 0], columns[:, 1], t_us, columns[:, 3], (width, height), name)


def _save(path: Path, events: EventStream) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file, x=events.x, y=events.y, t=events.t_us, p=events.p, sensor_size=np.array(events.sensor_size)
            )
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
