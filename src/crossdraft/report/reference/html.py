"""The document as one HTML page, in the house's page and tables."""

from html import escape

from crossdraft.report.page import page, table
from crossdraft.report.reference.model import HEADER, MARKS, Document, Mark

_CLASS: dict[Mark, str] = {
    "confirmed": "good", "contradicted": "bad", "impossible": "bad", "not checkable": "control",
}  # fmt: skip


def to_html(document: Document) -> str:
    """A self-contained page with the same rows as the Markdown."""
    parts = ["<section>", *(f"<p>{escape(sentence)}</p>" for sentence in document.summary), "<ul>"]
    parts += [f"<li><strong>{mark}</strong>: {escape(meaning)}</li>" for mark, meaning in MARKS.items()]
    parts += ["</ul>", "</section>"]
    for number, one in enumerate(document.tables, 1):
        marks = [_CLASS[row.mark] for row in one.rows]
        shown = table(HEADER, [document.shown(row) for row in one.rows], marks=marks)
        parts += [f"<section><h2>{number}. {escape(one.title)}</h2><p>{escape(one.text)}</p>", shown, "</section>"]
    parts += ["<section><h2>Sources</h2><ol>"]
    parts += [f"<li>{escape(document.citations[key])}</li>" for key in document.numbers()]
    parts += ["</ol></section>"]
    return page(document.title, "\n".join(parts))
