import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.bench.profile import LatencyProfile, cache_path, cached, interpolate, load, save
from crossdraft.core.records import write_record
from crossdraft.drafters.length import LengthChooser


def profile(**changes: object) -> LatencyProfile:
    values = {
        "target_encode_ms": 10.0,
        "target_prefill_ms": 20.0,
        "target_pass_ms": {1: 5.0, 8: 6.0, 32: 12.0},
        "context": 140,
    }
    return LatencyProfile(**{**values, **changes})  # type: ignore[arg-type]


def test_the_curve_is_interpolated_and_goes_on_with_its_last_slope() -> None:
    costs = profile()
    assert costs.pass_ms(1) == 5.0 and costs.pass_ms(8) == 6.0 and costs.pass_ms(32) == 12.0
    assert costs.pass_ms(20) == pytest.approx(9.0)
    assert costs.pass_ms(36) == pytest.approx(13.0)
    assert costs.verify_cost_ratio()[32] == pytest.approx(2.4)


def test_trees_have_a_curve_of_their_own_where_it_was_measured() -> None:
    assert profile().tree_ms(20) == profile().pass_ms(20)
    costs = profile(target_tree_ms={8: 8.0, 32: 20.0})
    assert costs.tree_ms(1) == 5.0 and costs.tree_ms(8) == 8.0 and costs.tree_ms(20) == pytest.approx(14.0)
    assert LengthChooser(costs, 40).pass_ms == [costs.pass_ms(n + 1) for n in range(41)]
    assert LengthChooser(costs, 40, trees=True).pass_ms == [costs.tree_ms(n + 1) for n in range(41)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=8), st.integers(1, 80))
def test_a_rising_curve_stays_rising(heights: list[float], at: int) -> None:
    points = {8 * i + 1: height for i, height in enumerate(sorted(heights))}
    assert interpolate(points, at) <= interpolate(points, at + 1) + 1e-9


def test_a_profile_survives_the_disk(tmp_path: Path) -> None:
    kept = profile(event_token_ms=3.0, target_tree_ms={8: 8.0, 32: 20.0})
    save(kept, tmp_path / "p.json")
    assert load(tmp_path / "p.json") == kept


def test_a_record_from_before_trees_were_measured_is_measured_anew(tmp_path: Path) -> None:
    save(profile(), tmp_path / "p.json")
    body = json.loads((tmp_path / "p.json").read_text())
    del body["profile"]["target_tree_ms"]
    (tmp_path / "p.json").write_text(json.dumps(body))
    assert load(tmp_path / "p.json") is None


def test_a_record_from_before_there_were_overheads_is_read(tmp_path: Path) -> None:
    save(profile(overhead_ms=1.0, contention=1.5, overlapped_ms=40.0, adapter_ms=0.5), tmp_path / "p.json")
    body = json.loads((tmp_path / "p.json").read_text())
    for name in ("overhead_ms", "contention", "overlapped_ms", "adapter_ms"):
        assert body["profile"].pop(name) is not None
    (tmp_path / "p.json").write_text(json.dumps(body))
    assert load(tmp_path / "p.json") == profile()


def test_it_is_measured_once_for_each_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path))
    calls: list[int] = []

    def run() -> LatencyProfile:
        calls.append(1)
        return profile()

    first = cached({"target": "a", "threads": 1}, run)
    assert cached({"target": "a", "threads": 1}, run) == first
    assert len(calls) == 1
    cached({"target": "a", "threads": 2}, run)
    cached({"target": "a", "threads": 1}, run, refresh=True)
    assert len(calls) == 3


def test_a_damaged_profile_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path))
    write_record(cache_path({"target": "a"}), "latency-profile", {"profile": {"nonsense": 1}})
    assert cached({"target": "a"}, profile) == profile()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(blocked / "inside"))
    assert "cannot write" in cached({"target": "a"}, profile).measured["not_kept"]
