"""``crossdraft profile``: measured figures that ``predict`` and ``verdict`` take as they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.adapters import build_adapter
from crossdraft.adapters.checkpoint import save_adapter

Run = Callable[..., tuple[int, str, str]]
RATES = ("--acceptance", "0.9,0.8", "--tokens", "30")


@pytest.fixture
def models(pair: tuple[Path, Path]) -> tuple[object, ...]:
    return ("--target", pair[0], "--event-model", pair[1])


def adapter(path: Path, level: str = "l1", width: int = 32) -> Path:
    return save_adapter(path, build_adapter(level, width_in=width, width_out=width), extraction="0f3a")


def test_every_cost_is_measured_and_predicted_with(run: Run, models: tuple[object, ...], tmp_path: Path) -> None:
    file = adapter(tmp_path / "l1.safetensors")
    code, out, err = run("profile", *models, "--adapter", file, "--json")
    assert code == 0, err
    body = json.loads(out)
    assert all(body[name] > 0 for name in ("event_token_ms", "adapter_ms", "overlapped_ms"))
    assert body["overhead_ms"] >= 0 and body["contention"] >= 1
    (tmp_path / "costs.json").write_text(out)
    for command in ("predict", "verdict"):
        code, out, err = run(command, "--profile", tmp_path / "costs.json", *RATES, "--json")
        assert code == 0, err
        times = json.loads(out)["times"]
        for name in ("overhead_ms", "contention", "adapter_ms", "draft_step_ms"):
            assert times[name]["origin"] == "measured", name
        assert times["draft_step_ms"]["value"] == pytest.approx(body["event_token_ms"] + body["adapter_ms"])
        assert times["overhead_ms"]["value"] == body["overhead_ms"]
    code, out, err = run("profile", *models, "--adapter", file)
    assert code == 0, err
    assert "a drafted token, with the target's head" in out and "times as long" in out
    assert "besides its passes" in out


def test_without_an_adapter_none_is_measured(run: Run, models: tuple[object, ...]) -> None:
    code, out, err = run("profile", *models, "--json")
    assert code == 0, err
    assert json.loads(out)["adapter_ms"] is None


@pytest.mark.parametrize(
    ("level", "width", "pairing", "words"),
    [
        ("l1", 48, True, "takes states of width 48, but event model"),
        ("l1", 32, False, "reads an event model's states"),
    ],
)
def test_an_adapter_that_does_not_fit(
    run: Run, models: tuple[object, ...], tmp_path: Path, level: str, width: int, pairing: bool, words: str
) -> None:
    file = adapter(tmp_path / "a.safetensors", level, width)
    chosen = models if pairing else (*models[:2], "--event-model", "none")
    code, out, err = run("profile", *chosen, "--adapter", file)
    assert code == 2 and words in err and err.count("\n") == 1 and not out, out + err


def test_what_is_no_adapter(run: Run, models: tuple[object, ...], tmp_path: Path) -> None:
    for name, data in (("gone", None), ("text", b"{}")):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        code, out, err = run("profile", *models, "--adapter", tmp_path / name)
        assert code == 2 and err.count("\n") == 1 and not out and name in err, out + err
