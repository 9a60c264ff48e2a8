"""The reference document: complete, judged, cited, and the same with and without the study's files."""

import csv
import dataclasses
import gzip
import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.core.errors import DataError
from crossdraft.report.reference.acceptance_tables import level_bounds, pilot_bounds
from crossdraft.report.reference.document import build
from crossdraft.report.reference.facts import Claim, load_facts
from crossdraft.report.reference.html import to_html
from crossdraft.report.reference.markdown import to_markdown
from crossdraft.report.reference.measurements import LEVELS, SINGLE_RUN, WINDOW_RUN, condense, differences
from crossdraft.report.reference.model import HEADER, MARKS, NOTHING, Row

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "reference"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the study's files are not beside this checkout")
FACTS, DOCUMENT = load_facts(), build()
ROWS = list(DOCUMENT.rows())
TABLES = {
    "prior", "vlm", "l1", "overall", "positions", "cosine", "depth", "timeline", "components", "equation",
    "verdict", "training", "projected", "comparison",
}  # fmt: skip


def rows_of(key: str) -> dict[str, Row]:
    return {row.item: row for table in DOCUMENT.tables if table.key == key for row in table.rows}


# --- what is in it ----------------------------------------------------------------------------------------------


def test_every_table_of_the_note_is_there() -> None:
    assert {table.key for table in DOCUMENT.tables} >= TABLES
    assert all(table.rows and table.title and table.text.endswith(".") for table in DOCUMENT.tables)
    assert len(rows_of("prior")) == 6 * 3 and len(rows_of("vlm")) == 4 * 2 and len(rows_of("positions")) == 10
    assert len(rows_of("cosine")) == 7 * 3 and len(rows_of("projected")) == 5 * 5
    assert [row.claimed.text for row in list(rows_of("timeline").values())[:3]] == ["72 ms", "597 ms", "20 ms"]
    assert {f"SpecVLM, epoch {e}: accepted tokens" for e in (1, 3, 5)} <= set(rows_of("training"))


def test_every_row_has_a_mark_and_a_reason() -> None:
    assert all(row.mark in MARKS and row.reason.strip() and row.item for row in ROWS)
    assert {row.mark for row in ROWS} == set(MARKS)
    for table in DOCUMENT.tables:
        assert len({row.item for row in table.rows}) == len(table.rows)


def test_no_figure_without_a_source() -> None:
    for row in ROWS:
        for cell in row.cells:
            assert not re.search(r"\d", cell.text) or cell.sources, (row.item, cell)
            assert set(cell.sources) <= set(DOCUMENT.citations)
    for key, citation in DOCUMENT.citations.items():
        assert re.search(r"arXiv \d{4}\.\d{5}|xifan-zhang/EventGPT|hemingkx/Spec-Bench|^crossdraft\.", citation), (
            key
        )


def figures(text: str) -> set[str]:
    """Numbers with a decimal point, a unit or a factor; whole numbers in running text count things."""
    names = re.sub(r"(?:LLaVA|Vicuna|LLaMA)[\w.-]*", "", text)
    return set(re.findall(r"\d+\.\d+|\d+(?= ?(?:x|ms)\b| ?%)", names))


def test_every_figure_of_the_prose_stands_in_a_cell() -> None:
    known = set().union(*(figures(cell.text) for row in ROWS for cell in row.cells))
    known |= {"0.90", "0"}  # the threshold itself, and nothing
    for row in ROWS:
        own = set().union(*(figures(cell.text) for cell in row.cells)) | {"0.90"}
        rounded = {f"{float(number):.2f}" for number in own}
        assert figures(row.reason) <= own | rounded | {"1"}, row.item
    prose = [*DOCUMENT.summary, *(table.text for table in DOCUMENT.tables)]
    for text in prose:
        assert figures(text) <= known, text


def test_only_public_sources_are_named() -> None:
    text = to_markdown(DOCUMENT)
    assert not re.search(r"study\.md|methods\.md|lessons\.md|layout\.md|/work|shared/", text)
    assert all(key in text for key in ("arXiv 2401.15077", "commit 5987c00", "arXiv 2509.11815"))


def test_facts_are_all_used_and_all_cited() -> None:
    used = {key for row in ROWS for cell in row.cells for key in cell.sources}
    assert used == set(FACTS.sources)
    for entry in FACTS.papers.values():
        if isinstance(entry, list) and isinstance(entry[0], str):
            assert entry[2] in FACTS.sources


