"""A page that needs nothing but itself: inline style, inline script, no request to anywhere.

Templates escape what they are given (jinja2's autoescape). What is already markup comes as ``Markup``.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_BLANK = ("", "–")
_FIGURE = re.compile(r"[+\-−<>= ]*\d[\d.,]*(?:e[+-]?\d+)?(?:$|[ %x,])")
_LONG = 40


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("crossdraft.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """The text of a file of ``report/assets``, as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def fill(template: str, **values: Any) -> Markup:
    """A template of ``report/assets`` with ``values``, each escaped unless it is ``Markup``."""
    return Markup(_environment().get_template(template).render(**values))


def page(title: str, body: str, *, scripts: str = "") -> str:
    """One HTML document. title: plain text. body: markup, made by ``fill``, ``table`` or ``charts``.

    scripts: JavaScript; the page's own policy lets the browser run exactly this text and nothing else, and lets it
    fetch nothing. Readable on a phone, light and dark as the reader's system asks.
    """
    assert "</script" not in scripts.lower() and "\r" not in scripts, "the script would end before its end"
    digest = base64.b64encode(hashlib.sha256(scripts.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        + (f"script-src 'sha256-{digest}'" if scripts else "script-src 'none'")
    )  # fmt: skip
    return str(
        fill(
            "page.html", title=title, policy=policy, body=Markup(body), style=Markup(asset("style.css")),
            scripts=Markup(scripts),
        )
    )  # fmt: skip


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, marks: Sequence[str] | None = None
) -> str:  # fmt: skip
    """Markup of a table that scrolls sideways by itself where it is wider than the screen; every cell is escaped.

    marks: a class for each row: "" (none), "control", "void", "good" or "bad". Columns that hold figures only are
    set to the right, columns of long texts get room.
    """
    assert all(len(row) == len(header) for row in rows), "every row needs a cell for each column"
    marks = [""] * len(rows) if marks is None else marks
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    sides = [_side(cells) if number else "" for number, cells in enumerate(columns)]
    return str(fill("table.html", header=header, rows=list(zip(rows, marks, strict=True)), sides=sides))


def _side(cells: Sequence[str]) -> str:
    shown = [cell for cell in cells if cell not in _BLANK]
    if shown and all(_FIGURE.match(cell) for cell in shown):
        return "num"
    return "long" if any(len(cell) > _LONG for cell in shown) else ""
