import errno
import json
import os
from pathlib import Path

import pytest

from crossdraft.core import records
from crossdraft.core.errors import CrossdraftError, DataError


def test_round_trip(tmp_path: Path) -> None:
    path = records.write_record(tmp_path / "deep" / "r.json", "probe", {"value": [1, 2.5, None]})
    assert records.read_record(path, "probe")["value"] == [1, 2.5, None]
    assert os.listdir(path.parent) == ["r.json"]


def test_a_full_disk_leaves_the_old_record_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = records.write_record(tmp_path / "r.json", "probe", {"value": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrossdraftError, match="No space left"):
        records.write_record(path, "probe", {"value": 2})
    assert records.read_record(path, "probe")["value"] == 1
    assert os.listdir(tmp_path) == ["r.json"]


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_record(tmp_path / "r.json", "probe", {"value": float("nan")})
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable record"),
        ("[]", "not a 'probe' record"),
        (json.dumps({"schema": 1, "kind": "other"}), "not a 'probe' record"),
        (json.dumps({"schema": 99, "kind": "probe"}), "update crossdraft"),
    ],
)
def test_damaged_and_foreign_records(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=message):
        records.read_record(tmp_path / "r.json", "probe")


def test_a_missing_record(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such record"):
        records.read_record(tmp_path / "none.json", "probe")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossdraftError, match="cannot write"):
        records.write_record(tmp_path / "file" / "r.json", "probe", {})
