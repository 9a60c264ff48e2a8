"""What the records say in sentences, each with its interval and what it rests on."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from crossdraft.report import words
from crossdraft.report.gather import Found, Gathered, reading
from crossdraft.report.page import fill
from crossdraft.report.sections.controls import figure_of

Body = Mapping[str, Any]
Finding = tuple[str, str]
"""Tone ("good", "bad", "open" or "") and sentence."""


def summary(gathered: Gathered) -> Markup:
    """One list of findings and one card for each verdict."""
    findings: list[Finding] = []
    for found in gathered.of("league"):
        with reading(found):
            findings += _league(found)
    for found in gathered.of("live"):
        with reading(found):
            findings += _live(found)
    for found in gathered.of("evaluation"):
        with reading(found):
            findings += _evaluation(found)
    for found in gathered.of("bench-*"):
        with reading(found):
            passed = "good" if found.body.get("passed", True) else "bad"
            findings.append((passed, f"{found.kind}: {words.short(found.body['verdict'], 300)}"))
    verdicts = []
    for found in gathered.of("verdict"):
        with reading(found):
            verdicts.append(_verdict(found))
    return fill("summary.html", findings=findings, verdicts=verdicts) if findings or verdicts else Markup()


# --- by the stopwatch -------------------------------------------------------------------------------------------


def _league(found: Found) -> Iterator[Finding]:
    body = found.body
    over = f"{found.name}, {words.several(body['prompts']['prompts'], 'prompt')}"
    rows = [row for row in body["rows"] if row["error"] is None]
    for temperature in body["temperatures"]:
        own = [r for r in rows if r["temperature"] == temperature and r["kind"] in ("trained", "training-free")]
        if not own:
            continue
        best = max(own, key=lambda row: row["speedup_decode"])
        low, high = best["speedup_decode_interval"]
        told = f"'{best['method']}', {best['speedup_decode']:.2f}x while decoding ({low:.2f} to {high:.2f})"
        kind = "" if best["lossless"] else ", which is lossy"
        yield (
            "good" if low > 1 else "open",
            f"{over}, temperature {temperature:g}: the fastest is {told}, tau {words.figure(best['tau'])}{kind}.",
        )
    wrong = {row["method"] for row in rows if row["lossless"] and row["mismatches"]}
    drafted = [row for row in rows if row["lossless"] and row["method"] != words.PLAIN]
    held = sum(row["compared_tokens"] or 0 for row in drafted)
    if wrong:
        yield "bad", f"{over}: answers of {', '.join(sorted(wrong))} differ from plain decoding's."
    else:
        yield "good", f"{over}: all {words.count(held)} tokens of lossless rows are plain decoding's own."
    failed = {row["method"] for row in body["rows"] if row["error"] is not None}
    if failed:
        yield "open", f"{over}: {words.several(len(failed), 'method')} failed: {', '.join(sorted(failed))}."


def _live(found: Found) -> Iterator[Finding]:
    body = found.body
    over = f"{found.name}, {words.several(body['clips'], 'clip')}"
    rows = [row for row in body["rows"] if row["drafter"] != words.PLAIN]
    methods = [row for row in rows if not row["is_control"]]
    if methods:
        best = max(methods, key=lambda row: row["speedup_e2e"])
        low, high = best["speedup_e2e_interval"]
        told = f"{best['speedup_e2e']:.2f}x for the whole request (95 % interval {low:.2f} to {high:.2f})"
        if low > 1:
            yield "good", f"{over}: '{best['drafter']}' is measured at {told}."
        else:
            yield "open", f"{over}: nothing was gained for certain; the best, '{best['drafter']}', is at {told}."
        yield from _beside_controls(over, methods, [row for row in rows if row["is_control"]])
    wrong = [row["drafter"] for row in rows if not row["identical"]]
    if wrong:
        yield "bad", f"{over}: NOT lossless: answers of {', '.join(wrong)} differ from plain decoding's."
    else:
        yield "good", f"{over}: lossless, all answers are identical to plain decoding's."


def _beside_controls(over: str, methods: list[Body], controls: list[Body]) -> Iterator[Finding]:
    if not controls:
        yield "open", f"{over}: no control was run beside the methods, so what they gain is owed to nothing yet."
        return
    best, control = (max(side, key=lambda row: row["speedup_e2e"]) for side in (methods, controls))
    tone, how = _beside(_speed(best), _speed(control))
    sides = (
        f"'{row['drafter']}' {words.estimate(_speed(row), unit='x')}, tau {words.figure(row['tau'])}"
        for row in (best, control)
    )
    yield tone, f"{over}: the best method beside the best control, whole requests: {'; '.join(sides)}. {how}"


def _speed(row: Body) -> Body:
    low, high = row["speedup_e2e_interval"]
    return {"value": row["speedup_e2e"], "low": low, "high": high}


def _beside(best: Body, control: Body) -> Finding:
    """Whether a method is ahead of its best control: for certain only where their intervals are apart."""
    value, low = (words.known(best[end]) for end in ("value", "low"))
    beaten, high = (words.known(control[end]) for end in ("value", "high"))
    if value is None or beaten is None or value <= beaten:
        return "bad", "Nothing is reached that a control does not reach."
    if low is None or high is None or low <= high:
        return "open", "It is ahead, but not for certain: their intervals overlap."
    return "good", "It is ahead, their intervals are apart."


# --- offline ----------------------------------------------------------------------------------------------------

_NAMES = {"tau": "acceptance length tau", "run": "mean run", "top1": "token match"}


def _evaluation(found: Found) -> Iterator[Finding]:
    body = found.body
    over = f"{found.name} ({body['mode']}), {words.basis(body['num_samples'], body['num_recordings'])}"
    valid = [row for row in body["rows"] if row["void"] is None]
    methods = [row for row in valid if not row["is_control"]]
    name = next((name for name in _NAMES if any(figure_of(row, name) for row in methods)), "top1")
    best, control = (
        _best(side, name) for side in (methods, [row for row in valid if row["is_control"]])
    )  # fmt: skip
    if best:
        told = f"{over}: best {_NAMES[name]} {words.estimate(figure_of(best, name))} ('{best['name']}')"
        if control is None:
            yield "open", f"{told}; no control stands beside it."
        else:
            own, other = figure_of(best, name), figure_of(control, name)
            assert own is not None and other is not None, "chosen because they have it"
            tone, how = _beside(own, other)
            yield tone, f"{told}, best control {words.estimate(other)} ('{control['name']}'). {how}"
        yield from _contribution(over, best, name)
    void = [row["name"] for row in body["rows"] if row["void"] is not None]
    if void:
        yield (
            "open",
            f"{found.name}: {words.several(len(void), 'row')} void and in no comparison: {', '.join(void)}.",
        )


def _best(rows: list[Body], name: str) -> Body | None:
    return max((row for row in rows if figure_of(row, name)), key=lambda row: _value(row, name), default=None)


def _value(row: Body, name: str) -> float:
    estimate = figure_of(row, name)
    value = words.known(estimate["value"]) if estimate else None
    return float("-inf") if value is None else value


def _contribution(over: str, row: Body, name: str) -> Iterator[Finding]:
    paired = (row["contribution"] or {}).get(name)
    if paired is None:
        return
    gap, low = words.estimate(paired["gap"], 3), words.known(paired["gap"]["low"])
    if low is not None and low > 0:
        yield (
            "good",
            f"{over}: the right clip adds {gap} to the {_NAMES[name]} of '{row['name']}' over a shuffled one.",
        )
    else:
        yield (
            "open",
            f"{over}: that '{row['name']}' uses its clip is not shown: right minus shuffled clip is {gap}.",
        )


# --- verdicts ---------------------------------------------------------------------------------------------------

_TONES = {"VIABLE": "good", "NOT VIABLE": "bad", "UNDETERMINED": "open"}


def _verdict(found: Found) -> dict[str, Any]:
    body = found.body
    assumed = sorted(name for name, figure in body["times"].items() if figure["origin"] == "assumed")
    return {
        "name": f"{found.name}: answers of {words.count(body['tokens'])} tokens",
        "assumed": f"Assumed, not measured: {', '.join(assumed)}." if assumed else "All times in it were measured.",
        "cases": [_case(case) for case in body["verdicts"]],
    }


def _case(case: Body) -> dict[str, Any]:
    interval = case["margin_interval"]
    band = words.band(interval[0], interval[1]) if interval else ""
    return {
        "use_case": case["use_case"], "answer": case["answer"], "tone": _TONES[case["answer"]],
        "inequality": case["inequality"], "numbers": case["numbers"],
        "margin": f"margin {case['margin']:+.2f} {case['unit']} ({band or 'no interval was given'})",
        "flips": [flip["text"] for flip in case["flips"] if flip["needed"] is not None],
        "fixed": [flip["lever"] for flip in case["flips"] if flip["needed"] is None],
    }  # fmt: skip
