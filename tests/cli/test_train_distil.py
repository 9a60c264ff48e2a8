"""``crossdraft train distil`` from the command line, on a handful of extracted answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.cli.main import main
from crossdraft.data.scenes import write_streams
from crossdraft.data.store.head import HEAD_FILE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_streams(root, 2, 1, 5)
    return root


@pytest.fixture(scope="module")
def store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores") / "store"
    settings = ("--per-clip", "2", "--top-k", "4", "--max-new-tokens", "12")
    assert main(["extract", str(root), "--data", str(scenes), *settings]) == 0
    return root


def test_what_is_taught_drafts_by_its_folder(run: Run, scenes: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("train", "distil", "--store", store, "--data", scenes, "--epochs", 1)
    code, said, err = run(*common, "--out", out)
    assert code == 0, err
    assert "distilled, 2 answers" in said and "after, shuffled clip's events" in said
    events = next((scenes / "event_npy").rglob("*.npz"))
    code, said, err = run(
        "generate", "--event-model", out, "--drafter", "cross_modal", "--events", events, "--prompt", "What moves?",
        "--max-new-tokens", 4, "--video", next((scenes / "mp4").rglob("*.mp4")),
    )  # fmt: skip
    assert code == 0, err
    states = ("--lora", "--loss", "states", "--target", "nano", "--json")
    code, said, err = run(*common, "--out", tmp_path / "l6", *states)
    assert code == 0 and json.loads(said)["level"] == "l6", err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--store", "nowhere"), "is no store of paired states"),
        (("--event-model", "nowhere"), "no such checkpoint folder"),
        (("--loss", "states"), "choose mode 'l6'"),
        (("--epochs", "0"), "epochs is 0"),
        (("--questions", "nowhere.txt"), "cannot be read"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, scenes: Path, store: Path, tmp_path: Path, changes: tuple[str, ...], words: str
) -> None:
    code, out, err = run("train", "distil", "--store", store, "--data", scenes, "--out", tmp_path / "out", *changes)
    assert code == 2 and words in err and err.count("\n") == 1, out + err
    assert not (tmp_path / "out" / "training.json").exists()


def test_states_need_the_target_s_head(run: Run, scenes: Path, store: Path, tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(store, headless)
    (headless / HEAD_FILE).unlink()
    what = ("--store", headless, "--data", scenes, "--out", tmp_path / "out", "--lora", "--loss", "states")
    code, out, err = run("train", "distil", *what)
    assert code == 2 and "the target's output head" in err and err.count("\n") == 1, out + err
