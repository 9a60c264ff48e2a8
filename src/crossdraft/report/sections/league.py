"""Every method on one target: the table, what it rests on, and what the figures look like by depth and by token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from crossdraft.report import blocks, charts, words
from crossdraft.report.gather import Found, Gathered, reading

Body = Mapping[str, Any]

_SHARES = {"p5": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def league(gathered: Gathered) -> Markup:
    """For each record and temperature: table, speed-up against tau, acceptance by depth, latencies; then v(w)."""
    parts = []
    for found in gathered.of("league"):
        with reading(found):
            body = found.body
            panels = [
                (
                    f"{temperature:g}",
                    _at(
                        gathered,
                        [r for r in body["rows"] if r["temperature"] == temperature],
                        [d for d in body.get("tau_differences", []) if d["temperature"] == temperature],
                    ),
                )
                for temperature in body["temperatures"]
            ]
            parts += [
                blocks.heading(f"{found.name}: {body['target']}"), *_basis(found),
                blocks.pick("Temperature", panels, buttons=True), _passes(body["verify_costs"]),
                _round_shares(body.get("round_shares", [])),
                _tuning(body["tuning"]),
            ]  # fmt: skip
    return blocks.together(parts)


def _basis(found: Found) -> list[Markup]:
    body, asked = found.body, found.body["prompts"]
    how = {
        "own": "every method as it comes", "best": "each method's best settings, chosen on other prompts",
        "equal": f"drafts of at most {body.get('nodes')} nodes and {body.get('depth')} levels for all",
    }[body["mode"]]  # fmt: skip
    told = (
        f"{words.several(asked['prompts'], 'prompt')} of '{asked['name']}' ({words.short(asked['kinds'], 200)}); "
        f"{body['dtype']} on {body['device']}, {words.several(body['threads'], 'thread')}; {how}. One process, one "
        "loop, one timer; the order of methods drawn anew for each prompt. Speed-ups are ratios of summed times to "
        "plain decoding's of the same run, intervals (95 %) are over prompts drawn anew."
    )
    published = (
        "Published figures are the authors' own, on other targets, prompts and machines: context, no comparison."
    )
    memory = words.figure(body["peak_memory_bytes"] / 2**20, 0, " MiB")
    return [blocks.text(told, "note"), blocks.text(f"{published} Peak memory of the process: {memory}.", "note")]


def _at(gathered: Gathered, rows: Sequence[Body], differences: Sequence[Body]) -> Markup:
    good = [row for row in rows if row["error"] is None]
    marks = ["void" if row["error"] is not None else _mark(row) for row in rows]
    failures = [[row["method"], row["error"]] for row in rows if row["error"] is not None]
    return blocks.together([
        blocks.rows([name for name, _ in _COLUMNS], [_cells(row) for row in rows], marks),
        blocks.rows(("failed", "because"), failures),
        blocks.grid([
            charts.scatter("Speed-up while decoding, by acceptance length",
                           [_point(gathered, r) for r in good if r["kind"] != "control"],
                           x_label="tau", y_label="speed-up"),
            charts.lines("Acceptance rate by depth, given that all above were accepted", _depths(gathered, good),
                         x_label="depth k", y_label="alpha_k", y_range=(0.0, 1.0)),
            charts.lines("Rounds that accept the first k drafted tokens", _reach(gathered, good),
                         x_label="k", y_label="share", y_range=(0.0, 1.0)),
            charts.lines("Time of a token: share of tokens that take at most so long", _latency(gathered, good),
                         x_label="ms", y_label="share", y_range=(0.0, 1.0)),
        ]),
        blocks.folded(
            "Table: acceptance lengths against each other (the same prompts, drawn anew together)",
            ("method", "above", "difference of tau", "sure"), [_against(told) for told in differences],
        ),
        blocks.folded("Table: run lengths", ("method", "rounds that accept 0, 1, 2, ... tokens"),
                      [[r["method"], words.short(r["histogram"], 400)] for r in good if r["histogram"]]),
        blocks.folded("Table: latencies, rounds and costs", [name for name, _ in _FURTHER],
                      [[make(row) for _, make in _FURTHER] for row in good]),
    ])  # fmt: skip


def _against(told: Body) -> list[str]:
    sure = told["low"] is not None and told["low"] > 0
    said = words.estimate({"value": told["difference"], "low": told["low"], "high": told["high"]})
    return [told["above"], told["below"], said, "yes" if sure else "no"]


def _mark(row: Body) -> str:
    if not row["lossless"] or row["mismatches"]:
        return "control" if row["output"] == "other arithmetic" else "bad"
    return "control" if row["kind"] in ("control", "baseline") else ""


def _cells(row: Body) -> list[str]:
    if row["error"] is not None:
        return [row["method"], "FAILED", *[words.NOTHING] * (len(_COLUMNS) - 3), row["published"] or words.NOTHING]
    return [make(row) for _, make in _COLUMNS]


def _output(row: Body) -> str:
    told = "LOSSY" if row["output"] == "lossy" else str(row["output"])
    return f"{told}, {row['arithmetic']}" if row["arithmetic"] else told


def _differ(row: Body) -> str:
    if row["mismatches"] is None:
        return words.NOTHING
    return f"{words.count(row['mismatches'])} of {words.count(row['compared_tokens'])}"


def _audit(row: Body) -> str:
    if row["audit"] is None:
        return words.NOTHING
    gap = row["audit"]["largest_gap"]
    told = f"{words.count(row['audit']['doubts'])} of {words.count(row['audit']['checked'])}"
    return told if gap is None else f"{told}, gap {words.figure(gap, 3)}"


def _estimate(name: str, unit: str = "") -> Callable[[Body], str]:
    def cell(row: Body) -> str:
        low, high = row[f"{name}_interval"] or (None, None)
        return words.estimate({"value": row[name], "low": low, "high": high}, unit=unit)

    return cell


def _figure(*keys: str, digits: int = 2, unit: str = "", scale: float = 1.0) -> Callable[[Body], str]:
    def cell(row: Body) -> str:
        value: Any = row
        for key in keys:
            value = None if value is None else value[key]
        return words.figure(None if value is None else value * scale, digits, unit)

    return cell


_COLUMNS: tuple[tuple[str, Callable[[Body], str]], ...] = (
    ("method", lambda row: str(row["method"])), ("output", _output), ("tau", _estimate("tau")),
    ("decode", _estimate("speedup_decode", "x")), ("end to end", _estimate("speedup_e2e", "x")),
    ("slower", lambda row: f"{row['slower_share']:.0%}"), ("tok/s", _figure("decode_tokens_per_s", digits=0)),
    ("tokens that differ", _differ), ("re-scored: not the argmax", _audit),
    ("trained parameters", _figure("parameters", digits=0)),
    ("published", lambda row: str(row["published"] or words.NOTHING)),
)  # fmt: skip

_FURTHER: tuple[tuple[str, Callable[[Body], str]], ...] = (
    ("method", lambda row: str(row["method"])), ("kind", lambda row: str(row["kind"])),
    ("rule", lambda row: str(row["rule"])), ("settings", lambda row: words.short(row["settings"]) or words.NOTHING),
    ("note", lambda row: str(row["note"] or words.NOTHING)),
    ("p50 ms a token", _figure("token_ms", "p50")), ("p90", _figure("token_ms", "p90")),
    ("p99", _figure("token_ms", "p99")), ("p99 between deliveries", _figure("delivery_ms", "p99")),
    ("first token ms", _figure("first_token_ms", digits=1)), ("accepted a round", _figure("tau_draft")),
    ("nodes of a draft", _figure("nodes")), ("levels", _figure("levels")),
    ("rounds with a draft", lambda row: _share(row.get("drafting_share"))),
    ("draft utilisation", _figure("draft_utilisation")),
    ("c, a level over a step", _figure("draft_cost", digits=3)),
    ("drafting", _figure("shares", "draft", digits=0, unit=" %", scale=100)),
    ("verifying", _figure("shares", "verify", digits=0, unit=" %", scale=100)),
    ("committing", _figure("shares", "commit", digits=0, unit=" %", scale=100)),
    ("training tokens", _figure("training_tokens", digits=0)),
    ("training s", _figure("training_seconds", digits=0)),
    ("weights MiB", _figure("weight_bytes", digits=1, scale=2**-20)),
)  # fmt: skip


# --- charts -----------------------------------------------------------------------------------------------------


def _apart(row: Body) -> bool:
    return row["kind"] in ("control", "baseline")


def _point(gathered: Gathered, row: Body) -> charts.Series:
    low, high = row["speedup_decode_interval"]
    tau = words.known(row["tau"])
    return charts.Series(
        row["method"], [tau or 0.0], [None if tau is None else words.known(row["speedup_decode"])],
        [words.known(low)], [words.known(high)], gathered.tone(row["method"]), _apart(row),
    )  # fmt: skip


def _depths(gathered: Gathered, rows: Sequence[Body]) -> list[charts.Series]:
    series = []
    for row in rows:
        if row["depths"] is None or not row["depths"]["judged"]:
            continue
        alpha = row["depths"]["alpha"]
        values, low, high = ([words.known(v) for v in alpha[key]] for key in ("values", "low", "high"))
        x = list(range(1, len(values) + 1))
        series.append(charts.Series(
            row["method"], x, values, low, high, gathered.tone(row["method"]), _apart(row),
            row["kind"] != "control", row["depths"]["judged"],
        ))  # fmt: skip
    return series


def _reach(gathered: Gathered, rows: Sequence[Body]) -> list[charts.Series]:
    return [
        charts.Series(
            row["method"], list(range(1, len(row["reach"]) + 1)), [words.known(v) for v in row["reach"]],
            tone=gathered.tone(row["method"]), dashed=_apart(row), shown=row["kind"] != "control",
        ) for row in rows if row["reach"]
    ]  # fmt: skip


def _latency(gathered: Gathered, rows: Sequence[Body]) -> list[charts.Series]:
    return [
        charts.Series(
            row["method"], [float(row["token_ms"][key]) for key in _SHARES], list(_SHARES.values()),
            tone=gathered.tone(row["method"]), dashed=_apart(row), shown=row["kind"] != "control",
        ) for row in rows if row["token_ms"]
    ]  # fmt: skip


def _share(value: Any) -> str:
    return words.NOTHING if value is None else f"{value:.0%}"


def _round_shares(told: Sequence[Body]) -> Markup:
    names = ("network", "bookkeeping", "verify", "commit")
    rows = [
        [r["method"], *(_share(r[name]) for name in names), r.get("error") or words.figure(r["round_ms"], 1)]
        for r in told
    ]
    return blocks.folded(
        "Table: where a round's time goes with a drafting head (one greedy answer)",
        ("method", "head's network", "choosing nodes", "verification", "commit", "ms a round"), rows,
    )  # fmt: skip


def _passes(costs: Sequence[Body]) -> Markup:
    names = [str(p["width"]) for p in costs[0]["passes"]]
    series, body, top = [], [], 0.0
    for tone, cost in enumerate(costs):
        for shape, passes in (("chain", cost["passes"]), ("tree", cost.get("trees", []))):
            known = [p for p in passes if str(p["width"]) in names]
            series.append(charts.Series(
                f"a {shape} behind {words.count(cost['context'])} positions",
                [names.index(str(p["width"])) for p in known], [words.known(p["ratio"]) for p in known], tone=tone,
                dashed=shape == "tree",
            ))  # fmt: skip
            top = max([top, *(float(p["ratio"]) for p in known)])
            body += [
                [str(p["width"]), shape, words.count(cost["context"]), *map(words.figure, (p["ms"], p["ratio"]))]
                for p in passes
            ]  # fmt: skip
    series = [line for line in series if line.x]
    return blocks.together([
        blocks.grid([charts.lines(
            "Verify cost ratio v(w): a pass over a plain step, measured", series, y_label="v(w)",
            x_label="positions in the pass, w", x_names=names, y_range=(0.0, 1.05 * top),
        )]),
        blocks.folded("Table: cost of passes", ("width", "shape", "context", "ms", "v(w)"), body),
    ])  # fmt: skip


def _tuning(tuning: Body | None) -> Markup:
    if tuning is None:
        return Markup()
    body, marks = [], []
    for name, told in tuning["methods"].items():
        for tried in told["tried"]:
            chosen = tried["settings"] == told["chosen"]
            body.append([
                name, words.short(tried["settings"]) or "as it comes",
                words.figure(tried["speedup_decode"], 2, "x"), words.figure(tried["tau"]),
                tried["error"] or ("chosen" if chosen else ""),
            ])  # fmt: skip
            marks.append("good" if chosen else "")
    asked = tuning["prompts"]["prompts"]
    title = f"Table: settings tried on {words.several(asked, 'other prompt')}"
    return blocks.folded(title, ("method", "settings", "decode", "tau", ""), body, marks)
