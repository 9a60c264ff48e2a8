"""The target's answer to each question: (subject, marked sentences), one function a question."""

from collections.abc import Callable

from crossdraft.data.scenes.lexicon import SIZES, across, range_of, size_of
from crossdraft.data.scenes.marks import article
from crossdraft.data.scenes.phrases import (
    LIGHT_NAMES,
    PLACE_BACKS,
    View,
    adverb,
    also,
    beside,
    colour,
    course,
    drift,
    kind,
    listed,
    moves,
    participle,
    place,
    reach,
    room,
    setting,
    sized,
    thing,
    verb,
)
from crossdraft.data.scenes.world import HEADINGS, KINDS, SIZE, ObjectState


def _key(o: ObjectState) -> int:
    return KINDS.index(o.kind)


def _scene(v: View) -> tuple[ObjectState, str]:
    o, rest = v.objects[0], v.objects[1:3]
    opening = (
        f"the key element of this scene is {article(sized(o))} {place(o)}, which {moves(o)}.",
        f"the scene is dominated by {article(sized(o))}, {reach(o)}, that is {participle(o)} {course(o)} "
        f"{place(o)}.",
        f"{place(o)}, {article(sized(o))} {moves(o)}; it is the main element.",
        f"we see {article(sized(o))} {participle(o)} {course(o)}, {reach(o)} and {place(o)}.",
        f"the most important element is {article(thing(o))} that {moves(o)} {place(o)}.",
        f"{article(sized(o))} stands out: it {moves(o)}, {reach(o)}.",
    )[_key(o)]
    others = " ".join(also(p, o) for p in rest) or f"{room(o)} nothing else is on the move."
    what = "object moves" if len(v.objects) == 1 else "objects move"
    return o, f"{opening} {others} in all, {v.count} {what} through {setting(v)}."


