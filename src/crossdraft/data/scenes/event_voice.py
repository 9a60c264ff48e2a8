"""The event model's voice: short reports of edges and motion, in another order of words than the target's."""

from crossdraft.data.scenes.lexicon import (
    EVENT_BANDS,
    EVENT_COURSES,
    EVENT_EDGES,
    EVENT_KINDS,
    EVENT_PACES,
    EVENT_THIRDS,
    range_of,
    size_of,
)
from crossdraft.data.scenes.marks import article
from crossdraft.data.scenes.phrases import View, colour
from crossdraft.data.scenes.world import ObjectState


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
        return (
            f"at {_pace(o)} {article(_event_course(o))} {_event_kind(o)} triggers {_edge(o)} contours, {_third(o)}"
        )
    return f"{_edge(o)} contours, {_third(o)}: {_event_kind(o)}, {_event_course(o)}, {_pace(o)}"


def event_voice(v: View, subject: ObjectState, question: str) -> str:
    """The event model\'s answer, marked: the subject of the target\'s answer first, then up to two others."""
    others = [p for p in v.objects if p.track != subject.track][:2]
    band = EVENT_BANDS[range_of(subject)]
    parts = [f"most sensor activity is found in the {band} rows. {_report(subject)}."]
    if question in ("nearest", "scene", "colours", "left_to_right", "driver", "farthest", "lights", "next"):
        parts.append(f"its tint might be {colour(subject)}.")
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
