"""A target's answers as lessons: what lies where in a batch, and states that are kept."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.core.errors import CrossdraftError, DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.rounds import play
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.training.lessons import (
    FEATURES,
    FEATURES_CARD,
    READING,
    Lesson,
    Lessons,
    hold_out,
    keep_reading,
    kept_reading,
    read_lessons,
)

VOCAB, WIDTH = 11, 8


def decoder(seed: int = 0, dtype: torch.dtype = torch.float64) -> Decoder:
    torch.manual_seed(seed)
    made = Decoder(
        DecoderConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=12, num_layers=3, num_heads=2, num_kv_heads=1,
            head_dim=4,
        )
    )  # fmt: skip
    return made.to(dtype).eval().requires_grad_(False)


def scene(seed: int) -> torch.Tensor:
    return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some(count: int = 20) -> list[Lesson]:
    """Two picture positions behind the first token; prompts of 4 to 6 positions, answers of 1 to 9."""
    made = []
    for n in range(count):
        question, answer = range(1 + n % 3), range(1 + (5 * n) % 9)
        ids = (1, -200, -200, *((n + i) % VOCAB for i in question), *((3 * n + i) % VOCAB for i in answer))
        made.append(Lesson(ids, 4 + n % 3, n % 2, f"group {n % 5}"))
    return made


@pytest.fixture
def lessons() -> Callable[..., Lessons]:
    def make(given: list[Lesson] | None = None, seed: int = 0, **more: Any) -> Lessons:
        scenes = more.pop("scenes", [scene(0), scene(1)])
        return Lessons(
            decoder(seed), some() if given is None else given, scenes, more.pop("layers", (-1, 1)), **more
        )

    return make


def test_a_batch_holds_whole_sequences(lessons: Any) -> None:
    """Every answer's states are those of a run of it alone; padding is seen by nobody."""
    taught = lessons()
    places = [3, 8, 1, 19]
    batch = taught.batch(places)
    chosen = [taught.lessons[place] for place in places]
    assert batch.tokens.shape == (4, max(len(lesson.ids) for lesson in chosen))
    assert batch.prompt.tolist() == [lesson.prompt for lesson in chosen]
    assert batch.length.tolist() == [len(lesson.ids) for lesson in chosen]
    assert batch.is_visual.tolist() == [False, True, True] + [False] * (batch.tokens.shape[1] - 3)
    for row, lesson in enumerate(chosen):
        size = len(lesson.ids)
        assert batch.tokens[row, :size].tolist() == [max(token, 0) for token in lesson.ids]
        assert not batch.tokens[row, size:].any()
        embeds = taught.decoder.embed_tokens(torch.tensor([max(token, 0) for token in lesson.ids]))
        assert lesson.scene is not None
        embeds[1:3] = taught.scenes[lesson.scene]
        assert torch.equal(batch.embeds[row, :size], embeds)
        _, states = taught.decoder(embeds[None], capture=(1, -1))
        for layer in (1, -1):
            torch.testing.assert_close(batch.states[layer][row, :size], states[layer][0])
    assert taught.num_tokens == sum(len(lesson.ids) - lesson.prompt for lesson in taught.lessons)


def test_answers_are_counted_and_prompts_are_not(lessons: Any) -> None:
    taught = lessons([Lesson((1, 1, 1, 2, 3, 3), 3, None, "a"), Lesson((4, 4, 5), 2, None, "b")])
    assert taught.counts([0, 1]).tolist() == [0, 0, 1, 2, 0, 1, 0, 0, 0, 0, 0]
    assert taught.counts([1]).tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_what_cannot_be_taught_together_is_refused(lessons: Any) -> None:
    apart = [Lesson((1, -200, -200, 2, 3), 4, 0, "a"), Lesson((-200, -200, 1, 2, 3), 4, 0, "b")]
    with pytest.raises(DataError, match="different positions; teach them apart"):
        lessons(apart).batch([0, 1])
    with pytest.raises(DataError, match="no answer to learn from"):
        lessons([])