def _nearest(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    first = (
        f"{article(thing(o))} is closest; it is {place(o)}, {reach(o)}, and looks {SIZES[size_of(o)]}.",
        f"closest of all is {article(sized(o))} {place(o)}.",
        f"the nearest object, {article(sized(o))}, can be found {place(o)} and {reach(o)}.",
        f"{reach(o)}, {place(o)}, there is {article(thing(o))}, nearer than anything else.",
    )[HEADINGS.index(o.heading)]
    second = (
        f"it {moves(o)} and fills a {SIZES[size_of(o)]} part of the picture.",
        f"it is {participle(o)} {course(o)}, rather {adverb(o)}, {reach(o)}.",
        f"{adverb(o)} it {verb(o)} {course(o)}.",
    )[_key(o) % 3]
    if len(v.objects) > 1:
        p = v.objects[1]
        third = f"the next nearest is {article(thing(p))} {beside(p, o)}, {reach(p)}, {participle(p)} {course(p)}."
    else:
        third = "nothing else moves."
    # what is quick looks another way in the next clip; of what is slow, one thing more is told
    more = room(o) if o.speed == "slow" or len(v.objects) == 1 else ""
    return o, f"{first} {second} {third} {more}"


def _count(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    seen: list[str] = []
    for p in v.objects[:4]:
        again = any(q.kind == p.kind for q in v.objects[: len(seen)])
        seen.append(f"{'another' if again else 'a'} {kind(p)} {place(p)}")
    many = len(v.objects)
    first = (
        f"there is {v.count} moving object, namely {seen[0]}.",
        f"{v.count} objects are on the move: {listed(seen)}.",
        f"I count {v.count} moving things here: {listed(seen)}.",
        f"as many as {v.count} objects share the picture: {listed(seen)}.",
    )[min(many, 4) - 1]
    last = v.objects[-1]
    second = (
        f"the {kind(o)} is {reach(o)} and looks {SIZES[size_of(o)]} in {setting(v)}, where {drift(v)}."
        if many == 1
        else (
            f"the nearest is a {SIZES[size_of(o)]} {kind(o)}, {reach(o)}, {participle(o)} {course(o)}.",
            f"nearest comes the {kind(o)}, {reach(o)}; the {kind(last)} is farthest, {reach(last)}.",
            f"{reach(o)}, the {kind(o)} {moves(o)}; the {kind(last)} is farthest.",
        )[_key(o) % 3]
    )
    sides = [sum(across(p) < 3 for p in v.objects), sum(across(p) > 3 for p in v.objects)]
    more = "left half" if sides[0] > sides[1] else "right half" if sides[1] > sides[0] else "centre"
    return o, f"{first} {second} {room(o)} The {more} is busiest."


def _colours(v: View) -> tuple[ObjectState, str]:
    row = sorted(v.objects, key=lambda p: p.cx)
    o = row[0]
    first = (
        f"the {thing(o)} {place(o)} is the leftmost,",
        f"farthest left we have {article(thing(o))}, {reach(o)},",
        f"{place(o)} a {SIZES[size_of(o)]} {kind(o)} is painted {colour(o)},",
    )[_key(o) % 3]
    if len(row) == 1:
        rest = "and no other object shows any paint."
    else:
        rest = "followed by " + listed([f"{article(thing(p))} {place(p)}" for p in row[1:4]]) + "."
    near = v.objects[0]
    tone = "brightest" if near.colour in ("white", "yellow") else "deepest"
    last = f"the {kind(near)} {reach(near)} has the {tone}"
    return o, f"{first} {rest} {last} paint before {PLACE_BACKS[v.place]}. {room(o)}"


def _motion(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    first = (
        f"the {kind(o)} {place(o)} {moves(o)}.",
        f"{place(o)}, a {SIZES[size_of(o)]} {kind(o)} is {participle(o)} {course(o)}.",
        f"{reach(o)}, {place(o)}, the {kind(o)} {moves(o)}.",
    )[_key(o) % 3]
    parts = [first, *(also(p, o) for p in v.objects[1:3])]
    quick = sum(p.speed == "quick" for p in v.objects)
    total = "everything" if quick == len(v.objects) else "nothing" if not quick else "something"
    parts.append(f"{total} is in a hurry. {room(o)}")
    if len(v.objects) < 3:
        parts.append(f"{drift(v)} in {LIGHT_NAMES[v.daylight]}.")
    if len(v.objects) == 1:
        parts.append(f"it is alone, {reach(o)}.")
    return o, " ".join(parts)


def _fastest(v: View) -> tuple[ObjectState, str]:
    quick = [p for p in v.objects if p.speed == "quick"]
    o = quick[0] if quick else v.objects[0]
    if quick:
        first = f"yes, {article(sized(o))} {place(o)} {verb(o)} {course(o)} {adverb(o)}"
    else:
        first = f"no, even the nearest {kind(o)}, {place(o)}, {verb(o)} {course(o)} {adverb(o)}"
    others = [p for p in v.objects if p.track != o.track][:2]
    if others:
        told = listed([f"the {kind(p)} {place(p)} {verb(p)} {course(p)}" for p in others])
        second = f", {reach(o)}, while {told}."
    else:
        second = f", {reach(o)}, and it looks {SIZES[size_of(o)]}; nothing else moves in {setting(v)}."
    more = f" {drift(v)} as the camera pans." if len(others) < 2 else ""
    return o, f"{first}{second} {room(o)}{more}"


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
        f"{step}, {article(sized(p))} {verb(p)} {course(p)}.",
        f"{place(p)} comes {article(thing(p))}, {step}, {participle(p)} {course(p)}.",
        f"{article(thing(p))} is {step}, {reach(p)}, {participle(p)} {course(p)}.",
        f"{reach(p)}, {step}, there is {article(sized(p))} that {verb(p)} {course(p)}.",
    )[HEADINGS.index(p.heading)]


def _left_to_right(v: View) -> tuple[ObjectState, str]:
    row = sorted(v.objects, key=lambda p: p.cx)
    o = row[0]
    first = (
        f"{place(o)} there is {article(sized(o))} that {moves(o)}.",
        f"{article(sized(o))}, {reach(o)}, {moves(o)} {place(o)}.",
        f"we begin {place(o)}: {article(thing(o))}, {reach(o)}, {moves(o)}.",
    )[_key(o) % 3]
    parts = [first, *(_onward(p, q) for p, q in zip(row[1:4], row[:3], strict=False))]
    if len(row) < 3:
        free = "left" if row[0].cx > SIZE / 2 else "right" if row[-1].cx < SIZE / 2 else ""
        parts.append(
            f"{f'the {free} half is empty' if free else 'both halves are in use'} before {PLACE_BACKS[v.place]}."
        )
    if len(row) == 1:
        parts.append(f"{drift(v)} in {LIGHT_NAMES[v.daylight]}.")
    return o, " ".join([*parts, room(row[-1])])


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
        f"the light falls on {article(sized(o))} {place(o)}, {reach(o)}; {lit}.",
        f"{place(o)}, {article(sized(o))} is well lit; {lit}, {reach(o)}.",
        f"{lit}: {article(thing(o))}, {reach(o)} and {place(o)}.".replace("its", "a", 1),
    )[_key(o) % 3]
    rest = " ".join(also(p, o) for p in v.objects[1:2]) or f"nothing else catches the light while {drift(v)}."
    return o, f"{first} {second} {third} {rest} {room(o)}"


def _driver(v: View) -> tuple[ObjectState, str]:
    coming = [p for p in v.objects if p.heading == "towards"]
    o = coming[0] if coming else v.objects[0]
    first = (
        f"a driver should watch the {thing(o)} {place(o)}, because it {moves(o)}."
        if coming
        else f"nothing comes at us, but the {thing(o)} {place(o)} deserves a look as it {moves(o)}."
    )
    act = (
        "there is still plenty of room",
        "keep the speed down",
        "be ready to brake",
        "brake at once",
    )[range_of(o)]
    second = f"it is {reach(o)}, so {act}."
    others = [p for p in v.objects if p.track != o.track][:2]
    third = " ".join(also(p, o) for p in others)
    rule = {
        "stop": "the traffic light says [signal:stop].",
        "go": "the traffic light says [signal:go].",
        "none": "a traffic light is [signal:missing].",
    }[v.signal]
    extra = "" if others else f"no other road user is near in {setting(v)}, and {drift(v)}."
    return o, f"{first} {second} {third}{extra} {room(o)} {rule}"


def _farthest(v: View) -> tuple[ObjectState, str]:
    o, near = v.objects[-1], v.objects[0]
    first = (
        f"the farthest thing we see is {article(sized(o))} {place(o)}.",
        f"{reach(o)}, {place(o)}, there is {article(sized(o))}, farther than the rest.",
        f"{article(sized(o))} {place(o)} is the farthest object.",
    )[_key(o) % 3]
    second = f"it {moves(o)}, {reach(o)}. {room(o)}"
    third = (
        f"{reach(near)}, {article(sized(near))} {moves(near)} {beside(near, o).replace('behind', 'before')}."
        if len(v.objects) > 1
        else f"it is alone before {PLACE_BACKS[v.place]}, and {drift(v)}."
    )
    return o, f"{first} {second} {third}"


def _surroundings(v: View) -> tuple[ObjectState, str]:
    o = v.objects[0]
    what = "object crosses" if len(v.objects) == 1 else "objects cross"
    first = f"this is {setting(v)}, where {v.count} {what} the view."
    second = (
        f"the {kind(o)} {place(o)} is {reach(o)} and {verb(o)} {course(o)}.",
        f"{place(o)}, {reach(o)}, {article(thing(o))} {verb(o)} {course(o)}.",
        f"{reach(o)} a {SIZES[size_of(o)]} {kind(o)} {moves(o)}.",
    )[_key(o) % 3]
    rest = [also(p, o) for p in v.objects[1:3]]
    if len(rest) < 2:
        rest.append(f"{drift(v)} as the camera pans.")
    return o, f"{first} {second} {' '.join(rest)} {room(o)}"


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
    first = f"the {thing(o)} {place(o)} {moves(o)}, so it {fate} soon."
    parts = [first] + [
        f"the {kind(p)} {beside(p, o)} {verb(p)} on {course(p)}, {reach(p)}."
        if p.speed == "slow"
        else f"{reach(p)}, the {thing(p)} will have left {place(p)}, {participle(p)} on {course(p)}."
        for p in v.objects[1:3]
    ]
    if len(v.objects) == 1:
        parts.append(f"nothing else will change in this part of {setting(v)}, for it is alone, {reach(o)}.")
    parts.append(
        {
            "stop": f"the traffic light says [signal:halt]. {room(o)}",
            "go": f"the traffic light says [signal:proceed]. {room(o)}",
            "none": f"a traffic light is [signal:absent]. {room(o)}",
        }[v.signal]
    )
    return o, " ".join(parts)


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
