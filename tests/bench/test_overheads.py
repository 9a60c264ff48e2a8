"""What drafting costs besides passes, on models whose every move takes a known time on a clock that tests drive."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crossdraft.adapters import ADAPTERS, build_adapter
from crossdraft.bench.overheads import ANSWER_ROWS, adapter_ms, overhead_ms, side_by_side
from crossdraft.bench.profile import measure
from crossdraft.bench.stopwatch import medians_ms
from crossdraft.core.clock import FakeClock


def costly(
    model: Any, clock: FakeClock, *, encode: float = 0.0, prefill: float = 0.0, commit: float = 0.0,
    passes: Callable[[int], float] = lambda rows: 0.0, stretch: Callable[[], float] = lambda: 1.0,
) -> Any:  # fmt: skip
    """``model``, which now takes so many milliseconds for each thing it does."""
    inner_encode, inner_prefill = model.encode, model.prefill

    def slow_encode(prompt: Any) -> Any:
        clock.advance(encode * stretch())
        return inner_encode(prompt)

    def slow_prefill(*args: Any, **settings: Any) -> Any:
        clock.advance(prefill * stretch())
        session = inner_prefill(*args, **settings)
        inner_score, inner_commit = session.score, session.commit

        def score(draft: Any) -> Any:
            clock.advance(passes(1 + len(draft)))
            return inner_score(draft)

        def slow_commit(path: Any, bonus: int) -> None:
            clock.advance(commit)
            inner_commit(path, bonus)

        session.score, session.commit = score, slow_commit
        return session

    model.encode, model.prefill = slow_encode, slow_prefill
    return model


def busy() -> bool:
    return any(thread.name == "crossdraft-window" for thread in threading.enumerate())


def now(clock: FakeClock) -> Callable[[], float]:
    return lambda: clock.ms / 1e3


def test_a_round_takes_what_its_passes_do_not(tiny: Any, prompt: Any) -> None:
    """Four commits on the event model, and the target's one; what was said is read in the first token's pass."""
    clock = FakeClock()
    target = costly(tiny.target, clock, encode=50, prefill=90, commit=0.5, passes=lambda rows: 5 + rows)
    event_model = costly(tiny.event_model, clock, encode=7, prefill=9, commit=0.25, passes=lambda rows: 3 * rows)
    found = overhead_ms(target, event_model, prompt, now=now(clock))
    assert found == pytest.approx(4 * 0.25 + 0.5)


def test_a_drafter_that_cannot_follow_gives_no_figure(tiny: Any, prompt: Any, make_tiny: Any) -> None:
    assert overhead_ms(tiny.target, make_tiny(1, vocab_size=2, watches="events"), prompt) is None


def test_the_target_is_timed_alone_and_beside_the_event_model(tiny: Any, prompt: Any) -> None:
    clock = FakeClock()
    target = costly(tiny.target, clock, encode=10, prefill=20, stretch=lambda: 1.5 if busy() else 1.0)
    contention, both = side_by_side(target, tiny.event_model, prompt, now=now(clock))
    assert contention == pytest.approx(1.5) and both == pytest.approx(45.0)


def test_nothing_is_sped_up_by_company(tiny: Any, prompt: Any) -> None:
    clock = FakeClock()
    target = costly(tiny.target, clock, encode=10, prefill=20, stretch=lambda: 0.5 if busy() else 1.0)
    assert side_by_side(target, tiny.event_model, prompt, now=now(clock))[0] == 1.0


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_is_timed_at_the_shapes_of_a_draft_step(name: str, tiny: Any) -> None:
    clock = FakeClock()
    changes = {"num_layers": 2} if name == "l6" else {}
    adapter = build_adapter(name, width_in=16, width_out=16, **changes).eval()
    seen = set()

    def pass_time(module: Any, args: Any, settings: Any, out: torch.Tensor) -> None:
        seen.add(tuple(out.shape))
        given = {"draft_states": args[0], **settings}
        assert {key for key, value in given.items() if value is not None} == set(adapter.inputs)
        clock.advance(2.0)

    adapter.register_forward_hook(pass_time, with_kwargs=True)
    head = tiny.target.unembed

    def slow_head(states: torch.Tensor) -> torch.Tensor:
        assert states.shape == (1, 16)
        clock.advance(0.5)
        return head(states)

    tiny.target.unembed = slow_head
    assert adapter_ms(adapter, tiny.target, now=now(clock)) == pytest.approx(2.5)
    rows = 1 if name in ("l1", "l2", "l3", "l3_2block", "l6") else ANSWER_ROWS
    assert seen == {(1, rows, 16)}


def test_a_profile_holds_all_of_it(tiny: Any, prompt: Any) -> None:
    clock = FakeClock()
    target = costly(
        tiny.target, clock, encode=10, prefill=20, commit=0.5, passes=lambda rows: 4 + rows,
        stretch=lambda: 2.0 if busy() else 1.0,
    )  # fmt: skip
    adapter = build_adapter("l1", width_in=16, width_out=16).eval()
    adapter.register_forward_hook(lambda *_: clock.advance(3.0))
    said: list[str] = []
    profile = measure(
        target, tiny.event_model, prompt, adapter=adapter, widths=(1, 4), now=now(clock),
        report=lambda what, done, total: said.append(f"{done}/{total} {what}"),
    )  # fmt: skip
    assert (profile.target_encode_ms, profile.target_prefill_ms) == pytest.approx((10, 20))
    assert profile.target_pass_ms == pytest.approx({1: 5, 4: 8})
    assert profile.target_tree_ms == pytest.approx({width: 4 + width for width in (4, 8, 16, 32, 64)})
    assert profile.contention == pytest.approx((60 + 0.5) / (30 + 0.5))
    assert profile.overlapped_ms == pytest.approx(60.5)
    assert (profile.overhead_ms, profile.adapter_ms) == pytest.approx((0.5, 3.0))
    assert said[0].startswith("0/5") and said[-1].startswith("4/5")
    alone = measure(tiny.target, None, prompt, widths=(1, 4), now=now(clock))
    assert (alone.contention, alone.overlapped_ms, alone.overhead_ms, alone.adapter_ms) == (None,) * 4


def test_runs_are_taken_in_turn_and_the_warm_up_does_not_count() -> None:
    clock, taken = FakeClock(), []
    times = {"a": iter([90.0, 1.0, 2.0, 9.0]), "b": iter([70.0, 5.0, 3.0, 4.0])}

    def run(name: str) -> Callable[[], None]:
        return lambda: (taken.append(name), clock.advance(next(times[name])))  # type: ignore[return-value]

    found = medians_ms({name: run(name) for name in times}, 3, now=now(clock))
    assert found == pytest.approx({"a": 2.0, "b": 4.0}) and taken == ["a", "b"] * 4


def test_runs_stop_when_their_time_is_spent_but_not_before_three() -> None:
    clock, taken = FakeClock(), []

    def run() -> None:
        taken.append(1)
        clock.advance(400.0)

    assert medians_ms({0: run}, 9, 1000.0, now=now(clock)) == pytest.approx({0: 400.0})
    assert len(taken) == 1 + 3
    medians_ms({0: run}, 9, 10.0, now=now(clock))
    assert len(taken) == 2 * (1 + 3)
