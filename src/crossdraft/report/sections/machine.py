"""What passes cost on the machine, single answers, and the package's own measurements."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from crossdraft.core.curve import points_of
from crossdraft.report import blocks, charts, words
from crossdraft.report.gather import Gathered, reading

Body = Mapping[str, Any]


def profile(gathered: Gathered) -> Markup:
    """The cost of a verification pass by its width, and the other times of a latency profile."""
    parts = []
    for found in gathered.of("latency-profile"):
        with reading(found):
            body = found.body.get("profile", found.body)
            curve = points_of(body["target_pass_ms"])
            trees = points_of(body.get("target_tree_ms") or {})
            parts += [blocks.heading(found.name), _passes(curve, trees), _times(body)]
    return blocks.together(parts)


_CURVES = ("target_pass_ms", "target_tree_ms")


def _passes(curve: Mapping[int, float], trees: Mapping[int, float]) -> Markup:
    widths = sorted({*curve, *trees})
    names = [str(width) for width in widths]
    step = curve[1]
    series = []
    for name, points in (("a chain", curve), ("a tree", trees)):
        if points:
            x = [place for place, width in enumerate(widths) if width in points]
            series.append(charts.Series(name, x, [points[widths[place]] for place in x]))
    body = [
        [str(width), *(
            words.figure(None if width not in points else points[width] / by)
            for by in (1.0, step) for points in (curve, trees)
        )] for width in widths
    ]  # fmt: skip
    return blocks.together([
        blocks.grid([charts.lines(
            "Cost of a target pass by its width, measured medians", series, x_label="new positions in the pass",
            y_label="ms", x_names=names, y_range=(0.0, 1.05 * max([*curve.values(), *trees.values()])),
        )]),
        blocks.folded(
            "Table: verify cost ratio v(w)", ("width", "chain, ms", "tree, ms", "chain, v(w)", "tree, v(w)"), body
        ),
    ])  # fmt: skip


def _times(body: Body) -> Markup:
    table = [
        [name.removesuffix("_ms").replace("_", " "), words.figure(body[name], 2, " ms")]
        for name in body
        if name.endswith("_ms") and name not in _CURVES and body[name] is not None
    ]
    table.append(["context", f"{words.count(body['context'])} positions"])
    table.append(["device", f"{body['device']}, {words.several(body['threads'], 'thread')}"])
    return blocks.rows(("time", "measured median"), table)


def answers(gathered: Gathered) -> Markup:
    """Single answers that were kept."""
    table, marks = [], []
    for found in gathered.of("generation"):
        with reading(found):
            body = found.body
            table.append([
                found.name, words.short(body.get("prompt"), 80), words.short(body.get("drafter")),
                "lossless" if body["lossless"] else "LOSSY", "bit-exact" if body["bit_exact"] else "not bit-exact",
                words.count(len(body["tokens"])), words.count(len(body["rounds"])), words.figure(body["tau"]),
                words.short(body.get("text"), 300), words.short((body.get("compare") or {}).get("verdict"), 200),
            ])  # fmt: skip
            marks.append("" if body["lossless"] else "bad")
    header = (
        "record",
        "question",
        "drafter",
        "output",
        "arithmetic",
        "tokens",
        "rounds",
        "tau",
        "answer",
        "compared",
    )
    return blocks.rows(header, table, marks)


def benches(gathered: Gathered) -> Markup:
    """The package's own measurements: their verdict, their figures, their rows."""
    parts = []
    for found in gathered.of("bench-*", "demo"):
        with reading(found):
            parts += [blocks.heading(found.name), *_bench(found.body)]
    return blocks.together(parts)


_OWN = ("schema", "kind", "rows", "verdict", "provenance")


def _bench(body: Body) -> list[Markup]:
    parts = []
    if "verdict" in body:
        parts.append(blocks.text(words.short(body["verdict"], 600)))
    facts = [[name.replace("_", " "), words.short(value, 400)] for name, value in body.items() if name not in _OWN]
    if facts:
        parts.append(blocks.rows(("figure", "value"), facts))
    if "rows" in body:
        parts.append(_rows(body["rows"]))
    return parts


def _rows(rows: Sequence[Body]) -> Markup:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [[words.short(row.get(name)) for name in names] for row in rows]
    marks = ["bad" if row.get("identical") is False else "" for row in rows]
    return blocks.rows([name.replace("_", " ") for name in names], table, marks)
