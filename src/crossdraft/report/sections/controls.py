"""Every cross-modal figure beside its controls, and the stopwatch's figures with what was predicted."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from crossdraft.report import blocks, charts, words
from crossdraft.report.gather import Gathered, reading
from crossdraft.report.sections.acceptance import headline, label, mark

Body = Mapping[str, Any]

_FIGURES = {
    "top1": ("Token match (top 1)", 3),
    "run": ("Mean run of the first draft, tokens", 2),
    "tau": ("Acceptance length tau, tokens a pass", 2),
}


def controls(gathered: Gathered) -> Markup:
    """Bars of all methods and of the controls, each method's shuffled clip right below it."""
    parts = []
    for found in gathered.of("evaluation"):
        with reading(found):
            parts += [headline(found), _offline(gathered, found.body)]
    for found in gathered.of("live"):
        with reading(found):
            parts += [blocks.heading(f"{found.name}: decoding"), _live(gathered, found.body)]
    if parts:
        parts.append(blocks.text(
            "Hollow bars are controls: constant text, the stream's memory, prompt lookup, and the same drafter on "
            "another clip's events. What a control reaches as well is not owed to the second sensor.", "note"
        ))  # fmt: skip
    return blocks.together(parts)


def speed(gathered: Gathered) -> Markup:
    """Times beside plain decoding of the same prompts, and how far predictions were from them."""
    parts = []
    for found in gathered.of("live"):
        with reading(found):
            body = found.body
            parts += [
                blocks.heading(f"{found.name}: {words.several(body['clips'], 'clip')}"),
                blocks.text(f"Question: {body['question']}", "note"),
                _measured(body),
                _predicted(body),
            ]
    return blocks.together(parts)


def figure_of(row: Body, name: str) -> Body | None:
    """A row's own estimate of "top1", "run" or "tau"."""
    if name == "tau":
        return row["rounds"]["tau"] if row["rounds"] else None
    if row["tokens"] is None:
        return None  # a control that is known by its rounds alone
    return row["tokens"]["top1"] if name == "top1" else row["tokens"]["runs"]["mean"]


def _bar(name: str, estimate: Body, tone: int, dashed: bool, note: str = "") -> charts.Bar:
    value, low, high = (words.known(estimate[end]) for end in ("value", "low", "high"))
    return charts.Bar(name, value, low, high, tone, dashed, note)


def _offline(gathered: Gathered, body: Body) -> Markup:
    figures = []
    for name, (title, digits) in _FIGURES.items():
        bars = []
        for row in body["rows"]:
            own, paired = figure_of(row, name), (row["contribution"] or {}).get(name)
            if row["void"] is not None or own is None:
                continue
            tone = gathered.tone(row["name"])
            bars.append(_bar(label(row), own, tone, row["is_control"]))
            if paired:
                bars.append(_bar(f"{row['name']}, shuffled clip", paired["shuffled"], tone, True))
        figures.append(charts.bars(title, bars, digits=digits))
    titles = [title for title, _ in _FIGURES.values()]
    gaps = [f"{title}: right clip minus shuffled" for title in titles]
    header = ["method", "trained on", "parameters", *titles, *gaps, "void because"]
    return blocks.together([
        blocks.grid(figures, "narrow"),
        blocks.folded("Table: methods and controls", header, [_row(row) for row in body["rows"]],
                      [mark(row) for row in body["rows"]]),
    ])  # fmt: skip


def _row(row: Body) -> list[str]:
    own = [(figure_of(row, name), digits) for name, (_, digits) in _FIGURES.items()]
    paired = [((row["contribution"] or {}).get(name), digits) for name, (_, digits) in _FIGURES.items()]
    return [
        label(row), words.short(row["trained_on"]), words.count(row["parameters"]),
        *(words.estimate(body, digits) for body, digits in own),
        *(words.estimate(body and body["gap"], digits) for body, digits in paired),
        row["void"] or words.NOTHING,
    ]  # fmt: skip


def _live(gathered: Gathered, body: Body) -> Markup:
    def bars(name: str) -> list[charts.Bar]:
        found = []
        for row in body["rows"]:
            low, high = row.get(f"{name}_interval") or (None, None)
            plain = row["drafter"] == words.PLAIN
            dashed = row["is_control"] or plain
            estimate = {"value": row[name], "low": low, "high": high}
            note = "" if row["identical"] else "NOT lossless"
            found.append(_bar(_live_label(row), estimate, gathered.tone(row["drafter"]), dashed, note))
        return found

    clips = words.several(body["clips"], "clip")
    return blocks.grid([
        charts.bars(f"tau, tokens a pass, {clips}", bars("tau"), rule=1.0),
        charts.bars(f"Speed-up of the whole request, measured, {clips}", bars("speedup_e2e"), unit="x", rule=1.0),
        charts.bars(f"Speed-up while decoding, measured, {clips}", bars("speedup_decode"), unit="x", rule=1.0),
    ], "narrow")  # fmt: skip


def _live_label(row: Body) -> str:
    if row["drafter"] == words.PLAIN:
        return "none (plain decoding)"
    return f"{row['drafter']}, control" if row["is_control"] else str(row["drafter"])


def _measured(body: Body) -> Markup:
    header = (
        "method",
        "answers",
        "end to end",
        "decode",
        "tau",
        "tokens",
        "decode tok/s",
        "slower",
        "draft utilisation",
    )
    table = [
        [
            _live_label(row), "lossless" if row["identical"] else "NOT lossless",
            *(words.figure(row[name], 2, "x") + _ends(row[f"{name}_interval"])
              for name in ("speedup_e2e", "speedup_decode")),
            words.figure(row["tau"]), words.count(row["tokens"]), words.count(row["decode_tokens_per_s"]),
            f"{row['slower_share']:.0%}", words.figure(row["draft_utilisation"]),
        ] for row in body["rows"]
    ]  # fmt: skip
    marks = ["bad" if not row["identical"] else "control" if row["is_control"] else "" for row in body["rows"]]
    told = (
        "Measured with a stopwatch: ratios of summed times over the same prompts and tokens. 95 % intervals over "
        f"{words.several(body['clips'], 'clip')} drawn anew; clips of one recording are alike, so these are "
        "rather too narrow than too wide. Slower: share of clips that took longer than plain decoding."
    )
    return blocks.rows(header, table, marks) + blocks.text(told, "note")


def _ends(interval: Any) -> str:
    told = words.band(*interval)
    return f" ({told})" if told else ""


_PREDICTED = (
    ("tau", "predicted_tau", ""), ("speed-up end to end", "predicted_speedup_e2e", "x"),
    ("speed-up decode", "predicted_speedup_decode", "x"),
)  # fmt: skip


def _predicted(body: Body) -> Markup:
    table = []
    for row in body["rows"]:
        for what, name, unit in _PREDICTED:
            modelled, measured = words.known(row[name]), words.known(row[name.removeprefix("predicted_")])
            if modelled is None or measured is None:
                continue
            error = f"{modelled / measured - 1:+.1%}" if measured else words.NOTHING
            table.append(
                [row["drafter"], what, words.figure(modelled, 2, unit), words.figure(measured, 2, unit), error]
            )
    if not table:
        return Markup()
    return blocks.heading("Predicted and measured") + blocks.rows(
        ("method", "figure", "predicted (modelled)", "measured", "prediction is off by"), table
    )
