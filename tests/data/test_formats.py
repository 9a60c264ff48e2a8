import sys
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError
from crossdraft.data import formats
from crossdraft.data.events import load_events

SENSOR = (64, 48)


def npy_bytes(declared: int, values: np.ndarray) -> bytes:
    file = BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": (declared,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + values.tobytes()


# --- archives ---------------------------------------------------------------------------------------------------


def test_an_archive_whose_header_declares_far_more_than_the_file(tmp_path, columns):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in columns.items():
            archive.writestr(f"{key}.npy", npy_bytes(10**15, value))
    with pytest.raises(DataError, match="declares 1000000000000000 values"):
        load_events(path, SENSOR)


def test_an_archive_of_more_events_than_fit_is_refused_before_it_is_unpacked(tmp_path, columns, monkeypatch):
    path = tmp_path / "long.npz"
    np.savez_compressed(path, **columns)
    monkeypatch.setattr(formats, "MOST_EVENTS", 2999)
    with pytest.raises(DataError, match="3000 events are more than the 2999"):
        load_events(path, SENSOR)
    start = int(columns["t"][100])
    assert len(load_events(path, SENSOR, start)) == 2900  # a span of it is fine


def test_spans_across_chunks(tmp_path, columns, monkeypatch):
    path = tmp_path / "clip.npz"
    np.savez(path, **columns)
    monkeypatch.setattr(formats, "CHUNK_EVENTS", 7)
    start, end = int(columns["t"][333]), int(columns["t"][1234])
    keep = (columns["t"] >= start) & (columns["t"] < end)
    part = load_events(path, SENSOR, start, end)
    for key, held in (("x", part.x), ("y", part.y), ("t", part.t_us), ("p", part.p)):
        np.testing.assert_array_equal(held, columns[key][keep])
    columns["t"][[700, 701]] = columns["t"][701] + 5, columns["t"][700]
    np.savez(path, **columns)
    with pytest.raises(DataError, match="not sorted"):
        load_events(path, SENSOR, start, end)


def test_an_honest_bomb_is_streamed_through_bounded_memory(tmp_path):
    import tracemalloc

    count = 20_000_000  # 220 MB of zeros in 220 kB
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, dtype in (("t", "<i8"), ("x", "|u1"), ("y", "|u1"), ("p", "|u1")):
            values = np.zeros(1 << 20, dtype)
            with archive.open(f"{key}.npy", "w") as file:
                file.write(npy_bytes(count, values[:0]))
                for start in range(0, count, len(values)):
                    file.write(values[: count - start].tobytes())
    tracemalloc.start()
    with pytest.raises(DataError, match="no events"):
        load_events(path, SENSOR, 1, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.array([1, None], dtype=object)}, "without objects"),
        ({"x": np.zeros((3000, 1), int)}, "one-dimensional"),
        ({"x": np.zeros(10, int)}, "differ in length"),
        ({"x": np.zeros(3000, "U4")}, "must hold numbers"),
        ({"sensor_size": np.arange(3)}, "sensor_size has 3 values"),
        ({"width": np.arange(2), "height": np.arange(2)}, "width has 2 values"),
    ],
)
def test_archives_with_the_wrong_arrays(tmp_path, columns, change, says):
    path = tmp_path / "clip.npz"
    np.savez(path, **{**columns, **change})
    with pytest.raises(DataError, match=says):
        load_events(path, SENSOR)


def test_an_archive_without_a_column_names_what_it_has(tmp_path, columns):
    path = tmp_path / "clip.npz"
    np.savez(path, ts=columns["t"], x=columns["x"])
    with pytest.raises(DataError, match=r"needs the arrays x, y, t, p, has ts, x"):
        load_events(path, SENSOR)


@settings(max_examples=120, deadline=None)
@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_a_damaged_archive_gives_one_line(tmp_path_factory, cut, flips):
    path = tmp_path_factory.mktemp("damage") / "clip.npz"
    columns = {key: np.arange(20) for key in ("x", "y", "t")}
    np.savez_compressed(path, **columns, p=np.arange(20) % 2)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data if flips else data[: int(cut * len(data))])
    try:
        stream = load_events(path, SENSOR)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert flips and len(stream) == 20


