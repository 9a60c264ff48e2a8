"""Words for one object and for the surroundings, in the target's voice; all marked (``marks``)."""

from dataclasses import dataclass

from crossdraft.data.scenes.lexicon import (
    ADVERBS,
    COLUMNS,
    COURSES,
    LIVING,
    NUMBERS,
    RANGES,
    SIZES,
    VERBS,
    across,
    range_of,
    size_of,
)
from crossdraft.data.scenes.marks import article
from crossdraft.data.scenes.world import SIZE, ObjectState


@dataclass(frozen=True)
class View:
    """What the grammar may look at: the visible objects, nearest first, and the surroundings."""

    objects: tuple[ObjectState, ...]
    daylight: str
    place: str
    signal: str
    pan_px_s: float

    @property
    def count(self) -> str:
        """Number word of the visible objects, marked."""
        return f"[count:{NUMBERS[len(self.objects)]}]"


def kind(o: ObjectState) -> str:
    """What it is."""
    return f"[kind{o.track}:{o.kind}]"


def colour(o: ObjectState) -> str:
    """Its colour."""
    return f"[colour{o.track}:{o.colour}]"


def verb(o: ObjectState) -> str:
    """How it goes: "races"."""
    return f"[speed{o.track}:{VERBS[o.kind][o.speed == 'quick'][0]}]"


def participle(o: ObjectState) -> str:
    """How it is going: "racing"."""
    return f"[speed{o.track}:{VERBS[o.kind][o.speed == 'quick'][1]}]"


def adverb(o: ObjectState) -> str:
    """How fast, in a word that goes with its heading."""
    return f"[speed{o.track}:{ADVERBS[o.speed][o.heading]}]"


def course(o: ObjectState) -> str:
    """Where it goes."""
    return f"[direction{o.track}:{COURSES[o.heading][o.kind in LIVING]}]"


def place(o: ObjectState) -> str:
    """The column of the picture that it is in."""
    return COLUMNS[across(o)]


def reach(o: ObjectState) -> str:
    """How far away it is."""
    return RANGES[range_of(o)]


def thing(o: ObjectState) -> str:
    """Colour and kind."""
    return f"{colour(o)} {kind(o)}"


def sized(o: ObjectState) -> str:
    """Size, colour and kind."""
    return f"{SIZES[size_of(o)]} {colour(o)} {kind(o)}"


def beside(o: ObjectState, other: ObjectState) -> str:
    """Where ``o`` is, seen from ``other``."""
    gap = o.cx - other.cx
    if abs(gap) < 8:
        return "straight behind it"
    return (
        f"{'just' if abs(gap) < 20 else 'well' if abs(gap) < 40 else 'far'} to its {'left' if gap < 0 else 'right'}"
    )


def moves(o: ObjectState) -> str:
    """Verb phrase whose order of words follows the heading."""
    if o.heading in ("left", "towards"):
        return f"{verb(o)} {adverb(o)} {course(o)}"
    return f"{adverb(o)} {verb(o)} {course(o)}"


def room(o: ObjectState) -> str:
    """A sentence on how much of the picture lies free beside the object."""
    left, right = o.cx - o.w / 2, SIZE - o.cx - o.w / 2
    side, gap = ("left", left) if left > right else ("right", right)
    share = ROOMS[min(int(max(gap, 0.0) / 11), len(ROOMS) - 1)]
    if o.heading in ("left", "right"):
        return f"to its {side}, {share} of the picture lies free."
    return f"it leaves {share} of the picture free on its {side}."


ROOMS = ("nothing", "a little", "a quarter", "a third", "nearly half", "over half", "much", "most")


def also(o: ObjectState, before: ObjectState) -> str:
    """A sentence about a further object; its form follows the column the object is in."""
    forms = (
        f"{place(o)}, {article(thing(o))} is {participle(o)} {course(o)}.",
        f"{article(sized(o))} {moves(o)} {beside(o, before)}.",
        f"{beside(o, before)} there is {article(thing(o))}, {reach(o)}, {participle(o)} {course(o)}.",
        f"behind it {article(sized(o))} {verb(o)} {course(o)}.",
        f"there is also {article(thing(o))} {reach(o)} that {moves(o)}.",
        f"{reach(o)} and {beside(o, before)}, {article(thing(o))} {verb(o)} {course(o)}.",
        f"{place(o)} we also see {article(sized(o))} {participle(o)} {course(o)}.",
    )
    return forms[across(o)]


def listed(phrases: list[str]) -> str:
    """ "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


PLACE_NAMES = {"city": "[place:city] street", "park": "leafy [place:park]", "field": "dry [place:field]"}
PLACE_BACKS = {
    "city": "a row of [place:buildings]",
    "park": "a line of round [place:trees]",
    "field": "a chain of low [place:hills]",
}
LIGHT_NAMES = {"day": "[daylight:daylight]", "night": "the [daylight:dark]"}


def setting(v: View) -> str:
    """Place and light."""
    return f"a {PLACE_NAMES[v.place]} in {LIGHT_NAMES[v.daylight]}"


def drift(v: View) -> str:
    """What the camera does, as the ground shows it."""
    speed = "gently" if abs(v.pan_px_s) < 7 else "steadily"
    side = "left" if v.pan_px_s > 0 else "right"
    return f"the ground drifts {speed} to the {side} side"
