import gzip
import json
import math
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.records import write_record
from crossdraft.core.types import Step
from crossdraft.drafters.memory import START, Memory, Shelf, StreamMemory

LOG = Path(__file__).parents[3] / "shared" / "data" / "reference" / "tokens_1q_1100clips.jsonl.gz"


TARGET = SimpleNamespace(vocab_size=1 << 20)


class Free:
    def pass_ms(self, rows: int) -> float:
        return 1.0


def replay(
    answers: list[list[int]], memory: StreamMemory, drafted: int, start: int = 0, every: int = 1, own: bool = False
) -> float:
    """Pooled tokens a pass over a log: the first token free, every answer learned when it is complete."""
    drafter = Memory(memory=memory, costs=Free(), own_text=own, max_length=drafted)
    prompt = Prompt("What are the key elements in this scene?", stream_id="drive")
    emitted = passes = 0
    for clip, answer in enumerate(answers):
        if clip >= start and clip % every == 0:
            session = drafter.begin(prompt, TARGET, None)  # type: ignore[arg-type]
            session.observe(Step((answer[0],), is_prompt=True))
            at = 1
            while at < len(answer):
                room = len(answer) - at - 1
                draft = session.propose(room).tokens.tolist() if room else []
                right = next((i for i, t in enumerate(draft) if t != answer[at + i]), len(draft))
                session.observe(Step(tuple(answer[at : at + right + 1]), accepted=right))
                emitted, passes, at = emitted + right + 1, passes + 1, at + right + 1
        memory.learn(prompt, answer)
    return emitted / passes


@pytest.mark.skipif(not LOG.is_file(), reason="the log of 1,100 DSEC clips is not beside this checkout")
@pytest.mark.parametrize(
    ("clips", "order", "decay", "drafted", "published"),
    [(64, 8, 0.95, 16, 5.02), (64, 8, 0.95, 32, 5.32), (16, 4, 1.0, 16, 4.27)],
)
def test_real_answers_are_accepted_as_published(
    clips: int, order: int, decay: float, drafted: int, published: float
) -> None:
    with gzip.open(LOG, "rt") as file:
        answers = [json.loads(line)["target"] for line in file]
    memory = StreamMemory(clips=clips, order=order, decay=decay)
    assert replay(answers, memory, drafted, start=64, every=4) == pytest.approx(published, abs=0.08)


def stream_log(clips: int = 60, seed: int = 3) -> list[list[int]]:
    """Answers that share their sentences, of which one changes now and then: a stream in small."""
    rng = random.Random(seed)
    sentences = [[rng.randrange(3, 400) for _ in range(8)] for _ in range(40)]
    said = rng.sample(range(40), 5)
    log = []
    for _ in range(clips):
        if rng.random() < 0.7:
            said[rng.randrange(5)] = rng.randrange(40)
        log.append([2] + [t for s in said for t in sentences[s]] + [1])
    return log


def test_a_stream_is_remembered_and_the_recent_past_counts_most() -> None:
    log = stream_log()
    forgetful = replay(log, StreamMemory(clips=1), 16)
    good = replay(log, StreamMemory(clips=32), 16)
    assert good > forgetful > 2.0 and good > 5.0
    assert replay(log, StreamMemory(clips=32), 1) <= 2.0


def test_the_likeliest_path_of_the_longest_context() -> None:
    memory = StreamMemory(clips=4, order=3, decay=0.5)
    prompt = Prompt("q", stream_id="s")
    for answer in ([5, 6, 7], [5, 6, 8], [9, 6, 7]):
        memory.learn(prompt, answer)

    def propose(*said: int) -> list[int]:
        session = Memory(memory=memory, costs=Free()).begin(prompt, TARGET, None)  # type: ignore[arg-type]
        session.observe(Step(said[:1], is_prompt=True))
        for token in said[1:]:
            session.observe(Step((token,)))
        return session.propose(9).tokens.tolist()

    assert propose(5) == [6, 8]  # the younger of two answers that began so
    assert propose(9) == [6, 7]
    assert propose(4, 6) == [7]  # 7 followed 6 in the latest clip
    assert propose(3) == []
    # its own text counts too, as the latest of all
    assert propose(4, 6, 2, 6)[:2] == [2, 6]


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=12),
    clips=st.integers(1, 4),
    order=st.integers(1, 4),
)
def test_counts_equal_those_of_a_fresh_count_of_what_is_kept(
    answers: list[list[int]], clips: int, order: int
) -> None:
    shelf = Shelf(clips, order, 0.9)
    for answer in answers:
        shelf.add(answer)
    kept = [tuple(a) for a in answers[-clips:]]
    assert list(shelf.answers) == kept
    want: dict[tuple[tuple[int, ...], int], list[float]] = {}
    for back, answer in enumerate(reversed(kept), 1):
        text = (START, *answer)
        for end in range(1, len(text)):
            for start in range(max(0, end - order), end):
                entry = want.setdefault((text[start:end], text[end]), [0, 0.0])
                entry[0] += 1
                entry[1] += 0.9**back
    have = {(c, t): (n, w * shelf.scale) for c, row in shelf.table.items() for t, (n, w) in row.items()}
    assert have.keys() == want.keys()
    for key, (count, weight) in want.items():
        assert have[key][0] == count and math.isclose(have[key][1], weight, rel_tol=1e-9)


