import json
from typing import Any

import pytest

from crossdraft.bench.demo import CONTROL, DRAFTERS, run_demo, stream_prompts
from crossdraft.bench.paired import BRIEF
from crossdraft.bench.workbench import Workbench


def test_every_drafter_and_the_control_stand_beside_plain_decoding(bench: Workbench, prompts: list[Any]) -> None:
    result = run_demo(bench, prompts, max_new_tokens=32)
    assert [row.drafter for row in result.rows] == [*DRAFTERS, CONTROL]
    assert all(row.identical for row in result.rows)
    assert len({row.tokens for row in result.rows}) == 1
    assert result.rows[0].tau == 1.0 and result.rows[0].speedup_e2e == 1.0
    body = json.loads(json.dumps(result.as_json()))
    assert body["clips"] == len(prompts)
    assert all(tuple(row) == BRIEF for row in body["rows"])


def test_the_notes_say_what_was_gained_and_name_the_control(bench: Workbench, prompts: list[Any]) -> None:
    notes = "\n".join(run_demo(bench, prompts, max_new_tokens=16).notes())
    assert "gained" in notes
    assert "the control" in notes
    assert "all answers are identical" in notes


def test_without_an_event_model_there_is_no_cross_modal_row(bench: Workbench, prompts: list[Any]) -> None:
    alone = Workbench(bench.target, None, bench.make_drafter, bench.make_rule, bench.costs)
    names = [row.drafter for row in run_demo(alone, prompts, max_new_tokens=8).rows]
    assert names == ["none", "constant", "ngram", "memory"]


def test_stream_prompts_come_from_real_files(tmp_path: Any) -> None:
    prompts = stream_prompts(2, seed=5, folder=tmp_path)
    assert len(list(tmp_path.glob("mp4/*/*.mp4"))) == len(list(tmp_path.glob("event_npy/*/*.npz"))) == 2
    assert len({p.question for p in prompts}) == 1
    assert len({p.stream_id for p in prompts}) == 1
    for p in prompts:
        assert p.video is not None and p.video.frames.shape == (8, 96, 96, 3)
        assert p.events is not None and len(p.events) > 100
        assert p.events.t_us[-1] < 1_000_000


@pytest.mark.parametrize("slower", [True, False])
def test_a_loss_is_called_a_loss(slower: bool, bench: Workbench, prompts: list[Any]) -> None:
    from dataclasses import replace

    result = run_demo(bench, prompts, max_new_tokens=8)
    interval = (0.8, 0.9) if slower else (1.2, 1.4)
    rows = [
        row if row.drafter == "none"
        else replace(row, speedup_e2e=sum(interval) / 2, speedup_e2e_interval=interval)
        for row in result.rows
    ]  # fmt: skip
    notes = "\n".join(replace(result, rows=rows).notes())
    assert ("nothing was gained for certain" in notes) is slower
