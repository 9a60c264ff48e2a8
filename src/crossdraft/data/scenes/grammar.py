"""Questions and answers about a clip: what is true comes from the world, how it is said follows from what is seen.

Nothing in the wording is drawn by chance: which phrase is taken depends on the kind, place in the picture, size,
heading or number of objects, so a model that sees can foretell every word. Sentences are written with marks;
``[colour7:red]`` (track 7 is red) and ``[daylight:night]`` become the spans of the words that state facts.

A clip's facts are those of ``SceneClip.visible_objects`` at the middle of the clip. Each question has a subject
(the nearest object unless it asks otherwise), which is always the first object that its answer mentions.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from crossdraft.data.scenes.lexicon import (
    ADVERBS,
    COLUMNS,
    COURSES,
    EVENT_BANDS,
    EVENT_COURSES,
    EVENT_EDGES,
    EVENT_KINDS,
    EVENT_PACES,
    EVENT_THIRDS,
    LIVING,
    NUMBERS,
    RANGES,
    SIZES,
    VERBS,
    across,
    range_of,
    read_fact,
    size_of,
    words,
)
from crossdraft.data.scenes.world import HEADINGS, KINDS, SIZE, ObjectState

Span = tuple[int, int, str]
# words and marks; the few answers that come out shorter get a further sentence
SHORTEST_ANSWER = 40


@dataclass(frozen=True)
class QA:
    """One question about a clip and its two reference answers.

    facts: category -> value of what the answers state about the question's subject and the clip; categories are
        kind, colour, direction, speed (of the subject), count, daylight, place, signal.
    fact_spans, event_fact_spans: (start, end, category), characters of the answers that state a fact, of the
        subject, the clip or a further object.
    target_states, event_states: which of ``facts`` either answer states; what is said of further
        objects is not graded.
    """

    kind: str
    question: str
    answer: str
    event_answer: str
    facts: dict[str, str]
    fact_spans: tuple[Span, ...]
    event_fact_spans: tuple[Span, ...]
    target_states: frozenset[str]
    event_states: frozenset[str]

    def stated(self, role: str) -> frozenset[str]:
        """Categories of ``facts`` that the reference answer of ``role`` ("target" or "event") states."""
        return self.target_states if role == "target" else self.event_states


def grade(qa: QA, text: str, role: str = "target") -> dict[str, bool]:
    """Compare what a free answer states with what is true, per category that this role should state.

    A category counts as stated by the first word of its lexicon in the text; silence is wrong.
    """
    return {c: read_fact(text, c, role) == qa.facts[c] for c in sorted(qa.stated(role))}


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


_MARK = re.compile(r"\[([a-z]+)(\d*):([^\]]*)\]")


def _plain(marked: str) -> tuple[str, tuple[Span, ...]]:
    """Text without marks, and where they were; the first letter of every sentence is made a capital."""
    text, spans, last = "", [], 0
    for m in _MARK.finditer(marked):
        text += marked[last : m.start()]
        spans.append((len(text), len(text) + len(m[3]), m[1]))
        text += m[3]
        last = m.end()
    text += marked[last:]
    text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    return text, tuple(spans)


def _states(marked: str, subject: ObjectState | None) -> frozenset[str]:
    """Categories whose first mention is about the subject or about the clip as a whole."""
    first: dict[str, str] = {}
    for m in _MARK.finditer(marked):
        first.setdefault(m[1], m[2])
    return frozenset(c for c, track in first.items() if not track or (subject and track == str(subject.track)))


def _a(phrase: str) -> str:
    """Put the right article in front of a marked phrase."""
    spoken = _MARK.sub(lambda m: m[3], phrase)
    return ("an " if spoken[0] in "aeiou" else "a ") + phrase


# --- words for one object, target's voice


def _kind(o: ObjectState) -> str:
    return f"[kind{o.track}:{o.kind}]"


def _colour(o: ObjectState) -> str:
    return f"[colour{o.track}:{o.colour}]"


def _verb(o: ObjectState) -> str:
    return f"[speed{o.track}:{VERBS[o.kind][o.speed == 'quick'][0]}]"


def _participle(o: ObjectState) -> str:
    return f"[speed{o.track}:{VERBS[o.kind][o.speed == 'quick'][1]}]"


def _adverb(o: ObjectState) -> str:
    return f"[speed{o.track}:{ADVERBS[o.speed][o.heading]}]"


def _course(o: ObjectState) -> str:
    return f"[direction{o.track}:{COURSES[o.heading][o.kind in LIVING]}]"


def _where(o: ObjectState) -> str:
    return COLUMNS[across(o)]


def _range(o: ObjectState) -> str:
    return RANGES[range_of(o)]


def _thing(o: ObjectState) -> str:
    return f"{_colour(o)} {_kind(o)}"


def _sized(o: ObjectState) -> str:
    return f"{SIZES[size_of(o)]} {_colour(o)} {_kind(o)}"


def _beside(o: ObjectState, other: ObjectState) -> str:
    """Where ``o`` is, seen from ``other``."""
    gap = o.cx - other.cx
    if abs(gap) < 8:
        return "straight behind it"
    return (
        f"{'just' if abs(gap) < 20 else 'well' if abs(gap) < 40 else 'far'} to its {'left' if gap < 0 else 'right'}"
    )


def _moves(o: ObjectState) -> str:
    """Verb phrase whose order of words follows the heading."""
    if o.heading in ("left", "towards"):
        return f"{_verb(o)} {_adverb(o)} {_course(o)}"
    return f"{_adverb(o)} {_verb(o)} {_course(o)}"


def _room(o: ObjectState) -> str:
    """A sentence on how much of the picture lies free beside the object."""
    left, right = o.cx - o.w / 2, SIZE - o.cx - o.w / 2
    side, gap = ("left", left) if left > right else ("right", right)
    share = ROOMS[min(int(max(gap, 0.0) / 11), len(ROOMS) - 1)]
    if o.heading in ("left", "right"):
        return f"to its {side}, {share} of the picture lies free."
    return f"it leaves {share} of the picture free on its {side}."


ROOMS = ("nothing", "a little", "a quarter", "a third", "nearly half", "over half", "much", "most")


def _also(o: ObjectState, before: ObjectState) -> str:
    """A sentence about a further object; its form follows the column the object is in."""
    forms = (
        f"{_where(o)}, {_a(_thing(o))} is {_participle(o)} {_course(o)}.",
        f"{_a(_sized(o))} {_moves(o)} {_beside(o, before)}.",
        f"{_beside(o, before)} there is {_a(_thing(o))}, {_range(o)}, {_participle(o)} {_course(o)}.",
        f"behind it {_a(_sized(o))} {_verb(o)} {_course(o)}.",
        f"there is also {_a(_thing(o))} {_range(o)} that {_moves(o)}.",
        f"{_range(o)} and {_beside(o, before)}, {_a(_thing(o))} {_verb(o)} {_course(o)}.",
        f"{_where(o)} we also see {_a(_sized(o))} {_participle(o)} {_course(o)}.",
    )
    return forms[across(o)]


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


PLACE_NAMES = {"city": "[place:city] street", "park": "leafy [place:park]", "field": "dry [place:field]"}
PLACE_BACKS = {
    "city": "a row of [place:buildings]",
    "park": "a line of round [place:trees]",
    "field": "a chain of low [place:hills]",
}
LIGHT_NAMES = {"day": "[daylight:daylight]", "night": "the [daylight:dark]"}


def _setting(v: View) -> str:
    return f"a {PLACE_NAMES[v.place]} in {LIGHT_NAMES[v.daylight]}"


def _drift(v: View) -> str:
    """What the camera does, as the ground shows it."""
    speed = "gently" if abs(v.pan_px_s) < 7 else "steadily"
    side = "left" if v.pan_px_s > 0 else "right"
    return f"the ground drifts {speed} to the {side} side"


# --- one function a question: (question, target's answer, event model's answer), all marked


def _key(o: ObjectState) -> int:
    return KINDS.index(o.kind)


def _scene(v: View) -> tuple[ObjectState, str]:
    o, rest = v.objects[0], v.objects[1:3]
    opening = (
        f"the key element of this scene is {_a(_sized(o))} {_where(o)}, which {_moves(o)}.",
        f"the scene is dominated by {_a(_sized(o))}, {_range(o)}, that is {_participle(o)} {_course(o)} "
        f"{_where(o)}.",
        f"{_where(o)}, {_a(_sized(o))} {_moves(o)}; it is the main element.",
        f"we see {_a(_sized(o))} {_participle(o)} {_course(o)}, {_range(o)} and {_where(o)}.",
        f"the most important element is {_a(_thing(o))} that {_moves(o)} {_where(o)}.",
        f"{_a(_sized(o))} stands out: it {_moves(o)}, {_range(o)}.",
    )[_key(o)]
    others = " ".join(_also(p, o) for p in rest) or f"{_room(o)} nothing else is on the move."
    verb = "object moves" if len(v.objects) == 1 else "objects move"
    return o, f"{opening} {others} in all, {v.count} {verb} through {_setting(v)}."


def _nearest(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    first = (
        f"{_a(_thing(o))} is closest; it is {_where(o)}, {_range(o)}, and looks {SIZES[size_of(o)]}.",
        f"closest of all is {_a(_sized(o))} {_where(o)}.",
        f"the nearest object, {_a(_sized(o))}, can be found {_where(o)} and {_range(o)}.",
        f"{_range(o)}, {_where(o)}, there is {_a(_thing(o))}, nearer than anything else.",
    )[HEADINGS.index(o.heading)]
    second = (
        f"it {_moves(o)} and fills a {SIZES[size_of(o)]} part of the picture.",
        f"it is {_participle(o)} {_course(o)}, rather {_adverb(o)}, {_range(o)}.",
        f"{_adverb(o)} it {_verb(o)} {_course(o)}.",
    )[_key(o) % 3]
    if len(v.objects) > 1:
        p = v.objects[1]
        third = f"the next nearest is {_a(_thing(p))} {_beside(p, o)}, {_range(p)}, {_participle(p)} {_course(p)}."
    else:
        third = "nothing else moves."
    # what is quick looks another way in the next clip; of what is slow, one thing more is told
    more = _room(o) if o.speed == "slow" or len(v.objects) == 1 else ""
    return o, f"{first} {second} {third} {more}"


def _count(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    seen: list[str] = []
    for p in v.objects[:4]:
        again = any(q.kind == p.kind for q in v.objects[: len(seen)])
        seen.append(f"{'another' if again else 'a'} {_kind(p)} {_where(p)}")
    many = len(v.objects)
    first = (
        f"there is {v.count} moving object, namely {seen[0]}.",
        f"{v.count} objects are on the move: {_listed(seen)}.",
        f"I count {v.count} moving things here: {_listed(seen)}.",
        f"as many as {v.count} objects share the picture: {_listed(seen)}.",
    )[min(many, 4) - 1]
    last = v.objects[-1]
    second = (
        f"the {_kind(o)} is {_range(o)} and looks {SIZES[size_of(o)]} in {_setting(v)}, where {_drift(v)}."
        if many == 1
        else (
            f"the nearest is a {SIZES[size_of(o)]} {_kind(o)}, {_range(o)}, {_participle(o)} {_course(o)}.",
            f"nearest comes the {_kind(o)}, {_range(o)}; the {_kind(last)} is farthest, {_range(last)}.",
            f"{_range(o)}, the {_kind(o)} {_moves(o)}; the {_kind(last)} is farthest.",
        )[_key(o) % 3]
    )
    sides = [sum(across(p) < 3 for p in v.objects), sum(across(p) > 3 for p in v.objects)]
    more = "left half" if sides[0] > sides[1] else "right half" if sides[1] > sides[0] else "centre"
    return o, f"{first} {second} {_room(o)} The {more} is busiest."


def _colours(v: View) -> tuple[ObjectState, str]:
    row = sorted(v.objects, key=lambda p: p.cx)
    o = row[0]
    first = (
        f"the {_thing(o)} {_where(o)} is the leftmost,",
        f"farthest left we have {_a(_thing(o))}, {_range(o)},",
        f"{_where(o)} a {SIZES[size_of(o)]} {_kind(o)} is painted {_colour(o)},",
    )[_key(o) % 3]
    if len(row) == 1:
        rest = "and no other object shows any paint."
    else:
        rest = "followed by " + _listed([f"{_a(_thing(p))} {_where(p)}" for p in row[1:4]]) + "."
    near = v.objects[0]
    tone = "brightest" if near.colour in ("white", "yellow") else "deepest"
    last = f"the {_kind(near)} {_range(near)} has the {tone}"
    return o, f"{first} {rest} {last} paint before {PLACE_BACKS[v.place]}. {_room(o)}"


def _motion(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    first = (
        f"the {_kind(o)} {_where(o)} {_moves(o)}.",
        f"{_where(o)}, a {SIZES[size_of(o)]} {_kind(o)} is {_participle(o)} {_course(o)}.",
        f"{_range(o)}, {_where(o)}, the {_kind(o)} {_moves(o)}.",
    )[_key(o) % 3]
    parts = [first, *(_also(p, o) for p in v.objects[1:3])]
    quick = sum(p.speed == "quick" for p in v.objects)
    total = "everything" if quick == len(v.objects) else "nothing" if not quick else "something"
    parts.append(f"{total} is in a hurry. {_room(o)}")
    if len(v.objects) < 3:
        parts.append(f"{_drift(v)} in {LIGHT_NAMES[v.daylight]}.")
    if len(v.objects) == 1:
        parts.append(f"it is alone, {_range(o)}.")
    return o, " ".join(parts)


def _fastest(v: View) -> tuple[ObjectState, str]:
    quick = [p for p in v.objects if p.speed == "quick"]
    o = quick[0] if quick else v.objects[0]
    if quick:
        first = f"yes, {_a(_sized(o))} {_where(o)} {_verb(o)} {_course(o)} {_adverb(o)}"
    else:
        first = f"no, even the nearest {_kind(o)}, {_where(o)}, {_verb(o)} {_course(o)} {_adverb(o)}"
    others = [p for p in v.objects if p.track != o.track][:2]
    if others:
        told = _listed([f"the {_kind(p)} {_where(p)} {_verb(p)} {_course(p)}" for p in others])
        second = f", {_range(o)}, while {told}."
    else:
        second = f", {_range(o)}, and it looks {SIZES[size_of(o)]}; nothing else moves in {_setting(v)}."
    more = f" {_drift(v)} as the camera pans." if len(others) < 2 else ""
    return o, f"{first}{second} {_room(o)}{more}"


def _onward(p: ObjectState, q: ObjectState) -> str:
    """A sentence about ``p``, the next to the right of ``q``; its form follows the heading."""
    gap = p.cx - q.cx
    step = (
        "close to it"
        if gap < 10
        else "a bit farther on"
        if gap < 20
        else "farther on"
        if gap < 36
        else "far from it"
    )
    return (
        f"{step}, {_a(_sized(p))} {_verb(p)} {_course(p)}.",
        f"{_where(p)} comes {_a(_thing(p))}, {step}, {_participle(p)} {_course(p)}.",
        f"{_a(_thing(p))} is {step}, {_range(p)}, {_participle(p)} {_course(p)}.",
        f"{_range(p)}, {step}, there is {_a(_sized(p))} that {_verb(p)} {_course(p)}.",
    )[HEADINGS.index(p.heading)]


def _left_to_right(v: View) -> tuple[ObjectState, str]:
    row = sorted(v.objects, key=lambda p: p.cx)
    o = row[0]
    first = (
        f"{_where(o)} there is {_a(_sized(o))} that {_moves(o)}.",
        f"{_a(_sized(o))}, {_range(o)}, {_moves(o)} {_where(o)}.",
        f"we begin {_where(o)}: {_a(_thing(o))}, {_range(o)}, {_moves(o)}.",
    )[_key(o) % 3]
    parts = [first, *(_onward(p, q) for p, q in zip(row[1:4], row[:3], strict=False))]
    if len(row) < 3:
        free = "left" if row[0].cx > SIZE / 2 else "right" if row[-1].cx < SIZE / 2 else ""
        parts.append(
            f"{f'the {free} half is empty' if free else 'both halves are in use'} before {PLACE_BACKS[v.place]}."
        )
    if len(row) == 1:
        parts.append(f"{_drift(v)} in {LIGHT_NAMES[v.daylight]}.")
    return o, " ".join([*parts, _room(row[-1])])


def _lights(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    first = {"day": "it is [daylight:daytime].", "night": "it is [daylight:night]."}[v.daylight]
    second = {
        "stop": "the traffic light says [signal:stop].",
        "go": "the traffic light says [signal:go].",
        "none": "a traffic light is [signal:missing].",
    }[v.signal]
    lit = {
        "towards": "its headlights face us",
        "away": "its rear is turned to us",
        "left": "we see its left flank",
        "right": "we see its right flank",
    }[o.heading]
    third = (
        f"the light falls on {_a(_sized(o))} {_where(o)}, {_range(o)}; {lit}.",
        f"{_where(o)}, {_a(_sized(o))} is well lit; {lit}, {_range(o)}.",
        f"{lit}: {_a(_thing(o))}, {_range(o)} and {_where(o)}.".replace("its", "a", 1),
    )[_key(o) % 3]
    rest = " ".join(_also(p, o) for p in v.objects[1:2]) or f"nothing else catches the light while {_drift(v)}."
    return o, f"{first} {second} {third} {rest} {_room(o)}"


def _driver(v: View) -> tuple[ObjectState, str]:
    coming = [p for p in v.objects if p.heading == "towards"]
    o = coming[0] if coming else v.objects[0]
    first = (
        f"a driver should watch the {_thing(o)} {_where(o)}, because it {_moves(o)}."
        if coming
        else f"nothing comes at us, but the {_thing(o)} {_where(o)} deserves a look as it {_moves(o)}."
    )
    act = (
        "there is still plenty of room",
        "keep the speed down",
        "be ready to brake",
        "brake at once",
    )[range_of(o)]
    second = f"it is {_range(o)}, so {act}."
    others = [p for p in v.objects if p.track != o.track][:2]
    third = " ".join(_also(p, o) for p in others)
    rule = {
        "stop": "the traffic light says [signal:stop].",
        "go": "the traffic light says [signal:go].",
        "none": "a traffic light is [signal:missing].",
    }[v.signal]
    extra = "" if others else f"no other road user is near in {_setting(v)}, and {_drift(v)}."
    return o, f"{first} {second} {third}{extra} {_room(o)} {rule}"


def _farthest(v: View) -> tuple[ObjectState, str]:
    o, near = v.objects[-1], v.objects[0]
    first = (
        f"the farthest thing we see is {_a(_sized(o))} {_where(o)}.",
        f"{_range(o)}, {_where(o)}, there is {_a(_sized(o))}, farther than the rest.",
        f"{_a(_sized(o))} {_where(o)} is the farthest object.",
    )[_key(o) % 3]
    second = f"it {_moves(o)}, {_range(o)}. {_room(o)}"
    third = (
        f"{_range(near)}, {_a(_sized(near))} {_moves(near)} {_beside(near, o).replace('behind', 'before')}."
        if len(v.objects) > 1
        else f"it is alone before {PLACE_BACKS[v.place]}, and {_drift(v)}."
    )
    return o, f"{first} {second} {third}"


def _surroundings(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    verb = "object crosses" if len(v.objects) == 1 else "objects cross"
    first = f"this is {_setting(v)}, where {v.count} {verb} the view."
    second = (
        f"the {_kind(o)} {_where(o)} is {_range(o)} and {_verb(o)} {_course(o)}.",
        f"{_where(o)}, {_range(o)}, {_a(_thing(o))} {_verb(o)} {_course(o)}.",
        f"{_range(o)} a {SIZES[size_of(o)]} {_kind(o)} {_moves(o)}.",
    )[_key(o) % 3]
    rest = [_also(p, o) for p in v.objects[1:3]]
    if len(rest) < 2:
        rest.append(f"{_drift(v)} as the camera pans.")
    return o, f"{first} {second} {' '.join(rest)} {_room(o)}"


def _next(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    quick = o.speed == "quick"
    fate = {
        "left": "will be out of the picture" if o.cx < (50 if quick else 14) else "will be nearer to the left edge",
        "right": "will be out of the picture"
        if o.cx > (46 if quick else 82)
        else "will be nearer to the right edge",
        "towards": "will have passed us" if o.bottom > (80 if quick else 96) else "will look larger",
        "away": "will have shrunk to a dot" if o.bottom < (70 if quick else 56) else "will look smaller",
    }[o.heading]
    first = f"the {_thing(o)} {_where(o)} {_moves(o)}, so it {fate} soon."
    parts = [first] + [
        f"the {_kind(p)} {_beside(p, o)} {_verb(p)} on {_course(p)}, {_range(p)}."
        if p.speed == "slow"
        else f"{_range(p)}, the {_thing(p)} will have left {_where(p)}, {_participle(p)} on {_course(p)}."
        for p in v.objects[1:3]
    ]
    if len(v.objects) == 1:
        parts.append(f"nothing else will change in this part of {_setting(v)}, for it is alone, {_range(o)}.")
    parts.append(
        {
            "stop": f"the traffic light says [signal:halt]. {_room(o)}",
            "go": f"the traffic light says [signal:proceed]. {_room(o)}",
            "none": f"a traffic light is [signal:absent]. {_room(o)}",
        }[v.signal]
    )
    return o, " ".join(parts)


# --- the event model's voice: short reports of edges and motion, in another order of words


def _third(o: ObjectState) -> str:
    return EVENT_THIRDS[int(o.cx >= 34) + int(o.cx >= 62)]


def _event_course(o: ObjectState) -> str:
    return f"[direction{o.track}:{EVENT_COURSES[o.heading]}]"


def _event_kind(o: ObjectState) -> str:
    return f"[kind:{EVENT_KINDS[o.kind]}]"


def _pace(o: ObjectState) -> str:
    return f"[speed{o.track}:{EVENT_PACES[o.speed]}] velocity"


def _edge(o: ObjectState) -> str:
    return EVENT_EDGES[size_of(o)]


def _report(o: ObjectState) -> str:
    """One object as events show it; the form follows the third it is in."""
    if o.cx < 34:
        return f"{_event_course(o)} {_event_kind(o)} with {_pace(o)}, {_edge(o)} contours, {_third(o)}"
    if o.cx < 62:
        return f"at {_pace(o)} {_a(_event_course(o))} {_event_kind(o)} triggers {_edge(o)} contours, {_third(o)}"
    return f"{_edge(o)} contours, {_third(o)}: {_event_kind(o)}, {_event_course(o)}, {_pace(o)}"


def _event_voice(v: View, subject: ObjectState, question: str) -> str:
    others = [p for p in v.objects if p.track != subject.track][:2]
    band = EVENT_BANDS[range_of(subject)]
    parts = [f"most sensor activity is found in the {band} rows. {_report(subject)}."]
    if question in ("nearest", "scene", "colours", "left_to_right", "driver", "farthest", "lights", "next"):
        parts.append(f"its tint might be {_colour(subject)}.")
    if question in ("count", "scene", "surroundings", "motion"):
        parts.append(f"number of moving sources: {v.count}.")
    if question in ("lights", "surroundings"):
        parts.append(
            "polarity contrast suggests [daylight:daytime]."
            if v.daylight == "day"
            else "polarity contrast suggests [daylight:nighttime]."
        )
    parts += [f"additionally {_report(p)}." for p in others]
    if not others:
        parts.append("elsewhere only weak flicker of scrolling texture remains.")
    return " ".join(parts)


QUESTIONS: dict[str, tuple[str, Callable[[View], tuple[ObjectState, str]]]] = {
    "scene": ("What are the key elements in this scene?", _scene),
    "nearest": ("What is closest to the camera and what is it doing?", _nearest),
    "count": ("How many moving objects are there and which kinds?", _count),
    "colours": ("What colours do the moving objects have?", _colours),
    "motion": ("How are the objects moving?", _motion),
    "fastest": ("Is anything moving fast?", _fastest),
    "left_to_right": ("Describe the picture from left to right.", _left_to_right),
    "lights": ("What is the light like and what does the traffic light show?", _lights),
    "driver": ("What should a driver watch out for?", _driver),
    "farthest": ("What can be seen far away?", _farthest),
    "surroundings": ("Where does this take place?", _surroundings),
    "next": ("What will probably happen next?", _next),
}


def _facts(v: View, subject: ObjectState | None, stated: frozenset[str]) -> dict[str, str]:
    known = {"count": str(len(v.objects)), "daylight": v.daylight, "place": v.place, "signal": v.signal}
    if subject is not None:
        known |= {
            "kind": subject.kind,
            "colour": subject.colour,
            "direction": subject.heading,
            "speed": subject.speed,
        }
    return {c: known[c] for c in sorted(stated)}


def questions(v: View) -> list[QA]:
    """Every question of ``QUESTIONS`` with its answers for this view."""
    out = []
    for kind, (question, answer) in QUESTIONS.items():
        if v.objects:
            subject, marked = answer(v)
            if len(words(_plain(marked)[0])) < SHORTEST_ANSWER:
                marked += " " + _room(subject)
            event_marked = _event_voice(v, subject, kind)
        else:
            subject = None
            marked = (
                f"nothing moves in this clip: I count {v.count} objects in {_setting(v)}. "
                f"only {PLACE_BACKS[v.place]} can be seen behind the empty ground, and {_drift(v)} "
                "while the camera pans."
            )
            event_marked = (
                f"number of moving sources: {v.count}. sensor activity stays weak everywhere, and only the faint "
                "flicker of scrolling texture remains in the rows below the distant skyline."
            )
        text, spans = _plain(" ".join(marked.split()))
        event_text, event_spans = _plain(" ".join(event_marked.split()))
        states, event_states = _states(marked, subject), _states(event_marked, subject)
        facts = _facts(v, subject, states | event_states)
        out.append(QA(kind, question, text, event_text, facts, spans, event_spans, states, event_states))
    return out
