"""``crossdraft extract`` from the command line, on the built-in pair."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossdraft import build
from crossdraft.adapters import build_adapter
from crossdraft.adapters.checkpoint import save_adapter
from crossdraft.build import pairs
from crossdraft.data.scenes import write_streams
from crossdraft.data.store import Store, load_head, same_content
from crossdraft.models import read_ends
from crossdraft.models.nano import nano_dir

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
    head = read_ends(nano_dir("target")).head
    assert torch.equal(load_head(store.root), head)
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


@pytest.fixture(scope="module")
def answers(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the built-in pair makes of four questions."""
    from crossdraft.cli.main import main

    root = tmp_path_factory.mktemp("answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSDRAFT_CACHE", str(root / "cache"))
        assert main(["extract", str(root / "right"), "--data", str(scenes), *map(str, FEW)]) == 0
    return root / "right"


FEW = ("--limit", 4, "--max-new-tokens", 12, "--top-k", 2)


def test_a_control_made_from_kept_answers(
    run: Run, scenes: Path, answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--data", scenes, *FEW, "--shuffle-events", "--json")
    code, out, err = run("extract", tmp_path / "ran", *common)
    assert code == 0, err
    assert json.loads(out)["control"] == "shuffled"
    monkeypatch.setattr(pairs, "load_target", lambda *a, **k: pytest.fail("the target was loaded"))
    code, _, err = run("extract", tmp_path / "read", *common, "--answers", answers)
    assert code == 0, err
    assert same_content(tmp_path / "ran", tmp_path / "read")
    right, control = Store.open(answers), Store.open(tmp_path / "read")
    assert [e.id for e in right.entries] == [e.id for e in control.entries]
    for mine, theirs in zip(control, right, strict=True):
        assert torch.equal(mine.target_states, theirs.target_states)
        assert not torch.equal(mine.draft_states, theirs.draft_states)
    code, out, _ = run("store", "stats", tmp_path / "read")
    assert code == 0 and "teacher-forced, events shuffled" in out
    code, out, err = run("extract", answers, *common, "--answers", answers)
    assert code == 2 and "control 'none' against 'shuffled'" in err, err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--max-new-tokens", 11), "another checkpoint, dtype or max_new_tokens"),
        (("--dtype", "float64"), "another checkpoint, dtype or max_new_tokens"),
        (("--states", "fp32"), "dtype 'bf16', 'fp32' is asked for"),
        (("--top-k", 3), "top_k 2, 3 is asked for"),
        (("--layers", "1"), "tapped"),
    ],
)
def test_answers_of_other_settings_are_refused(
    run: Run, scenes: Path, answers: Path, tmp_path: Path, changes: tuple[str, ...], words: str
) -> None:
    common = ("extract", tmp_path / "s", "--data", scenes, *FEW, "--answers", answers)
    code, out, err = run(*common, *changes)
    assert code == 2 and words in err and err.count("\n") == 1, out + err
    assert not (tmp_path / "s").exists()


def test_a_checkpoint_that_moved_goes_on_with_its_store(run: Run, scenes: Path, tmp_path: Path) -> None:
    """One worker from each place: what decides is what the models are."""
    common = ("extract", tmp_path / "s", "--data", scenes, "--limit", 4, "--max-new-tokens", 8, "--json")
    places = [tmp_path / "a", tmp_path / "b"]
    for number, place in enumerate(places):
        models = [shutil.copytree(nano_dir(role), place / nano_dir(role).name) for role in ("target", "event")]
        pair = ("--target", models[0], "--event-model", models[1])
        code, out, err = run(*common, *pair, "--worker", f"{number}/2")
        assert code == 0 and json.loads(out)["samples"] == 2, err
    code, out, err = run(*common)
    assert code == 0 and json.loads(out)["samples"] == 0, err


def test_what_a_model_is_does_not_say_where_it_lies_and_runs(tmp_path: Path) -> None:
    here = build.Source.of("nano", "target", "float32", "cpu")
    copy = shutil.copytree(nano_dir("target"), tmp_path / "elsewhere")
    there = build.Source.of(copy, "target", "float32", "cpu")
    assert here.what() == there.what() == replace(here, device="cuda:1").what()
    assert here.what() != replace(here, dtype="bfloat16").what()
    assert here.what() != build.Source.of("nano", "event", "float32", "cpu").what()


def test_nothing_but_failures_is_no_success(run: Run, tmp_path: Path) -> None:
    line = {"id": "a", "recording": "r", "clip_index": 0, "video": "no.mp4", "events": "no.npz", "question": "Who?"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    common = ("extract", tmp_path / "s", "--manifest", tmp_path / "m.jsonl", "--json")
    code, out, err = run(*common)
    assert code == 2 and "nothing could be extracted" in err and "no.mp4" in err and err.count("\n") == 1
    assert json.loads(out)["failed"] == 1
    code, out, err = run(*common)
    assert code == 0 and json.loads(out)["failed_before"] == 1 and "--retry-failed" in err
    code, _, err = run(*common, "--retry-failed")
    assert code == 2 and "nothing could be extracted" in err


def test_a_settings_error_leaves_a_store_that_says_it_is_empty(run: Run, scenes: Path, tmp_path: Path) -> None:
    common = ("extract", tmp_path / "s", "--data", scenes, "--limit", 1)
    assert run(*common, "--max-new-tokens", 10**8)[0] == 2
    code, _, err = run(*common, "--max-new-tokens", 8)
    assert code == 2 and "is an empty store of another kind" in err and "delete it" in err, err


def test_a_target_is_no_event_model_for_a_control(run: Run, scenes: Path, tmp_path: Path) -> None:
    pair = ("--event-model", nano_dir("target"))
    code, out, err = run("extract", tmp_path / "s", "--data", scenes, "--limit", 1, *pair, "--shuffle-events")
    assert code == 2 and "does not look at events" in err and err.count("\n") == 1, out + err


def test_only_an_l6_is_merged_into_the_event_model(run: Run, tmp_path: Path) -> None:
    made = build_adapter("l1", width_in=160, width_out=320)
    file = save_adapter(tmp_path / "l1.safetensors", made, extraction="x")
    code, out, err = run("extract", tmp_path / "store", "--data", tmp_path, "--lora", file)
    assert code == 2 and "is no adapter 'l6'" in err and err.count("\n") == 1, out + err