# --- both renderings --------------------------------------------------------------------------------------------


def test_markdown_and_html_hold_the_same_rows() -> None:
    text, page = to_markdown(DOCUMENT), to_html(DOCUMENT)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    in_markdown = [tuple(cell.strip().replace("**", "") for cell in line[1:-1].split(" | ")) for line in lines]
    in_markdown = [cells for cells in in_markdown if cells not in (HEADER, ("---",) * 7) and set(cells) != {"---"}]
    in_html = [
        tuple(unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row))
        for body in re.findall(r"<tbody>(.*?)</tbody>", page, re.S)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
    ]
    assert len(in_html) == len(ROWS)
    assert in_markdown == in_html == [DOCUMENT.shown(row) for row in ROWS]
    assert [line for line in text.splitlines() if re.match(r"\d+\. ", line)] == [
        f"{number}. {DOCUMENT.citations[key]}" for key, number in DOCUMENT.numbers.items()
    ]


def test_the_page_stands_alone() -> None:
    page = to_html(DOCUMENT)
    assert page.startswith("<!doctype html>") and page.count("<table") == len(DOCUMENT.tables)
    assert not re.search(r"(?:src|href)=\"https?:", page)


def test_the_committed_document_is_this_one() -> None:
    assert (Path(__file__).parents[2] / "docs" / "reference.md").read_text() == to_markdown(DOCUMENT)


# --- the figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "least", "independent", "most"),
    [
        ("L1", "4.14", "4.60", "6.03"), ("L2", "4.97", "5.67", "7.95"), ("L3", "4.88", "5.68", "8.68"),
        ("L4_5f_retrained", "5.32", "6.07", "10.15"), ("L4_1f", "5.23", "5.94", "9.50"),
    ],
)  # fmt: skip
def test_what_positions_allow(level: str, least: str, independent: str, most: str) -> None:
    bounds = level_bounds(FACTS, level)
    found = tuple(f"{b:.2f}" for b in (bounds.minimum, bounds.independent, bounds.maximum))
    assert found == (least, independent, most)
    assert any(row.recomputed.text == " / ".join(found) for row in rows_of("overall").values())


def test_the_two_headlines() -> None:
    bounds = pilot_bounds(FACTS)
    assert (round(bounds.minimum, 2), round(bounds.independent, 2), round(bounds.maximum, 2)) == (4.03, 4.59, 6.27)
    run, speedup = rows_of("l1")["pilot: consecutive accepts"], rows_of("l1")["pilot: speed-up"]
    assert run.mark == "impossible" and "4.03 to 6.27" in run.recomputed.text and "position 9" in run.reason
    assert speedup.mark == "contradicted" and "5.77x = 6.35" in speedup.recomputed.text
    assert "1.01x over 500 pairs" in speedup.reason and "3.7 accepted" in speedup.measured.text


def test_the_replay() -> None:
    rows = rows_of("wallclock")
    found = [rows[f"L{n}, answers of 50 tokens"].recomputed.text for n in (1, 2, 3, 4)]
    assert found == ["0.999x", "1.010x", "1.009x", "1.012x"]
    assert rows["L4: accepted tokens at 10, 25, 50, 75, 90, 95 %"].recomputed.text == "0, 1, 5, 7, 9, 11"
    assert rows["L4: speed-up at 5, 25, 50, 75, 95 %"].recomputed.text == "0.954, 0.966, 1.020, 1.053, 1.139"
    assert rows["L4, answers of 30 tokens"].recomputed.text == "1.021x"
    assert rows["L4, answers to their end"].recomputed.text == "1.017x"
    assert rows["ceiling of any method, 30 tokens"].recomputed.text == "2.32x"
    assert rows["L4, 50 tokens, executed on one GPU"].recomputed.text == "0.30x"


