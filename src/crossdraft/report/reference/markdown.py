"""The document as Markdown."""

from crossdraft.report.reference.model import HEADER, MARKS, Document, Row, count_marks


def to_markdown(document: Document) -> str:
    """The whole document, each row as one line of a table."""
    lines = [f"# {document.title}", "", "Made by `crossdraft reference`; do not edit by hand.", ""]
    lines += [line for sentence in document.summary for line in (sentence, "")]
    lines += ["Marks:", ""] + [f"- **{mark}**: {meaning}" for mark, meaning in MARKS.items()] + [""]
    for number, table in enumerate(document.tables, 1):
        counts = ", ".join(f"{n} {mark}" for mark, n in count_marks(table.rows).items() if n)
        lines += [f"## {number}. {table.title}", "", table.text, "", f"{counts[:1].upper()}{counts[1:]}.", ""]
        lines += [_line(HEADER), "|" + " --- |" * len(HEADER)]
        lines += [_row(document, row) for row in table.rows] + [""]
    lines += ["## Sources", ""]
    lines += [f"{number}. {document.citations[key]}" for key, number in document.numbers.items()]
    return "\n".join(lines) + "\n"


def _row(document: Document, row: Row) -> str:
    item, *figures, mark, why = document.shown(row)
    return _line((item, *figures, f"**{mark}**", why))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
