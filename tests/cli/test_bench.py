"""``crossdraft bench`` and ``demo`` on a tiny random pair in the built-in pair's place."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def tiny_nano(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for role in ("target", "event"):
        write_checkpoint(root / f"nano-{role}", role, max_position_embeddings=2048)
    return root


@pytest.fixture
def bench(run: Run, tiny_nano: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    from crossdraft.models import nano

    monkeypatch.setattr(nano, "WEIGHTS", tiny_nano)
    return run


def test_the_demo(bench: Run, tmp_path: Path) -> None:
    code, out, err = bench("demo", "--clips", "2", "--max-new-tokens", "12", "--json", tmp_path / "d.json")
    assert code == 0, err
    body = json.loads((tmp_path / "d.json").read_text())
    assert body["clips"] == 2 and len(body["rows"]) == 6
    assert all(row["identical"] for row in body["rows"])
    assert "cross_modal" in out and "the control" in out and "bit-exact" in out


def test_exactness(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossdraft.bench import exactness

    monkeypatch.setattr(exactness, "QUICK_WIDTHS", (9,))
    code, out, err = bench("bench", "exactness", "--quick", "--out", tmp_path)
    assert code == 0, err
    assert "0 of " in out
    body = json.loads((tmp_path / "exactness.json").read_text())
    assert body["differ"] == 0 and body["tokens"] > 500
    assert {name.split(",")[0] for name in body["groups"]} == {"bfloat16", "float32"}
    assert body["provenance"]["machine"]["cores"] >= 1


def test_growth(bench: Run) -> None:
    code, out, err = bench("bench", "growth", "--quick", "--json")
    assert code in (0, 1) and out, err  # whether a busy machine passes is not the question here
    body = json.loads(out)
    assert body["step_ms"]["64"] > 0 and body["attention_ms"]["1024"] > 0
    assert body["prompt_positions"] > 8


def test_real_input(bench: Run, clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("eventcv")
    folder = tmp_path / "recordings"
    folder.mkdir()
    t = np.sort(np.random.default_rng(1).integers(0, 900_000, 300))
    place = np.arange(300, dtype=np.uint16)
    np.savez(folder / "a.npz", x=place, y=place, t=t, p=np.ones(300, np.uint8))
    code, out, err = bench("bench", "real", "--quick", "--video", clip, "--events", folder, "--json")
    assert code == 0, err
    body = json.loads(out)
    assert body["passed"] and len(body["rows"]) == 3 * 4
    assert all(row["events"] > 0 for row in body["rows"])


def test_the_race_with_transformers(bench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossdraft.bench import against_hf

    small = {"num_hidden_layers": 2, "hidden_size": 72, "head_dim": 8, "vocab_size": 300}
    monkeypatch.setattr(against_hf, "TEXT_CONFIG", {**against_hf.TEXT_CONFIG, **small})
    code, out, err = bench("bench", "hf", "--quick", "--json")
    assert code in (0, 1) and out, err
    rows = json.loads(out)["rows"]
    assert [row["model"].split()[0] for row in rows] == ["video", "text-only"]
    for row in rows:
        assert row["tokens"] == 24
        # the same weights and the same prompt: bfloat16 near-ties apart, the same words
        assert row["same_tokens"] >= 4
