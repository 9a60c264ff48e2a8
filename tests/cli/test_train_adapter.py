"""``crossdraft train adapter`` from the command line, on states as wide as the built-in pair's."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from crossdraft.data.store import PairedStates, Store, StoreIdentity, StoreWriter, load_head, save_head
from crossdraft.models import read_ends
from crossdraft.models.nano import nano_dir

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(recordings=..., head=...): a store of 2 answers of 3 tokens for each recording."""

    def make(recordings: int = 3, head: bool = True, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "target": "nano-target", "event_model": "nano-event", "target_width": 320, "draft_width": 160,
            "vocab_size": 1280, "mode": "teacher-forced", "dtype": "bf16", "config_hash": "c0ffee", **changes,
        }  # fmt: skip
        identity = StoreIdentity(**settings)
        noise = torch.Generator().manual_seed(0)
        root = tmp_path / "store"
        with StoreWriter(root, identity) as writer:
            for number in range(2 * recordings):
                target, draft = (
                    torch.randn(3, width, generator=noise)
                    for width in (identity.target_width, identity.draft_width)
                )
                writer.put(
                    PairedStates(
                        id=f"s{number}", recording=f"rec_{number // 2}", clip_index=number, question="What?",
                        target_states=target, draft_states=draft, target_tokens=torch.tensor([5, 6, 2]),
                        draft_tokens=torch.tensor([5, 6, 2]),
                    )
                )  # fmt: skip
        if head:
            save_head(root, read_ends(nano_dir("target")).head)
        return root

    return make


def test_it_trains_and_a_second_run_has_nothing_to_do(run: Run, write: Write, tmp_path: Path) -> None:
    command = ("train", "adapter", "l1", "--store", write(), "--out", tmp_path / "out", "--epochs", 2)
    code, out, err = run(*command)
    assert code == 0, err
    assert "l1, 65,601 parameters, on 4 teacher-forced answers of 2 recordings; best epoch" in out
    assert "held out, 2 answers of 1 recording: cos" in out and "leading matches" in out
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["loss"]["kl"] == 1.0 and len(record["epochs"]) == 2
    code, out, err = run(*command, "--json")
    assert code == 0 and "is finished" in err and json.loads(out)["epochs"] == record["epochs"]
    code, out, err = run(*command, "--loss", "study", "--position-decay", "0.9", "--restart", "--json")
    assert code == 0, err
    wanted = {"mse": 1.0, "cosine": 0.5, "kl": 0.0, "position_decay": 0.9}
    assert wanted.items() <= json.loads(out)["loss"].items()


def test_the_head_comes_from_a_file_or_from_the_target(run: Run, write: Write, tmp_path: Path) -> None:
    store = write(head=False)
    kept = tmp_path / "head.safetensors"
    save_file({"weight": read_ends(nano_dir("target")).head}, kept)
    command = ("train", "adapter", "l1", "--store", store, "--epochs", 1, "--json", "--out")
    records = []
    for name, source in (("a", ("--head", kept)), ("b", ("--target", "nano"))):
        code, out, err = run(*command, tmp_path / name, *source)
        assert code == 0, err
        records.append(json.loads(out)["epochs"])
    assert records[0] == records[1]
    code, _, err = run(*command, tmp_path / "c", "--head", kept, "--target", "nano")
    assert code == 2 and "not allowed with" in err


def test_levels_that_read_tokens_or_their_target(run: Run, write: Write, tmp_path: Path) -> None:
    store = write()
    command = ("train", "adapter", "l5_tokens", "--store", store, "--out", tmp_path / "t", "--epochs", 1)
    code, _, err = run(*command)
    assert code == 2 and "reads token embeddings, which only the target has; name the target" in err
    assert run(*command, "--target", "nano", "--set", "num_heads=4")[0] == 0
    code, _, err = run("train", "adapter", "b1", "--store", store, "--out", tmp_path / "b", "--epochs", 1)
    assert code == 0 and "b1 reads the very state that it is judged by" in err


@pytest.mark.parametrize(
    ("level", "options", "words"),
    [
        ("l6", (), "crossdraft train distil"),
        ("l7", (), "unknown adapter 'l7'"),
        ("l1", ("--loss", "tokns"), "loss is 'tokns', must be study, tokens, or weights"),
        ("l1", ("--loss", "mes=1"), "Did you mean 'mse'"),
        ("l1", ("--position-decay", "2"), "position_decay is 2.0"),
        ("l1", ("--set", "dropout"), "--set is 'dropout', must be NAME=VALUE"),
        ("l1", ("--set", "droput=0.1"), "unknown key 'droput'"),
        ("l1", ("--dtype", "float16"), "dtype is 'float16'"),
        ("l1", ("--epochs", "0"), "epochs is 0"),
        ("l1", ("--lr", "nan"), "peak_lr is nan"),
        ("l1", ("--accumulate", "9"), "a step has 9 parts"),
        ("l1", ("--threads", "0"), "threads is 0"),
        ("l1", ("--device", "tpu"), "unknown device 'tpu'"),
        ("l1", ("--head", "nowhere.safetensors"), "nowhere.safetensors: is damaged or no saved head"),
        ("l1", ("--target", "nowhere"), "no such checkpoint folder"),
    ],
)
def test_what_cannot_be_is_one_line(
    level: str, options: tuple, words: str, run: Run, write: Write, tmp_path: Path
) -> None:
    code, out, err = run("train", "adapter", level, "--store", write(), "--out", tmp_path / "out", *options)
    assert code == 2 and words in err and err.count("\n") == 1, out + err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"recordings": 1}, (), "all samples are of one recording"),
        ({"head": False}, (), "needs the target's output head"),
        ({"head": False, "target_width": 32}, ("--target", "nano"), "[1280, 320], must be [1280, 32]"),
        ({"head": False, "vocab_size": 99}, ("--target", "nano"), "[1280, 320], must be [99, 320]"),
    ],
)
def test_stores_that_cannot_teach(
    changes: dict, options: tuple, words: str, run: Run, write: Write, tmp_path: Path
) -> None:
    code, out, err = run("train", "adapter", "l1", "--store", write(**changes), "--out", tmp_path / "out", *options)
    assert code == 2 and words in err and err.count("\n") == 1, out + err


def test_no_store_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("train", "adapter", "l1", "--store", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "is no store of paired states" in err


def test_the_store_that_was_written_is_what_is_read(write: Write) -> None:
    store = Store.open(write())
    assert len(store) == 6 and load_head(store.root).shape == (1280, 320)
