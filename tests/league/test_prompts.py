"""What the league asks, and that nothing asked for tuning is asked again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from crossdraft.core.errors import DataError
from crossdraft.data.scenes import write_streams
from crossdraft.league.prompts import CLIPS, read_prompt_set


def test_streams_are_neighbouring_clips_with_one_question_each() -> None:
    asked = read_prompt_set("streams", CLIPS + 2)
    streams = list(dict.fromkeys(p.stream_id for p in asked.prompts))
    assert len(asked.prompts) == CLIPS + 2 and len(streams) == 2
    for stream in streams:
        assert len({p.question for p in asked.prompts if p.stream_id == stream}) == 1
    assert len({p.question for p in asked.prompts}) == 2 and len(set(asked.kinds)) == 2
    few = read_prompt_set("streams", 3)
    assert len({p.stream_id for p in few.prompts}) == 1 and len(few.prompts) == 3


def test_prompts_for_tuning_are_of_other_streams() -> None:
    held_out, tuning = (read_prompt_set("streams", 2, part) for part in ("held-out", "tune"))
    assert not {p.stream_id for p in held_out.prompts} & {p.stream_id for p in tuning.prompts}
    one, other = (s.prompts[0].video for s in (held_out, tuning))
    assert one is not None and other is not None and not np.array_equal(one.frames, other.frames)


def test_a_record_can_tell_whether_the_questions_were_the_same() -> None:
    told = read_prompt_set("streams", 2).told()
    assert told == read_prompt_set("streams", 2).told()
    assert told["prompts"] == 2 and told["kinds"] == {"question 1": 2}
    assert told["questions_sha256"] != read_prompt_set("streams", 3).told()["questions_sha256"]


def test_every_other_recording_of_a_folder_is_held_out(tmp_path: Path) -> None:
    write_streams(tmp_path, 3, 2, seed=1)
    held_out, tuning = (read_prompt_set(tmp_path, 99, part) for part in ("held-out", "tune"))
    assert len({p.stream_id for p in held_out.prompts}) == 2 and len({p.stream_id for p in tuning.prompts}) == 1
    assert not {p.stream_id for p in held_out.prompts} & {p.stream_id for p in tuning.prompts}
    shutil.rmtree(tmp_path)
    write_streams(tmp_path, 1, 2, seed=1)
    assert len(read_prompt_set(tmp_path, 99).prompts) == 2
    with pytest.raises(DataError, match="one recording only"):
        read_prompt_set(tmp_path, 99, "tune")


def test_text_prompts_come_kind_by_kind(tmp_path: Path) -> None:
    pytest.importorskip("crossdraft.data.prompts")
    path = tmp_path / "asked.jsonl"
    lines = [
        {"id": f"{kind}{n}", "kind": kind, "question": f"{kind} {n}?", "part": part}
        for kind in ("story", "list")
        for part in ("tune", "held-out")
        for n in (f"{part} 1", f"{part} 2")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = read_prompt_set(path, 3)
    assert asked.kinds == ("story", "list", "story")
    assert [p.question for p in asked.prompts] == ["story held-out 1?", "list held-out 1?", "story held-out 2?"]
    assert all("tune" in p.question for p in read_prompt_set(path, 9, "tune").prompts)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompt_set(path, 3)
    assert len(read_prompt_set("league", 6).kinds) == 6


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(DataError, match="no prompts are called 'nowhere'; give streams, league"):
        read_prompt_set("nowhere", 3)
