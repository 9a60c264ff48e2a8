"""The whole study, tiny: every stage runs, what it keeps can be read, and a second call has nothing left to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.cli.main import main
from crossdraft.core.records import read_record

Run = Callable[..., tuple[int, str, str]]

# the first test makes the whole study: minutes on a slow machine
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSDRAFT_CACHE", str(out.with_name("cache")))
        assert main(["study", str(out), "--quick", "--processes", "1", "--json"]) == 0
    return out


def test_every_stage_leaves_its_record(study: Path) -> None:
    summary = read_record(study / "study.json", "study")
    assert list(summary["seconds"]) == [
        "scenes", "extraction", "training", "extraction, changed event models", "evaluation", "live check",
        "verdicts",
    ]  # fmt: skip
    assert summary["identical"] and summary["teacher_forced_over_free_running"].keys() == {"l1"}
    page = (study / "report.html").read_text()
    for name in ("l5f_sound", "l4 (whole answer)", "nano-distilled", "stream memory", "prompt lookup"):
        assert name in page
    assert {path.name for path in (study / "records").iterdir()} >= {
        "evaluation.json", "live.json", "verdict-distilled.json", "verdict-nano-distilled.json",
    }  # fmt: skip


def test_offline_and_live_agree_on_the_same_answers(study: Path) -> None:
    """Acceptance needs no stopwatch: what was predicted of tau is what happened, up to what a few answers allow."""
    live = read_record(study / "records" / "live.json", "live")
    assert live["as_stored"] == 1.0 and live["bit_exact"]
    told = {row["drafter"]: row for row in live["rows"]}
    for name in ("l5f_sound", "l4", "l1", "event model", "distilled", "nano-distilled", "l6"):
        assert told[name]["identical"]
        assert told[name]["tau"] == pytest.approx(told[name]["predicted_tau"], rel=0.1)
    # drafts are as long as the clock makes pay: of one token they cannot give a whole token more
    gained = told["nano-distilled"]["tau"] - told["event model"]["tau"]
    assert gained > (1 if told["nano-distilled"]["length"] > 1 else 0.6)
    # and by drafts of six, which no clock chose
    offline = read_record(study / "study.json", "study")["tau"]
    assert offline["nano-distilled"] > offline["event model"] + 1


def test_controls_stand_beside_every_row(study: Path) -> None:
    rows = read_record(study / "records" / "evaluation.json", "evaluation")["rows"]
    assert {row["name"] for row in rows if row["is_control"]} == {
        "constant per question", "stream memory", "prompt lookup",
    }  # fmt: skip
    for row in rows:
        assert row["is_control"] or row["void"] or set(row["contribution"]) >= {"top1", "run"}
    whole = next(row for row in rows if row["name"] == "l4 (whole answer)")
    assert whole["void"] and whole["rounds"] is None


def test_it_goes_on_where_it_stopped(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights and stores are taken from the folder, and judged to the same figures."""
    weights = {path: path.stat().st_mtime_ns for path in study.rglob("adapter.safetensors")}
    before = read_record(study / "records" / "evaluation.json", "evaluation")["rows"]
    (study / "records" / "evaluation.json").unlink()
    capsys.readouterr()
    code = main(["evaluate", str(study / "training" / "teacher-forced" / "l1"), "--json",
                 "--store", str(study / "stores" / "test"), "--shuffled", str(study / "stores" / "test-shuffled"),
                 "--learn-from", str(study / "stores" / "teacher-forced"),
                 "--out", str(study / "records" / "evaluation.json")])  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    own = next(row for row in json.loads(out)["evaluation"]["rows"] if row["name"] == "l1")
    old = next(row for row in before if row["name"] == "l1")
    assert own["tokens"]["top1"] == old["tokens"]["top1"] and own["rounds"]["tau"] == old["rounds"]["tau"]
    assert weights and weights == {path: path.stat().st_mtime_ns for path in weights}