def test_damaged_compressed_data_names_the_file(tmp_path, columns):
    path = tmp_path / "clip.npz"
    np.savez_compressed(path, **columns)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"clip.npz: ") as raised:
        load_events(path, SENSOR)
    assert not isinstance(raised.value.__cause__, zlib.error)


# --- what the file is -------------------------------------------------------------------------------------------


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_events(tmp_path / "missing.npz")
    with pytest.raises(DataError, match="not a file"):
        load_events(tmp_path)
    (tmp_path / "clip.xyz").write_bytes(b"1")
    with pytest.raises(DataError, match="no event format"):
        load_events(tmp_path / "clip.xyz")
    for suffix in ("npz", "npy", "h5", "aedat4", "es"):
        path = tmp_path / f"clip.{suffix}"
        path.write_bytes(b"")
        with pytest.raises(DataError, match="the file is empty"):
            load_events(path)
        path.write_bytes(b"hello there")
        with pytest.raises(DataError, match="damaged or something else"):
            load_events(path)
    with pytest.raises(DataError, match="is empty; its end"):
        load_events(tmp_path / "clip.npz", SENSOR, 5, 5)


# --- DSEC -------------------------------------------------------------------------------------------------------

OFFSET_US = 51_000_000_000


def write_dsec(path: Path, t: np.ndarray, **change: object) -> Path:
    milliseconds = np.arange(int(t[-1]) // 1000 + 2) * 1000
    content = {
        "events/x": (np.arange(len(t)) % 640).astype(np.uint16),
        "events/y": (np.arange(len(t)) % 480).astype(np.uint16),
        "events/t": t.astype(np.uint32),
        "events/p": (np.arange(len(t)) % 2).astype(np.uint8),
        "ms_to_idx": np.searchsorted(t, milliseconds).astype(np.uint64),
        "t_offset": np.int64(OFFSET_US),
        **change,
    }
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if value is not None:
                compression = hdf5plugin.Blosc(cname="zstd") if np.ndim(value) else {}
                file.create_dataset(key, data=value, **compression)
    return path


def test_dsec_whole_and_in_spans(tmp_path):
    t = np.sort(np.random.default_rng(1).integers(0, 30_000, 5000))
    path = write_dsec(tmp_path / "events.h5", t)
    whole = load_events(path)
    assert whole.sensor_size == (640, 480) and whole.t_us.tolist() == (t + OFFSET_US).tolist()
    assert load_events(path, (1280, 720)).sensor_size == (1280, 720)  # the layout is used by other cameras too
    spans = [(0, 30_001), (1500, 1560), (7000, 9000), (6_999, 9_001), (-5000, 400), (29_000, 90_000)]
    for start, end in spans:
        keep = (t >= start) & (t < end)
        part = load_events(path, None, OFFSET_US + start, OFFSET_US + end)
        assert part.t_us.tolist() == (t[keep] + OFFSET_US).tolist()
        np.testing.assert_array_equal(part.x, np.flatnonzero(keep) % 640)
    for start, end in ((40_000, 50_000), (-50, -10)):
        with pytest.raises(DataError, match="no events"):
            load_events(path, None, OFFSET_US + start, OFFSET_US + end)


def test_dsec_reads_only_the_span(tmp_path, monkeypatch):
    t = np.sort(np.random.default_rng(1).integers(0, 500_000, 50_000))
    path = write_dsec(tmp_path / "events.h5", t)
    read: list[int] = []
    original = h5py.Dataset.__getitem__

    def counted(self, key, *args, **kwargs):
        value = original(self, key, *args, **kwargs)
        read.append(np.size(value))
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    part = load_events(path, None, OFFSET_US + 250_000, OFFSET_US + 260_000)
    assert sum(read) < 4 * len(part) + 4 * 300
    monkeypatch.setattr(formats, "MOST_EVENTS", 40_000)
    with pytest.raises(DataError, match="50000 events are more"):
        load_events(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ms_to_idx": None}, "lacks ms_to_idx"),
        ({"events/x": np.zeros(3, np.uint16)}, "shapes"),
        ({"ms_to_idx": np.full(40, 10**6)}, "does not fit"),
        ({"ms_to_idx": np.full(40, 2500)}, "does not fit"),
    ],
)
def test_dsec_files_that_lie(tmp_path, change, says):
    t = np.sort(np.random.default_rng(1).integers(0, 30_000, 5000))
    path = write_dsec(tmp_path / "events.h5", t, **change)
    with pytest.raises(DataError, match=says):
        load_events(path, None, OFFSET_US + 5000, OFFSET_US + 6000)


