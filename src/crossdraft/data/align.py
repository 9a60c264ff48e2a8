"""Events and video on one clock.

A video file counts from its first frame. An event recording counts from the first frame too (events simulated from
the video), or from whenever its camera was switched on. Nothing in the files tells which, so the rule is plain:

1. An offset that the user gives is added to the event times; that is the video's clock.
2. Without one, a recording whose first event lies an hour or more from zero runs on its camera's own clock (DSEC's
   clips do); it and the video are taken to begin together.
3. Otherwise event times are read as times of the video.

Whatever the rule, events and video must overlap; events outside the video's span are left out.
"""

from dataclasses import replace
from pathlib import Path

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import EventStream, VideoFrames
from crossdraft.data.events import load_events
from crossdraft.data.formats import NoEventsError, read_first_time_us

# no clip that a model is shown starts an hour into its video; camera clocks are far beyond it
OWN_CLOCK_FROM_US = 3_600_000_000


def align(video: VideoFrames, events: EventStream, offset_us: int | None = None) -> EventStream:
    """Events of the video's span, with times on the video's clock. A single picture has no span and keeps them all.

    Args:
        video: frames with times.
        events: events of the same scene.
        offset_us: add this to event times to get the video's; None: the rule above.

    Raises:
        DataError: no event falls into the video's span.
    """
    shift = _shift_us(int(events.t_us[0]), offset_us)
    moved = replace(events, t_us=events.t_us + shift)
    if len(video) < 2:
        return moved
    start_us, end_us = _span_us(video)
    inside = moved.between(start_us, end_us)
    if len(inside) == 0:
        raise _no_overlap(events.name, shift, int(moved.t_us[0]), int(moved.t_us[-1]), video)
    return inside


def load_aligned(
    path: str | Path,
    video: VideoFrames,
    sensor_size: tuple[int, int] | None = None,
    offset_us: int | None = None,
) -> EventStream:
    """``load_events`` and ``align`` in one, reading only the video's span of a long recording.

    Raises:
        DataError: as ``load_events``, or no event falls into the video's span.
    """
    path = Path(path)
    if len(video) < 2:
        return align(video, load_events(path, sensor_size), offset_us)
    first_us = read_first_time_us(path)
    shift = _shift_us(first_us, offset_us)
    start_us, end_us = _span_us(video)
    if first_us + shift >= end_us:
        raise _no_overlap(str(path), shift, first_us + shift, None, video)
    try:
        events = load_events(path, sensor_size, start_us - shift, end_us - shift)
    except NoEventsError:
        raise _no_overlap(str(path), shift, first_us + shift, None, video) from None
    return replace(events, t_us=events.t_us + shift)


def _shift_us(first_us: int, offset_us: int | None) -> int:
    if offset_us is not None:
        return offset_us
    return -first_us if abs(first_us) >= OWN_CLOCK_FROM_US else 0


def _span_us(video: VideoFrames) -> tuple[int, int]:
    """From the first frame to the end of the last, which is shown for as long as the others on average."""
    start_us, last_us = int(video.times_us[0]), int(video.times_us[-1])
    return start_us, last_us + max(1, (last_us - start_us) // (len(video) - 1))


def _no_overlap(name: str, shift_us: int, first_us: int, last_us: int | None, video: VideoFrames) -> DataError:
    """first_us, last_us: on the video's clock, ``shift_us`` after the recording's own."""
    until = "" if last_us is None else f" to {last_us}"
    start_us, end_us = _span_us(video)
    return DataError(
        f"{name}: the events (from {first_us}{until} us) do not overlap the video ({start_us} to {end_us} us); "
        f"if both begin together give --event-offset-us {start_us - first_us + shift_us}, else another recording"
    )
