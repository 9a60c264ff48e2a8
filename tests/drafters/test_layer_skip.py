from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import LAST, SIMILARITY, Limits, PromptView, Sampling, Step
from crossdraft.decode.loop import generate
from crossdraft.drafters.layer_skip import LayerSkip, choose_skips
from crossdraft.drafters.length import AssumedCurve
from crossdraft.verify import rule_for

EVERYTHING = {"threshold": -1.0, "keep_ends": 0, "max_share": 1.0, "max_run": 99}
NOTHING = {"threshold": 1.0, "max_share": 0.0}


def answer(target: Any, drafter: Any, prompt: Prompt, temperature: float = 0.0, tokens: int = 25) -> Any:
    rule = rule_for(Sampling(temperature=temperature, seed=2))
    return generate(target, drafter, prompt, rule=rule, limits=Limits(max_new_tokens=tokens))


def runs(chosen: frozenset[int]) -> list[int]:
    """Lengths of the unbroken runs, found by splitting a row of marks."""
    marks = "".join("x" if i in chosen else " " for i in range(max(chosen, default=0) + 1))
    return [len(run) for run in marks.split()]


@settings(max_examples=300, deadline=None)
@given(
    similarity=st.lists(st.floats(-1, 1, allow_nan=False) | st.just(float("nan")), max_size=14),
    threshold=st.floats(-1, 1), keep_ends=st.integers(0, 4), max_share=st.floats(0, 1), max_run=st.integers(1, 5),
)  # fmt: skip
def test_the_guards_hold(
    similarity: list[float], threshold: float, keep_ends: int, max_share: float, max_run: int
) -> None:
    guards = {"threshold": threshold, "keep_ends": keep_ends, "max_share": max_share, "max_run": max_run}
    chosen, layers = choose_skips(similarity, **guards), len(similarity)

    def allowed(some: frozenset[int]) -> bool:
        inner = all(keep_ends <= i < layers - keep_ends and similarity[i] >= threshold for i in some)
        return inner and len(some) <= max_share * layers and max(runs(some), default=0) <= max_run

    assert allowed(chosen)
    # what changes least goes first: nothing that stayed could have gone beside those that change as little or less
    for stayed in set(range(layers)) - chosen:
        before = frozenset(i for i in chosen if similarity[i] >= similarity[stayed])
        assert not allowed(before | {stayed})


def test_the_choice_in_plain_sight() -> None:
    similarity = [0.99, 0.97, 0.999, 0.998, 0.997, 0.5, 0.99, 0.98, 0.99]
    free = {"threshold": 0.96, "keep_ends": 0, "max_share": 1.0, "max_run": 9}
    assert choose_skips(similarity, **free) == {0, 1, 2, 3, 4, 6, 7, 8}
    assert choose_skips(similarity, **(free | {"keep_ends": 1})) == {1, 2, 3, 4, 6, 7}
    assert choose_skips(similarity, **(free | {"max_share": 0.34})) == {2, 3, 4}
    assert choose_skips(similarity, **(free | {"max_run": 2})) == {0, 2, 3, 6, 8}
    assert choose_skips(similarity, **(free | {"threshold": 1.0})) == frozenset()
    assert choose_skips([], **free) == frozenset()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("drops", [EVERYTHING, NOTHING, {"threshold": 0.5, "max_share": 0.6}])
def test_the_answer_is_the_targets_own(
    drops: dict[str, Any], temperature: float, make_tiny: Any, tiny: Any, prompt: Prompt, free_width: Any
) -> None:
    for seed in range(8):
        target = make_tiny(seed)
        drafter = LayerSkip(costs=free_width, length=4, **drops)
        out = answer(target, drafter, prompt, temperature)
        assert out.tokens == answer(target, tiny.drafter("none"), prompt, temperature).tokens
        assert out.num_drafted > 0