def test_a_truncated_hdf5_file(tmp_path):
    path = write_dsec(tmp_path / "events.h5", np.arange(3000))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"events.h5: truncated or damaged") as raised:
        load_events(path)
    assert "\n" not in str(raised.value)


# --- camera makers' formats -------------------------------------------------------------------------------------

FAERY_KINDS = [
    ("clip.aedat4", None),
    ("evt2.raw", "evt2"),
    ("evt3.raw", "evt3"),
    ("clip.dat", None),
    ("clip.es", None),
    ("clip.csv", None),
]


def write_with_faery(path: Path, version: str | None, columns: dict[str, np.ndarray]) -> Path:
    faery = pytest.importorskip("faery")
    events = np.zeros(len(columns["t"]), dtype=faery.EVENTS_DTYPE)
    for key, name in (("t", "t"), ("x", "x"), ("y", "y"), ("p", "on")):
        events[name] = columns[key]
    options = {} if version is None else {"version": version}
    faery.events_stream_from_array(events, SENSOR).to_file(path, **options)
    return path


@pytest.mark.parametrize(("name", "version"), FAERY_KINDS)
def test_camera_formats_round_trip(tmp_path, columns, name, version):
    columns["t"] -= columns["t"][0]  # ES does not keep an absolute start
    path = write_with_faery(tmp_path / name, version, columns)
    stream = load_events(path)
    assert stream.sensor_size == SENSOR
    for key, held in (("x", stream.x), ("y", stream.y), ("t", stream.t_us), ("p", stream.p)):
        np.testing.assert_array_equal(held, columns[key])
    part = load_events(path, None, 10_000, 20_000)
    np.testing.assert_array_equal(part.t_us, columns["t"][(columns["t"] >= 10_000) & (columns["t"] < 20_000)])
    with pytest.raises(DataError, match="you gave 640x480"):
        load_events(path, (640, 480))


@pytest.mark.parametrize(("name", "version"), FAERY_KINDS)
def test_damaged_camera_files_give_one_line(tmp_path, columns, name, version):
    path = write_with_faery(tmp_path / name, version, columns)
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    for cut in (20, len(data) // 2, None):
        damaged = bytearray(data[:cut])
        if cut is None:
            for at in rng.integers(0, len(damaged), len(damaged) // 50):
                damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            stream = load_events(path, SENSOR)
        except DataError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert len(stream) < 3000  # formats without a length cannot tell that they were cut


def test_csv_as_people_write_it(tmp_path):
    pytest.importorskip("faery")
    path = tmp_path / "clip.csv"
    path.write_text("timestamp,x,y,polarity\n5,1,2,1\n6,3,4,0\n")
    stream = load_events(path, SENSOR)
    assert (stream.t_us.tolist(), stream.x.tolist(), stream.p.tolist()) == ([5, 6], [1, 3], [1, 0])
    path.write_text("5,1,2,1\n6,3,4,0\n")
    assert len(load_events(path, SENSOR)) == 2
    with pytest.raises(DataError, match="--sensor"):
        load_events(path)
    path.write_text("x,y,p,t\n1,2,1,5\n")
    with pytest.raises(DataError, match="columns must be t,x,y,p"):
        load_events(path, SENSOR)
    path.write_text("t,x,y,p\n5,64,2,1\n")
    with pytest.raises(DataError, match="outside the sensor|overflow"):
        load_events(path, SENSOR)


def test_without_faery_the_command_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faery", None)
    path = tmp_path / "clip.raw"
    path.write_bytes(b"% evt 3.0\n")
    with pytest.raises(DataError, match=r'pip install "crossdraft\[events\]"'):
        load_events(path)