@pytest.mark.parametrize(
    ("table", "item", "mark"),
    [
        ("prior", "EAGLE-3: speed-up", "confirmed"),
        ("prior", "Medusa: speed-up", "contradicted"),
        ("prior", "EAGLE-2: acceptance rate", "not checkable"),
        ("vlm", "EagleVLM, LLaVA-1.6-13B: speed-up", "contradicted"),
        ("l1", "full: cosine", "contradicted"),
        ("cosine", "cosine 0.90: chain (of 5 drafts)", "impossible"),
        ("cosine", "cosine 0.95: speed-up", "impossible"),
        ("depth", "drop", "confirmed"),
        ("timeline", "latency hidden", "contradicted"),
        ("equation", "cross-modal: acceptance 20 %, overhead 0.01", "impossible"),
        ("verdict", "cross-modal prefill", "contradicted"),
        ("verdict", "same-model decode", "confirmed"),
        ("training", "SpecVLM, epoch 3: speed-up", "not checkable"),
        ("projected", "L3: parameters", "contradicted"),
        ("projected", "L5: consecutive", "contradicted"),
        ("comparison", "EagleVLM: speed-up", "contradicted"),
    ],
)
def test_marks(table: str, item: str, mark: str) -> None:
    assert rows_of(table)[item].mark == mark


@given(st.floats(0.1, 100), st.floats(0, 5), st.floats(0.01, 1))
def test_a_claim_agrees_with_itself_and_its_rounding_only(value: float, width: float, within: float) -> None:
    one, span = Claim("", value, within, ""), Claim("", (value, value + width), within, "")
    assert one.agrees(value) and one.agrees(value + 0.99 * within) and not one.agrees(value + 1.01 * within)
    assert span.agrees(value + width / 2) and not span.agrees(value - 1.01 * within - 1e-6)
    assert one.mark(value - 2 * within) == "contradicted" and span.number == value


# --- from the files ---------------------------------------------------------------------------------------------


@needs_real
def test_the_files_give_the_packaged_figures_and_the_same_document() -> None:
    study = condense(REAL)
    assert differences(study, FACTS.study) == []
    assert to_markdown(build(study)) == to_markdown(DOCUMENT)


def test_a_folder_of_few_pairs(tmp_path: Path) -> None:
    """Another folder of the same form gives other figures, a whole document, and a line for each difference."""
    study = condense(write_folder(tmp_path))
    l1 = study["levels"]["L1"]
    assert l1["accepted"][:3] == [4, 2, 1] and l1["match_by_cosine"]["above 0.95"] == 1.0
    assert l1["match_by_cosine"] == {
        "below 0.80": 0.0, "0.80 to 0.85": 0.0, "0.85 to 0.90": 0.5, "0.90 to 0.95": None, "above 0.95": 1.0,
    }  # fmt: skip
    assert study["window"]["configs"]["L1+VL"]["ratio_of_means"] == pytest.approx(760 / 700)
    assert study["openings"]["shares"] == [1.0, 0.5] + [0.5] * 6
    for level in LEVELS:
        bands = study["levels"][level]["match_by_cosine"]
        bands.update({band: 0.5 for band, share in bands.items() if share is None})
    document = build(study)
    assert len(list(document.rows())) == len(ROWS) and len(to_markdown(document)) > 10_000
    lines = differences(study, FACTS.study)
    assert any(line.startswith("levels.L1.cos: the files give 0.5, packaged is 0.76") for line in lines)


