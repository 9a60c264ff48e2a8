"""Charts: where marks stand, what they say, and that nothing undefined is drawn."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crossdraft.report.charts import Bar, Series, Span, bars, clock, histogram, lanes, lines, scatter, ticks

HOSTILE = "<b onclick='x'>\"&"


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")


def marks(markup: str, tag: str, word: str) -> list[ElementTree.Element]:
    return [mark for mark in parsed(markup).iter(tag) if word in mark.get("class", "").split()]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(3, 9))
@example(1.0, 400001.0, 3)
def test_ticks_are_round_few_and_inside(low: float, room: float, most: int) -> None:
    found = ticks(low, low + room, most)
    assert 1 <= len(found) <= most
    assert all(low - room * 1e-6 <= value <= low + room * (1 + 1e-6) for value in found)
    steps = {f"{b - a:.3e}" for a, b in pairwise(found)}
    assert len(steps) <= 1 and all(step[0] in "125" for step in steps)


def test_a_line_breaks_where_nothing_is_known() -> None:
    s = Series(HOSTILE, [0, 1, 2, 3, 4], [0.1, None, 0.3, 0.4, None], [0.0, None, 0.2, None, None],
               [0.2, None, 0.4, None, None], counts=[9, 8, 7, 6, 5])  # fmt: skip
    made = lines(HOSTILE, [s], x_label="x", y_label="y", y_range=(0.0, 1.0))
    assert [len(line.get("points", "").split()) for line in marks(made, "polyline", "line")] == [1, 2]
    assert [len(band.get("points", "").split()) for band in marks(made, "polygon", "band")] == [2, 2]
    told = [title.text for title in parsed(made).iter("title")]
    assert told == [f"{HOSTILE}, 0: 0.100 (0.000 to 0.200) n = 9", f"{HOSTILE}, 2: 0.300 (0.200 to 0.400) n = 7",
                    f"{HOSTILE}, 3: 0.400 n = 6"]  # fmt: skip
    assert "nan" not in made.lower() and "None" not in made


def test_higher_is_higher_and_later_is_further_right() -> None:
    made = lines("t", [Series("a", [0, 1, 2], [0.0, 0.5, 1.0])], x_label="x", y_label="y", y_range=(0.0, 1.0))
    (line,) = marks(made, "polyline", "line")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2)


def test_lines_are_switched_and_controls_are_dashed() -> None:
    series = [Series("a", [0, 1], [1.0, 2.0]), Series("b", [0, 1], [1.0, 1.0], dashed=True, shown=False)]
    made = lines("t", series, x_label="x", y_label="y")
    assert made.count('aria-pressed="true"') == made.count('aria-pressed="false"') == 1
    assert len(marks(made, "g", "off")) == 1 and len(marks(made, "polyline", "dashed")) == 1
    assert 'role="img" aria-label="t"' in made


def test_nothing_known_is_no_chart() -> None:
    assert lines("t", [Series("a", [0, 1], [None, None])], x_label="x", y_label="y") == ""
    assert histogram("t", [0, 0], x_label="x", tone=0) == "" and bars("t", [Bar("a", None)]) == ""


def test_a_histogram_shows_shares() -> None:
    boxes = marks(histogram("t", [1, 3, 0], x_label="x", tone=9, mean=0.75), "rect", "f1")
    tall = [float(box.get("height", "")) for box in boxes]
    assert tall[1] == pytest.approx(3 * tall[0], rel=1e-3) and tall[2] == 0
    assert [box[0].text for box in boxes] == ["0: 1 of 4 (25.0%)", "1: 3 of 4 (75.0%)", "2: 0 of 4 (0.0%)"]


def test_bars_start_at_zero_and_say_their_interval() -> None:
    made = bars(
        "t", [Bar("a", 2.0, 1.5, 2.5), Bar(HOSTILE, 1.0, dashed=True, note="NOT lossless")], unit="x", rule=1.0
    )
    boxes = list(parsed(made).iter("rect"))
    wide = [float(box.get("width", "").rstrip("%")) for box in boxes]
    assert wide[0] == pytest.approx(2 * wide[1], rel=1e-4) and all(box.get("x") == "0" for box in boxes)
    assert "2.00x (1.50 to 2.50)" in made and "1.00x NOT lossless" in made and "hollow" in boxes[1].get("class", "")
    assert len(marks(made, "line", "whisker")) == 1


def test_lanes_stand_on_one_clock() -> None:
    spans = [
        Span("target", "prefill", 0, 50),
        Span("event model", "draft", 25, 50),
        Span("target", HOSTILE, 50, 60),
    ]
    made = lanes("memory", spans, 60.0, 100.0)
    boxes = {box.get("class"): (box.get("x"), box.get("width")) for box in parsed(made).iter("rect")}
    assert boxes["w-prefill"] == ("0.000%", "50.000%") and boxes["w-draft"] == ("25.000%", "25.000%")
    assert "w-other" in boxes
    assert "memory, target: busy for 60 of 60 ms" in made and "event model: busy for 25 of 60 ms" in made
    assert re.findall(r"left:([\d.]+)%", clock(100.0)) == ["0.000", "50.000", "100.000"]


def test_points_stand_where_their_figures_are() -> None:
    points = [
        Series("a", [1.0], [1.0]), Series("b", [3.0], [2.0], [1.5], [2.5], tone=1), Series("c", [2.0], [None]),
        Series("d", [2.0], [3.0], tone=2, dashed=True),
    ]  # fmt: skip
    made = scatter("x", points, x_label="tau", y_label="speed-up")
    circle = r'<circle class="[^"]*" cx="([\d.]+)" cy="([\d.]+)" r="5"><title>(.*?)</title>'
    told = [(float(x), float(y), title) for x, y, title in re.findall(circle, made)]
    assert [title for *_, title in told] == [
        "a: tau 1.00, speed-up 1.00", "b: tau 3.00, speed-up 2.00 (1.50 to 2.50)", "d: tau 2.00, speed-up 3.00",
    ]  # fmt: skip
    (ax, ay, _), (bx, by, _), (dx, dy, _) = told
    assert ax < dx < bx and ay > by > dy
    # the middle between a and b in tau is d's tau; b's speed-up lies in the middle of a's and d's
    assert dx == pytest.approx((ax + bx) / 2, abs=0.6) and by == pytest.approx((ay + dy) / 2, abs=0.6)
    assert made.count('class="key"') == 3 and "hollow" in made
    assert scatter("x", [Series("c", [2.0], [None])], x_label="", y_label="") == ""
