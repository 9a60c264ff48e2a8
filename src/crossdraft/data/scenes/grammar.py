"""Questions and answers about a clip: what is true comes from the world, how it is said follows from what is seen.

Nothing in the wording is drawn by chance: which phrase is taken depends on the kind, place in the picture, size,
heading or number of objects, so a model that sees can foretell every word. Sentences are written with marks;
``[colour7:red]`` (track 7 is red) and ``[daylight:night]`` become the spans of the words that state facts.

A clip's facts are those of ``SceneClip.visible_objects`` at the middle of the clip. Each question has a subject
(the nearest object unless it asks otherwise), which is always the first object that its answer mentions.
"""

from dataclasses import dataclass

from crossdraft.data.scenes.answers import QUESTIONS
from crossdraft.data.scenes.event_voice import event_voice
from crossdraft.data.scenes.lexicon import read_fact, words
from crossdraft.data.scenes.marks import Span, first_mentions, plain
from crossdraft.data.scenes.phrases import PLACE_BACKS, View, drift, room, setting
from crossdraft.data.scenes.world import ObjectState

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
            if len(words(plain(marked)[0])) < SHORTEST_ANSWER:
                marked += " " + room(subject)
            event_marked = event_voice(v, subject, kind)
        else:
            subject = None
            marked = (
                f"nothing moves in this clip: I count {v.count} objects in {setting(v)}. "
                f"only {PLACE_BACKS[v.place]} can be seen behind the empty ground, and {drift(v)} "
                "while the camera pans."
            )
            event_marked = (
                f"number of moving sources: {v.count}. sensor activity stays weak everywhere, and only the faint "
                "flicker of scrolling texture remains in the rows below the distant skyline."
            )
        text, spans = plain(" ".join(marked.split()))
        event_text, event_spans = plain(" ".join(event_marked.split()))
        states, event_states = first_mentions(marked, subject), first_mentions(event_marked, subject)
        facts = _facts(v, subject, states | event_states)
        out.append(QA(kind, question, text, event_text, facts, spans, event_spans, states, event_states))
    return out
