"""What a live check tells: rows with what was predicted, and traces that add up to the answer."""

import base64
from typing import Any

import pytest

from crossdraft.bench.live import Contender, run_live
from crossdraft.bench.trace import Watched, pictures_of, trace_of
from crossdraft.bench.workbench import Workbench
from crossdraft.core.clock import Clock
from crossdraft.core.types import Limits
from crossdraft.decode.loop import generate
from crossdraft.verify.greedy import Greedy


@pytest.fixture
def bench(tiny: Any, free_width: Any) -> Workbench:
    return Workbench(
        tiny.target, tiny.event_model, lambda name, costs=None: tiny.drafter(name),
        lambda temperature, seed: Greedy(), free_width,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["none", "memory", "cross_modal"])
@pytest.mark.parametrize("budget", [1, 2, 9, 30])
def test_a_trace_adds_up_to_the_answer(name: str, budget: int, tiny: Any, ask: Any) -> None:
    watched = Watched(tiny.drafter(name))
    for _ in range(2):
        answer = generate(
            tiny.target, watched, ask("what is there?"), rule=Greedy(),
            limits=Limits(max_new_tokens=budget, eos_token_ids=(1,)), clock=Clock(trace=True),
        )  # fmt: skip
        trace = trace_of(name, answer, watched.drafts, tiny.target.tokenizer, "event model")
        text = trace["first"]
        for r, counted in zip(trace["rounds"], answer.rounds, strict=True):
            assert len(r["drafted"]) == counted.drafted and r["accepted"] == counted.accepted
            text += "".join(r["drafted"][: r["accepted"]]) + r["bonus"]
        assert text == answer.text
        assert {span["lane"] for span in trace["timeline"]} <= {"target", "event model"}
        assert all(span["start_ms"] <= span["end_ms"] for span in trace["timeline"])
        assert trace["total_ms"] == answer.total_ms


def test_rows_carry_what_was_predicted(bench: Workbench, ask: Any) -> None:
    prompts = [ask("what moves?", num_events=n) for n in (3, 9, 11)]
    contenders = [
        Contender("memory", bench.make_drafter("memory"), prompts, is_control=True),
        Contender("event model", bench.make_drafter("cross_modal"), prompts, expected={"tau": 1.25}),
    ]
    run = run_live(bench, contenders, max_new_tokens=20, traces=2)
    rows = {row["drafter"]: row for row in run.rows}
    assert list(rows) == ["none", "memory", "event model"]
    assert all(row["identical"] for row in run.rows) and rows["memory"]["is_control"]
    assert rows["event model"]["predicted_tau"] == 1.25 and rows["memory"]["predicted_tau"] is None
    assert [len(answers) for answers in run.answers.values()] == [3, 3, 3]
    assert [t["title"] for t in run.traces] == ["clip 1", "clip 2"]
    assert [m["name"] for m in run.traces[0]["methods"]] == ["none", "memory", "event model"]


def test_pictures_are_self_contained() -> None:
    import numpy as np

    from crossdraft.core.prompt import Prompt, VideoFrames
    from crossdraft.data.events import make_stream

    rng = np.random.default_rng(0)
    video = VideoFrames(rng.integers(0, 256, (9, 300, 400, 3), dtype=np.uint8), np.arange(9) * 1000)
    events = make_stream(
        rng.integers(0, 40, 99), rng.integers(0, 30, 99), np.arange(99), rng.integers(0, 2, 99), (40, 30)
    )
    pictures = pictures_of(Prompt("what?", video, events))
    assert len(pictures["frames"]) == 4 and len(pictures["events"]) == 5
    for uri in (*pictures["frames"], *pictures["events"]):
        head, _, body = uri.partition(",")
        assert head == "data:image/jpeg;base64" and base64.b64decode(body)[:2] == b"\xff\xd8"
    few = make_stream(np.array([1]), np.array([1]), np.array([0]), np.array([1]), (4, 4))
    assert pictures_of(Prompt("what?", None, few)) == {"frames": [], "events": []}