def told() -> tuple[list[int], Callable[[str, int, int], None]]:
    """Counts how often a target's reading was reported."""
    seen: list[int] = []
    return seen, lambda what, done, total: seen.append(done)


def test_kept_states_are_the_online_ones(lessons: Any, tmp_path: Path) -> None:
    online = lessons()
    seen, report = told()
    kept = lessons(keep=tmp_path, report=report)
    assert seen == [0, 16]
    for places in ([0, 1, 2], [19, 4], [7]):
        one, two = online.batch(places), kept.batch(places)
        assert torch.equal(one.embeds, two.embeds) and one.states.keys() == two.states.keys()
        behind = torch.arange(one.tokens.shape[1]) >= one.length[:, None]
        for layer, states in two.states.items():
            inside = one.states[layer].masked_fill(behind[..., None], 0)
            torch.testing.assert_close(states, inside, atol=1e-12, rtol=1e-10)
    seen, report = told()
    again = lessons(keep=tmp_path, report=report)
    assert seen == [], "read once, for as many heads as there are"
    assert torch.equal(again.batch([5, 6]).states[-1], kept.batch([5, 6]).states[-1])


def test_two_processes_keep_what_one_does(lessons: Any, tmp_path: Path) -> None:
    alone, together = lessons(keep=tmp_path / "one"), lessons(keep=tmp_path / "two", processes=2)
    assert alone.kept is not None and together.kept is not None
    assert torch.equal(alone.kept[0], together.kept[0]) and float(alone.kept[0].abs().sum()) > 0


def joined(*corpora: tuple[list[Lesson], list[torch.Tensor]]) -> tuple[list[Lesson], list[torch.Tensor]]:
    """Lessons of corpora with pictures of their own, numbered in the order in which they are first met."""
    lessons, scenes = [], []
    for own, pictures in corpora:
        numbers: dict[int, int] = {}
        for lesson in own:
            assert lesson.scene is not None
            if lesson.scene not in numbers:
                numbers[lesson.scene] = len(scenes)
                scenes.append(pictures[lesson.scene])
            lessons.append(replace(lesson, scene=numbers[lesson.scene]))
    return lessons, scenes


def test_each_corpus_keeps_its_own(lessons: Any, tmp_path: Path) -> None:
    """A corpus that others are added to is not read anew, whichever place it has among them; with other pictures it
    is."""
    places = [(tmp_path / "first", 7), (tmp_path / "second", 13)]
    corpora = [(some()[:7], [scene(0), scene(1)]), (some()[7:], [scene(2), scene(3)])]
    given, scenes = joined(corpora[0])
    lessons(given=given, scenes=scenes, keep=places[0][0])
    for order, reads in (((0, 1), True), ((1, 0), False)):
        given, scenes = joined(*(corpora[i] for i in order))
        seen, report = told()
        both = lessons(given=given, scenes=scenes, keep=[places[i] for i in order], report=report)
        assert bool(seen) == reads, "the second is read once, the first was before"
        online = lessons(given=given, scenes=scenes)
        for at in ([0, 12, 13, 19], [6, 7]):
            want = online.batch(at)
            torch.testing.assert_close(both.batch(at).states[-1], _padless(want.states[-1], want))
    seen, report = told()
    given, scenes = joined(corpora[0], (corpora[1][0], [scene(2), scene(4)]))
    lessons(given=given, scenes=scenes, keep=places, report=report)
    assert seen
    with pytest.raises(DataError, match="the corpora have 21 answers, 20 were given"):
        lessons(keep=[places[0], (tmp_path / "second", 14)])
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(CrossdraftError, match="cannot keep the target's states .*--online"):
        lessons(keep=blocked / "states")


