"""Offline figures of drafters: curves by position, runs, and what a cosine is worth in tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from crossdraft.report import blocks, charts, words
from crossdraft.report.gather import Found, Gathered, reading

_SHOWN = 6
"""Lines that are switched on at first; more would hide each other."""

Body = Mapping[str, Any]


def positions(gathered: Gathered) -> Markup:
    """Match by position, acceptance rate by depth, cosine by position, each with its band."""
    parts = []
    for found in gathered.of("evaluation"):
        with reading(found):
            parts += [headline(found), _curves(gathered, found.body)]
    return blocks.together(parts)


def run_lengths(gathered: Gathered) -> Markup:
    """How many tokens are accepted before the first that is not, as histograms."""
    parts = []
    for found in gathered.of("evaluation"):
        with reading(found):
            parts += [headline(found), _runs(gathered, found.body)]
    return blocks.together(parts)


def cosines(gathered: Gathered) -> Markup:
    """The measured map from cosine to token match."""
    parts = []
    for found in gathered.of("evaluation"):
        with reading(found):
            shown = [_map(gathered, found.body), _states(found.body)]
            if any(shown):
                parts += [headline(found), *shown]
    return blocks.together(parts)


def headline(found: Found) -> Markup:
    """Name, mode and basis of an evaluation."""
    body = found.body
    told = words.basis(body["num_samples"], body["num_recordings"])
    return blocks.heading(f"{found.name}: {body['mode']}") + blocks.text(f"{told}; store {body['store']}", "note")


def label(row: Body) -> str:
    """A row's name, and that it is a control or void where it is."""
    marks = [mark for mark, on in (("control", row["is_control"]), ("void", row["void"] is not None)) if on]
    return ", ".join([str(row["name"]), *marks])


def mark(row: Body) -> str:
    """A row's class in a table."""
    return "void" if row["void"] is not None else "control" if row["is_control"] else ""


# --- by position ------------------------------------------------------------------------------------------------


def _curves(gathered: Gathered, body: Body) -> Markup:
    own = body["rows"]

    def of(cut: Callable[[Body], Body | None], counts: Callable[[Body], Sequence[int]], start: int) -> _Lines:
        return _Lines(gathered, own, cut, counts, start)

    def share(name: str) -> _Lines:
        return of(
            lambda r: r["tokens"] and r["tokens"]["positions"][name],
            lambda r: r["tokens"]["positions"]["reached"],
            0,
        )

    first = of(
        lambda r: r["tokens"] and r["tokens"]["depths"]["alpha"], lambda r: r["tokens"]["depths"]["judged"], 1
    )
    decode = of(
        lambda r: r["rounds"] and r["rounds"]["depths"]["alpha"], lambda r: r["rounds"]["depths"]["judged"], 1
    )
    states = of(lambda r: r["states"] and r["states"]["cos_by_position"], lambda r: (), 0)
    match = blocks.pick(
        "share of", [
            ("of samples that reach the position", share("of_reached").chart(
                "Token match by position", "position", "match")),
            ("of all samples", share("of_all").chart(
                "Token match by position, a sample too short counts as a miss", "position", "match")),
        ], buttons=True,
    )  # fmt: skip
    return blocks.together([
        blocks.grid([
            match,
            first.chart("Acceptance rate by depth, first draft", "depth k", "alpha_k"),
            decode.chart("Acceptance rate by depth, in rounds of decoding", "depth k", "alpha_k"),
            states.chart("Cosine of states by position (a diagnostic: it accepts no token)", "position", "cos"),
        ]),
        share("of_reached").table("Match of samples that reach the position", "position"),
        share("of_all").table("Match of all samples", "position"),
        first.table("Acceptance rate by depth, first draft", "depth"),
        decode.table("Acceptance rate by depth, in rounds of decoding", "depth"),
        states.table("Cosine by position", "position"),
    ])  # fmt: skip


class _Lines:
    """One curve of each row that has it."""

    def __init__(
        self, gathered: Gathered, own: Sequence[Body], cut: Callable[[Body], Body | None],
        counts: Callable[[Body], Sequence[int]], start: int,
    ) -> None:  # fmt: skip
        self.having = [(row, curve) for row in own if (curve := cut(row))]
        valid = [row["name"] for row, _ in self.having if row["void"] is None][:_SHOWN]
        self.series = [
            charts.Series(
                label(row), [start + i for i in range(len(curve["values"]))], _known(curve["values"]),
                _known(curve["low"]), _known(curve["high"]), gathered.tone(row["name"]), row["is_control"],
                row["void"] is None and row["name"] in valid, counts(row),
            ) for row, curve in self.having
        ]  # fmt: skip

    def chart(self, title: str, x_label: str, y_label: str) -> Markup:
        """The chart; nothing when no row has the curve."""
        return charts.lines(title, self.series, x_label=x_label, y_label=y_label, y_range=_whole(self.series))

    def table(self, title: str, first: str) -> Markup:
        """The figures behind the chart: a line for each position, a column for each row."""
        longest = max((len(s.x) for s in self.series), default=0)
        body = [
            [words.count(max(self.series, key=lambda s: len(s.x)).x[i]), *(_cell(s, i) for s in self.series)]
            for i in range(longest)
        ]
        return blocks.folded(f"Table: {title}", [first, *(s.name for s in self.series)], body)


def _cell(s: charts.Series, i: int) -> str:
    if i >= len(s.y):
        return words.NOTHING
    return words.estimate({"value": s.y[i], "low": s.low[i], "high": s.high[i]}, 3)


def _known(values: Sequence[Any]) -> list[float | None]:
    return [words.known(value) for value in values]