def test_missing_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        condense(tmp_path / "none")
    folder = write_folder(tmp_path)
    for name, text, words in (
        ("L2.acceptance_metrics.json", "{", "not a readable JSON"),
        ("L2.acceptance_metrics.json", "{}", "lacks what the study's files hold"),
        ("L2.acceptance_metrics.json", "[]", "lacks what the study's files hold"),
        ("tokens_1q_1100clips.jsonl.gz", "no gzip", "cannot be read"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(text)
        with pytest.raises(DataError, match=words) as caught:
            condense(folder)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes(whole)
    (folder / "e2e_30tok.csv.gz").unlink()
    with pytest.raises(DataError, match=r"no such file.*e2e_30tok"):
        condense(folder)


def test_differences_name_the_place() -> None:
    assert differences({"a": [1.0, {"b": 2}]}, {"a": [1.0 + 1e-9, {"b": 2}]}) == []
    assert differences({"a": [1.0, {"b": 2}]}, {"a": [1.1, {"b": 3}]}) == [
        "a[0]: the files give 1.0, packaged is 1.1", "a[1].b: the files give 2, packaged is 3",
    ]  # fmt: skip
    assert differences({"a": 1}, {"b": 1}) == ["a: only in one of the two", "b: only in one of the two"]
    assert differences({"a": [1]}, {"a": [1, 2]}) and differences({"a": None}, {"a": 1.0})


def test_a_document_without_a_cell_says_so() -> None:
    row = next(row for row in ROWS if row.recomputed.text == NOTHING)
    assert DOCUMENT.shown(dataclasses.replace(row, claimed=row.recomputed))[1] == NOTHING


# --- a miniature of the study's folder --------------------------------------------------------------------------


def write_folder(folder: Path) -> Path:
    """Four pairs of 10 positions a level, two answers a run, all made up."""
    for level in LEVELS:
        _write(folder / f"{level}.acceptance_metrics.json", _metrics())
        shares = [1.0, 0.5, 0.25] + [0.0] * 7
        _write(
            folder / f"{level}.position_stats.json",
            [{"position": i, "mean": 0.5, "num_samples": 4, "accept_90": share} for i, share in enumerate(shares)],
        )
        _write(folder / f"{level}.config.json", {"adapter": {"params": 1_000_000}})
    _write(
        folder / "L1.history.json", {"val_cos_sim": [0.1 * e for e in range(1, 13)], "val_accept_90": [0.1] * 12}
    )
    configs = ("L1+VL", "L2+VL", "L3+VL", "L4+VL")
    for name, run in (("e2e_20tok", "r20"), ("e2e_30tok", "r30"), ("e2e_50tok", "r50"),
                      ("e2e_50tok_prefill_window", WINDOW_RUN), ("e2e_small_runs", SINGLE_RUN)):  # fmt: skip
        _csv(folder / f"{name}.csv.gz", run, (*configs, "L5-only"))
    stage = {"eventgpt": {"vision_ms": 8, "prefill_ms": 80, "per_token_ms": 10}, "videollava": {"prefill_ms": 300}}
    means = {"prefill_ms_mean": 300, "decode_ms_mean": 100}
    one = {"stage_timing": stage, "aggregate": {"VL baseline": means, "L4+VL": means}}
    _write(folder / "e2e_runs.json", {run: one for run in ("r20", "r30", "r50", WINDOW_RUN)})
    half = {"n": 2, "baseline": {"prefill_ms": 300, "decode_ms": 400, "total_ms": 700}}
    full = {**half, "L4": {"total_ms": 690, "mean_drafted": 20}, "accepted_histogram": {"0": 1, "4": 1}}
    _write(folder / "e2e_full_runs_published.json", {"full_30tok": full, "full_512tok": full})
    answers = [{"target": list(range(8))}, {"target": [0, *range(11, 18)]}]
    text = "".join(json.dumps(answer) + "\n" for answer in answers)
    (folder / "tokens_1q_1100clips.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def _metrics() -> dict[str, Any]:
    counts = {80: (0.5, 6), 85: (0.75, 4), 90: (1.0, 2), 95: (1.0, 2)}
    bands = {f"cosim_{k}_token_match": share for k, (share, _) in counts.items()}
    bands |= {f"cosim_{k}_count": count for k, (_, count) in counts.items()}
    return {
        "batch_size": 4, "total_valid_positions": 10, "cos_sim_mean": 0.5, "accept_90": 0.2,
        "consecutive_mean_90": 1.7, "sd_consecutive_gamma5": 1.5, "token_top1_match": 0.3,
        "token_consecutive_mean": 1.0, "token_sd_decode_consecutive_mean": 1.0,
        "position_token_accept": [0.5] * 10, **bands,
    }  # fmt: skip


def _csv(path: Path, run: str, configs: tuple[str, ...]) -> None:
    out = io.StringIO()
    write = csv.writer(out)
    write.writerow(
        ("run", "config", "sample", "question_idx", "n_tokens", "drafted", "accepted", "total_ms",
         "baseline_total_ms", "adapter_ms", "vl_decode_ms")
    )  # fmt: skip
    for config in configs:
        write.writerow((run, config, 0, 0, 12, 20, 2, 330, 380, 1, 110))
        write.writerow((run, config, 1, 1, 12, 20, 4, 370, 380, 1, 90))
    path.write_bytes(gzip.compress(out.getvalue().encode()))


def _write(path: Path, body: Any) -> None:
    path.write_text(json.dumps(body))
