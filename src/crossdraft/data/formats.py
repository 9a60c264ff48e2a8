"""Readers of event files: each gives the columns as they lie in the file, unchecked; ``data.events`` checks them.

Long recordings are cut while reading: DSEC's HDF5 through its millisecond index, archives and streams in chunks.
"""

import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from crossdraft.core.errors import DataError
from crossdraft.data.legacy_npy import read_legacy_npy, read_npy_header

# DSEC (Gehrig et al., RA-L 2021) was recorded with two Prophesee Gen3.1 of 640 x 480; its files do not repeat it
DSEC_SENSOR_SIZE = (640, 480)
# about 1.7 GB in our form; nobody shows more to a model, and a damaged length must not take the machine down
MOST_EVENTS = 1 << 27
CHUNK_EVENTS = 1 << 20

INSTALL_EVENTS = 'pip install "crossdraft[events]"'

_SUFFIXES = {
    ".npz": "npz",
    ".npy": "npy",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".aedat4": "aedat",
    ".aedat": "aedat",
    ".raw": "evt",
    ".dat": "dat",
    ".es": "es",
    ".csv": "csv",
}
# how a file of the kind begins; kinds that are not listed may begin with anything
_MAGIC = {
    "npz": b"PK",
    "npy": b"\x93NUMPY",
    "hdf5": b"\x89HDF\r\n\x1a\n",
    "aedat": b"#!AER-DAT4.0",
    "es": b"Event Stream",
}


class NoEventsError(DataError):
    """The file, or the span asked for, holds no events."""


@dataclass(frozen=True)
class RawEvents:
    """Columns as read. sensor_size is None where neither the file nor its format states it."""

    x: np.ndarray
    y: np.ndarray
    t_us: np.ndarray
    p: np.ndarray
    sensor_size: tuple[int, int] | None


def read_raw_events(
    path: Path, sensor_size: tuple[int, int] | None, start_us: int | None, end_us: int | None
) -> RawEvents:
    """Find the reader by suffix and first bytes, and read the span start_us <= t < end_us (None: open).

    Raises:
        DataError: no such file, an unknown kind, damaged content, a missing extra.
    """
    kind = _kind_of(path)
    if kind == "npz":
        return _read_npz(path, start_us, end_us)
    if kind == "npy":
        return _read_npy(path, start_us, end_us)
    if kind == "hdf5":
        return _read_dsec(path, sensor_size, start_us, end_us)
    return _read_with_faery(path, kind, start_us, end_us)


def read_first_time_us(path: Path) -> int:
    """The time of the first event on the recording's own clock, reading little more than that.

    Raises:
        DataError: as ``read_raw_events``; no events.
    """
    kind = _kind_of(path)
    if kind == "npz":
        with _damage_named(path), zipfile.ZipFile(path) as archive:
            if "t.npy" not in archive.namelist():
                raise _missing_columns(path, archive.namelist())
            times = next(_NpzColumn(archive, "t", path).chunks(0, 1), np.empty(0))
    elif kind == "npy":
        times = _read_npy(path, None, None).t_us
    elif kind == "hdf5":
        with _open_dsec(path) as file:
            times = file["events/t"][:1].astype(np.int64) + int(file["t_offset"][()])
    else:
        with _faery_named(path):
            times = next((packet["t"] for packet in _faery_decoder(path, kind) if len(packet)), np.empty(0))
    if len(times) == 0:
        raise NoEventsError(f"{path}: there are no events in it; check the file")
    return int(times[0])


def _kind_of(path: Path) -> str:
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path of the event recording")
    if not path.is_file():
        raise DataError(f"{path}: is not a file; give the event file itself")
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: '{path.suffix}' is no event format that we know; known: {', '.join(sorted(_SUFFIXES))}"
        )
    magic = _MAGIC.get(kind, b"")
    with path.open("rb") as file:
        start = file.read(max(len(magic), 1))
    if not start:
        raise DataError(f"{path}: the file is empty; copy it again")
    if not start.startswith(magic):
        raise DataError(f"{path}: does not begin as a {path.suffix} file does; it is damaged or something else")
    return kind


def _too_many(path: Path, count: int) -> DataError:
    return DataError(
        f"{path}: {count} events are more than the {MOST_EVENTS} that fit one request; cut it to the clip's span"
    )


