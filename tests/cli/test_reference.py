"""``crossdraft reference``: written, checked, printed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crossdraft.report.reference import facts, measurements

Run = Callable[..., tuple[int, str, str]]
DOCUMENT = Path(__file__).parents[2] / "docs" / "reference.md"


def test_written_and_found_unchanged(run: Run, tmp_path: Path) -> None:
    out, page = tmp_path / "reference.md", tmp_path / "reference.html"
    assert run("reference", "--out", out, "--html", page)[0] == 0
    assert out.read_text() == DOCUMENT.read_text()
    assert page.read_text().startswith("<!doctype html>")
    assert run("reference", "--out", out, "--html", page, "--check")[0] == 0


def test_a_changed_or_missing_file_fails_the_check(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "reference.md"
    code, _, err = run("reference", "--out", out, "--check")
    assert code == 1 and "is not what would be written" in err and not out.exists()
    out.write_text(DOCUMENT.read_text().replace("6.27", "6.37"))
    code, _, err = run("reference", "--out", out, "--check")
    assert code == 1 and err.count("\n") == 1


def test_the_json_holds_every_row(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("reference", "--json", "--out", tmp_path / "none.md")
    body = json.loads(out)
    assert code == 0 and not (tmp_path / "none.md").exists()
    rows = [row for table in body["tables"] for row in table["rows"]]
    assert sum(body["marks"].values()) == len(rows) and all(row["mark"] and row["reason"] for row in rows)


def test_files_that_give_other_figures_are_named_and_nothing_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = facts.packaged("study")
    monkeypatch.setattr(measurements, "condense", lambda folder: study)
    out = tmp_path / "reference.md"
    assert run("reference", "--data", tmp_path, "--out", out)[0] == 0
    assert out.read_text() == DOCUMENT.read_text()
    out.unlink()
    study["levels"]["L1"]["cos"] = 0.9
    code, _, err = run("reference", "--data", tmp_path, "--out", out)
    assert code == 1 and not out.exists()
    assert err.splitlines()[0] == "crossdraft: levels.L1.cos: the files give 0.9, packaged is 0.760235"


def test_a_missing_folder_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out, err = run("reference", "--data", tmp_path / "none")
    assert code == 2 and out == "" and "no such folder" in err and err.count("\n") == 1
