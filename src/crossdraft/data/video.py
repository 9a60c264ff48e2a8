"""Videos and pictures to RGB frames with times, through PyAV and PIL."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import VideoFrames

# what Video-LLaVA was trained with (Lin et al., 2023)
NUM_FRAMES = 8

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
# one byte a pixel; the simulator needs all frames at once
MOST_GREY_BYTES = 1 << 30
# a folder of frames carries no times; DSEC and the clips of the study are 20 Hz
FOLDER_FPS = 20.0


def sample_indices(count: int, num_frames: int) -> Int64[np.ndarray, "F"]:
    """``num_frames`` of ``count`` frames, uniform from the first to the last, cut down to whole indices.

    np.linspace(0, count - 1, num_frames).astype(int), as Video-LLaVA is sampled in practice; a video that is
    shorter repeats frames.
    """
    return np.linspace(0, count - 1, num_frames).astype(np.int64)


def read_video(
    path: str | Path,
    num_frames: int | None = NUM_FRAMES,
    start_us: int | None = None,
    end_us: int | None = None,
) -> VideoFrames:
    """Read frames of a video, sampled uniformly.

    Args:
        path: any file that FFmpeg decodes.
        num_frames: how many; None: every frame.
        start_us, end_us: take only frames with start_us <= time < end_us; 0 is the first frame.

    Returns:
        VideoFrames; times_us count from the first frame of the file.

    Raises:
        DataError: no such file, not a video, no frames in it or in the span.
    """
    path = Path(path)
    _check_file(path, "video")
    if num_frames is not None and num_frames < 1:
        raise DataError(f"num_frames is {num_frames}, must be 1 or more")
    # frame counts in containers are absent or wrong often enough, so frames are counted by decoding; the pictures
    # themselves are made only for the few that are kept
    times = np.array([time for time, _ in _decode(path)], np.int64)
    if len(times) == 0:
        raise DataError(f"{path}: there are no frames in it; is it a video?")
    first = int(times[0])
    times = times - first
    inside = np.flatnonzero(
        (times >= (times[0] if start_us is None else start_us))
        & (times < (times[-1] + 1 if end_us is None else end_us))
    )
    if len(inside) == 0:
        raise DataError(
            f"{path}: no frames between {start_us} and {end_us} us; the video runs from 0 to {int(times[-1])} us"
        )
    chosen = inside if num_frames is None else inside[sample_indices(len(inside), num_frames)]
    wanted, last = set(chosen.tolist()), int(chosen[-1])
    pictures: dict[int, np.ndarray] = {}
    for index, (_, frame) in enumerate(_decode(path)):
        if index in wanted:
            pictures[index] = _upright(frame.to_ndarray(format="rgb24"), frame)
        if index == last:
            break
    if len({picture.shape for picture in pictures.values()}) != 1:
        raise DataError(f"{path}: the picture size changes within the video; convert it to one size first")
    return VideoFrames(np.stack([pictures[i] for i in chosen.tolist()]), times[chosen], str(path))


def read_grey_frames(
    path: str | Path,
    longest_edge_px: int,
    start_us: int | None = None,
    end_us: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[UInt8[np.ndarray, "F H W"], Int64[np.ndarray, "F"]]:
    """Every frame's brightness, scaled down to ``longest_edge_px``, and its time in us from the first frame.

    Frames that repeat the time of their predecessor are left out. ``progress`` is told how many were read.

    Raises:
        DataError: as ``read_video``; more than 1 GiB of pixels (cut the span or scale down).
    """
    path = Path(path)
    _check_file(path, "video")
    pictures: list[np.ndarray] = []
    times: list[int] = []
    first, size = None, (0, 0)
    for time, frame in _decode(path):
        if first is None:
            first = time
            scale = min(1.0, longest_edge_px / max(frame.width, frame.height))
            size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        time -= first
        if (start_us is not None and time < start_us) or (times and time <= times[-1]):
            continue
        if end_us is not None and time >= end_us:
            break
        if (len(pictures) + 1) * size[0] * size[1] > MOST_GREY_BYTES:
            raise DataError(
                f"{path}: the video is too long to simulate at once after {len(pictures)} frames; cut its span or "
                "scale it down"
            )
        pictures.append(_upright(frame.reformat(*size, format="gray").to_ndarray(), frame))
        times.append(time)
        if progress is not None:
            progress(len(pictures))
    if not pictures:
        raise DataError(f"{path}: there are no frames in it, or none in the span; check the video")
    return np.stack(pictures), np.array(times, np.int64)


def read_image(path: str | Path) -> VideoFrames:
    """One picture as a video of one frame at time 0. DataError: no such file, not a picture."""
    path = Path(path)
    _check_file(path, "image")
    return VideoFrames(_open_image(path)[None], np.zeros(1, np.int64), str(path))


def read_image_folder(
    path: str | Path, num_frames: int | None = NUM_FRAMES, fps: float = FOLDER_FPS
) -> VideoFrames:
    """Pictures of one folder in natural order (frame2 before frame10), sampled as a video's frames.

    Args:
        path: the folder; files that are not pictures are passed over.
        num_frames: how many; None: all.
        fps: pictures per second, for their times.

    Raises:
        DataError: no such folder, no pictures in it, pictures of different sizes.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; check the path")
    files = sorted(
        (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()),
        key=lambda file: natural_key(file.name),
    )
    if not files:
        raise DataError(f"{path}: there are no pictures in this folder; give a video or a folder of images")
    chosen = np.arange(len(files)) if num_frames is None else sample_indices(len(files), num_frames)
    frames = [_open_image(files[i]) for i in chosen.tolist()]
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1:
        told = ", ".join(f"{s[1]}x{s[0]}" for s in sorted(shapes))
        raise DataError(f"{path}: the pictures differ in size ({told}); make them one size")
    return VideoFrames(np.stack(frames), np.round(chosen * (1e6 / fps)).astype(np.int64), str(path))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _check_file(path: Path, what: str) -> None:
    try:
        there = path.exists()
    except OSError as error:  # a name longer than the file system takes
        raise DataError(f"{str(path)[:60]}...: {error.strerror}; check the path of the {what}") from None
    if not there:
        raise DataError(f"{path}: no such file; check the path of the {what}")
    if not path.is_file():
        more = " (a folder of pictures is given as an image: --image)" if what == "video" and path.is_dir() else ""
        raise DataError(f"{path}: is not a file; give the {what} file itself{more}")


def _open_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        detail = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: is not a picture that can be read ({detail})") from None


def _upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Phones record sideways and note the turn beside the pictures, in degrees counter-clockwise."""
    return np.rot90(picture, round(frame.rotation / 90))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, UnicodeDecodeError) as error:
        detail = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
        raise DataError(f"{path}: is not a video that can be decoded ({detail})") from None


def _decode(path: Path) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames in the order they are shown, with their times in us on the file's clock."""
    with _damage_named(path), av.open(str(path)) as container:
        if not container.streams.video:
            raise DataError(f"{path}: there are no pictures in it, only sound or data; give a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step_us = 1e6 / float(stream.average_rate or stream.guessed_rate or 25)
        time_us = -step_us
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                time_us += step_us  # raw streams carry no times; the frame rate is all there is
            else:
                # a broken file may step back; times must not
                time_us = max(float(frame.pts * frame.time_base * 1_000_000), time_us)
            yield round(time_us), frame
