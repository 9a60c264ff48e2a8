"""The cost curve of passes, on a clock that a made-up model moves."""

from typing import Any

import pytest

from crossdraft.bench.verify_cost import verify_costs
from crossdraft.core.clock import FakeClock


@pytest.mark.parametrize(("positions", "contexts"), [(4096, 2), (100, 1)])
def test_passes_are_timed_at_two_contexts(tiny: Any, ask: Any, positions: int, contexts: int) -> None:
    clock, inner = FakeClock(), tiny.target
    prefill = inner.prefill

    def timed_prefill(*args: Any, **settings: Any) -> Any:
        session = prefill(*args, **settings)
        score = session.score

        def timed(draft: Any) -> Any:
            clock.advance(10 + len(draft) + session.length / 100)
            return score(draft)

        session.score = timed
        return session

    inner.prefill, inner.max_positions = timed_prefill, positions
    told = verify_costs(inner, ask("what?"), widths=(1, 2, 8), further=96, repeats=3, now=lambda: clock.ms / 1e3)
    assert len(told) == contexts
    for entry in told:
        step = 10 + entry["context"] / 100
        for p in entry["passes"]:
            assert p["ms"] == pytest.approx(step + p["width"] - 1)
            assert p["ratio"] == pytest.approx(p["ms"] / step)
        assert [p["width"] for p in entry["passes"]] == [1, 2, 8]
        told_trees = {tree["width"]: tree["ms"] for tree in entry["trees"]}
        assert told_trees == pytest.approx({4: step + 3, 8: step + 7}), "none is wider than the widest chain"
    if contexts == 2:
        assert told[1]["context"] == told[0]["context"] + 96
