"""Drafting through an adapter: the tokens are those of a brute-force recomputation, and never change the answer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from crossdraft.adapters import ADAPTERS, build_adapter
from crossdraft.adapters.base import DRAFT, TARGET, TOKENS, Adapter
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits, Step
from crossdraft.decode.loop import generate
from crossdraft.decode.window import CountedWindow, TimedWindow
from crossdraft.drafters.cross_modal import CrossModal
from crossdraft.verify.greedy import Greedy

WIDTH = 16
SOUND = [name for name in ADAPTERS if name not in ("b1", "l5f")]


def make_adapter(level: str, width_in: int = WIDTH) -> Adapter:
    """Random weights of a size that makes the levels differ."""
    torch.manual_seed(5)
    changes: dict[str, Any] = {"num_layers": 2} if level == "l6" else {}
    if level[:2] in ("l4", "l5", "b1"):
        changes["num_heads"] = 2
    adapter = build_adapter(level, width_in=width_in, width_out=WIDTH, **changes).double().eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return adapter


def make(tiny: Any, costs: Any, level: str, **settings: Any) -> CrossModal:
    return CrossModal(
        event_model=tiny.event_model, costs=costs, token_ms=0.0, adapter=make_adapter(level), **settings
    )


def brute_force(tiny: Any, adapter: Adapter, prompt: Prompt, said: list[int], count: int) -> list[int]:
    """``count`` tokens behind ``said``, every state made anew from the ids, one token at a time."""
    base, target_base = tiny.event_model.encode(prompt), tiny.target.encode(prompt)
    known: list[Tensor] = [tiny.target.state([*target_base, *said[:n]]) for n in range(len(said))]
    text = list(said)
    for _ in range(count):
        given = {}
        if DRAFT in adapter.inputs:
            given[DRAFT] = torch.stack([tiny.event_model.state([*base, *text[:n]]) for n in range(len(text) + 1)])
        if TARGET in adapter.inputs:
            given[TARGET] = torch.stack([*known, torch.full((WIDTH,), 7.0, dtype=torch.float64)])
        if TOKENS in adapter.inputs:
            given[TOKENS] = tiny.target.embed(torch.tensor([*text, 3]))
        rows = {name: values[None] for name, values in given.items()}
        state = adapter(rows.pop(DRAFT, None), **rows)[0, -1]
        known.append(state.detach())
        text.append(int(tiny.target.unembed(state[None].detach()).argmax()))
    return text[len(said) :]


@pytest.mark.parametrize("level", SOUND)
def test_drafts_are_those_of_a_fresh_recomputation(level: str, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = make(tiny, free_width, level, max_ahead=5)
    session = drafter.begin(prompt, tiny.target, TimedWindow(is_open=False))
    said: list[int] = []
    target_base = tiny.target.encode(prompt)
    with torch.inference_mode():
        # agreements and surprises of every kind: at once, after some right ones, several tokens at a time
        for kept, bonus in [(0, 9), (0, 4), (3, 7), (5, 2), (1, 3), (0, 20)]:
            draft = session.propose(5).tokens.tolist() if said else []
            if said:
                assert draft == brute_force(tiny, drafter.adapter, prompt, said, 5)
            tokens = (*draft[:kept], bonus)
            spoken = [*said, *tokens]
            rows = [tiny.target.state([*target_base, *spoken[:n]]) for n in range(len(said), len(spoken))]
            session.observe(
                Step(tokens, {-1: torch.stack(rows)}, is_prompt=not said, accepted=min(kept, len(draft)))
            )
            said = spoken
        assert session.propose(3).tokens.tolist() == brute_force(tiny, drafter.adapter, prompt, said, 3)


@pytest.mark.parametrize("level", SOUND)
@pytest.mark.parametrize("window", ["off", "overlapped"])
def test_the_answer_stays_the_target_s_own(level: str, window: str, tiny: Any, ask: Any, free_width: Any) -> None:
    drafter = make(tiny, free_width, level, length=3)
    for budget in (1, 2, 7, 30):
        limits = Limits(max_new_tokens=budget, eos_token_ids=(1,))
        alone = generate(tiny.target, tiny.drafter("none"), ask("what moves?"), rule=Greedy(), limits=limits)
        fast = generate(tiny.target, drafter, ask("what moves?"), rule=Greedy(), limits=limits, window=window)
        assert fast.tokens == alone.tokens and fast.finish_reason == alone.finish_reason
        assert all(r.drafted <= 3 for r in fast.rounds)


def test_a_fixed_length_drafts_that_many_whatever_it_costs(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = CrossModal(event_model=tiny.event_model, costs=free_width, token_ms=1e6, length=4)
    out = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=Limits(max_new_tokens=40))
    said = 1
    for r in out.rounds:
        assert r.drafted == min(4, 40 - said - 1)
        said += r.emitted
    with pytest.raises(SettingError, match="length is 9"):
        CrossModal(event_model=tiny.event_model, costs=free_width, length=9, max_ahead=8)


def test_a_perfect_adapter_is_always_right(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    """The target as its own event model, through an adapter that is the identity."""
    adapter = build_adapter("l6", width_in=WIDTH, width_out=WIDTH, num_layers=1).double().eval()
    drafter = CrossModal(event_model=tiny.target, costs=free_width, adapter=adapter, length=4)
    out = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=Limits(max_new_tokens=21))
    assert out.tau == 5.0


@pytest.mark.parametrize("level", ["l1", "l4_causal", "l5_tokens"])
def test_it_runs_ahead_in_the_target_s_words(level: str, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = make(tiny, free_width, level, max_ahead=6)
    with torch.inference_mode():
        session = drafter.begin(prompt, tiny.target, CountedWindow(5))
        ahead = brute_force(tiny, drafter.adapter, prompt, [], 4)
        assert tiny.event_model.sessions[0].said == ahead
        session.observe(Step((ahead[0],), is_prompt=True))
        assert session.propose(3).tokens.tolist() == ahead[1:]


def test_what_reads_the_target_waits_for_it(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    mixed, alone = make(tiny, free_width, "l5f_sound"), make(tiny, free_width, "b1_sound")
    assert mixed.needs.capture == alone.needs.capture == (-1,) and make(tiny, free_width, "l5").needs.capture == ()
    mixed.begin(prompt, tiny.target, CountedWindow(9))
    assert tiny.event_model.sessions[-1].said == []
    alone.begin(prompt, tiny.target, CountedWindow(9))
    assert len(tiny.event_model.sessions) == 1  # the bound that needs no event model does not even start one


@pytest.mark.parametrize("level", ["b1", "l5f"])
def test_an_adapter_that_reads_its_own_target_cannot_draft(level: str, tiny: Any, free_width: Any) -> None:
    with pytest.raises(SettingError, match=f"{level}_sound"):
        make(tiny, free_width, level)


def test_tokens_that_the_event_model_cannot_read(
    make_tiny: Any, tiny: Any, prompt: Prompt, free_width: Any
) -> None:
    """The target's head may choose a token that the event model has no embedding for."""
    tiny.event_model = make_tiny(3, vocab_size=4, watches="events")
    drafter = make(tiny, free_width, "l3", length=5)
    limits = Limits(max_new_tokens=30)
    alone = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    assert generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits).tokens == alone.tokens


@pytest.mark.parametrize("level", SOUND)
def test_pointwise_means_what_it_says(level: str) -> None:
    adapter = make_adapter(level)
    torch.manual_seed(0)
    given = {name: torch.randn(1, 6, WIDTH, dtype=torch.float64) for name in adapter.inputs}
    other = {name: values.clone() for name, values in given.items()}
    for values in other.values():
        values[:, :5] += 1.0
    with torch.no_grad():
        outs = [adapter(g.get(DRAFT), **{n: v for n, v in g.items() if n != DRAFT}) for g in (given, other)]
    assert torch.equal(outs[0][:, 5], outs[1][:, 5]) == adapter.pointwise
