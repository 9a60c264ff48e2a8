"""The words of the two voices, and how to read facts back out of them.

``target`` speaks of what a camera shows, ``event`` of what an event sensor shows; they share hardly a content word
but colours and numbers. Every word that states a fact belongs to one value of one category and is used for nothing
else, so a free text can be read by looking for the first word of a category.
"""

import re
from functools import cache

from crossdraft.data.scenes.world import HORIZON, ObjectState

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
LIVING = ("person", "cyclist", "dog")

# slow and quick: verb, participle
VERBS = {
    "car": (("rolls", "rolling"), ("races", "racing")),
    "bus": (("crawls", "crawling"), ("thunders", "thundering")),
    "truck": (("trundles", "trundling"), ("barrels", "barrelling")),
    "person": (("walks", "walking"), ("runs", "running")),
    "cyclist": (("pedals", "pedalling"), ("speeds", "speeding")),
    "dog": (("trots", "trotting"), ("sprints", "sprinting")),
}
# by heading: left, right, towards, away
ADVERBS = {
    "slow": {"left": "slowly", "right": "calmly", "towards": "unhurriedly", "away": "leisurely"},
    "quick": {"left": "quickly", "right": "rapidly", "towards": "swiftly", "away": "hastily"},
}
# for machines, for the living
COURSES = {
    "left": ("leftwards", "from right to left"),
    "right": ("rightwards", "from left to right"),
    "towards": ("towards the camera", "closer to us"),
    "away": ("away from the camera", "off into the distance"),
}
EVENT_KINDS = {
    "car": "automobile",
    "bus": "coach",
    "truck": "lorry",
    "person": "pedestrian",
    "cyclist": "biker",
    "dog": "hound",
}
EVENT_COURSES = {"left": "leftbound", "right": "rightbound", "towards": "approaching", "away": "receding"}
EVENT_PACES = {"slow": "low", "quick": "high"}

_Values = dict[str, tuple[str, ...]]
_COLOUR_WORDS: _Values = {c: (c,) for c in ("red", "green", "blue", "yellow", "white", "purple")}
_COUNT_WORDS: _Values = {str(i): (w,) for i, w in enumerate(NUMBERS)}
_DAYLIGHT: _Values = {
    "day": ("daylight", "daytime", "sunlit", "noon"),
    "night": ("night", "nighttime", "dark", "darkness"),
}
_PLACE: _Values = {
    "city": ("city", "buildings", "street", "asphalt", "urban"),
    "park": ("park", "trees", "lawn", "grass"),
    "field": ("field", "hills", "countryside", "sand"),
}
_SIGNAL: _Values = {"stop": ("stop", "halt"), "go": ("go", "proceed"), "none": ("missing", "absent")}
_WORDS: dict[str, dict[str, _Values]] = {
    "target": {
        "kind": {k: (k,) for k in VERBS},
        "colour": _COLOUR_WORDS,
        "direction": {**COURSES},
        "speed": {
            s: (*ADVERBS[s].values(), *(w for verbs in VERBS.values() for w in verbs[i]), word)
            for i, (s, word) in enumerate((("slow", "slow"), ("quick", "fast")))
        },
        "count": _COUNT_WORDS,
        "daylight": _DAYLIGHT,
        "place": _PLACE,
        "signal": _SIGNAL,
    },
    "event": {
        "kind": {k: (w,) for k, w in EVENT_KINDS.items()},
        "colour": _COLOUR_WORDS,
        "direction": {k: (w,) for k, w in EVENT_COURSES.items()},
        "speed": {k: (w,) for k, w in EVENT_PACES.items()},
        "count": _COUNT_WORDS,
        "daylight": _DAYLIGHT,
        "place": _PLACE,
        "signal": _SIGNAL,
    },
}


@cache
def _pattern(role: str, category: str) -> tuple[re.Pattern[str], dict[str, str]]:
    values = {w: value for value, words in _WORDS[role][category].items() for w in words}
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b"), values


def read_fact(text: str, category: str, role: str) -> str | None:
    """The value of ``category`` that ``text`` states first, or None; e.g. ("A red car ...", "colour") -> "red"."""
    pattern, values = _pattern(role, category)
    found = pattern.search(text.lower())
    return values[found.group(1)] if found else None


_TOKEN = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and punctuation marks of a text, a fair stand-in for its tokens."""
    return _TOKEN.findall(text)


def across(o: ObjectState) -> int:
    """Which of seven columns the object's middle is in, 0 at the left edge."""
    return sum(o.cx >= edge for edge in (12, 28, 42, 54, 68, 84))


def range_of(o: ObjectState) -> int:
    """How near: 0 at the horizon to 3 right in front, by the lower edge."""
    return sum(o.bottom >= edge for edge in (HORIZON + 24, HORIZON + 40, HORIZON + 55))


def size_of(o: ObjectState) -> int:
    """How high: 0 tiny to 3 large."""
    return sum(o.h >= edge for edge in (13, 19, 27))


COLUMNS = (
    "at the left edge",
    "on the left side",
    "a little left of the middle",
    "in the middle",
    "a little right of the middle",
    "on the right side",
    "at the right edge",
)
RANGES = ("near the horizon", "at medium range", "close by", "right in front of us")
SIZES = ("tiny", "small", "medium-sized", "large")
EVENT_THIRDS = ("left third", "centre", "right third")
EVENT_EDGES = ("faint", "thin", "clear", "strong")
EVENT_BANDS = ("upper", "middle", "lower", "bottom")