def _whole(series: Sequence[charts.Series]) -> tuple[float, float]:
    """From 0 (below it where cosines are) to 1."""
    lows = [v for s in series for v in (*s.y, *s.low) if v is not None]
    return (min([0.0, *lows]), 1.0)


# --- runs -------------------------------------------------------------------------------------------------------


def _runs(gathered: Gathered, body: Body) -> Markup:
    first, later = [], []
    for row in body["rows"]:
        tokens, rounds = row["tokens"], row["rounds"]
        if row["void"] is not None:
            continue
        tone, name = gathered.tone(row["name"]), label(row)
        if tokens:  # a control that learns from text is known by its rounds alone
            runs = tokens["runs"]
            first.append(charts.histogram(
                f"{name}: mean run {words.estimate(runs['mean'])}", runs["histogram"],
                x_label="tokens matched before the first miss (samples)", tone=tone,
                mean=words.known(runs["mean"]["value"]),
            ))  # fmt: skip
        if rounds:
            later.append(charts.histogram(
                f"{name}: accepted a round {words.estimate(rounds['tau_draft'])}", rounds["histogram"],
                x_label="drafts accepted in a round (rounds)", tone=tone,
                mean=words.known(rounds["tau_draft"]["value"]),
            ))  # fmt: skip
    panels = [("first draft", blocks.grid(first)), ("rounds of decoding", blocks.grid(later))]
    shown = [(name, panel) for name, panel in panels if panel]
    header = ("method", "top 1", "top 5", "top 10", "mean run", "median", "longest", "possible mean runs", *_DECODE)
    table, marks = [_run_row(row) for row in body["rows"]], [mark(row) for row in body["rows"]]
    return blocks.together([
        blocks.pick("runs of", shown, buttons=True) if shown else Markup(),
        blocks.text("The line marks the mean. Void rows are in the table only.", "note"),
        blocks.folded("Table: match, runs and acceptance length", header, table, marks),
    ])  # fmt: skip


_DECODE = {
    "tau": "tau", "tau per request": "tau_per_request", "accepted a round": "tau_draft",
    "draft utilisation": "draft_utilisation",
}  # fmt: skip


def _run_row(row: Body) -> list[str]:
    tokens, rounds = row["tokens"], row["rounds"]
    matched = [words.NOTHING] * 7
    if tokens:
        runs, bounds = tokens["runs"], tokens["runs"]["bounds"]
        matched = [
            *(words.estimate(tokens[top], 3) for top in ("top1", "top5", "top10")),
            words.estimate(runs["mean"]), words.figure(runs["median"], 1), words.count(runs["longest"]),
            words.band(bounds["minimum"], bounds["maximum"]),
        ]  # fmt: skip
    return [
        label(row), *matched,
        *(words.estimate(rounds[name]) if rounds else words.NOTHING for name in _DECODE.values()),
    ]  # fmt: skip


# --- cosine and match -------------------------------------------------------------------------------------------


def _map(gathered: Gathered, body: Body) -> Markup:
    having = [row for row in body["rows"] if row["map"]]
    if not having:
        return Markup()
    edges = having[0]["map"]["edges"]
    names = [words.figure(edge, 2) for edge in edges[1:]]
    series = []
    for row in having:
        found = row["map"]
        if found["edges"] != edges:
            raise ValueError("its rows have cosine bins of their own")
        curve = found["match"]
        series.append(charts.Series(
            label(row), list(range(len(names))), _known(curve["values"]), _known(curve["low"]),
            _known(curve["high"]), gathered.tone(row["name"]), row["is_control"], row["void"] is None,
            found["counts"],
        ))  # fmt: skip
    chart = charts.lines(
        "Share of tokens that match, by cosine", series, x_label="cosine, up to", y_label="match",
        y_range=(0.0, 1.0), x_names=names,
    )  # fmt: skip
    bins = [
        [f"{words.figure(edges[i])} to {name}", *(f"{_cell(s, i)}, n {s.counts[i]:,}" for s in series)]
        for i, name in enumerate(names)
    ]
    told = "A cosine is a diagnostic. If it decided on tokens, these lines would be steps from 0 to 1."
    return blocks.together([
        blocks.grid([chart]),
        blocks.text(told, "note"),
        blocks.folded("Table: match by cosine bin", ["cosine", *(s.name for s in series)], bins),
        blocks.folded("Table: match above theta, correlation", ["method", *_above_names(having[0]), "pearson"],
                      [_above(row) for row in having], [mark(row) for row in having]),
    ])  # fmt: skip


def _above_names(row: Body) -> list[str]:
    return [f"P(match | cos > {above['theta']:g})" for above in row["map"]["above"]]


def _above(row: Body) -> list[str]:
    shares = [f"{words.estimate(a['match'], 3)}, n {a['count']:,}" for a in row["map"]["above"]]
    return [label(row), *shares, words.estimate(row["map"]["pearson"], 3)]


def _states(body: Body) -> Markup:
    having = [row for row in body["rows"] if row["states"]]
    thetas = [f"Accept@{at['theta']:g}" for at in having[0]["states"]["accept_at"]] if having else []
    table = [
        [
            label(row), words.estimate(row["states"]["cos_mean"], 3), words.figure(row["states"]["cos_std"], 3),
            *(f"{words.estimate(at['share'], 3)}, run {words.estimate(at['runs']['mean'])}"
              for at in row["states"]["accept_at"]),
        ] for row in having
    ]  # fmt: skip
    title = "Table: cosines and runs above theta (diagnostics: they accept no token)"
    return blocks.folded(
        title, ["method", "mean cosine", "deviation", *thetas], table, [mark(row) for row in having]
    )
