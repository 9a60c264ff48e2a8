"""Charts as inline SVG: lines with bands, histograms, bars with intervals, lanes of a timeline.

No library: colours come from the page's style sheet (so that dark and light both hold), every mark says its figure
in a ``<title>``, and every chart has a text alternative. Undefined figures (None) leave a gap.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from crossdraft.report.words import band, figure

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 26, 40
TONES = 8
"""Colours of the style sheet."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """A line: ``y`` over ``x``, with a band from ``low`` to ``high`` where both are known.

    tone: number of its colour; dashed: a control; shown: whether it is switched on at first; counts: what each
    point rests on, for its tooltip.
    """

    name: str
    x: Sequence[float]
    y: Values
    low: Values = ()
    high: Values = ()
    tone: int = 0
    dashed: bool = False
    shown: bool = True
    counts: Sequence[int] = ()


@dataclass(frozen=True)
class Bar:
    """A figure with its interval. note: said behind the figure; dashed: a control."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    tone: int = 0
    dashed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Span:
    """What one lane was busy with, ms."""

    lane: str
    what: str
    start_ms: float
    end_ms: float


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` round values from ``low`` to ``high``, steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [s * power for s in (0.2, 0.5, 1, 2, 5, 10)]
    at = next(i for i, step in enumerate(steps) if step >= rough * (1 - 1e-9))

    def inside(step: float) -> list[float]:
        first = math.ceil(low / step - 1e-9)
        return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]

    # a wide step may fall beside a narrow range; a finer one cannot give more than a few then
    return inside(steps[at]) or inside(steps[at - 1])


# --- lines ------------------------------------------------------------------------------------------------------


def lines(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str,
    y_range: tuple[float, float] | None = None, x_names: Sequence[str] = (), rule: float | None = None,
) -> Markup:  # fmt: skip
    """A line chart with its legend, whose entries switch lines on and off.

    x_names: words for x = 0, 1, ... instead of numbers. rule: a value of x to be marked.
    """
    xs = [x for s in series for x in s.x]
    ys = [v for s in series for v in (*s.y, *s.low, *s.high) if v is not None]
    if not xs or not ys:
        return Markup()
    y_low, y_high = y_range or _padded(ys)
    frame = _Frame(min(xs), max(xs), y_low, y_high)
    body = [frame.grid(x_label, y_label, x_names)]
    if rule is not None:
        body.append(_mark("line", cls="rule", x1=frame.x(rule), x2=frame.x(rule), y1=_TOP, y2=HEIGHT - _BOTTOM))
    body += [_line(number, s, frame, x_names) for number, s in enumerate(series)]
    return _figure(title, Markup().join(body), HEIGHT, legend(series))


def legend(series: Sequence[Series]) -> Markup:
    """Names of lines with their colours; buttons, for the page's script."""
    entry = Markup(
        '<button type="button" class="key" data-series="{}" aria-pressed="{}">'
        '<i class="swatch f{}{}"></i>{}</button>'
    )
    entries = [
        entry.format(
            n, "true" if s.shown else "false", s.tone % TONES, " dashed" if s.dashed else "", s.name
        ) for n, s in enumerate(series)
    ]  # fmt: skip
    return Markup('<div class="legend">{}</div>').format(Markup().join(entries))


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + _share(value, self.x_low, self.x_high) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        clipped = min(max(value, self.y_low), self.y_high)
        return HEIGHT - _BOTTOM - _share(clipped, self.y_low, self.y_high) * (HEIGHT - _BOTTOM - _TOP)

    def grid(self, x_label: str, y_label: str, x_names: Sequence[str]) -> Markup:
        parts = []
        for value in ticks(self.y_low, self.y_high):
            y = self.y(value)
            parts.append(_mark("line", cls="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y))
            parts.append(_text(_LEFT - 6, y + 4, _plain(value), "end"))
        whole = not x_names and self.x_low == int(self.x_low) and self.x_high == int(self.x_high)
        every = max(1, math.ceil(len(x_names) / 7))
        places = list(range(0, len(x_names), every)) if x_names else ticks(self.x_low, self.x_high, 8)
        for value in places:
            if whole and value != int(value):
                continue
            parts.append(
                _text(self.x(value), HEIGHT - _BOTTOM + 16, x_names[int(value)] if x_names else _plain(value))
            )
        base = HEIGHT - _BOTTOM
        parts.append(_mark("line", cls="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=base, y2=base))
        parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x_label, cls="label"))
        parts.append(_text(2, 12, y_label, "start", cls="label"))
        return Markup().join(parts)


def _line(number: int, s: Series, frame: _Frame, x_names: Sequence[str]) -> Markup:
    parts = []
    for run in _segments(s.low, s.high):
        ends = [(s.x[i], s.high[i]) for i in run] + [(s.x[i], s.low[i]) for i in reversed(run)]
        parts.append(_mark("polygon", cls=f"band f{s.tone % TONES}", points=_points(ends, frame)))
    dash = " dashed" if s.dashed else ""
    for run in _segments(s.y):
        path = _points([(s.x[i], s.y[i]) for i in run], frame)
        parts.append(_mark("polyline", cls=f"line c{s.tone % TONES}{dash}", points=path))
        for i in run:
            told = [f"{s.name}, {x_names[int(s.x[i])] if x_names else _plain(s.x[i])}: {figure(s.y[i], 3)}"]
            if s.low and (ends_told := band(s.low[i], s.high[i], 3)):
                told.append(f"({ends_told})")
            if s.counts:
                told.append(f"n = {s.counts[i]:,}")
            parts.append(
                _mark("circle", " ".join(told), cls=f"f{s.tone % TONES}", cx=frame.x(s.x[i]),
                      cy=frame.y(_real(s.y[i])), r=2.2)
            )  # fmt: skip
    return Markup('<g class="series{}" data-series="{}">{}</g>').format(
        "" if s.shown else " off", number, Markup().join(parts)
    )


def _segments(*columns: Values) -> Iterator[list[int]]:
    """Indexes of unbroken stretches in which every column is known."""
    run: list[int] = []
    for i in range(min(map(len, columns))):
        if all(column[i] is not None for column in columns):
            run.append(i)
        elif run:
            yield run
            run = []
    if run:
        yield run


# --- points -----------------------------------------------------------------------------------------------------


def scatter(title: str, points: Sequence[Series], *, x_label: str, y_label: str) -> Markup:
    """A point for each of ``points`` (its first x and y), and the dashed line on which x and y are equal."""
    known = [(s, s.x[0], s.y[0]) for s in points if s.y and s.y[0] is not None]
    if not known:
        return Markup()
    ends = _padded([v for _, x, y in known for v in (x, _real(y))])
    frame = _Frame(*ends, *ends)
    low, high = (frame.x(ends[0]), frame.y(ends[0])), (frame.x(ends[1]), frame.y(ends[1]))
    parts = [frame.grid(x_label, y_label, ())]
    parts.append(_mark("line", cls="rule", x1=low[0], y1=low[1], x2=high[0], y2=high[1]))
    for number, (s, x, y) in enumerate(known):
        told = f"{s.name}: {x_label} {figure(x)}, {y_label} {figure(y)}"
        if s.low and (interval := band(s.low[0], s.high[0])):
            told += f" ({interval})"
        kind = f"c{s.tone % TONES} hollow" if s.dashed else f"f{s.tone % TONES}"
        point = _mark("circle", told, cls=kind, cx=frame.x(x), cy=frame.y(_real(y)), r=5)
        parts.append(Markup('<g class="series" data-series="{}">{}</g>').format(number, point))
    return _figure(title, Markup().join(parts), HEIGHT, legend([s for s, *_ in known]))


# --- histograms and bars ----------------------------------------------------------------------------------------


def histogram(title: str, counts: Sequence[int], *, x_label: str, tone: int, mean: float | None = None) -> Markup:
    """Shares of ``counts[0], counts[1], ...`` of their sum; ``mean`` is marked with a line."""
    total = sum(counts)
    if not total:
        return Markup()
    height, above = 160, 8
    base, room = height - _BOTTOM, WIDTH - _LEFT - _RIGHT
    top = max(counts) / total
    slot = room / len(counts)
    parts = []
    for value in ticks(0, top, 4):
        y = base - value / top * (base - above)
        parts.append(_mark("line", cls="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y))
        parts.append(_text(_LEFT - 6, y + 4, f"{value:.0%}", "end"))
    every = max(1, math.ceil(len(counts) / 14))
    for length, many in enumerate(counts):
        tall = many / total / top * (base - above)
        parts.append(
            _mark("rect", f"{length}: {many:,} of {total:,} ({many / total:.1%})", cls=f"f{tone % TONES}",
                  x=_LEFT + length * slot + slot * 0.1, y=base - tall, width=slot * 0.8, height=tall)
        )  # fmt: skip
        if length % every == 0:
            parts.append(_text(_LEFT + (length + 0.5) * slot, base + 16, str(length)))
    if mean is not None:
        x = _LEFT + (mean + 0.5) * slot
        parts.append(_mark("line", f"mean {mean:.2f}", cls="rule", x1=x, x2=x, y1=above, y2=base))
    parts.append(_mark("line", cls="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=base, y2=base))
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, height - 6, x_label, cls="label"))
    return _figure(title, Markup().join(parts), height)


def bars(title: str, rows: Sequence[Bar], *, digits: int = 2, unit: str = "", rule: float | None = None) -> Markup:
    """Horizontal bars from 0 with whiskers; words stay at reading size on any screen. rule: a marked value."""
    tops = [v for bar in rows for v in (bar.value, bar.high, rule) if v is not None]
    if not tops or not any(bar.value is not None for bar in rows):
        return Markup()
    top = max(*tops, 1e-9) * 1.02
    item = Markup('<li><div class="barline"><span>{}</span><span class="value">{}</span></div>{}</li>')
    items = [item.format(bar.name, _told(bar, digits, unit), _bar(bar, top, digits, unit, rule)) for bar in rows]
    return Markup('<figure class="chart"><figcaption>{}</figcaption><ul class="bars">{}</ul></figure>').format(
        title, Markup().join(items)
    )


def _told(bar: Bar, digits: int, unit: str) -> str:
    ends = band(bar.low, bar.high, digits)
    return " ".join(
        filter(None, (figure(bar.value, digits, unit), f"({ends})" if ends else "", bar.note))
    )  # fmt: skip


def _bar(bar: Bar, top: float, digits: int, unit: str, rule: float | None) -> Markup:
    parts = []
    told = f"{bar.name}: {_told(bar, digits, unit)}"
    if bar.value is not None:
        kind = f"c{bar.tone % TONES} hollow" if bar.dashed else f"f{bar.tone % TONES}"
        parts.append(_mark("rect", told, cls=kind, x="0", y=2, width=_percent(bar.value, top), height=10, rx=2))
    if bar.low is not None and bar.high is not None:
        ends = {"x1": _percent(bar.low, top), "x2": _percent(bar.high, top)}
        parts.append(_mark("line", told, cls="whisker", y1=7, y2=7, **ends))
    if rule is not None:
        parts.append(
            _mark("line", cls="rule", x1=_percent(rule, top), x2=_percent(rule, top), y1=0, y2=14)
        )  # fmt: skip
    return Markup('<svg class="bar" width="100%" height="14" aria-hidden="true">{}</svg>').format(
        Markup().join(parts)
    )


# --- lanes ------------------------------------------------------------------------------------------------------


def lanes(name: str, spans: Sequence[Span], total_ms: float, scale_ms: float) -> Markup:
    """One request on the real clock, a line for each lane, over an axis of ``scale_ms``."""
    order = list(dict.fromkeys(span.lane for span in spans))
    row = Markup('<span class="lane">{}</span><svg width="100%" height="18" role="img" aria-label="{}">{}</svg>')
    rows = []
    for lane in order:
        own = [span for span in spans if span.lane == lane]
        busy = sum(span.end_ms - span.start_ms for span in own)
        boxes = [
            _mark("rect", f"{s.what}: {s.start_ms:.1f} to {s.end_ms:.1f} ms ({s.end_ms - s.start_ms:.1f} ms)",
                  cls=f"w-{_word(s.what)}", x=_percent(s.start_ms, scale_ms), y=1, height=16,
                  width=_percent(max(s.end_ms - s.start_ms, scale_ms / 500), scale_ms))
            for s in own
        ]  # fmt: skip
        end = _mark(
            "line", f"done: {total_ms:.1f} ms", cls="end", x1=_percent(total_ms, scale_ms),
            x2=_percent(total_ms, scale_ms), y1=0, y2=18,
        )  # fmt: skip
        told = f"{name}, {lane}: busy for {busy:.0f} of {total_ms:.0f} ms"
        rows.append(row.format(lane, told, Markup().join([*boxes, end])))
    head = Markup('<div class="barline"><span>{}</span><span class="value">{} ms</span></div>')
    return Markup('<div class="request">{}<div class="lanes">{}</div></div>').format(
        head.format(name, figure(total_ms, 0)), Markup().join(rows)
    )


def clock(scale_ms: float) -> Markup:
    """The axis below lanes."""
    marks = [
        Markup('<span style="left:{}">{}</span>').format(_percent(value, scale_ms), figure(value, 0))
        for value in ticks(0, scale_ms, 5)
    ]
    return Markup('<div class="clock"><span class="lane">ms</span><div>{}</div></div>').format(Markup().join(marks))


WHAT = ("encode", "prefill", "draft", "verify", "commit")


def _word(what: str) -> str:
    return what if what in WHAT else "other"


# --- small parts ------------------------------------------------------------------------------------------------


def _figure(title: str, body: Markup, height: int, below: Markup | str = "") -> Markup:
    return Markup(
        '<figure class="chart"><figcaption>{0}</figcaption>'
        '<svg viewBox="0 0 {1} {2}" role="img" aria-label="{0}">{3}</svg>{4}</figure>'
    ).format(title, WIDTH, height, body, Markup(below))


def _mark(tag: str, told: str = "", *, cls: str, **where: float | str) -> Markup:
    places = Markup().join(
        Markup(' {}="{}"').format(name, value if isinstance(value, str) else f"{value:.4g}")
        for name, value in where.items()
    )
    inside = Markup("<title>{}</title>").format(told) if told else Markup()
    return Markup('<{0} class="{1}"{2}>{3}</{0}>').format(tag, cls, places, inside)


def _text(x: float, y: float, words: str, anchor: str = "middle", cls: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        cls, f"{x:.1f}", f"{y:.1f}", anchor, words
    )


def _points(points: Sequence[tuple[float, float | None]], frame: _Frame) -> str:
    return " ".join(f"{frame.x(x):.1f},{frame.y(_real(y)):.1f}" for x, y in points)


def _real(value: float | None) -> float:
    assert value is not None, "segments hold known figures only"
    return value


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _percent(value: float, top: float) -> str:
    return f"{100 * min(max(value / top, 0.0), 1.0):.3f}%" if top > 0 else "0%"


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if low >= 0 and low <= room else low - room), high + room


def _plain(value: float) -> str:
    return f"{value:.6g}"
