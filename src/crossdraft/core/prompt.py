"""What a user gives: a question, video frames, events, one time span. Plain arrays, units in the names."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from crossdraft.core.errors import DataError


@dataclass(frozen=True)
class VideoFrames:
    """RGB frames. frames: (F, H, W, 3) uint8; times_us: (F,) int64, rising."""

    frames: UInt8[np.ndarray, "F H W 3"]
    times_us: Int64[np.ndarray, "F"]
    name: str = ""

    def __post_init__(self) -> None:
        frames, times = np.asarray(self.frames), np.asarray(self.times_us)
        what = self.name or "frames"
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise DataError(f"{what}: are {frames.dtype} {frames.shape}, must be uint8 (F, H, W, 3), RGB")
        if times.shape != (len(frames),) or (np.diff(times) < 0).any():
            raise DataError(f"{what}: times_us must hold one time for each of {len(frames)} frames, never falling")

    def __len__(self) -> int:
        return int(self.frames.shape[0])


@dataclass(frozen=True)
class EventStream:
    """Brightness changes, sorted by time; built only by ``data.events``, which checks all that is said here.

    x, y: (E,) uint16 pixel; t_us: (E,) int64 microseconds, never falling; p: (E,) uint8, 1 brighter, 0 darker.
    sensor_size: (width, height), given by the recording or the user, never guessed from the data.
    """

    x: UInt16[np.ndarray, "E"]
    y: UInt16[np.ndarray, "E"]
    t_us: Int64[np.ndarray, "E"]
    p: UInt8[np.ndarray, "E"]
    sensor_size: tuple[int, int]
    name: str = ""

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def between(self, start_us: int, end_us: int) -> "EventStream":
        """Events with start_us <= t < end_us, as views."""
        lo, hi = np.searchsorted(self.t_us, [start_us, end_us])
        return EventStream(
            self.x[lo:hi], self.y[lo:hi], self.t_us[lo:hi], self.p[lo:hi], self.sensor_size, self.name
        )


@dataclass(frozen=True)
class Prompt:
    """One request, the same object for the target and for the event model.

    question:  the user's words; each model wraps them in its own template.
    video:     frames for the target, or None for a text-only target.
    events:    events of the same scene, or None.
    stream_id: clips of one recording share it; the memory of a stream is keyed by (stream_id, question).
    history:   earlier turns as (question, answer) pairs.
    """

    question: str
    video: VideoFrames | None = None
    events: EventStream | None = None
    stream_id: str | None = None
    history: Sequence[tuple[str, str]] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.question, str):
            raise DataError(f"the prompt is {self.question!r:.40}, must be a text; give a question")
        if not self.question.strip():
            raise DataError("the prompt is empty; give a question with --prompt")
        try:
            self.question.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the prompt is no valid text ({error.reason} at {error.start}); type it anew"
            ) from None
