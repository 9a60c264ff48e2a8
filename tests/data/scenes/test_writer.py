import json

import numpy as np
import pytest

from crossdraft.core.errors import DataError, SettingError
from crossdraft.data.paired import load_prompt, read_instruction_dataset
from crossdraft.data.scenes import make_stream, split_of, write_streams


def test_what_is_written_is_read_back_by_the_users_reader(tmp_path):
    told = []
    assert write_streams(tmp_path, num_streams=2, num_clips=2, seed=4, report=lambda *a: told.append(a)) == 4
    assert told[-1][1:] == (4, 4)
    samples = read_instruction_dataset(tmp_path)
    assert [s.recording for s in samples] == ["drive_004000"] * 2 + ["drive_004001"] * 2
    clip = make_stream(4001, 2).clip(1)
    sample = samples[3]
    assert sample.sensor_size == (96, 96)
    assert sample.conversations == tuple((qa.question, qa.answer) for qa in clip.questions())
    assert sample.extra["facts"] == [qa.facts for qa in clip.questions()]
    prompt = load_prompt(sample)
    assert prompt.stream_id == "drive_004001"
    assert prompt.video is not None and prompt.events is not None
    events = clip.events()
    assert np.array_equal(prompt.events.t_us + clip.start_us, events.t_us)
    assert np.array_equal(prompt.events.p, events.p) and np.array_equal(prompt.events.x, events.x)
    difference = np.asarray(prompt.video.frames).astype(int) - clip.frames(8)
    assert abs(difference).mean() < 8
    assert prompt.video.times_us.tolist() == (clip.frame_times_us(8) - clip.start_us).tolist()


def test_writing_goes_on_where_it_stopped(tmp_path):
    def stop_at_second(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_streams(tmp_path, num_clips=3, report=stop_at_second)
    assert not (tmp_path / "EventGPT_Instruction_Subset.json").exists()
    first = tmp_path / "mp4/drive_000000/000000.mp4"
    stamp = first.stat().st_mtime_ns
    assert write_streams(tmp_path, num_clips=3) == 3
    assert first.stat().st_mtime_ns == stamp
    assert len(read_instruction_dataset(tmp_path)) == 3
    assert not list(tmp_path.rglob(".partial*"))


def test_another_set_in_the_folder_is_not_mixed_with_this_one(tmp_path):
    write_streams(tmp_path, num_clips=1)
    with pytest.raises(DataError, match="other settings"):
        write_streams(tmp_path, num_clips=1, seed=1)
    (tmp_path / "scenes.json").write_text("{")
    with pytest.raises(DataError, match="other settings"):
        write_streams(tmp_path, num_clips=1)


def test_the_manifest_tells_where_the_set_comes_from(tmp_path):
    write_streams(tmp_path, num_clips=1, seed=2, kind="cut")
    manifest = json.loads((tmp_path / "scenes.json").read_text())
    assert manifest["seed"] == 2 and manifest["kind"] == "cut" and manifest["generator_version"] >= 1


def test_splits_go_by_stream():
    splits = [split_of(i) for i in range(20)]
    assert splits.count("val") == splits.count("test") == 2 and splits.count("train") == 16


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_streams(tmp_path, num_clips=1)


@pytest.mark.parametrize("settings", [{"num_streams": 0}, {"num_clips": 0}, {"seed": -1}, {"kind": "film"}])
def test_wrong_settings_are_refused(tmp_path, settings):
    with pytest.raises(SettingError):
        write_streams(tmp_path, **settings)
