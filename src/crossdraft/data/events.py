"""Event recordings: one internal form, made and checked in one place, whatever the file was.

``load_events`` reads every format we know; ``make_stream`` is the only place that builds an ``EventStream`` and
so the only place that decides what a valid recording is. A sensor size comes from the file or from the user, never
from the largest coordinate seen: a quiet corner would silently shrink the picture that the event model looks at.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import EventStream
from crossdraft.data.formats import NoEventsError, RawEvents, read_raw_events
from crossdraft.data.render import render_event_images

__all__ = ["load_events", "make_stream", "parse_sensor_size", "render_event_images"]

# x and y are stored as uint16
LARGEST_SENSOR_PX = 65536


def make_stream(
    x: np.ndarray | Sequence[int],
    y: np.ndarray | Sequence[int],
    t_us: np.ndarray | Sequence[int],
    p: np.ndarray | Sequence[int],
    sensor_size: tuple[int, int],
    name: str = "events",
) -> EventStream:
    """Check four columns and build the one internal form of events.

    Args:
        x, y: (E,) integers, pixel column and row, 0 <= x < width, 0 <= y < height.
        t_us: (E,) integers, microseconds on any clock, never falling.
        p: (E,) integers or bool, 1/True brighter, 0/False or -1 darker.
        sensor_size: (width, height) in pixels.
        name: what to call the recording in errors, usually its path.

    Returns:
        EventStream with x, y uint16, t_us int64, p uint8 (0 or 1).

    Raises:
        DataError: unequal lengths, wrong shape or type, no events, unsorted times, a pixel outside the sensor, a
            polarity that is none of 0, 1, -1. One line each.
    """
    width, height = _checked_sensor_size(sensor_size, name)
    columns = {key: np.asarray(value) for key, value in (("x", x), ("y", y), ("t", t_us), ("p", p))}
    for key, column in columns.items():
        if column.ndim != 1:
            raise DataError(
                f"{name}: column {key} has shape {column.shape}, must be one-dimensional; "
                "store x, y, t, p as four flat arrays"
            )
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise DataError(
            f"{name}: the columns differ in length ({told}); the file is damaged or was cut, write it anew"
        )
    if lengths["x"] == 0:
        raise NoEventsError(f"{name}: there are no events in it; check the file or the time span")
    for key, column in columns.items():
        if column.dtype.kind not in ("iub" if key == "p" else "iu"):
            raise DataError(
                f"{name}: column {key} holds {column.dtype}, must hold integers"
                + (" (microseconds)" if key == "t" else "")
                + "; convert it before saving"
            )
    _check_range(columns["x"], width, "x", "width", name)
    _check_range(columns["y"], height, "y", "height", name)
    return EventStream(
        x=columns["x"].astype(np.uint16),
        y=columns["y"].astype(np.uint16),
        t_us=_sorted_times(columns["t"], name),
        p=_polarity(columns["p"], name),
        sensor_size=(width, height),
        name=name,
    )


def load_events(
    path: str | Path,
    sensor_size: tuple[int, int] | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
) -> EventStream:
    """Read an event recording, or the part with start_us <= t < end_us of its own clock.

    Known files: .npz, legacy pickled .npy (without running its pickle), DSEC .h5/.hdf5, and with the extra
    ``events`` AEDAT4 (.aedat4), Prophesee RAW EVT2/EVT3 (.raw) and DAT (.dat), ES (.es), CSV (.csv: t, x, y, p
    in this order).

    Args:
        path: the file.
        sensor_size: (width, height); needed only where the file does not state it. Given and stated must agree.
        start_us, end_us: cut to this span while reading; long recordings are never held whole in memory.

    Raises:
        DataError: no such file, an unknown, truncated or hostile file, no sensor size, invalid events.
    """
    path = Path(path)
    if start_us is not None and end_us is not None and end_us <= start_us:
        raise DataError(f"{path}: the span {start_us}..{end_us} us is empty; its end must lie after its start")
    raw = read_raw_events(path, sensor_size, start_us, end_us)
    return make_stream(raw.x, raw.y, raw.t_us, raw.p, _settled_sensor_size(raw, sensor_size, path), str(path))


# 146,000 years: sums and differences of times then never leave 64 bits
_LATEST_US = 1 << 62


def parse_sensor_size(text: str) -> tuple[int, int]:
    """``"640x480"`` -> (640, 480). DataError for anything else."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.strip().isdecimal() and height.strip().isdecimal()):
        raise DataError(f"sensor size '{text}' is not WIDTHxHEIGHT; write for example --sensor 640x480")
    return _checked_sensor_size((int(width), int(height)), "--sensor")


def _settled_sensor_size(raw: RawEvents, given: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    stated = raw.sensor_size
    if given is None and stated is None:
        raise DataError(
            f"{path}: the file does not say how large the sensor is; give it, for example --sensor 640x480"
        )
    if given is not None and stated is not None and tuple(given) != tuple(stated):
        raise DataError(
            f"{path}: the file says the sensor is {stated[0]}x{stated[1]}, you gave {given[0]}x{given[1]}; "
            "leave --sensor out or correct it"
        )
    settled = given if stated is None else stated
    assert settled is not None
    return settled


def _checked_sensor_size(sensor_size: tuple[int, int], name: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in sensor_size)
    except (TypeError, ValueError):
        raise DataError(
            f"{name}: the sensor size is {sensor_size!r}, must be (width, height); for example --sensor 640x480"
        ) from None
    if not (0 < width <= LARGEST_SENSOR_PX and 0 < height <= LARGEST_SENSOR_PX):
        raise DataError(
            f"{name}: the sensor size is {width}x{height}, each side must be 1..{LARGEST_SENSOR_PX}; "
            "correct --sensor"
        )
    return width, height


def _check_range(column: np.ndarray, side: int, key: str, side_name: str, name: str) -> None:
    smallest, largest = int(column.min()), int(column.max())
    if smallest < 0 or largest >= side:
        worst = smallest if smallest < 0 else largest
        raise DataError(
            f"{name}: {key} = {worst} lies outside the sensor ({side_name} {side}, so 0..{side - 1}); "
            "check the sensor size, for example --sensor 640x480"
        )


def _sorted_times(t: np.ndarray, name: str) -> np.ndarray:
    if t.dtype == np.uint64 and int(t.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name}: t = {int(t.max())} us does not fit 63 bits; the file is damaged")
    # compared, not subtracted: differences of extreme 64-bit times wrap around and would look sorted
    falls = t[1:] < t[:-1]
    if falls.any():
        at = int(falls.argmax()) + 1
        raise DataError(
            f"{name}: events are not sorted by time (event {at} at {int(t[at])} us follows {int(t[at - 1])} us); "
            "sort all four columns by t and save again"
        )
    if int(t[0]) < -_LATEST_US or int(t[-1]) > _LATEST_US:
        raise DataError(f"{name}: times reach beyond {_LATEST_US} us from zero; the file is damaged")
    return t.astype(np.int64)


def _polarity(p: np.ndarray, name: str) -> np.ndarray:
    if p.dtype.kind != "b":
        wrong = ~((p == 0) | (p == 1) | (p == -1)) if p.dtype.kind == "i" else p > 1
        if wrong.any():
            raise DataError(
                f"{name}: polarity {int(p[wrong.argmax()])} is none of 0/1 or -1/1; "
                "store 1 for brighter and 0 for darker"
            )
    return (p > 0).astype(np.uint8)
