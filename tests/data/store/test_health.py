"""Damage is named, and only what is damaged is made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossdraft.core.errors import CrossdraftError, DataError
from crossdraft.data.store import Failure, Store, StoreIdentity, StoreWriter, check, repair, same_content, stats

Make = Callable[..., Any]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def go_on(root: Path, identity: StoreIdentity, make_sample: Make, count: int) -> list[str]:
    """Extract again; the ids that had to be made."""
    with StoreWriter(root, identity, prefix="again") as writer:
        todo = writer.remaining(f"s{number:03d}" for number in range(count))
        for name in todo:
            writer.put(make_sample(int(name[1:])))
    return todo


@pytest.mark.parametrize("place", [0, 100, -1], ids=["length", "header", "data"])
def test_a_flipped_bit_is_named_and_only_its_samples_are_made_again(
    tmp_path: Path, write_store: Make, make_sample: Make, identity: StoreIdentity, place: int
) -> None:
    whole, root = write_store(tmp_path / "whole", range(9)), write_store(tmp_path / "s", range(9))
    untouched = (root / "w0-000000.safetensors").stat().st_mtime_ns
    assert check(root).ok and check(root).shards == 3 and check(root).samples == 9
    flip(root / "w0-000001.safetensors", place)
    report = check(root)
    assert not report.ok and report.damaged_ids == ("s003", "s004", "s005")
    (damage,) = report.damages
    assert damage.file == "w0-000001.safetensors" and damage.reason == "differs from its checksum"
    assert repair(root) == report
    assert check(root).ok and len(Store.open(root)) == 6
    assert go_on(root, identity, make_sample, 9) == ["s003", "s004", "s005"]
    assert same_content(root, whole)
    assert (root / "w0-000000.safetensors").stat().st_mtime_ns == untouched


def test_a_missing_shard_is_damage_too(
    tmp_path: Path, write_store: Make, make_sample: Make, identity: StoreIdentity
) -> None:
    whole, root = write_store(tmp_path / "whole", range(6)), write_store(tmp_path / "s", range(6))
    (root / "w0-000001.safetensors").unlink()
    report = repair(root)
    assert [(d.file, d.reason, d.ids) for d in report.damages] == [
        ("w0-000001.safetensors", "is missing", ("s003", "s004", "s005"))
    ]
    assert go_on(root, identity, make_sample, 6) == ["s003", "s004", "s005"]
    assert same_content(root, whole)


def test_a_damaged_line_costs_its_sample(
    tmp_path: Path, write_store: Make, make_sample: Make, identity: StoreIdentity
) -> None:
    whole, root = write_store(tmp_path / "whole", range(6)), write_store(tmp_path / "s", range(6))
    flip(root / "index-w0.jsonl", 40)
    report = check(root)
    assert report.samples == 5 and report.damages[0].file == "index-w0.jsonl"
    assert "line 1 differs from its checksum" in report.damages[0].reason
    repair(root)
    assert go_on(root, identity, make_sample, 6) == ["s000"]
    assert same_content(root, whole) and check(root).ok


def test_a_writer_touches_nothing_before_a_repair(
    tmp_path: Path, write_store: Make, identity: StoreIdentity
) -> None:
    """The shard of a damaged line is named by no other, and still is no remains of a crash."""
    root = write_store(tmp_path / "s", range(3), per_shard=1)
    flip(root / "index-w0.jsonl", 40)
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    with pytest.raises(DataError, match="line 1 is damaged"):
        StoreWriter(root, identity)
    assert {path.name: path.read_bytes() for path in root.iterdir()} == before


def test_a_sample_that_two_workers_made_is_kept_once(tmp_path: Path, write_store: Make) -> None:
    whole, root = write_store(tmp_path / "whole", range(4)), write_store(tmp_path / "s", range(4))
    other = write_store(tmp_path / "other", [3], prefix="w1")
    for name in ("w1-000000.safetensors", "index-w1.jsonl"):
        (other / name).rename(root / name)
    with pytest.raises(DataError, match="'s003' is in w0-000001.safetensors and in w1-000000.safetensors"):
        Store.open(root)
    report = repair(root)
    assert "repeats 's003' of w0-000001" in report.damages[0].reason and report.damaged_ids == ()
    assert same_content(root, whole)


def test_what_crashes_left_is_named_and_removed(tmp_path: Path, write_store: Make) -> None:
    root = write_store(tmp_path / "s", range(3))
    (root / "w0-000007.safetensors").write_bytes(b"half")
    (root / ".w0-000008.safetensors.1.tmp").write_bytes(b"half")
    with open(root / "index-w0.jsonl", "ab") as file:
        file.write(b'{"status": "ok", "id')
    report = check(root)
    assert report.ok
    assert report.unfinished == (
        "index-w0.jsonl (its end)",
        ".w0-000008.safetensors.1.tmp",
        "w0-000007.safetensors",
    )
    repair(root)
    assert check(root).unfinished == () and len(Store.open(root)) == 3


def test_nothing_is_repaired_under_a_writer(tmp_path: Path, write_store: Make, identity: StoreIdentity) -> None:
    root = write_store(tmp_path / "s", range(3))
    flip(root / "w0-000000.safetensors", -1)
    with (
        StoreWriter(root, identity, prefix="w1"),
        pytest.raises(CrossdraftError, match="a process is writing as 'w1'"),
    ):
        repair(root)
    assert not check(root).ok


def test_a_repair_keeps_failures(tmp_path: Path, write_store: Make, identity: StoreIdentity) -> None:
    root = write_store(tmp_path / "s", range(3))
    with StoreWriter(root, identity) as writer:
        writer.fail(Failure(id="bad", recording="r", clip_index=0, question="?", reason="no video"))
    (root / "w0-000000.safetensors").unlink()
    assert repair(root).failures == 1
    assert list(Store.open(root).failures) == ["bad"] and len(Store.open(root)) == 0


def test_counts(tmp_path: Path, write_store: Make, make_sample: Make, identity: StoreIdentity) -> None:
    root = write_store(tmp_path / "s", range(6), per_shard=4)
    with StoreWriter(root, identity) as writer:
        for number in (1, 2):
            writer.fail(Failure(id=f"bad{number}", recording="r", clip_index=0, question="?", reason="no video"))
    samples = [make_sample(number) for number in range(6)]
    found = stats(root)
    assert found.identity == identity and found.num_samples == 6 and found.num_shards == 2
    assert found.num_target_tokens == sum(len(s.target_states) for s in samples) == 16
    assert found.num_draft_tokens == sum(len(s.draft_states) for s in samples)
    assert found.target_lengths == (1, 2.5, 5) and found.draft_lengths == (1, 2, 3)
    assert found.recordings == {"rec_0": 4, "rec_1": 2} and found.questions == {"What?": 6}
    assert found.size_bytes == sum(path.stat().st_size for path in root.glob("w0-*"))
    assert found.failures == {"no video": 2}


def test_counts_of_an_empty_store(tmp_path: Path, identity: StoreIdentity) -> None:
    StoreWriter(tmp_path / "s", identity).close()
    found = stats(tmp_path / "s")
    assert found.num_samples == 0 and found.target_lengths is None and found.size_bytes == 0
    assert check(tmp_path / "s").ok
    for look in (check, repair, stats):
        with pytest.raises(DataError, match="is no store"):
            look(tmp_path)
