"""Single requests: what ran when, and who drafted which token."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from crossdraft.report import blocks, charts, words
from crossdraft.report.gather import Gathered, reading
from crossdraft.report.page import fill

Body = Mapping[str, Any]

_ASKED = {"live": "Clip", "league": "Request"}
_IMAGE = re.compile(r"data:image/(?:jpeg|png);base64,[A-Za-z0-9+/=]+\Z")


def timeline(gathered: Gathered) -> Markup:
    """Every method's request on the real clock, one line for each model."""
    parts = []
    for found in gathered.of("live", "league"):
        with reading(found):
            panels = [(trace["title"], _clip(trace)) for trace in found.body["traces"]]
            if panels:
                parts += [
                    blocks.heading(found.name),
                    blocks.pick(_ASKED[found.kind], panels, sync=f"clip {found.path}"),
                ]
    if not parts:
        return Markup()
    key = Markup('<span class="key"><i class="swatch w-{0}"></i>{0}</span>')
    keys = Markup('<div class="legend">{}</div>').format(Markup().join(key.format(what) for what in charts.WHAT))
    told = "Measured. An empty stretch is time in which that model had nothing to do; the thin line is the end."
    return blocks.together([blocks.text(told, "note"), keys, *parts])


def _clip(trace: Body) -> Markup:
    methods = trace["methods"]
    spans = {m["name"]: [charts.Span(**span) for span in m["timeline"]] for m in methods}
    ends = [span.end_ms for own in spans.values() for span in own]
    scale = max([1e-9, *(m["total_ms"] for m in methods), *ends])
    shown = [charts.lanes(m["name"], spans[m["name"]], m["total_ms"], scale) for m in methods]
    body = []
    for name, own in spans.items():
        for lane, what in dict.fromkeys((span.lane, span.what) for span in own):
            taken = [span.end_ms - span.start_ms for span in own if (span.lane, span.what) == (lane, what)]
            body.append([name, lane, what, words.count(len(taken)), words.figure(sum(taken), 1)])
    return blocks.together(
        [
            *shown,
            charts.clock(scale),
            blocks.folded("Table: time by lane", ("method", "lane", "what", "times", "ms"), body),
        ]
    )


def traces(gathered: Gathered) -> Markup:
    """Frames and event images of a clip, its answer coloured by who drafted each token, round by round."""
    parts = []
    for found in gathered.of("live", "league"):
        with reading(found):
            panels = [(trace["title"], _trace(gathered, trace)) for trace in found.body["traces"]]
            if panels:
                parts += [
                    blocks.heading(found.name),
                    blocks.pick(_ASKED[found.kind], panels, sync=f"clip {found.path}"),
                ]
    return blocks.together(parts)


def _trace(gathered: Gathered, trace: Body) -> Markup:
    for image in (*trace["frames"], *trace["events"]):
        if not _IMAGE.match(image):
            raise ValueError(f"the image '{image:.30}' of a trace is not a JPEG or PNG within the record")
    # plain decoding last: nothing is drafted in it
    order = sorted(trace["methods"], key=lambda method: method["name"] == words.PLAIN)
    methods = [(method["name"], _method(gathered, method)) for method in order]
    return fill(
        "trace.html", question=trace["question"], frames=trace["frames"], events=trace["events"],
        methods=blocks.pick("Method", methods, sync="method") if methods else Markup(),
    )  # fmt: skip


def _method(gathered: Gathered, method: Body) -> Markup:
    rounds = [_round(gathered, number, r) for number, r in enumerate(method["rounds"], 1)]
    drafted, accepted = (sum(r[key] for r in rounds) for key in ("num_drafted", "num_accepted"))
    emitted = accepted + sum(bool(r["bonus"]) for r in rounds)
    sources = {r["source"]: r["tone"] for r in rounds if r["num_drafted"]}
    return fill(
        "method.html", first=method["first"], rounds=rounds, sources=sources,
        passes=words.several(len(rounds), "round"),
        told=f"{words.figure(method['total_ms'], 0)} ms, {drafted} tokens drafted, {accepted} accepted, tau "
        f"{words.figure(emitted / len(rounds) if rounds else None)}",
    )  # fmt: skip


def _round(gathered: Gathered, number: int, r: Body) -> dict[str, Any]:
    drafted: Sequence[str] = r["drafted"]
    accepted = r["accepted"]
    if not 0 <= accepted <= len(drafted):
        raise ValueError(f"round {number} has {accepted} of {len(drafted)} drafted tokens accepted")
    return {
        "number": number, "source": r["source"], "tone": gathered.tone(r["source"]) % charts.TONES,
        "accepted": drafted[:accepted], "rejected": drafted[accepted:], "bonus": r["bonus"],
        "num_drafted": len(drafted), "num_accepted": accepted,
    }  # fmt: skip