def _missing_columns(path: Path, found: list[str]) -> DataError:
    return DataError(
        f"{path}: needs the arrays x, y, t, p, has {', '.join(sorted(found)[:12]) or 'none'}; save it with "
        "np.savez(file, x=x, y=y, t=t, p=p, sensor_size=(width, height))"
    )


def _cut(t_us: np.ndarray, start_us: int | None, end_us: int | None) -> slice:
    """The sorted span's place. Unsorted input gives some slice, which the check that follows cannot trust."""
    if start_us is None and end_us is None:
        return slice(None)
    if t_us.ndim != 1 or t_us.dtype.kind not in "iu" or (t_us[1:] < t_us[:-1]).any():
        return slice(None)  # whole, so that make_stream sees and names what is wrong
    lo = 0 if start_us is None else int(np.searchsorted(t_us, start_us))
    hi = len(t_us) if end_us is None else int(np.searchsorted(t_us, end_us))
    return slice(lo, hi)


# --- numpy archives ---------------------------------------------------------------------------------------------


class _NpzColumn:
    """One array of an archive, decompressed in chunks; nothing is allocated from what a header merely declares."""

    def __init__(self, archive: zipfile.ZipFile, key: str, path: Path) -> None:
        self.path, self.key = path, key
        self.file: IO[bytes] = archive.open(f"{key}.npy")
        shape, dtype = read_npy_header(self.file)
        if dtype.kind not in "iufb":
            raise DataError(f"{path}: array {key} holds {dtype}, must hold numbers; save it again without objects")
        if len(shape) > 1:
            raise DataError(f"{path}: array {key} has shape {shape}, must be one-dimensional")
        self.dtype: np.dtype = dtype
        self.length = math.prod(shape)
        held = archive.getinfo(f"{key}.npy").file_size
        if self.length * dtype.itemsize > held:
            raise DataError(
                f"{path}: array {key} declares {self.length} values and the file holds at most "
                f"{held // dtype.itemsize}; it is truncated or hostile"
            )

    def chunks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Values start..stop in order; decompresses and drops what lies before."""
        at = 0
        while at < min(stop, self.length):
            count = min(CHUNK_EVENTS, self.length - at)
            data = self.file.read(count * self.dtype.itemsize)
            if len(data) < count * self.dtype.itemsize:
                raise ValueError(f"array {self.key} ends early")
            chunk = np.frombuffer(data, self.dtype)
            part = chunk[max(0, start - at) : max(0, stop - at)]
            if len(part):  # an empty view would still hold the whole chunk in memory
                yield part
            at += count

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        parts = list(self.chunks(start, self.length if stop is None else stop))
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        ValueError,
        EOFError,
        OSError,
        KeyError,
        SyntaxError,
    ) as error:
        detail = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: truncated or damaged ({detail}); copy it again") from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile: unknown compression, encrypted
        raise DataError(f"{path}: cannot be unpacked ({error}); save it again with np.savez") from None
    except Exception as error:
        # zlib, bz2 and lzma each raise an error of their own on damaged data
        if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
            raise
        raise DataError(f"{path}: damaged compressed data ({error}); copy it again") from None


def _read_npz(path: Path, start_us: int | None, end_us: int | None) -> RawEvents:
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if not {"x", "y", "t", "p"} <= set(keys):
            raise _missing_columns(path, keys)
        times = _NpzColumn(archive, "t", path)
        lo, hi = _span_in_chunks(times, start_us, end_us)
        if hi - lo > MOST_EVENTS:
            raise _too_many(path, hi - lo)
        whole = (lo, hi) == (0, times.length)
        columns = {}
        for key in ("x", "y", "t", "p"):
            column = _NpzColumn(archive, key, path)
            # whole columns are read as long as they are, so that unequal lengths are seen and named
            if column.length > MOST_EVENTS and whole:
                raise _too_many(path, column.length)
            columns[key] = column.read() if whole else column.read(lo, hi)
        return RawEvents(columns["x"], columns["y"], columns["t"], columns["p"], _npz_sensor(archive, keys, path))


def _span_in_chunks(times: _NpzColumn, start_us: int | None, end_us: int | None) -> tuple[int, int]:
    """Indices of the span, from one pass over t; everything if t holds no integers, which make_stream names."""
    whole = (0, times.length)
    if (start_us is None and end_us is None) or times.dtype.kind not in "iu":
        return whole
    lo = hi = 0
    last = None
    for chunk in times.chunks(0, times.length):
        if (last is not None and chunk[0] < last) or (chunk[1:] < chunk[:-1]).any():
            raise DataError(
                f"{times.path}: events are not sorted by time; sort all four columns by t and save again"
            )
        lo += 0 if start_us is None else int(np.searchsorted(chunk, start_us))
        hi += len(chunk) if end_us is None else int(np.searchsorted(chunk, end_us))
        last = chunk[-1]
    return lo, hi


def _npz_sensor(archive: zipfile.ZipFile, keys: list[str], path: Path) -> tuple[int, int] | None:
    if "sensor_size" in keys:
        size = _NpzColumn(archive, "sensor_size", path)
        if size.length != 2:
            raise DataError(f"{path}: sensor_size has {size.length} values, must be (width, height)")
        width, height = size.read()
        return int(width), int(height)
    if "width" in keys and "height" in keys:
        sides = []
        for key in ("width", "height"):
            side = _NpzColumn(archive, key, path)
            if side.length != 1:
                raise DataError(f"{path}: {key} has {side.length} values, must be one number of pixels")
            sides.append(int(side.read()[0]))
        return sides[0], sides[1]
    return None


def _read_npy(path: Path, start_us: int | None, end_us: int | None) -> RawEvents:
    content = read_legacy_npy(path)
    columns: dict[str, Any] = {key: content.get(key) for key in ("x", "y", "t", "p")}
    if not all(isinstance(column, np.ndarray) for column in columns.values()):
        raise _missing_columns(path, [key for key, value in content.items() if isinstance(value, np.ndarray)])
    span = _cut(columns["t"], start_us, end_us)
    size = content.get("sensor_size")
    if isinstance(size, np.ndarray):
        size = size.tolist()
    if size is None and {"width", "height"} <= content.keys():
        size = (content["width"], content["height"])
    if size is not None and not (
        isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(s, int) for s in size)
    ):
        raise DataError(f"{path}: sensor_size is {size!r:.40}, must be (width, height)")
    x, y, t, p = (columns[key] if span == slice(None) else columns[key][span] for key in ("x", "y", "t", "p"))
    return RawEvents(x, y, t, p, None if size is None else (size[0], size[1]))


# --- DSEC -------------------------------------------------------------------------------------------------------


def _read_dsec(
    path: Path, sensor_size: tuple[int, int] | None, start_us: int | None, end_us: int | None
) -> RawEvents:
    with _open_dsec(path) as file:
        columns = {key: file[f"events/{key}"] for key in "xytp"}
        offset = int(file["t_offset"][()])
        lo, hi = _dsec_span(file, columns["t"], offset, start_us, end_us, path)
        if hi - lo > MOST_EVENTS:
            raise _too_many(path, hi - lo)
        t = columns["t"][lo:hi].astype(np.int64) + offset
        span = _cut(t, start_us, end_us)
        x, y, p = (columns[key][lo:hi][span] for key in ("x", "y", "p"))
        return RawEvents(x, y, t[span], p, DSEC_SENSOR_SIZE if sensor_size is None else None)


@contextmanager
def _open_dsec(path: Path) -> Iterator[Any]:
    """DSEC: events/{p,t,x,y}, ms_to_idx (first event of each millisecond), t_offset to add to t."""
    import h5py
    import hdf5plugin  # noqa: F401  DSEC is Blosc-compressed; importing registers the filter

    with _damage_named(path), h5py.File(path, "r") as file:
        needed = ("events/x", "events/y", "events/t", "events/p", "ms_to_idx", "t_offset")
        missing = [key for key in needed if not isinstance(file.get(key), h5py.Dataset)]
        if missing:
            raise DataError(
                f"{path}: not a DSEC recording, it lacks {', '.join(missing)}; convert it to .npz or another format"
            )
        shapes = [file[f"events/{key}"].shape for key in "xytp"]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise DataError(f"{path}: events/x, y, t, p have the shapes {shapes}; the file is damaged")
        yield file


def _dsec_span(
    file: Any, times: Any, offset: int, start_us: int | None, end_us: int | None, path: Path
) -> tuple[int, int]:
    """Rows that surely hold the span, from two entries of the millisecond index."""
    index, count = file["ms_to_idx"], times.shape[0]
    milliseconds = index.shape[0]
    lo, hi = 0, count
    if start_us is not None:
        first_ms = (start_us - offset) // 1000
        lo = 0 if first_ms < 0 or milliseconds == 0 else int(index[min(first_ms, milliseconds - 1)])
    if end_us is not None:
        last_ms = -((offset - end_us) // 1000)
        hi = 0 if last_ms <= 0 else int(index[last_ms]) if last_ms < milliseconds else count
    hi = max(lo, hi)
    # two look-ups tell whether the index really belongs to these times
    wrong = not 0 <= lo <= hi <= count
    wrong = wrong or (start_us is not None and lo > 0 and int(times[lo - 1]) + offset >= start_us)
    wrong = wrong or (end_us is not None and hi < count and lo < hi and int(times[hi]) + offset < end_us)
    if wrong:
        raise DataError(f"{path}: ms_to_idx does not fit events/t; the file is damaged, copy it again")
    return lo, hi


# --- camera makers' formats, through faery ----------------------------------------------------------------------


# faery puts a fall-back size where a header has none; one that no sensor has tells us that it did
_NO_SIZE = (65535, 65535)
_CSV_HEADER = re.compile(r"t[^,]*,x(?:@(\d{1,5}))?,y(?:@(\d{1,5}))?,(?:p|on|polarity)")


def _read_with_faery(path: Path, kind: str, start_us: int | None, end_us: int | None) -> RawEvents:
    """AEDAT4, RAW EVT2/EVT3, DAT, ES and CSV. faery decodes in packets, so only the span is held."""
    parts: dict[str, list[np.ndarray]] = {"x": [], "y": [], "t": [], "on": []}
    count = 0
    with _faery_named(path):
        decoder = _faery_decoder(path, kind)
        for packet in decoder:
            if len(packet) == 0:
                continue
            if end_us is not None and int(packet["t"][0]) >= end_us:
                break
            kept = packet[_cut(packet["t"], start_us, end_us)]
            count += len(kept)
            if count > MOST_EVENTS:
                raise _too_many(path, count)
            for key, column in parts.items():
                column.append(kept[key].copy())
        size = decoder.dimensions()
    stated = None if tuple(size) == _NO_SIZE else (int(size[0]), int(size[1]))
    x, y, t, on = (np.concatenate(column) if column else np.empty(0, np.int64) for column in parts.values())
    return RawEvents(x, y, t, on, stated)


def _faery_decoder(path: Path, kind: str) -> Any:
    try:
        import faery
    except ImportError:
        raise DataError(
            f"{path}: reading {path.suffix} files needs the package faery; run: {INSTALL_EVENTS}"
        ) from None
    if kind != "csv":
        return faery.events_stream_from_file(path, dimensions_fallback=_NO_SIZE, file_type=kind)
    has_header, size = _csv_header(path)
    properties = replace(faery.CsvProperties.default(), has_header=has_header)
    return faery.events_stream_from_file(
        path, dimensions_fallback=size or _NO_SIZE, csv_properties=properties, file_type=kind
    )


def _csv_header(path: Path) -> tuple[bool, tuple[int, int] | None]:
    """Whether there is a header line, and the sensor size where it says one, as faery writes it (x@640,y@480)."""
    with path.open("rb") as file:
        fields = [field.strip().lower() for field in file.readline(1000).decode("utf-8", "replace").split(",")]
    if fields[0].lstrip("-").isdecimal():
        return False, None
    match = _CSV_HEADER.fullmatch(",".join(fields))
    if match is None:
        raise DataError(f"{path}: the header is '{','.join(fields)[:60]}'; the columns must be t,x,y,p (us, 0/1)")
    return True, (int(match[1]), int(match[2])) if match[1] and match[2] else None


@contextmanager
def _faery_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except BaseException as error:
        # faery raises plain Exception for a bad file, and its Rust core may panic, which is a BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        detail = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: cannot be read as {path.suffix} ({detail}); damaged or something else") from None
