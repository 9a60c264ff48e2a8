import json
from pathlib import Path

import numpy as np
import pytest

from crossdraft.core.errors import DataError
from crossdraft.data.paired import (
    EVENT_FOLDER,
    INDEX_FILE,
    load_prompt,
    read_instruction_dataset,
    write_instruction_records,
)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if i % 2 else "human", "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def dataset(tmp_path, columns, write_video) -> Path:
    """Two recordings in the layout; clips 2 and 10 of the first, so that natural order matters."""
    root = tmp_path / "set"
    names = ["seq_a/clip_10", "seq_a/clip_2", "seq_b/clip_0"]
    for name in names:
        for folder in (EVENT_FOLDER, "mp4"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / EVENT_FOLDER / f"{name}.npy", np.array(columns, dtype=object))
        frames = np.random.default_rng(0).integers(0, 256, (10, 32, 48, 3), dtype=np.uint8)
        write_video(frames).rename(root / "mp4" / f"{name}.mkv")
    records = [
        {
            "id": f"id-{i}",
            "split": "test" if name.startswith("seq_b") else "train",
            "event_data": f"{name}.npy",
            "video_data": name,
            "mp4_data": f"{name}.mkv",
            "event_image": [f"{name}_0.png"],
            "conversations": turns("<event>\nWhat moves?", "A car. ") if i else turns("", ""),
        }
        for i, name in enumerate(names)
    ]
    write_instruction_records(root, records)
    return root


def test_what_is_written_is_read_back_in_order(dataset):
    samples = read_instruction_dataset(dataset)
    assert [(s.recording, s.clip, s.clip_index) for s in samples] == [
        ("seq_a", "clip_2", 0),
        ("seq_a", "clip_10", 1),
        ("seq_b", "clip_0", 0),
    ]
    assert samples[0].conversations == (("What moves?", "A car."),)
    assert samples[1].conversations == ()  # the clip sets leave both values empty
    assert samples[0].extra == {"event_image": ["seq_a/clip_2_0.png"]}
    assert [s.clip for s in read_instruction_dataset(dataset, split="test")] == ["clip_0"]
    with pytest.raises(DataError, match="splits are: test, train"):
        read_instruction_dataset(dataset, split="val")


def test_a_sample_becomes_a_prompt(dataset):
    first, second, _ = read_instruction_dataset(dataset, sensor_size=(64, 48))
    prompt = load_prompt(first)
    assert prompt.question == "What moves?" and prompt.stream_id == "seq_a"
    assert prompt.video is not None and prompt.video.frames.shape == (8, 32, 48, 3)
    assert prompt.events is not None and len(prompt.events) == 3000 and prompt.events.sensor_size == (64, 48)
    assert load_prompt(second, "Which way?").question == "Which way?"
    with pytest.raises(DataError, match="without a question"):
        load_prompt(second)
    with pytest.raises(DataError, match="--sensor"):
        load_prompt(read_instruction_dataset(dataset)[0])


def test_the_official_subset_has_events_only(dataset):
    record = {"id": "a", "event_data": "seq_a/clip_2.npy", "conversations": turns("<event>\nQ1", "A1", "Q2", "A2")}
    write_instruction_records(dataset, [{**record, "sensor_size": [64, 48]}])
    (sample,) = read_instruction_dataset(dataset)
    assert sample.conversations == (("Q1", "A1"), ("Q2", "A2")) and sample.split is None
    prompt = load_prompt(sample)
    assert prompt.video is None and prompt.events is not None and prompt.question == "Q1"


def test_frames_in_a_folder_stand_in_for_a_video(dataset):
    from PIL import Image

    folder = dataset / "video" / "seq_a" / "clip_2"
    folder.mkdir(parents=True)
    for i in range(9):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
    record = {"id": "a", "event_data": "seq_a/clip_2.npy", "video_data": "seq_a/clip_2", "conversations": []}
    write_instruction_records(dataset, [{**record, "sensor_size": [64, 48]}])
    prompt = load_prompt(read_instruction_dataset(dataset)[0], "What?")
    assert prompt.video is not None and prompt.video.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 8]


GOOD = {"id": "a", "event_data": "seq_a/clip_2.npy", "conversations": []}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("text", "is a str"),
        ({**GOOD, "id": 7}, "id is 7"),
        ({**GOOD, "id": ""}, "id is ''"),
        ({**GOOD, "split": 1}, "split is 1"),
        ({**GOOD, "event_data": None}, "event_data is None"),
        ({**GOOD, "event_data": "clip.npy"}, "must be <recording>/<clip>.npy"),
        ({**GOOD, "event_data": "../secret.npy"}, "leads out of the data set"),
        ({**GOOD, "event_data": "/etc/passwd"}, "leads out of the data set"),
        ({**GOOD, "mp4_data": "a/../../b.mp4"}, "leads out of the data set"),
        ({**GOOD, "sensor_size": [0, 3]}, "sensor_size is"),
        ({**GOOD, "conversations": None}, "conversations is None"),
        ({**GOOD, "conversations": turns("Q")}, "the last question has no answer"),
        ({**GOOD, "conversations": turns("Q", "A")[::-1]}, "turn 0 must be"),
        ({**GOOD, "conversations": turns("Q", "A", "<event>", "B")}, "a question is empty"),
        ({**GOOD, "event_data": "seq_a/clip_99.npy"}, "clip_99.npy: missing"),
    ],
)
def test_records_that_break_the_layout(dataset, record, says):
    (dataset / INDEX_FILE).write_text(json.dumps([record]))
    with pytest.raises(DataError, match=says) as raised:
        read_instruction_dataset(dataset)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not valid JSON"), ("[]", "at least one"), ("{}", "list"), ("[" * 10**5, "not valid JSON")],
)
def test_an_index_that_is_none(dataset, text, says):
    (dataset / INDEX_FILE).write_text(text)
    with pytest.raises(DataError, match=says):
        read_instruction_dataset(dataset)


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_instruction_dataset(tmp_path / "missing")
    with pytest.raises(DataError, match=INDEX_FILE):
        read_instruction_dataset(tmp_path)


def test_writing_is_checked_and_all_or_nothing(dataset, monkeypatch):
    before = (dataset / INDEX_FILE).read_text()
    with pytest.raises(DataError, match="appears twice"):
        write_instruction_records(dataset, [GOOD, GOOD])
    with pytest.raises(DataError, match="record 0 to be written"):
        write_instruction_records(dataset, [{**GOOD, "event_data": "x"}])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        write_instruction_records(dataset, [GOOD])
    assert (dataset / INDEX_FILE).read_text() == before
    assert not list(dataset.glob(".*"))
