"""What is to be done: questions of clips, and manifests; whatever is wrong is one line that names its place."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.core.prompt import EventStream, Prompt
from crossdraft.data.paired import read_instruction_dataset
from crossdraft.data.scenes import write_streams
from crossdraft.extraction.jobs import Job, find_jobs, jobs_of, read_manifest, read_questions, shuffled, spread_jobs


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_streams(root, 1, 2, 5)
    return root


def test_every_question_of_every_clip(scenes: Path, tmp_path: Path) -> None:
    samples = read_instruction_dataset(scenes)
    jobs = find_jobs(scenes, None)
    assert len(jobs) == sum(len(s.conversations) for s in samples) == len({job.id for job in jobs})
    prompt = jobs[3].load()
    assert prompt.question == jobs[3].question == samples[0].conversations[3][0]
    assert prompt.video is not None and prompt.events is not None and prompt.stream_id == jobs[3].recording
    questions = tmp_path / "q.txt"
    questions.write_text("Is it dark?\n\nWho moves?\n")
    jobs = find_jobs(scenes, None, questions=questions, limit=3)
    assert [job.question for job in jobs] == ["Is it dark?", "Who moves?", "Is it dark?"]
    assert [job.clip_index for job in jobs] == [0, 0, 1]


def test_some_jobs_are_of_all_recordings() -> None:
    def job(recording: str, number: int) -> Job:
        return Job(f"{recording}{number}", recording, number, "What?", lambda: Prompt("What?"))

    jobs = [job("a", i) for i in range(5)] + [job("b", i) for i in range(1)] + [job("c", i) for i in range(4)]
    assert [j.id for j in spread_jobs(jobs, 5)] == ["a0", "a1", "b0", "c0", "c1"]
    assert [j.id for j in spread_jobs(jobs, 2)] == ["a0", "b0"]
    assert spread_jobs(jobs, 99) == jobs


def test_a_few_questions_of_each_clip_are_the_same_ones_again(scenes: Path) -> None:
    every = {job.id: job.question for job in find_jobs(scenes, None)}
    few = find_jobs(scenes, None, per_clip=3)
    assert [job.clip_index for job in few] == [0] * 3 + [1] * 3
    assert all(every[job.id] == job.question for job in few), "an id means one question"
    assert [job.id for job in few] == [job.id for job in find_jobs(scenes, None, per_clip=3)]
    assert {job.id.partition("#")[2] for job in few[:3]} != {job.id.partition("#")[2] for job in few[3:]}
    assert len(find_jobs(scenes, None, per_clip=99)) == len(every)


def test_a_manifest_gives_the_same_clip(scenes: Path) -> None:
    sample = read_instruction_dataset(scenes)[1]
    line = {
        "id": "a", "recording": "r", "clip_index": 7, "question": "Who moves?",
        "video": str(sample.video_path.relative_to(scenes)), "events": str(sample.events_path.relative_to(scenes)),
        "sensor_size": [96, 96],
    }  # fmt: skip
    manifest = scenes / "manifest.jsonl"
    manifest.write_text(json.dumps(line) + "\n\n")
    (job,) = read_manifest(manifest)
    prompt = job.load()
    assert (job.id, job.recording, job.clip_index, prompt.question) == ("a", "r", 7, "Who moves?")
    assert prompt.video is not None and prompt.events is not None and len(prompt.events) > 0


GOOD = {"id": "a", "recording": "r", "clip_index": 0, "video": "v", "events": "e", "question": "q?"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1: is not valid JSON"),
        (["[" * 100_000], "line 1: is not valid JSON"),
        ([json.dumps(GOOD | {"sensor_size": [640]})], r"line 1: sensor_size is \[640\], must be \[WIDTH, HEIGHT\]"),
        ([json.dumps(GOOD | {"sensor_size": {"a": 1}})], "line 1: sensor_size is {'a': 1}"),
        (["[1]"], "line 1: is no object"),
        ([json.dumps(GOOD), json.dumps(GOOD | {"colour": 1})], "line 2: has unknown keys colour"),
        ([json.dumps(GOOD | {"video": ""})], "video is ''"),
        ([json.dumps(GOOD | {"clip_index": "0"})], "clip_index is '0'"),
        ([json.dumps(GOOD | {"sensor_size": "wide"})], "sensor"),
        ([json.dumps(GOOD), json.dumps(GOOD)], "'a' appears twice"),
        ([""], "holds no clip"),
    ],
)
def test_bad_manifests(tmp_path: Path, lines: list[str], words: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(CrossdraftError, match=words):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "holds no question"), ("a?\na?", "twice"), ("[1]", "JSON list of questions"), ('["a"', "not valid JSON")],
)
def test_bad_questions(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "q.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_questions(path)


def test_questions_as_a_list(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text('["Who moves?", "Is it dark?"]')
    assert read_questions(path) == ["Who moves?", "Is it dark?"]


def test_nothing_to_ask(scenes: Path) -> None:
    samples = [type(s)(**{**vars(s), "conversations": ()}) for s in read_instruction_dataset(scenes)]
    with pytest.raises(SettingError, match="without a question"):
        jobs_of(samples)
    with pytest.raises(SettingError, match="limit"):
        find_jobs(scenes, None, limit=0)
    with pytest.raises(SettingError, match="name a data set"):
        find_jobs(None, None)
    with pytest.raises(SettingError, match="leave these options out"):
        find_jobs(None, scenes / "m", split="test")


def _clips(sizes: list[int], questions: int) -> list[Job]:
    """So many clips a recording; a clip's events name it by their number."""
    jobs, number = [], 0
    for recording, size in enumerate(sizes):
        for index in range(size):
            number += 1
            jobs += [
                Job(f"{number}#{q}", f"r{recording}", index, f"q{q}?", lambda n=number, q=q: _seen(n, f"q{q}?"))
                for q in range(questions)
            ]
    return jobs


