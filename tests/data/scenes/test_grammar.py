from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.data.scenes import QUESTIONS, grade, make_stream
from crossdraft.data.scenes.grammar import questions
from crossdraft.data.scenes.lexicon import read_fact, words
from crossdraft.data.scenes.phrases import View

CLIPS = st.builds(
    lambda seed, index, kind: make_stream(seed, 12, kind).clip(index),
    st.integers(0, 100_000),
    st.integers(0, 11),
    st.sampled_from(["drive", "cut"]),
)


@settings(max_examples=12, deadline=None)
@given(clip=CLIPS)
def test_reference_answers_state_their_facts_and_have_the_right_length(clip):
    asked = clip.questions()
    assert [qa.kind for qa in asked] == list(QUESTIONS) and len(asked) >= 10
    for qa in asked:
        assert 40 <= len(words(qa.answer)) <= 120 or not clip.visible_objects(), qa.answer
        assert 30 <= len(words(qa.event_answer)) <= 100, qa.event_answer
        assert grade(qa, qa.answer) and all(grade(qa, qa.answer).values()), qa
        assert grade(qa, qa.event_answer, "event") and all(grade(qa, qa.event_answer, "event").values()), qa
        for text, spans in ((qa.answer, qa.fact_spans), (qa.event_answer, qa.event_fact_spans)):
            assert "[" not in text and "{" not in text and "  " not in text
            for begin, end, category in spans:
                value = read_fact(text[begin:end], category, "target" if text is qa.answer else "event")
                assert value is not None, (text[begin:end], category)


@settings(max_examples=12, deadline=None)
@given(clip=CLIPS)
def test_wording_follows_from_what_is_seen_alone(clip):
    view = clip.view()
    again = View(view.objects, view.daylight, view.place, view.signal, view.pan_px_s)
    assert questions(again) == clip.questions()


@settings(max_examples=12, deadline=None)
@given(clip=CLIPS)
def test_facts_are_true_of_the_scene(clip):
    seen = clip.visible_objects()
    for qa in clip.questions():
        facts = qa.facts
        assert facts.get("count", str(len(seen))) == str(len(seen))
        assert facts.get("daylight", clip.era.daylight) == clip.era.daylight
        assert facts.get("signal", clip.signal) == clip.signal
        if seen:
            names = {"kind": "kind", "colour": "colour", "direction": "heading", "speed": "speed"}
            assert any(all(getattr(o, names[c]) == v for c, v in facts.items() if c in names) for o in seen), (
                facts,
                seen,
            )


def test_grading_reads_free_text_and_notices_what_is_wrong_or_missing():
    clip = next(c for c in map(make_stream(3, 40).clip, range(40)) if len(c.visible_objects()) == 2)
    qa = next(q for q in clip.questions() if q.kind == "nearest")
    assert set(grade(qa, qa.answer)) == {"kind", "colour", "direction", "speed"}
    wrong = "red" if qa.facts["colour"] != "red" else "blue"
    begin, end, _ = next(s for s in qa.fact_spans if s[2] == "colour")
    graded = grade(qa, qa.answer[:begin] + wrong + qa.answer[end:])
    assert not graded["colour"] and graded["kind"] and graded["direction"] and graded["speed"]
    assert not any(grade(qa, "I see nothing at all.").values())
    assert not any(grade(qa, "").values())


def test_free_phrasing_is_understood():
    assert read_fact("There, a Red CAR!", "colour", "target") == "red"
    assert read_fact("The dog sprints from left to right, quickly", "direction", "target") == "right"
    assert read_fact("The dog sprints from left to right, quickly", "speed", "target") == "quick"
    assert read_fact("cars and carts", "kind", "target") is None
    assert read_fact("Receding lorry", "direction", "event") == "away"


def test_the_two_voices_differ():
    shared = total = 0
    for i in range(0, 12, 2):
        for qa in make_stream(11, 12).clip(i).questions():
            mine, other = words(qa.answer), words(qa.event_answer)
            prefix = next((k for k, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), 0)
            shared, total = shared + prefix, total + 1
    assert shared / total < 0.2


def test_the_vocabulary_is_rich_but_small():
    known = set()
    for seed in range(16):
        for i in range(0, 12, 4):
            for qa in make_stream(seed, 12).clip(i).questions():
                known |= {w.lower() for w in (*words(qa.answer), *words(qa.event_answer))}
    assert 200 <= len(known) <= 400


def test_a_scene_without_objects_still_has_answers():
    asked = questions(View((), "night", "park", "none", 5.0))
    assert len(asked) == len(QUESTIONS)
    assert all(qa.facts["count"] == "0" and all(grade(qa, qa.answer).values()) for qa in asked)
    assert all(len(words(qa.answer)) >= 30 for qa in asked)