def test_a_long_life_neither_grows_nor_overflows() -> None:
    shelf = Shelf(3, 4, 0.5)
    for clip in range(9000):
        shelf.add([clip % 5, 7, clip % 3])
    assert len(shelf.answers) == 3 and math.isfinite(shelf.scale)
    assert sum(n for row in shelf.table.values() for n, _ in row.values()) == 3 * (1 + 2 + 3)
    total = sum(w * shelf.scale for _, w in shelf.table[(START,)].values())
    assert total == pytest.approx(0.5 + 0.25 + 0.125)


def test_streams_and_questions_are_kept_apart_and_bounded() -> None:
    memory = StreamMemory(streams=2, max_tokens=3)
    memory.learn(Prompt("q", stream_id="a"), [1, 2, 3, 4, 5])
    assert memory.shelf(Prompt("q", stream_id="b")) is None and memory.shelf(Prompt("r", stream_id="a")) is None
    assert memory.export()["shelves"][0]["answers"] == [[1, 2, 3]]
    memory.learn(Prompt("q", stream_id="b"), [1])
    memory.learn(Prompt("q", stream_id="a"), [2])
    memory.learn(Prompt("q", stream_id="c"), [1])
    assert memory.shelf(Prompt("q", stream_id="b")) is None and len(memory) == 3
    memory.reset("a")
    assert memory.shelf(Prompt("q", stream_id="a")) is None and len(memory) == 1
    memory.reset()
    assert len(memory) == 0


def test_export_and_restore(tmp_path: Path) -> None:
    memory, prompt = StreamMemory(clips=5, order=4, decay=0.9), Prompt("q", stream_id="s")
    for answer in stream_log(9):
        memory.learn(prompt, answer)
    again = StreamMemory.load(memory.save(tmp_path / "memory.json"))
    assert again.export() == memory.export() and len(again) == 5
    log = stream_log(12, seed=8)
    assert replay(log, again, 8) == replay(log, memory, 8)
    write_record(tmp_path / "memory.json", "stream-memory", {"settings": {"clips": 3}, "shelves": [{}]})
    with pytest.raises(DataError, match="not an exported stream memory"):
        StreamMemory.load(tmp_path / "memory.json")
    with pytest.raises(SettingError, match="clips"):
        StreamMemory(clips=0)
    for wrong in ({"decay": 1.5}, {"decay": 0.5, "clips": 5000}):
        with pytest.raises(SettingError, match="decay"):
            StreamMemory(**wrong)


def test_many_threads_may_learn_and_draft(free_width: Any) -> None:
    memory, log = StreamMemory(clips=4), stream_log(10)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            replay(log, memory, 8)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(memory) == 4


@given(foreign=st.integers(24, 10**9), at=st.integers(0, 5))
def test_ids_that_the_target_does_not_know_are_never_drafted(foreign: int, at: int) -> None:
    """A memory read from a file may be another model's."""
    memory = StreamMemory()
    answer = [5, 6, 7, 8, 9, 10]
    answer[at] = foreign
    prompt = Prompt("what?", stream_id="drive")
    memory.learn(prompt, answer)
    session = Memory(memory=memory, costs=Free()).begin(prompt, SimpleNamespace(vocab_size=24), None)  # type: ignore[arg-type]
    session.observe(Step((5,), is_prompt=True))
    assert all(token < 24 for token in session.propose(16).tokens.tolist())