def _seen(number: int, question: str) -> Prompt:
    zeros = np.zeros(number, np.uint16)
    return Prompt(question, events=EventStream(zeros, zeros, np.arange(number), np.zeros(number, np.uint8), (4, 4)))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1), st.integers(1, 3))
def test_every_clip_gets_the_events_of_another_and_of_another_recording(sizes: list[int], questions: int) -> None:
    jobs = _clips(sizes, questions)
    recording = {len(job.load().events or ()): job.recording for job in jobs}
    given_to: dict[tuple[str, int], set[int]] = {}
    for job, own in zip(shuffled(jobs), jobs, strict=True):
        assert (job.id, job.recording, job.clip_index, job.question) == (
            own.id, own.recording, own.clip_index, own.question
        )  # fmt: skip
        prompt = job.load()
        shown = job.seen(prompt)
        assert shown.question == prompt.question == own.question
        assert shown.events is not None and prompt.events is not None
        assert len(shown.events) != len(prompt.events)
        if len(sizes) > 1:
            assert recording[len(shown.events)] != own.recording
        given_to.setdefault((job.recording, job.clip_index), set()).add(len(shown.events))
    assert all(len(events) == 1 for events in given_to.values()), "questions of a clip share its other events"
    assert given_to == {
        (job.recording, job.clip_index): {len(job.seen(job.load()).events or ())} for job in shuffled(jobs)
    }


@given(st.integers(1, 6), st.integers(1, 4))
def test_each_clip_lends_its_events_once_where_recordings_are_of_one_length(size: int, count: int) -> None:
    if size * count < 2:
        return
    lent = Counter(len(job.seen(job.load()).events or ()) for job in shuffled(_clips([size] * count, 1)))
    assert len(lent) == size * count and set(lent.values()) == {1}


def test_one_recording_lends_from_half_of_it_away() -> None:
    shown = [len(job.seen(job.load()).events or ()) for job in shuffled(_clips([6], 1))]
    assert shown == [4, 5, 6, 1, 2, 3]


def test_one_clip_alone_is_no_control() -> None:
    with pytest.raises(SettingError, match="one clip only"):
        shuffled(_clips([1], 3))


def test_a_limit_does_not_change_whose_events_a_clip_gets(scenes: Path) -> None:
    whole, few = find_jobs(scenes, None, shuffle=True), find_jobs(scenes, None, shuffle=True, limit=2)
    assert [job.id for job in few] == [job.id for job in whole[:2]]
    for mine, theirs in zip(few, whole, strict=False):
        one, other = mine.seen(mine.load()).events, theirs.seen(theirs.load()).events
        assert one is not None and other is not None and np.array_equal(one.t_us, other.t_us)
        own = mine.load().events
        assert own is not None and not np.array_equal(one.t_us, own.t_us)


def test_a_byte_order_mark_is_no_part_of_a_question(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbfWhat is there?\r\nWho moves?\r\n")
    assert read_questions(tmp_path / "q.txt") == ["What is there?", "Who moves?"]
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD | {"question": "a\u2028b?"}).encode())
    (job,) = read_manifest(tmp_path / "m.jsonl")
    assert job.question == "a\u2028b?"


def test_questions_that_never_close(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is not valid JSON"):
        read_questions(tmp_path / "q.txt")
