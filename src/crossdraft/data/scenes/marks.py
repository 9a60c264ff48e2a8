"""Marked sentences: ``[colour7:red]`` (track 7 is red) and ``[daylight:night]`` become the spans of their facts."""

import re

from crossdraft.data.scenes.world import ObjectState

Span = tuple[int, int, str]

MARK = re.compile(r"\[([a-z]+)(\d*):([^\]]*)\]")


def plain(marked: str) -> tuple[str, tuple[Span, ...]]:
    """Text without marks, and where they were; the first letter of every sentence is made a capital."""
    text, spans, last = "", [], 0
    for m in MARK.finditer(marked):
        text += marked[last : m.start()]
        spans.append((len(text), len(text) + len(m[3]), m[1]))
        text += m[3]
        last = m.end()
    text += marked[last:]
    text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    return text, tuple(spans)


def first_mentions(marked: str, subject: ObjectState | None) -> frozenset[str]:
    """Categories whose first mention is about the subject or about the clip as a whole."""
    first: dict[str, str] = {}
    for m in MARK.finditer(marked):
        first.setdefault(m[1], m[2])
    return frozenset(c for c, track in first.items() if not track or (subject and track == str(subject.track)))


def article(phrase: str) -> str:
    """Put the right article in front of a marked phrase."""
    spoken = MARK.sub(lambda m: m[3], phrase)
    return ("an " if spoken[0] in "aeiou" else "a ") + phrase
