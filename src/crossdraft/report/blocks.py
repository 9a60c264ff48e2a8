"""Pieces that several sections are put together from; all are ``Markup``."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from crossdraft.report.page import fill, table


def text(words: str, kind: str = "") -> Markup:
    """A paragraph; kind: "", "note" or "soft"."""
    return Markup('<p class="{}">{}</p>').format(kind, words)


def heading(words: str) -> Markup:
    """The name of a record within its section."""
    return Markup("<h3>{}</h3>").format(words)


def together(parts: Iterable[Markup]) -> Markup:
    """Parts one below the other."""
    return Markup("\n").join(parts)


def grid(charts: Iterable[Markup], kind: str = "") -> Markup:
    """Charts side by side where there is room; nothing when all are empty. kind: "" or "narrow"."""
    shown = [chart for chart in charts if chart]
    return Markup('<div class="grid {}">{}</div>').format(kind, Markup().join(shown)) if shown else Markup()


def rows(header: Sequence[str], body: Sequence[Sequence[str]], marks: Sequence[str] | None = None) -> Markup:
    """A table, open."""
    return Markup(table(header, body, marks=marks)) if body else Markup()


def folded(
    words: str, header: Sequence[str], body: Sequence[Sequence[str]], marks: Sequence[str] | None = None
) -> Markup:  # fmt: skip
    """The table behind a chart, folded away."""
    inside = rows(header, body, marks)
    return Markup("<details><summary>{}</summary>{}</details>").format(words, inside) if inside else Markup()


def pick(label: str, panels: Sequence[tuple[str, Markup]], *, buttons: bool = False, sync: str = "") -> Markup:
    """One of several panels at a time, chosen by a list or by buttons; all of them where no script runs.

    sync: picks of one such name follow each other where they offer the same.
    """
    if len(panels) == 1:
        return panels[0][1]
    return fill("pick.html", label=label, panels=panels, buttons=buttons, sync=sync)
