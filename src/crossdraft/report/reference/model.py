"""What the reference document is made of: tables of claims, each judged.

Nothing here renders; ``markdown`` and ``html`` show the same rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Mark = Literal["confirmed", "contradicted", "impossible", "not checkable"]
MARKS: dict[Mark, str] = {
    "confirmed": "the source says so, or its figures give it",
    "contradicted": "the source, the study's own files or the arithmetic say otherwise",
    "impossible": "a bound rules it out, whatever the data",
    "not checkable": "the note states no figure, or there is nothing public to hold it against",
}
HEADER = ("", "claimed", "source says", "recomputed", "measured later", "mark", "why")
NOTHING = "–"


def percent(share: float, digits: int = 1) -> str:
    """A share as the document writes it."""
    return f"{100 * share:.{digits}f} %"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell and the keys of the sources it is from; every figure has one."""

    text: str = NOTHING
    sources: tuple[str, ...] = ()


EMPTY = Cell()
UNSTATED = Cell("not stated")


@dataclass(frozen=True)
class Row:
    """One claim. source: what the paper or the study's file says; recomputed: by this package; measured: later."""

    item: str
    claimed: Cell
    source: Cell
    recomputed: Cell
    measured: Cell
    mark: Mark
    reason: str

    @property
    def cells(self) -> tuple[Cell, Cell, Cell, Cell]:
        """The four cells that hold figures."""
        return self.claimed, self.source, self.recomputed, self.measured


@dataclass(frozen=True)
class Table:
    """One table of the note. text: one or two sentences on it."""

    key: str
    title: str
    text: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Document:
    """The whole. summary: what was claimed and what holds, one sentence each; citations: source key -> citation."""

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    citations: dict[str, str]

    def rows(self) -> Iterator[Row]:
        """Every row of every table."""
        for table in self.tables:
            yield from table.rows

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Source key -> number, in the order of first use."""
        keys = (key for row in self.rows() for cell in row.cells for key in cell.sources)
        return {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}

    def shown(self, row: Row) -> tuple[str, ...]:
        """The seven cells of ``row`` as text, each figure followed by the numbers of its sources."""
        figures = (_with_sources(cell, self.numbers) for cell in row.cells)
        return (row.item, *figures, row.mark, row.reason)


def _with_sources(cell: Cell, numbers: dict[str, int]) -> str:
    marks = ", ".join(str(number) for number in sorted(numbers[key] for key in cell.sources))
    return f"{cell.text} [{marks}]" if marks else cell.text


def count_marks(rows: Sequence[Row]) -> dict[Mark, int]:
    """How many rows have each mark, in the order of ``MARKS``."""
    return {mark: sum(row.mark == mark for row in rows) for mark in MARKS}
