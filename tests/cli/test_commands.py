"""The smaller commands."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


def test_doctor_reports_what_is_there(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    body = json.loads(out)
    assert code == (2 if any(p["needed"] for p in body["problems"]) else 0)
    assert body["versions"]["torch"].startswith("2.")
    assert body["memory"]["total_bytes"] > 2**30
    assert body["threads"] >= 1
    assert all(p["mend"] for p in body["problems"])
    text = run("doctor")[1]
    assert "torch" in text and "memory" in text
    assert body["kernels"].startswith(("our own", "the library's (")) and body["kernels"] in text


def test_doctor_names_what_is_missing_and_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossdraft.cli import doctor

    monkeypatch.setitem(doctor.NEEDED, "left-pad", "left_pad")
    monkeypatch.setitem(doctor.EXTRAS, "events", {"faery": "no_faery_here"})
    code, out, _ = run("doctor")
    assert code == 2
    assert "missing: package left-pad; mend: pip install" in out
    assert "optional: package faery (extra 'events'); mend: pip install 'crossdraft[events]'" in out


def test_list_names_every_catalogue(run: Run) -> None:
    from crossdraft.adapters import ADAPTERS
    from crossdraft.core.registry import find
    from crossdraft.drafters import DRAFTERS
    from crossdraft.models import FAMILIES
    from crossdraft.verify import RULES

    body = json.loads(run("list", "--json")[1])
    assert list(body["drafters"]) == list(DRAFTERS)
    assert list(body["rules"]) == list(RULES)
    assert list(body["families"]) == list(FAMILIES)
    assert "auto" in body["windows"]
    assert list(body["adapters"]) == list(ADAPTERS)
    for name, told in body["adapters"].items():
        level = find("adapter", ADAPTERS, name)
        assert told["inputs"] == sorted(level.inputs) and told["description"] == level.__doc__.partition("\n")[0]
        assert (told["causal"], told["sees_its_target"]) == (level.causal, level.sees_its_target)
    assert "[draft_states + target_states; causal, sees its target]" in run("list")[1]
    assert all(line for entries in body.values() for line in entries.values())


def test_the_windows_listed_are_those_of_the_loop(run: Run) -> None:
    from crossdraft.decode.window import MODES

    assert set(json.loads(run("list", "--json")[1])["windows"]) == set(MODES)


def test_data_check(run: Run, write_events: Write) -> None:
    code, out, _ = run("data", "check", write_events(), "--sensor", "64x48", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["events"] == 500 and body["sensor"] == [64, 48]
    assert "500" in run("data", "check", write_events(), "--sensor", "64x48")[1]


def test_data_scenes_can_be_read_back(run: Run, tmp_path: Path) -> None:
    from crossdraft.data.paired import read_instruction_dataset

    code, out, _ = run("data", "scenes", tmp_path / "s", "--clips", "2", "--seed", "7")
    assert code == 0 and "2 clips" in out
    assert len(read_instruction_dataset(tmp_path / "s")) == 2


def test_data_simulate(run: Run, clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("eventcv")
    code, out, err = run("data", "simulate", clip, tmp_path / "e.npz")
    assert code == 0, err
    assert "64x48" in out
    assert run("data", "check", tmp_path / "e.npz")[0] == 0


@pytest.mark.parametrize(
    "argv",
    [
        ("demo", "--clips", "0"), ("train", "nano-eval", "--clips", "0"), ("bench", "real", "--video", "none.mp4"),
        ("train", "nano", "--out", "x", "--minutes", "0"), ("data", "scenes", "x", "--streams", "0"),
        ("models", "check", "nowhere-at-all"), ("bench", "real", "--threads", "0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(argv: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*argv)
    assert code == 2, err
    assert err.startswith("crossdraft: error: ") and err.count("\n") == 1
