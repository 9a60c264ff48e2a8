"""``crossdraft extract`` from the command line, on the built-in pair."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.data.scenes import write_streams
from crossdraft.data.store import Store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_streams(root, 1, 2, 5)
    return root


def test_two_workers_fill_one_store_and_a_second_run_has_nothing_to_do(
    run: Run, scenes: Path, tmp_path: Path
) -> None:
    common = ("extract", tmp_path / "s", "--data", scenes, "--limit", 4, "--max-new-tokens", 12, "--json")
    counts = []
    for worker in ("0/2", "1/2", "0/2"):
        code, out, err = run(*common, "--worker", worker)
        assert code == 0, err
        counts.append(json.loads(out)["samples"])
    assert counts == [2, 2, 0]
    store = Store.open(tmp_path / "s")
    assert len(store) == 4 and store.identity.mode == "teacher-forced"
    assert all(len(sample.target_states) == len(sample.draft_states) <= 12 for sample in store)
    code, out, _ = run("store", "check", tmp_path / "s")
    assert code == 0 and "4 samples" in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--worker", "2/2"), "--worker"),
        (("--layers", "a"), "--layers"),
        (("--event-model", "none"), "event model is needed"),
        (("--limit", "0"), "limit"),
        (("--split", "nowhere"), "no split"),
        (("--top-k", "99999"), "top_k is 99999"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, scenes: Path, tmp_path: Path, changes: tuple[str, ...], words: str
) -> None:
    code, out, err = run("extract", tmp_path / "s", "--data", scenes, *changes)
    assert code == 2 and words in err and err.count("\n") == 1, out + err
    assert not (tmp_path / "s").exists()


def test_a_layer_that_is_not_there(run: Run, scenes: Path, tmp_path: Path) -> None:
    code, out, err = run("extract", tmp_path / "s", "--data", scenes, "--layers", "77", "--limit", "1")
    assert code == 2 and "layer 77 is asked for" in err and err.count("\n") == 1, out + err
