from typing import Any

import pytest
import torch

from crossdraft.core.clock import Clock, FakeClock
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Needs
from crossdraft.core.types import Draft, Limits, Step
from crossdraft.decode.loop import first_end, generate
from crossdraft.decode.window import WindowPlan
from crossdraft.verify.greedy import Greedy


class Recorder:
    """A drafter that writes down what it is told, and drafts what it is given."""

    name = "recorder"

    def __init__(self, drafts: list[list[int]] | None = None, capture: tuple[int, ...] = ()) -> None:
        self.drafts, self.needs = drafts or [], Needs(capture=capture)
        self.told: list[Any] = []
        self.rooms: list[int] = []

    def begin(self, prompt: Prompt, target: Any, window: Any) -> "Recorder":
        self.told.append("begin")
        return self

    def see_prompt(self, view: Any) -> None:
        self.told.append(("prompt", view.tokens))

    def observe(self, step: Step) -> None:
        self.told.append(step)

    def propose(self, room: int) -> Draft:
        self.rooms.append(room)
        return Draft.chain((self.drafts.pop(0) if self.drafts else [])[:room], source="recorder")

    def finish(self) -> None:
        self.told.append("finish")


def answer(tiny: Any, prompt: Prompt, drafter: Any, tokens: int = 10, **more: Any) -> Any:
    limits = Limits(max_new_tokens=tokens, **more)
    return generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits)


def test_a_drafter_is_told_everything_in_order(tiny: Any, prompt: Prompt) -> None:
    said = answer(tiny, prompt, tiny.drafter("none")).tokens
    drafter = Recorder([said[1:4], [], [23, 23]])
    out = answer(tiny, prompt, drafter)
    steps = [told for told in drafter.told if isinstance(told, Step)]
    assert drafter.told[0] == "begin" and drafter.told[-1] == "finish"
    assert drafter.told[1] == ("prompt", tiny.target.sessions[-1].prompt.tokens)
    assert [s.is_prompt for s in steps] == [True] + [False] * (len(steps) - 1)
    assert [s.tokens for s in steps[:3]] == [(said[0],), tuple(said[1:5]), (said[5],)]
    assert [s.accepted for s in steps[:3]] == [0, 3, 0]
    assert [(r.source, r.drafted, r.accepted, r.emitted) for r in out.rounds[:3]] == [
        ("recorder", 3, 3, 4), ("recorder", 0, 0, 1), ("recorder", 2, 0, 1),
    ]  # fmt: skip
    # one token is the pass's own, so room is one less than what is left; none is asked for at the very end
    assert drafter.rooms == [8, 4, 3, 2, 1]
    assert out.tokens == said and out.num_drafted == 5 and out.num_accepted == 3


def test_steps_carry_the_states_that_predicted_their_tokens(tiny: Any, prompt: Prompt) -> None:
    said = answer(tiny, prompt, tiny.drafter("none")).tokens
    drafter = Recorder([said[1:4], [said[5], 23]], capture=(-1,))
    answer(tiny, prompt, drafter)
    for step in (told for told in drafter.told if isinstance(told, Step)):
        states = step.states[-1]
        assert len(states) == len(step.tokens)
        assert tiny.target.unembed(states).argmax(-1).tolist() == list(step.tokens)


def test_a_step_is_cut_before_it_is_observed(tiny: Any, prompt: Prompt) -> None:
    said = answer(tiny, prompt, tiny.drafter("none")).tokens
    end = next(t for t in said[2:] if said.index(t) > 1)
    at = said.index(end)
    drafter = Recorder([said[1:9]], capture=(-1,))
    out = answer(tiny, prompt, drafter, eos_token_ids=(end,))
    last = [told for told in drafter.told if isinstance(told, Step)][-1]
    assert last.tokens == tuple(said[1 : at + 1]) and len(last.states[-1]) == at
    assert out.rounds[-1].accepted == out.rounds[-1].emitted == at and out.finish_reason == "eos"
    assert out.text == tiny.target.tokenizer.decode(said[:at])


def test_the_first_token_may_end_the_answer(tiny: Any, prompt: Prompt) -> None:
    first = answer(tiny, prompt, tiny.drafter("none")).tokens[0]
    drafter = Recorder()
    out = answer(tiny, prompt, drafter, eos_token_ids=(first,))
    assert out.tokens == [first] and not out.rounds and out.finish_reason == "eos" and out.text == ""
    assert drafter.told[-1] == "finish" and out.tau != out.tau


