"""What a user gave, read into one request."""

from collections.abc import Sequence
from pathlib import Path

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import EventStream, Prompt, VideoFrames
from crossdraft.data.align import align, load_aligned
from crossdraft.data.events import load_events, parse_sensor_size
from crossdraft.data.video import read_image, read_image_folder, read_video


def make_prompt(
    question: str,
    *,
    video: str | Path | VideoFrames | None = None,
    image: str | Path | None = None,
    events: str | Path | EventStream | None = None,
    sensor: str | tuple[int, int] | None = None,
    event_offset_us: int | None = None,
    stream_id: str | None = None,
    history: Sequence[tuple[str, str]] = (),
) -> Prompt:
    """Read what the user gave into one request, events on the video's clock and cut to its span.

    image: a picture, or a folder of pictures in time order. sensor: "640x480" or (640, 480), for recordings that do
    not carry it. event_offset_us: added to event times; None: the rule of ``data.align``.
    Raises DataError for anything that cannot be read, and when events and video do not overlap.
    """
    if video is not None and image is not None:
        raise DataError("give a video or an image, not both")
    frames = _frames(video, image)
    size = parse_sensor_size(sensor) if isinstance(sensor, str) else sensor
    if not isinstance(events, str | Path | EventStream | None):
        raise DataError(f"events is a {type(events).__name__}, must be a path or an EventStream")
    if events is None:
        seen = None
    elif isinstance(events, EventStream):
        seen = align(frames, events, event_offset_us) if frames is not None else events
    elif frames is not None:
        seen = load_aligned(events, frames, size, event_offset_us)
    else:
        seen = load_events(events, size)
    return Prompt(question, frames, seen, stream_id, tuple(history))


def _frames(video: str | Path | VideoFrames | None, image: str | Path | None) -> VideoFrames | None:
    for name, value in (("video", video), ("image", image)):
        if not isinstance(value, str | Path | VideoFrames | None):
            raise DataError(f"{name} is a {type(value).__name__}, must be a path or VideoFrames")
    if isinstance(video, VideoFrames):
        return video
    if video is not None:
        return read_video(video)
    if image is not None:
        return read_image_folder(image) if Path(image).is_dir() else read_image(image)
    return None
