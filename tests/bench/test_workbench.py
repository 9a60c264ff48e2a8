from typing import Any

import pytest

from crossdraft.bench.workbench import Capped, Flat, Scripted, Workbench, shuffled_events


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_a_capped_drafter_never_goes_wider_and_says_the_same(
    width: int, bench: Workbench, tiny: Any, prompt: Any
) -> None:
    plain = bench.answer(bench.make_drafter("none"), prompt, 40)
    own = bench.answer(Capped(tiny.drafter("ngram"), width), prompt, 40)
    assert own.tokens == plain.tokens
    assert max(r.drafted for r in own.rounds) <= width - 1


@pytest.mark.parametrize("width", [2, 8, 16])
def test_a_scripted_drafter_fills_every_pass(width: int, bench: Workbench, prompt: Any) -> None:
    plain = bench.answer(bench.make_drafter("none"), prompt, 48, to_the_end=False)
    own = bench.answer(Scripted(plain.tokens, width), prompt, 48, to_the_end=False)
    assert own.tokens == plain.tokens
    assert [r.drafted for r in own.rounds[:-1]].count(width - 1) >= len(own.rounds) - 2
    assert own.tau > 1.5
    assert any(r.accepted < r.drafted for r in own.rounds), "a script without errors tries no rejection"


def test_shuffled_events_are_those_of_another_clip(prompts: list[Any]) -> None:
    others = shuffled_events(prompts)
    assert [p.question for p in others] == [p.question for p in prompts]
    for own, other in zip(prompts, others, strict=True):
        assert len(own.events) != len(other.events)
    assert sorted(len(p.events) for p in others) == sorted(len(p.events) for p in prompts)


def test_a_flat_curve_costs_the_same_everywhere() -> None:
    assert {Flat().pass_ms(rows) for rows in (1, 8, 100)} == {1.0}