@pytest.mark.parametrize("length", [1, 3, 8])
def test_with_nothing_left_out_everything_is_right(length: int, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = LayerSkip(costs=free_width, length=length, **NOTHING)
    out = answer(tiny.target, drafter, prompt, tokens=1 + 4 * (length + 1))
    assert out.tau == length + 1
    assert {r.source for r in out.rounds} == {"layer_skip without none"}


def begun(drafter: LayerSkip, tiny: Any, prompt: Prompt, rows: torch.Tensor) -> Any:
    session = drafter.begin(prompt, tiny.target, None)
    target = tiny.target.prefill(tiny.target.encode(prompt), (LAST, SIMILARITY))
    target.commit((), 5)
    session.share(target)
    assert target.capture == (LAST,)
    session.see_prompt(PromptView((2, 3), torch.zeros(2, 16), {SIMILARITY: rows}))
    session.observe(Step((5,), {SIMILARITY: rows[-1:]}, is_prompt=True))
    return session


def test_the_end_of_the_prompt_decides(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = LayerSkip(costs=free_width, threshold=0.9, positions=3, max_share=1.0, keep_ends=0)
    rows = torch.tensor([[1.0, 0.0]] * 7 + [[0.8, 1.0], [0.9, 0.9], [0.8, 0.86]])
    assert begun(drafter, tiny, prompt, rows).skipped == {1}


def test_it_chooses_anew_from_what_was_verified(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    settings_of = {"threshold": 0.9, "positions": 3, "max_share": 1.0, "keep_ends": 0, "length": 1}
    before, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for every, expected in (
        (None, [{0}] * 5),
        (1, [set(), set(), {1}, {1}, {1}]),
        (2, [{0}, set(), set(), set(), set()]),
    ):
        session = begun(
            LayerSkip(costs=free_width, refresh_every=every, **settings_of), tiny, prompt, before.repeat(3, 1)
        )
        seen = []
        for _ in range(5):
            session.propose(4)
            watched = SIMILARITY in tiny.target.sessions[-1].capture
            session.observe(Step((3,), {SIMILARITY: after} if watched else {}))
            seen.append(set(session.skipped))
            assert watched == (every is not None and len(seen) % every == 0)
        assert seen == expected, every
        without = ", ".join(map(str, expected[-1])) or "none"
        assert session.propose(4).source == f"layer_skip without {without}"


def test_it_falls_silent_where_a_token_costs_as_much_as_a_pass(tiny: Any, ask: Any) -> None:
    drafter = LayerSkip(costs=AssumedCurve(0.05), token_ms=0.95, retry_every=4, **EVERYTHING)
    drafted = [answer(tiny.target, drafter, ask(f"clip {i}?")).num_drafted for i in range(6)]
    assert drafted == [1, 0, 0, 0, 1, 0]


def test_a_session_that_cannot_sketch_is_refused(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    session = LayerSkip(costs=free_width).begin(prompt, tiny.target, None)
    with pytest.raises(SettingError, match="crossdraft's own decoder"):
        session.share(object())


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5}, {"max_share": -0.1}, {"positions": 0}, {"keep_ends": -1}, {"max_run": 0},
        {"refresh_every": 0}, {"length": 9}, {"max_ahead": 0}, {"retry_every": 0},
    ],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong: dict[str, Any], free_width: Any) -> None:
    with pytest.raises(SettingError):
        LayerSkip(costs=free_width, **wrong)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_choice_that_changes_on_the_way_changes_no_token(
    temperature: float, make_tiny: Any, tiny: Any, prompt: Prompt, free_width: Any
) -> None:
    target = make_tiny(4)
    drafter = LayerSkip(
        costs=free_width, length=2, threshold=0.4, keep_ends=0, max_share=1.0, positions=1, refresh_every=2
    )
    out = answer(target, drafter, prompt, temperature, tokens=40)
    assert out.tokens == answer(target, tiny.drafter("none"), prompt, temperature, tokens=40).tokens
    assert len({r.source for r in out.rounds}) > 2