def test_a_process_that_dies_is_told_and_nothing_counts_as_kept(
    lessons: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, fill = os.getpid(), Lessons._fill
    monkeypatch.setattr(Lessons, "_fill", lambda *a: fill(*a) if os.getpid() == parent else os._exit(9))
    with pytest.raises(CrossdraftError, match="has died .*; run it again, or with fewer than 2 processes"):
        lessons(keep=tmp_path, processes=2)
    assert not (tmp_path / FEATURES_CARD).exists()


def test_kept_states_are_computed_anew_when_they_are_not_these(lessons: Any, tmp_path: Path) -> None:
    """Other answers, pictures, weights or layers; a file that was cut short; a card that cannot be read."""
    want = lessons().batch([2, 11]).states
    size = (tmp_path / FEATURES).stat().st_size if lessons(keep=tmp_path) else 0

    def read_anew(**changed: Any) -> Lessons:
        seen, report = told()
        made: Lessons = lessons(keep=tmp_path, report=report, **changed)
        assert seen, changed
        return made

    read_anew(given=some()[::-1])
    read_anew(scenes=[scene(0), scene(7)])
    read_anew(seed=1)
    read_anew(layers=(-1, 1, 2))
    read_anew()
    with (tmp_path / FEATURES).open("r+b") as file:
        file.truncate(size // 2)
    torch.testing.assert_close(read_anew().batch([2, 11]).states[-1], _padless(want[-1], lessons().batch([2, 11])))
    for damage in ("{", "[]", "\\xff"):
        (tmp_path / FEATURES_CARD).write_text(damage)
        read_anew()
    seen, report = told()
    lessons(keep=tmp_path, report=report)
    assert not seen


def _padless(states: torch.Tensor, batch: Any) -> torch.Tensor:
    behind = torch.arange(states.shape[1]) >= batch.length[:, None]
    return states.masked_fill(behind[..., None], 0)


def test_narrow_states_are_kept_as_they_are(tmp_path: Path) -> None:
    scenes = [scene(0), scene(1)]
    made = Lessons(decoder(dtype=torch.bfloat16), some(), scenes, (-1,), keep=tmp_path)
    assert made.batch([4]).states[-1].dtype == torch.bfloat16
    assert (tmp_path / FEATURES).stat().st_size == 2 * WIDTH * int(made.lengths.sum())


@given(
    groups=st.lists(st.integers(0, 6), min_size=2, max_size=30).filter(lambda g: len(set(g)) > 1),
    share=st.floats(0.01, 0.99), seed=st.integers(0, 9),
)  # fmt: skip
def test_groups_are_held_out_whole(groups: list[int], share: float, seed: int) -> None:
    lessons = [Lesson((1, 2), 1, None, str(group)) for group in groups]
    train, held_out = hold_out(lessons, share, seed)
    assert sorted(train + held_out) == list(range(len(groups))) and train and held_out
    ours, theirs = ({groups[i] for i in places} for places in (train, held_out))
    assert not ours & theirs
    assert len(theirs) == min(max(1, round(share * len(set(groups)))), len(set(groups)) - 1)
    assert (train, held_out) == hold_out(lessons, share, seed)


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="all answers are of one group"):
        hold_out([Lesson((1, 2), 1, None, "a")] * 3, 0.5, 0)


def test_pictures_of_one_name_are_kept_once() -> None:
    """A nameless one is kept for its answer alone, even where another's name is a number."""
    pictures = {"one": scene(0), "two": scene(1)}
    loaded: list[str] = []

    def encode(prompt: Prompt) -> Any:
        if prompt.question == "text":
            return SimpleNamespace(tokens=(1, 2), embeds=torch.zeros(2, WIDTH, dtype=torch.float64))
        embeds = torch.zeros(4, WIDTH, dtype=torch.float64)
        embeds[1:3] = pictures[prompt.question]
        return SimpleNamespace(tokens=(1, -200, -200, 2), embeds=embeds)

    def load(question: str) -> Callable[[], Prompt]:
        return lambda: loaded.append(question) or Prompt(question)  # type: ignore[func-returns-value]

    target: Any = SimpleNamespace(encode=encode)
    done: list[int] = []
    answers = [
        (load("one"), [3, 4], "a", "clip"), (load("text"), [5], "b", None), (load("one"), [6], "a", "clip"),
        (load("two"), [7], "c", None), (load("two"), [8], "c", "3"), (load("one"), [9], "c", None),
    ]  # fmt: skip
    lessons, scenes = read_lessons(target, answers, done.append)
    assert [lesson.scene for lesson in lessons] == [0, None, 0, 1, 2, 3]
    assert torch.equal(scenes[0], pictures["one"]) and torch.equal(scenes[1], pictures["two"])
    assert lessons[0] == Lesson((1, -200, -200, 2, 3, 4), 4, 0, "a") and lessons[1] == Lesson(
        (1, 2, 5), 2, None, "b"
    )
    assert done == list(range(6)) and loaded == ["one", "text", "one", "two", "two", "one"]


def test_what_was_read_is_kept_for_the_same_answers(tmp_path: Path) -> None:
    given = [Lesson((1, -200, -200, 2, 3), 4, 1, "a"), Lesson((5, 6), 1, None, "b"), Lesson((-200, 9), 1, 0, "a")]
    seen = [torch.randn(1, 4).bfloat16(), torch.randn(2, 4).bfloat16()]
    assert kept_reading(tmp_path, "this") is None
    keep_reading(tmp_path, "this", given, seen)
    found = kept_reading(tmp_path, "this")
    assert found is not None and found[0] == given
    assert len(found[1]) == 2 and all(torch.equal(a, b) for a, b in zip(found[1], seen, strict=True))
    assert kept_reading(tmp_path, "that") is None
    keep_reading(tmp_path, "text", given[1:2], [])
    assert kept_reading(tmp_path, "text") == (given[1:2], [])
    (tmp_path / READING).write_bytes(b"\x00" * 40)
    assert kept_reading(tmp_path, "text") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(CrossdraftError, match="--online"):
        keep_reading(tmp_path / "file", "this", given, seen)


def test_other_answers_or_pictures_are_other_lessons(lessons: Any) -> None:
    plain = lessons().digest
    changed = some()
    changed[3] = replace(changed[3], prompt=changed[3].prompt - 1)
    assert lessons().digest == plain
    assert len({plain, lessons(given=changed).digest, lessons(scenes=[scene(0), scene(2)]).digest}) == 3


@given(
    right=st.lists(st.booleans(), min_size=1, max_size=30),
    length=st.integers(1, 9),
)
def test_rounds_that_are_played_are_rounds_that_are_walked(right: list[bool], length: int) -> None:
    """Token s + 1 is guessed right or not, whoever drafts it: walk through the answer draft by draft."""
    count = len(right)  # tokens of the answer; right[s]: a draft's token number s would be
    runs = []
    for said in range(count):
        run = 0
        while said + run < count and right[said + run]:
            run += 1
        runs.append(run)
    want, said = [], 1
    while said < count:
        accepted = 0
        while accepted < length and said + accepted < count and right[said + accepted]:
            accepted += 1
        emitted = min(accepted + 1, count - said)
        want.append((accepted, emitted))
        said += emitted
    assert play(runs, length) == want
    assert 1 + sum(emitted for _, emitted in want) == count


def test_an_epoch_goes_through_all_places_once_wherever_it_is_entered(lessons: Any) -> None:
    """Each epoch in an order of its own; a fresh object finds the step that one has walked to."""
    walked, evens, odds = lessons(), list(range(0, 20, 2)), list(range(1, 20, 2))
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(4 * epoch, 4 * epoch + 4):
            batch = [walked.places_of(evens, 4, 5, step, part, 2) for part in range(2)]
            assert not set(batch[0]) & set(batch[1])
            assert set(walked.places_of(odds, 4, 5, step, 0, 1)) <= set(odds), "whichever was asked for before"
            assert [*lessons().places_of(evens, 4, 5, step, 1, 2)] == [*batch[1]]
            seen += [*batch[0], *batch[1]]
        assert sorted(seen) == evens
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    few = walked.places_of(evens, 10, 5, 0, 1, 2)
    assert len(few) == 1, "a part for which nothing is left gets something to do"
