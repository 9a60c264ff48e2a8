"""The page: whole, escaped, and closed to the outside."""

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.report.page import page, table

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'too' </title>"


def test_a_page_stands_alone() -> None:
    text = page("A title", "<p>Body</p>", scripts="document.title;")
    assert text.startswith("<!doctype html>") and "<p>Body</p>" in text and "width=device-width" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|https?://|@import|url\(", text)


def test_only_the_script_of_the_page_may_run() -> None:
    script = 'document.title = "x & <y>";'
    text = page("t", "", scripts=script)
    inside = text.split("<script>")[1].split("</script>")[0]
    assert inside == script
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    policy = text.split('Content-Security-Policy" content="')[1].split('"')[0].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert "script-src 'none'" in page("t", "").replace("&#39;", "'")
    with pytest.raises(AssertionError):
        page("t", "", scripts="'</script>'")


def test_titles_and_cells_are_text() -> None:
    made = page(HOSTILE, table(["method", HOSTILE], [[HOSTILE, "1.0"]]))
    assert "<script>" not in made and made.count("&lt;script&gt;") == 4


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_any_cell_can_be_read_back(rows: list[tuple[str, str]]) -> None:
    from html.parser import HTMLParser

    cells: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            assert tag in {"div", "table", "thead", "tbody", "tr", "th", "td"}
            if tag in {"th", "td"}:
                cells.append("")

        def handle_data(self, data: str) -> None:
            if cells:
                cells[-1] += data

    Reader().feed(table(["a", "b"], rows))
    shown = [re.sub(r"\s*$", "", cell) for cell in cells[2:]]
    assert shown == [re.sub(r"\s*$", "", cell) for row in rows for cell in row]


def test_figures_stand_to_the_right_and_rows_carry_their_mark() -> None:
    figures = ["1.20", "1.20x (1.10 to 1.30)", "+4.1%", "1,200", "–", "", "<= 3", "1.2e-05", "12 ms"]
    texts = ["2026-11-25T19:18:19", "5d12cc8", "x 2", "-"]
    for cell in [*figures, *texts]:
        made = table(["method", "tau"], [["a", cell], ["b", "7.5"]], marks=["", "void"])
        assert made.count('class="num"') == (3 if cell in figures else 0) and '<tr class="void">' in made
    assert 'class="long"' in table(["a", "b"], [["1", "x" * 50]])
    with pytest.raises(AssertionError, match="cell for each column"):
        table(["a", "b"], [["1"]])
