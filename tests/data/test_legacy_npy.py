import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError
from crossdraft.data.events import load_events
from crossdraft.data.legacy_npy import read_legacy_npy

SENSOR = (64, 48)


def object_header() -> bytes:
    from io import BytesIO

    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue()


def save_pickle(path: Path, payload: bytes) -> Path:
    path.write_bytes(object_header() + payload)
    return path


def save_legacy(path: Path, content: object) -> Path:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def test_a_legacy_clip_reads_like_numpy_reads_it(tmp_path, columns):
    extra = {
        "num_events": np.int64(3000),
        "duration_ms": 50.0,
        "time_start": int(columns["t"][0]),
        "image_indices_in_clip": [1, 2, 3],
        "note": "straße",
        "flags": (True, False, None, -5, 2**70),
        "grid": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
    }
    path = save_legacy(tmp_path / "clip.npy", {**columns, **extra})
    mine = read_legacy_npy(path)
    theirs = np.load(path, allow_pickle=True).item()
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(mine[key], value)
            assert mine[key].dtype == value.dtype
        else:
            assert mine[key] == value
    assert len(load_events(path, SENSOR)) == 3000
    assert len(load_events(path, SENSOR, int(columns["t"][10]), int(columns["t"][200]))) < 200


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol_of_python_3(tmp_path, columns, protocol):
    # protocol 2 of Python 3 stores bytes as a call of _codecs.encode: a name that no published clip has, so refused
    path = save_pickle(
        tmp_path / "clip.npy", pickle.dumps(np.array(columns, dtype=object), protocol=protocol, fix_imports=True)
    )
    if protocol == 2:
        with pytest.raises(DataError, match=r"_codecs.encode; refused"):
            load_events(path, SENSOR)
    elif protocol == 5:
        with pytest.raises(DataError, match=r"_frombuffer; refused"):
            load_events(path, SENSOR)
    else:
        np.testing.assert_array_equal(load_events(path, SENSOR).t_us, columns["t"])


def test_the_sensor_size_may_be_in_the_clip(tmp_path, columns):
    assert load_events(save_legacy(tmp_path / "a.npy", {**columns, "sensor_size": SENSOR})).sensor_size == SENSOR
    with_sides = {**columns, "width": 64, "height": np.int32(48)}
    assert load_events(save_legacy(tmp_path / "b.npy", with_sides)).sensor_size == SENSOR
    with pytest.raises(DataError, match="sensor_size"):
        load_events(save_legacy(tmp_path / "c.npy", {**columns, "sensor_size": "wide"}))


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "system"),
        (eval, "__builtin__.eval|builtins.eval"),
        (getattr, "__builtin__.getattr|builtins.getattr"),
        (np.load, "load"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_by_name_and_never_run(tmp_path, function, named, protocol, columns):
    mark = tmp_path / "ran"
    evil = Evil(function, f"touch {mark}") if function is os.system else Evil(function, f"open('{mark}', 'w')")
    path = save_pickle(tmp_path / "evil.npy", pickle.dumps({"a": evil, **columns}, protocol=protocol))
    with pytest.raises(DataError, match=f"asks for .*({named}); refused") as raised:
        load_events(path, SENSOR)
    assert not mark.exists() and "\n" not in str(raised.value)


def test_object_arrays_are_not_columns(tmp_path, columns):
    objects = {**columns, "x": np.array([1, "two", None], dtype=object)}
    with pytest.raises(DataError, match="Python objects"):
        load_events(save_legacy(tmp_path / "objects.npy", objects), SENSOR)


@pytest.mark.parametrize("content", [[1, 2], "text", {"x": 1}, {"x": np.arange(3)}, {1: 2}, np.arange(3)])
def test_what_is_not_a_clip(tmp_path, content):
    path = tmp_path / "other.npy"
    np.save(path, content if isinstance(content, np.ndarray) else np.array(content, dtype=object))
    with pytest.raises(DataError, match="other.npy: "):
        load_events(path, SENSOR)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",  # 1 EiB of bytes declared
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",  # as much text
        b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b"x.",  # a number of a billion digits
        b"\x80\x04}r" + struct.pack("<I", 0xFFFFFFFF) + b".",  # a memo of 4 billion places
        b"\x80\x04" + b"}" * 200_000 + b".",  # a very deep stack
        b"\x80\x04)" + b"\x94h\x00h\x00\x86" * 60 + b"K\x01s.",  # keys whose hash takes 2^60 steps
        b"\x80\x04h\x05.",
        b"\x80\x04u.",
        b"\x80\x04.",
        b"\x80\x04}",
        b"",
        b"\x80\x04\x97.",  # out-of-band buffers
        b"\x80\x04Pnumber\n.",  # persistent ids
        b"\x80\x04\x82\x01.",  # extension registry
    ],
)
def test_a_malformed_pickle_is_refused_at_once(tmp_path, payload):
    with pytest.raises(DataError, match="bad.npy: ") as raised:
        load_events(save_pickle(tmp_path / "bad.npy", payload), SENSOR)
    assert "\n" not in str(raised.value)


def test_an_array_that_declares_more_than_it_holds(tmp_path, columns):
    payload = pickle.dumps(columns, protocol=4)
    # the shape (3000,) is written as a two-byte number; 65,535 says the same of every column
    grown = payload.replace(b"M" + struct.pack("<H", 3000), b"M" + struct.pack("<H", 65535))
    assert grown != payload
    with pytest.raises(DataError, match="declares"):
        load_events(save_pickle(tmp_path / "bomb.npy", grown), SENSOR)


@settings(max_examples=120, deadline=None)
@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_gives_an_error_or_valid_events_never_a_crash(tmp_path_factory, cut, flips):
    rng = np.random.default_rng(0)
    columns = {"x": np.arange(20, dtype=np.uint16), "y": np.arange(20, dtype=np.uint16), "t": np.arange(20)}
    columns["p"] = rng.integers(0, 2, 20).astype(np.uint8)
    path = save_legacy(tmp_path_factory.mktemp("damage") / "clip.npy", columns)
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
