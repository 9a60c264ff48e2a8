"""``crossdraft evaluate`` on bad input: one line that says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.adapters import build_adapter
from crossdraft.adapters.checkpoint import save_adapter
from crossdraft.core.records import write_record
from crossdraft.data.store import PairedStates, StoreIdentity, StoreWriter

Run = Callable[..., tuple[int, str, str]]


def make_store(
    root: Path,
    recordings: int = 2,
    target_width: int = 320,
    draft_width: int = 160,
    ids: str = "s",
    **identity_of: str,
) -> Path:
    changes: Any = {"event_model": "nano-event", **identity_of}
    identity = StoreIdentity(
        target="nano-target", target_width=target_width, draft_width=draft_width,
        vocab_size=2048, mode="teacher-forced", dtype="fp32", config_hash="0" * 64, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    with StoreWriter(root, identity) as writer:
        for n in range(4):
            tokens = torch.randint(5, 900, (6,))
            writer.put(
                PairedStates(
                    id=f"{ids}{n}", recording=f"r{n % recordings}", clip_index=n, question="what?",
                    target_states=torch.randn(6, target_width), draft_states=torch.randn(6, draft_width),
                    target_tokens=tokens, draft_tokens=tokens,
                )
            )  # fmt: skip
    return root


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    made = build_adapter("l1", width_in=160, width_out=320)
    return save_adapter(tmp_path / "l1.safetensors", made, extraction="x")


def test_a_table_with_every_control(run: Run, adapter: Path, tmp_path: Path) -> None:
    code, out, err = run("evaluate", adapter, "--store", make_store(tmp_path / "store"))
    assert code == 0, err
    for words in ("event model", "l1", "constant per question", "stream memory", "prompt lookup", "2 recordings"):
        assert words in out
    assert "no shuffled clip beside these rows" in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store": "nowhere"}, "is no store of paired states"),
        ({"shuffled": "other"}, "does not hold the same samples"),
        ({"shuffled": "store"}, "saw the right clips"),
        ({"store": "control"}, "saw other clips' events"),
        ({"store": "foreign"}, "holds states of 'another-event'"),
        ({"learn-from": "store"}, "would recite their answers"),
        ({"live": "0", "data": "empty"}, "--live is 0"),
        ({"adapters": "nowhere.safetensors"}, "no such adapter checkpoint"),
        ({"adapters": "empty"}, "holds no adapter.safetensors"),
        ({"store": "narrow"}, "belongs to another"),
        ({"store": "single"}, "two or more recordings"),
        ({"length": "0"}, "--length is 0"),
        ({"live": "3"}, "--live N goes with --data"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, adapter: Path, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    make_store(tmp_path / "store")
    make_store(tmp_path / "single", recordings=1)
    make_store(tmp_path / "narrow", target_width=32)
    (tmp_path / "empty").mkdir()
    make_store(tmp_path / "other", recordings=1, control="shuffled", ids="t")
    make_store(tmp_path / "control", control="shuffled")
    make_store(tmp_path / "foreign", event_model="another-event")
    options = {"store": "store", **changes}
    path = tmp_path / options.pop("adapters") if "adapters" in options else adapter
    arguments: list[object] = []
    for name, value in options.items():
        value = tmp_path / value if name in ("store", "shuffled", "learn-from", "data") else value
        arguments += [f"--{name}", value]
    code, out, err = run("evaluate", path, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1, out + err


def test_one_recording_without_intervals(run: Run, adapter: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "evaluate", adapter, "--store", make_store(tmp_path / "one", recordings=1), "--no-intervals"
    )
    assert code == 0 and "1 recordings" in out, err


def test_a_training_is_held_against_the_store(run: Run, tmp_path: Path) -> None:
    """What it was trained on is no held-out figure; states of another event model are refused."""
    made = build_adapter("l1", width_in=160, width_out=320)
    save_adapter(tmp_path / "l1" / "adapter.safetensors", made, extraction="x")
    body = {"trained_on": "teacher-forced", "store": {"event_model": "nano-event"}, "recordings": {"train": ["r1"]}}
    write_record(tmp_path / "l1" / "training.json", "adapter-training", body)
    code, out, err = run("evaluate", tmp_path / "l1", "--store", make_store(tmp_path / "store"))
    assert code == 0 and "was trained on 1 of these 2 recordings: not held out" in out, err
    foreign = make_store(tmp_path / "foreign", event_model="another-event")
    code, out, err = run("evaluate", tmp_path / "l1", "--store", foreign, "--event-model", "none")
    assert code == 2 and "was trained on states of 'nano-event'" in err and err.count("\n") == 1, out + err


def test_an_adapter_of_a_changed_event_model_is_judged_on_its_states(run: Run, tmp_path: Path) -> None:
    made = build_adapter("l1", width_in=160, width_out=320)
    save_adapter(tmp_path / "l1" / "adapter.safetensors", made, extraction="x")
    body = {"trained_on": "teacher-forced", "store": {"event_model": "nano-event+l6"}}
    write_record(tmp_path / "l1" / "training.json", "adapter-training", body)
    store = make_store(tmp_path / "store", event_model="nano-event+l6")
    code, out, err = run("evaluate", tmp_path / "l1", "--store", store)
    assert code == 0 and "l1" in out and "event model" not in out, err
