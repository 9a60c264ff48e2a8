"""``crossdraft report``: a page is written whole, or one line says why not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.core.records import write_record

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    epochs = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    return write_record(tmp_path / "training.json", "adapter-training", {"name": "an adapter", "epochs": epochs})


def test_a_page_is_written_and_named(run: Run, record: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "report.html"
    code, printed, err = run("report", record, "-o", out, "--title", "Tuesday & others")
    assert code == 0 and printed == "" and str(out) in err
    assert "<title>Tuesday &amp; others</title>" in out.read_text() and "an adapter" in out.read_text()


def test_what_verdict_printed_can_be_shown(run: Run, tmp_path: Path) -> None:
    times = ("--times", "target_encode=0", "target_prefill=317", "step=14", "verify=2:65,21:70", "draft_step=10",
             "event_encode_ms=9", "event_prefill=83", "window=own-device")  # fmt: skip
    code, printed, err = run("verdict", *times, "--acceptance", "0.9,0.8", "--tokens", "30", "--json")
    assert code == 0, err
    (tmp_path / "verdict.json").write_text(printed)
    code, _, err = run("report", tmp_path / "verdict.json", "-o", tmp_path / "report.html")
    assert code == 0, err
    first = json.loads(printed)["verdicts"][0]
    assert first["answer"] in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "content", [None, "{", "[1]", '{"schema": 1, "kind": "unheard-of"}', '{"schema": 1, "kind": "live"}']
)
def test_bad_input_is_one_line_and_no_page(run: Run, tmp_path: Path, content: str | None) -> None:
    path, out = tmp_path / "run.json", tmp_path / "report.html"
    if content is not None:
        path.write_text(content)
    out.write_text("the page of yesterday")
    code, printed, err = run("report", path, "-o", out)
    assert code == 2 and printed == "" and len(err.splitlines()) == 1 and str(path) in err
    assert out.read_text() == "the page of yesterday"


def test_a_place_that_cannot_be_written_is_one_line(run: Run, record: Path, tmp_path: Path) -> None:
    code, _, err = run("report", record, "-o", tmp_path)
    assert code == 2 and "cannot write" in err and len(err.splitlines()) == 1
