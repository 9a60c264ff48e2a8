"""Cited figures that come with the package: of the note, of papers, and of the study's files condensed."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from crossdraft.report.reference.model import EMPTY, Cell, Mark


@dataclass(frozen=True)
class Claim:
    """A figure of the note. value: the figure or both ends of a range; within: half a unit of its last digit."""

    text: str
    value: float | tuple[float, float]
    within: float
    source: str

    @property
    def cell(self) -> Cell:
        """As a cell of the document."""
        return Cell(self.text, (self.source,))

    @property
    def number(self) -> float:
        """The single figure; the lower end of a range."""
        return self.value[0] if isinstance(self.value, tuple) else self.value

    def agrees(self, found: float) -> bool:
        """Whether ``found`` rounds to the claim or lies in its range."""
        low, high = self.value if isinstance(self.value, tuple) else (self.value, self.value)
        return low - self.within - _ROUNDING <= found <= high + self.within + _ROUNDING

    def mark(self, found: float) -> Mark:
        """Confirmed or contradicted by ``found``."""
        return "confirmed" if self.agrees(found) else "contradicted"


@dataclass(frozen=True)
class Figure:
    """A figure of a paper."""

    text: str
    value: float
    source: str

    @property
    def cell(self) -> Cell:
        """As a cell of the document."""
        return Cell(self.text, (self.source,))


@dataclass(frozen=True)
class Facts:
    """note: claims by table; papers: figures by name; study: what ``measurements.condense`` returns."""

    note: dict[str, Any]
    papers: dict[str, Any]
    study: dict[str, Any]
    sources: dict[str, str]

    def claim(self, section: str, *path: str) -> Claim:
        """The claim at ``path``, stated in the note's ``section`` (a source key)."""
        entry: Any = self.note
        for name in path:
            entry = entry[name]
        text, value, within = entry
        return Claim(text, (value[0], value[1]) if isinstance(value, list) else value, within, section)

    def paper(self, name: str) -> Figure:
        """The published figure ``name``."""
        text, value, source = self.papers[name]
        return Figure(text, value[0] if isinstance(value, list) else value, source)


def packaged(name: str) -> Any:
    """The packaged facts ``name``: "note", "papers", "study" or "sources"."""
    return json.loads((files(__package__) / "facts" / f"{name}.json").read_text())


@cache
def load_facts() -> Facts:
    """All packaged facts."""
    return Facts(packaged("note"), packaged("papers"), packaged("study"), packaged("sources"))


def joined(*cells: Cell) -> Cell:
    """Several cells as one, without repeating a source."""
    filled = [cell for cell in cells if cell != EMPTY]
    sources = dict.fromkeys(key for cell in filled for key in cell.sources)
    return Cell("; ".join(cell.text for cell in filled), tuple(sources)) if filled else EMPTY


_ROUNDING = 1e-9
