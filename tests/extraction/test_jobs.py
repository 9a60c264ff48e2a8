"""What is to be done: questions of clips, and manifests; whatever is wrong is one line that names its place."""

import json
from pathlib import Path

import pytest

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.data.paired import read_instruction_dataset
from crossdraft.data.scenes import write_streams
from crossdraft.extraction.jobs import find_jobs, jobs_of, read_manifest, read_questions


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
