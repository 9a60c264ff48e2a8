from typing import Any

import pytest

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits, Step
from crossdraft.decode.loop import generate
from crossdraft.decode.window import CountedWindow, TimedWindow
from crossdraft.drafters.cross_modal import CrossModal
from crossdraft.drafters.length import AssumedCurve
from crossdraft.verify.greedy import Greedy

CLOSED = TimedWindow(is_open=False)


def own_text(model: Any, prompt: Prompt, prefix: list[int], count: int) -> list[int]:
    """What ``model`` goes on with after ``prefix``, from a fresh session."""
    ids = [*model.encode(prompt), *prefix]
    for _ in range(count):
        ids.append(int(model.unembed(model.state(ids)[None]).argmax()))
    return ids[len(ids) - count :] if count else []


def make(tiny: Any, costs: Any, **settings: Any) -> CrossModal:
    return CrossModal(event_model=tiny.event_model, costs=costs, **({"token_ms": 0.0} | settings))


@pytest.mark.parametrize("looks", [0, 1, 5, 40])
def test_it_runs_ahead_while_the_window_is_open(tiny: Any, prompt: Prompt, free_width: Any, looks: int) -> None:
    drafter = make(tiny, free_width, max_ahead=12)
    # begin() looks once itself to see whether there is a window at all
    session = drafter.begin(prompt, tiny.target, CountedWindow(looks + 1 if looks else 0))
    if not looks:
        assert not tiny.event_model.sessions  # nothing is read before a draft is expected to pay
        return
    ahead = own_text(tiny.event_model, prompt, [], min(looks, 12))
    assert tiny.event_model.sessions[0].said == ahead
    # the target happens to agree on the first token: what was written ahead goes on, and costs nothing any more
    passes = len(tiny.event_model.sessions[0].widths)
    session.observe(Step((ahead[0],), is_prompt=True))
    if len(ahead) > 1:
        assert session.propose(len(ahead) - 1).tokens.tolist() == ahead[1:]
        assert len(tiny.event_model.sessions[0].widths) == passes


def test_it_stays_in_step_with_the_verified_text(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    session = make(tiny, free_width, max_ahead=6).begin(prompt, tiny.target, CountedWindow(9))
    said: list[int] = []
    model = tiny.event_model
    # agreements and surprises of every kind: at once, after some right ones, several tokens at a time
    for kept, bonus in [(0, 9), (0, 4), (3, 7), (6, 2), (1, 1), (0, 20)]:
        draft = session.propose(6).tokens.tolist() if said else []
        if said:
            assert draft == own_text(model, prompt, said, 6)
        tokens = (*draft[:kept], bonus)
        session.observe(Step(tokens, is_prompt=not said, accepted=min(kept, len(draft))))
        said += tokens
    assert len(model.sessions) == 1
    assert session.propose(3).tokens.tolist() == own_text(model, prompt, said, 3)


def test_the_target_itself_as_event_model_is_right_all_the_time(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = CrossModal(event_model=tiny.target, costs=free_width, token_ms=0.0, max_ahead=4)
    limits = Limits(max_new_tokens=21)
    for window in ("off", "sequential", "overlapped"):
        out = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits, window=window)
        assert out.num_accepted == out.num_drafted and out.tau == 5.0


def test_it_falls_silent_when_it_does_not_pay_and_tries_again_later(tiny: Any, ask: Any) -> None:
    drafter = make(tiny, AssumedCurve(0.05), token_ms=0.4, retry_every=4)
    limits = Limits(max_new_tokens=30)
    drafted = []
    for clip in range(9):
        out = generate(tiny.target, drafter, ask(f"clip {clip}?"), rule=Greedy(), limits=limits)
        drafted.append(out.num_drafted)
    # an untrained event model is hardly ever right
    assert drafted[0] > 0 and drafter.pace.track.rate(0) < 0.5
    assert drafted[1:4] == [0, 0, 0] and drafted[5:8] == [0, 0, 0]
    assert drafted[4] == drafted[8] == 1
    # the event model was asked in three requests of nine; in the others it did not even read the prompt
    assert len(tiny.event_model.sessions) == 3


def test_silence_costs_nothing_more_in_a_request(tiny: Any, prompt: Prompt) -> None:
    drafter = make(tiny, AssumedCurve(0.05), token_ms=50.0, retry_every=100)
    session = drafter.begin(prompt, tiny.target, CountedWindow(3))
    session.observe(Step((23,), is_prompt=True))
    session.propose(9)
    session.observe(Step((3,)))
    passes = len(tiny.event_model.sessions[0].widths)
    for token in (4, 5, 6):
        assert len(session.propose(9)) == 0
        session.observe(Step((token,)))
    assert session.pace.is_silent and len(tiny.event_model.sessions[0].widths) == passes


def test_ids_that_one_side_does_not_know(make_tiny: Any, tiny: Any, prompt: Prompt, free_width: Any) -> None:
    tiny.event_model = make_tiny(3, vocab_size=30, watches="events")
    limits = Limits(max_new_tokens=25)
    alone = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    out = generate(tiny.target, make(tiny, free_width), prompt, rule=Greedy(), limits=limits)
    assert out.tokens == alone.tokens
    session = make(tiny, free_width).begin(prompt, make_tiny(0, vocab_size=2), CLOSED)
    session.observe(Step((0,), is_prompt=True))
    assert all(token < 2 for token in session.propose(9).tokens.tolist())
    session = make(tiny, free_width).begin(prompt, make_tiny(0, vocab_size=99), CLOSED)
    session.observe(Step((98,), is_prompt=True))
    assert len(session.propose(9)) == 0


def test_it_follows_no_further_than_its_cache_reaches(tiny: Any, prompt: Prompt, free_width: Any) -> None:
    drafter = make(tiny, free_width, room=10, max_ahead=4)
    limits = Limits(max_new_tokens=40)
    out = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits)
    alone = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    assert out.tokens == alone.tokens and out.num_drafted > 0


def test_errors_of_the_event_model_reach_the_user(tiny: Any, free_width: Any) -> None:
    blind = Prompt("what moves?")
    for window in ("sequential", "overlapped", "off"):
        with pytest.raises(DataError, match="needs events"):
            generate(
                tiny.target, make(tiny, free_width), blind, rule=Greedy(), limits=Limits(max_new_tokens=9),
                window=window,
            )  # fmt: skip
    for wrong in ({"max_ahead": 0}, {"room": 5, "max_ahead": 9}, {"retry_every": 0}):
        with pytest.raises(SettingError):
            make(tiny, free_width, **wrong)


def test_an_open_window_is_left_alone_when_drafts_do_not_pay(tiny: Any, ask: Any) -> None:
    drafter = make(tiny, AssumedCurve(0.05), token_ms=0.4, retry_every=4)
    limits = Limits(max_new_tokens=30)
    for clip in range(9):
        generate(tiny.target, drafter, ask(f"clip {clip}?"), rule=Greedy(), limits=limits, window="overlapped")
    # the first request, and one in four
    assert len(tiny.event_model.sessions) == 3
