"""The document as one HTML page; on a narrow screen each row of a table becomes a card."""

from crossdraft.report.page import fill, page
from crossdraft.report.reference.model import HEADER, MARKS, NOTHING, Document, Mark

_CLASS: dict[Mark, str] = {
    "confirmed": "good", "contradicted": "bad", "impossible": "bad", "not checkable": "control",
}  # fmt: skip


def to_html(document: Document) -> str:
    """A self-contained page with the same rows as the Markdown."""
    body = fill("reference.html", document=document, header=HEADER, meanings=MARKS, classes=_CLASS, nothing=NOTHING)
    return page(document.title, body)
