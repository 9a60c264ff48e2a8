"""Which records are found, which are named as left out, and which are refused."""

import json
from pathlib import Path

import pytest

from crossdraft.core.errors import DataError
from crossdraft.core.records import write_record
from crossdraft.report.gather import Found, gather, reading


def test_a_folder_gives_every_record_below_it(run_folder: Path) -> None:
    found = gather([run_folder])
    assert {record.name: record.kind for record in found.records} == {
        "answer": "generation", "bench/growth": "bench-growth", "demo": "demo", "evaluation": "evaluation",
        "l4/training": "adapter-training", "league": "league", "live": "live", "machine/profile": "latency-profile",
        "store": "paired-store", "verdict": "verdict",
    }  # fmt: skip
    assert found.others == ("l4/config.json",)
    assert [record.name for record in found.of("bench-*", "demo")] == ["bench/growth", "demo"]


def test_a_record_given_twice_is_read_once(run_folder: Path) -> None:
    assert len(gather([run_folder / "live.json", run_folder]).records) == len(gather([run_folder]).records)


def test_epochs_come_from_the_log_where_the_record_has_none(run_folder: Path) -> None:
    (training,) = gather([run_folder / "l4"]).of("adapter-training")
    assert len(training.body["epochs"]) == 8
    (run_folder / "l4" / "log.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(DataError, match=r"log\.jsonl is not a readable log"):
        gather([run_folder / "l4"])


def test_what_a_command_printed_is_known_by_its_keys(tmp_path: Path, verdict: dict) -> None:
    (tmp_path / "v.json").write_text(json.dumps(verdict))
    assert gather([tmp_path / "v.json"]).records[0].kind == "verdict"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not a readable record"), ("\x00\xff", "is not a readable record"),
        ('{"a": 1}', "is not a record of crossdraft"), ("[1]", "is not a record of crossdraft"),
        ('{"schema": 99, "kind": "live"}', "update crossdraft"),
        ('{"schema": "1", "kind": "live"}', "is not a 'live'"),
        ("[" * 100_000, "is not a readable record"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=told) as error:
        gather([path])
    assert "bad.json" in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_file_in_a_folder_is_an_error_and_no_gap(run_folder: Path) -> None:
    (run_folder / "live.json").write_text((run_folder / "live.json").read_text()[:-100])
    with pytest.raises(DataError, match=r"live\.json is not a readable record"):
        gather([run_folder])


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such record or folder: .*nowhere"):
        gather([tmp_path / "nowhere"])


def test_half_written_and_hidden_files_are_not_read(tmp_path: Path) -> None:
    write_record(tmp_path / "live.json", "live", {})
    (tmp_path / ".live.json.123.tmp.json").write_text("{")
    assert len(gather([tmp_path]).records) == 1


@pytest.mark.parametrize("broken", [KeyError("rows"), TypeError("x"), IndexError("y"), ZeroDivisionError("z")])
def test_what_a_section_cannot_read_is_a_damaged_record(broken: Exception) -> None:
    with pytest.raises(DataError, match="r/live.json is a damaged 'live' record"), reading(
        Found("r/live.json", "live", "live", {})
    ):  # fmt: skip
        raise broken