def test_spans_are_of_the_wall_clock(tiny: Any, prompt: Prompt) -> None:
    out = generate(
        tiny.target, tiny.drafter("ngram"), prompt, rule=Greedy(), limits=Limits(max_new_tokens=12), clock=Clock()
    )
    spans = out.spans_ms
    assert set(spans) == {"encode", "prefill", "decode", "total"} and all(ms >= 0 for ms in spans.values())
    assert spans["total"] >= spans["encode"] + spans["prefill"] + spans["decode"]
    assert all(set(r.spans_ms) == {"draft", "verify", "commit"} for r in out.rounds)
    assert spans["decode"] >= sum(sum(r.spans_ms.values()) for r in out.rounds)


def test_time_goes_where_it_was_spent(tiny: Any, prompt: Prompt) -> None:
    clock = FakeClock()

    class Slow(Recorder):
        def begin(self, prompt: Prompt, target: Any, window: Any) -> "Recorder":
            clock.advance(5)
            return super().begin(prompt, target, window)

        def propose(self, room: int) -> Draft:
            clock.advance(2)
            return super().propose(room)

    limits = Limits(max_new_tokens=4)
    out = generate(tiny.target, Slow(), prompt, rule=Greedy(), limits=limits, clock=clock)
    # begin is no part of the first token's time, but the user waits for it: it counts as decoding
    assert out.spans_ms == {"encode": 0, "prefill": 0, "decode": pytest.approx(9), "total": pytest.approx(9)}
    assert [r.spans_ms["draft"] for r in out.rounds] == [2, 2, 0] and out.window["begin_ms"] == pytest.approx(5)


def test_cancelled_before_the_first_token(tiny: Any, prompt: Prompt) -> None:
    drafter = Recorder()
    limits = Limits(max_new_tokens=4)
    out = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits, cancel=lambda: True)
    assert out.tokens == [] and out.finish_reason == "cancelled" and out.text == "" and "finish" not in drafter.told


def test_errors_pass_through_and_nothing_is_learned(tiny: Any, prompt: Prompt) -> None:
    class Broken(Recorder):
        def propose(self, room: int) -> Draft:
            raise RuntimeError("broken")

    drafter = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        answer(tiny, prompt, drafter)
    assert "finish" not in drafter.told
    with pytest.raises(SettingError, match="no room left"):
        generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=Limits(max_new_tokens=9), room=3)

    class Greedily(Recorder):
        def propose(self, room: int) -> Draft:
            return Draft.chain([2] * (room + 1), source="greedily")

    with pytest.raises(SettingError, match="'greedily' drafted 9 tokens where 8 were left"):
        answer(tiny, prompt, Greedily())


def test_what_a_generation_says_of_itself(tiny: Any, prompt: Prompt) -> None:
    out = generate(
        tiny.target, tiny.drafter("cross_modal"), prompt, rule=Greedy(), limits=Limits(max_new_tokens=5),
        window=WindowPlan("sequential", "measured"),
    )  # fmt: skip
    assert out.exactness is tiny.target.exactness and out.lossless
    assert out.window["mode"] == "sequential" and out.window["why"] == "measured"
    assert not torch.is_inference_mode_enabled()


def test_the_first_end_token() -> None:
    assert first_end((4, 1, 1), (1, 9)) == 1
    assert first_end((4, 5), (1,)) is None and first_end((1,), ()) is None


def test_a_traced_answer_says_what_ran_when(tiny: Any, prompt: Prompt) -> None:
    clock = Clock(trace=True)
    for window in ("off", "sequential", "overlapped"):
        out = generate(
            tiny.target, tiny.drafter("cross_modal"), prompt, rule=Greedy(), limits=Limits(max_new_tokens=12),
            clock=clock, window=window,
        )  # fmt: skip
        names = [name for name, _, _ in out.timeline]
        assert names.count("verify") == names.count("draft") == len(out.rounds)
        assert names.count("encode") == names.count("prefill") == names.count("begin") == 1
        assert all(0 <= start <= end <= out.total_ms for _, start, end in out.timeline)
    silent = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=Limits(max_new_tokens=3))
    assert silent.timeline == []
