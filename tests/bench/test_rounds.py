"""Times taken in the loop are those of its parts, on models whose every pass takes a known time."""

from typing import Any

import pytest

from crossdraft.bench.rounds import LENGTHS, measure_rounds
from crossdraft.bench.workbench import Workbench
from crossdraft.core.clock import FakeClock
from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Generation
from crossdraft.drafters.cross_modal import CrossModal
from crossdraft.verify.greedy import Greedy


class Timed(Workbench):
    """Answers on the test's own clock."""

    clock: FakeClock

    def answer(self, drafter: Any, prompt: Prompt, max_new_tokens: int, **settings: Any) -> Generation:
        return super().answer(drafter, prompt, max_new_tokens, **{**settings, "clock": self.clock})


def slow(model: Any, clock: FakeClock, *, start: float, base: float, row: float) -> Any:
    inner = model.prefill

    def prefill(*args: Any, **settings: Any) -> Any:
        clock.advance(start)
        session = inner(*args, **settings)
        score = session.score

        def scored(draft: Any) -> Any:
            clock.advance(base + row * len(draft))
            return score(draft)

        session.score = scored
        return session

    model.prefill = prefill
    return model


def test_the_parts_are_found(tiny: Any, ask: Any, free_width: Any) -> None:
    clock = FakeClock()
    tiny.target.eos_token_ids = ()
    slow(tiny.target, clock, start=20.0, base=4.0, row=0.5)
    slow(tiny.event_model, clock, start=7.0, base=1.25, row=0.0)
    bench = Timed(tiny.target, tiny.event_model, lambda name, costs=None: tiny.drafter(name),
                  lambda temperature, seed: Greedy(), free_width)  # fmt: skip
    object.__setattr__(bench, "clock", clock)

    def make(length: int) -> Any:
        return CrossModal(event_model=tiny.event_model, costs=free_width, length=length)

    found = measure_rounds(bench, make, [ask("one?"), ask("two, and more?")], 40)
    assert found["target_prefill_ms"] == pytest.approx(20.0) and found["target_encode_ms"] == 0.0
    assert found["step_ms"] == pytest.approx(4.0)
    assert found["verify_ms"] == {n + 1: pytest.approx(4.0 + 0.5 * n) for n in LENGTHS}
    assert found["draft_step_ms"] == pytest.approx(1.25) and found["overhead_ms"] == pytest.approx(0.0)
    assert found["event_encode_ms"] == pytest.approx(7.0)
    with pytest.raises(DataError, match="too short to time drafts"):
        measure_rounds(bench, make, [ask("one?")], 3)
