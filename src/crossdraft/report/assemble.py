"""Records in, one page out."""

from collections.abc import Sequence
from pathlib import Path

from crossdraft.core.errors import DataError
from crossdraft.core.records import write_atomically
from crossdraft.report import words
from crossdraft.report.gather import Found, Gathered, gather
from crossdraft.report.page import asset, fill, page
from crossdraft.report.sections import SECTIONS

TITLE = "crossdraft report"


def build_report(runs: Sequence[str | Path], title: str = TITLE) -> str:
    """The page of all records of ``runs`` (files, or folders with records anywhere below them).

    A kind of record that no section knows is named on the page and left out. Raises DataError when a record is
    missing or damaged, or none of them can be shown.
    """
    gathered = gather(runs)
    kinds = {kind for section in SECTIONS for kind in section.kinds}
    known = gathered.of(*kinds)
    if not known:
        told = ", ".join(sorted({found.kind for found in gathered.records}))
        raise DataError(
            f"there is nothing to report in {', '.join(map(str, runs))}: "
            + (f"no section shows records of kind {told}" if told else "no record was found")
        )
    shown = [(section, made) for section in SECTIONS if (made := section.render(gathered))]
    skipped = _skipped(gathered, known)
    return page(title, fill("report.html", sections=shown, skipped=skipped), scripts=asset("report.js"))


def write_report(runs: Sequence[str | Path], path: str | Path, title: str = TITLE) -> Path:
    """Write the page of ``runs`` under ``path``, whole or not at all. CrossdraftError where that cannot be."""
    path = Path(path)
    write_atomically(path, build_report(runs, title).encode())
    return path


def _skipped(gathered: Gathered, known: Sequence[Found]) -> list[str]:
    lines: list[str] = [
        f"Left out: {found.name}.json, of a kind that no section shows ('{found.kind}')."
        for found in gathered.records
        if found not in known
    ]
    if gathered.others:
        names = ", ".join(gathered.others[:8]) + (", …" if len(gathered.others) > 8 else "")
        lines.append(
            f"Left out: {words.several(len(gathered.others), 'JSON file')} without a record in it ({names})."
        )
    return lines
