"""The recipe of all heads: what it calls on either device, and that nothing goes on when it has failed."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
echo "$$ $*" >> "$CALLS"
case "$*" in *"$FAILS"*) sleep 1; exit 3 ;; esac
case "$*" in *"$LASTS"*) exec sleep 30 ;; esac
case "$1 $2" in "data prompts") for word; do test "$last" != --out || : > "$word"; last=$word; done ;; esac
"""


def run(tmp_path: Path, *arguments: object, fails: str = "never", lasts: str = "never") -> tuple[int, list[str]]:
    """The script's exit code, and what it has called."""
    stub, calls = tmp_path / "stub", tmp_path / "calls"
    stub.write_text(STUB)
    stub.chmod(0o755)
    env = {**os.environ, "CROSSDRAFT": str(stub), "CALLS": str(calls), "FAILS": fails, "LASTS": lasts}
    done = subprocess.run(["sh", "scripts/heads.sh", *map(str, arguments)], cwd=ROOT, env=env, check=False)
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_heads_on_either_device(device: str, tmp_path: Path) -> None:
    code, calls = run(tmp_path, "smollm", tmp_path / "a place", "a target", device)
    assert code == 0 and len(calls) == 10
    trained = sorted(call.split()[3] for call in calls if " train head " in call)
    assert trained == ["eagle", "eagle3", "hass", "medusa"]
    assert sum("train draft-model" in call for call in calls) == 1
    assert all(f"--device {device}" in call for call in calls if "--about" not in call)
    assert all("--target a target " in call for call in calls)
    made = [call for call in calls if " data " in call and "--about" not in call]
    assert len(made) == 4 and all(("--minutes" in call) == (device == "cpu") for call in made)
    assert (tmp_path / "a place" / "own.jsonl").exists()
    again = run(tmp_path, "smollm", tmp_path / "a place", "a target", device)[1]
    assert not any("data prompts" in call for call in again[10:]), "prompts that are there are kept"


def test_answers_alone_train_nothing(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "answers", tmp_path / "out", "target")
    assert code == 0 and len(calls) == 5 and not any(" train " in call for call in calls)


def test_what_runs_beside_a_failure_ends_with_it(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "smollm", tmp_path / "out", "t", "cuda", fails="head eagle ", lasts="head eagle3")
    assert code == 3
    (beside,) = [int(call.split()[0]) for call in calls if "head eagle3" in call]
    for _ in range(100):
        try:
            os.kill(beside, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the other training still runs")


@pytest.mark.parametrize("arguments", [("nano", "x", "nano", "cuda"), ("all", "x"), ("smollm", "x", "t", "tpu")])
def test_what_it_does_not_know_it_says(
    arguments: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, place, *more = arguments
    assert run(tmp_path, kind, tmp_path / place, *more) == (2, [])
    assert "is unknown; give nano, answers or smollm" in capfd.readouterr().err and not (tmp_path / place).exists()
