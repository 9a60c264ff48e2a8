"""What every drafter of the catalogue must keep: it may change how long an answer takes, never what is said."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Needs
from crossdraft.core.types import Draft, Limits, Sampling, Step
from crossdraft.decode.loop import generate
from crossdraft.drafters import DRAFTERS
from crossdraft.verify.greedy import Greedy
from crossdraft.verify.leviathan import LeviathanSampling
from crossdraft.verify.sampling import KeyedSampling

NAMES = sorted(DRAFTERS)
ROOT = Path(__file__).parents[2]
WINDOWS = ("off", "sequential", "overlapped", "own-device")


def limits(tokens: int = 40, ends: tuple[int, ...] = (1,), stop: tuple[str, ...] = ()) -> Limits:
    return Limits(max_new_tokens=tokens, eos_token_ids=ends, stop=stop)


def plain(tiny: Any, prompt: Prompt, allowed: Limits, rule: Any = None) -> Any:
    return generate(tiny.target, tiny.drafter("none"), prompt, rule=rule or Greedy(), limits=allowed)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_its_own_test_and_page(name: str) -> None:
    assert (ROOT / "tests" / "drafters" / f"test_{name}.py").is_file()
    assert (ROOT / "docs" / "drafters" / f"{name}.md").is_file()
    module, _, attribute = DRAFTERS[name].partition(":")
    drafter = getattr(importlib.import_module(module), attribute)
    assert drafter.name == name and isinstance(drafter.needs, Needs) and drafter.__doc__


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_greedy_output_is_identical(name: str, seed: int, make_tiny: Any, tiny: Any, ask: Any) -> None:
    tiny.target = make_tiny(seed)
    drafter = tiny.drafter(name)
    for question in ("what is there?", "what moves, and where?", "what is there?"):
        prompt = ask(question)
        fast = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits())
        alone = plain(tiny, prompt, limits())
        assert fast.tokens == alone.tokens and fast.text == alone.text
        assert fast.finish_reason == alone.finish_reason and fast.lossless
        assert sum(r.emitted for r in fast.rounds) == len(fast.tokens) - 1
        assert all(r.accepted <= r.drafted and r.emitted <= r.accepted + 1 for r in fast.rounds)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", WINDOWS)
def test_the_window_changes_no_token(name: str, window: str, tiny: Any, prompt: Prompt) -> None:
    fast = generate(tiny.target, tiny.drafter(name), prompt, rule=Greedy(), limits=limits(), window=window)
    assert fast.tokens == plain(tiny, prompt, limits()).tokens
    assert fast.window["mode"] == (window if name == "cross_modal" else "off") and fast.window["why"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", range(1, 8))
def test_budgets_are_kept(name: str, budget: int, tiny: Any, prompt: Prompt) -> None:
    drafter = tiny.drafter(name)
    for _ in range(2):
        fast = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits(budget, ()))
        assert len(fast.tokens) == budget and fast.finish_reason == "length"
        assert fast.tokens == plain(tiny, prompt, limits(budget, ())).tokens
    # positions the cache was given and those that passes used: never more drafted than the budget allows
    session = tiny.target.sessions[-1]
    assert session.length <= session.capacity


@pytest.mark.parametrize("name", NAMES)
def test_an_end_token_inside_a_draft_ends_the_answer(name: str, tiny: Any, ask: Any) -> None:
    prompt = ask("what ends?")
    said = plain(tiny, prompt, limits(30, ())).tokens
    for at in (1, 5, 12, 29):
        ends = (said[at],)
        alone = plain(tiny, prompt, limits(30, ends))
        assert alone.tokens == said[: said.index(said[at]) + 1] and alone.finish_reason == "eos"
        drafter = tiny.drafter(name)
        for _ in range(3):  # the second and third time a memory drafts the whole answer, end token included
            fast = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits(30, ends))
            assert fast.tokens == alone.tokens and fast.finish_reason == "eos" and fast.text == alone.text


@pytest.mark.parametrize("name", NAMES)
def test_stop_strings_cut_alike(name: str, tiny: Any, ask: Any) -> None:
    prompt = ask("what stops?")
    text = plain(tiny, prompt, limits(30, ())).text
    drafter = tiny.drafter(name)
    for at in range(2, 27, 3):
        stop = (text[at : at + 3],)
        alone = plain(tiny, prompt, limits(30, (), stop))
        fast = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits(30, (), stop))
        assert fast.tokens == alone.tokens and fast.text == alone.text == text[: text.index(stop[0])]
        assert fast.finish_reason == "stop" and stop[0] not in fast.text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0])
def test_sampling_with_shared_noise_is_identical(name: str, temperature: float, tiny: Any, ask: Any) -> None:
    rule = KeyedSampling(Sampling(temperature=temperature, top_k=12, top_p=0.95, seed=5))
    drafter = tiny.drafter(name)
    for question in ("one?", "two?", "one?"):
        fast = generate(tiny.target, drafter, ask(question), rule=rule, limits=limits(30))
        assert fast.tokens == plain(tiny, ask(question), limits(30), rule).tokens


@pytest.mark.parametrize("name", NAMES)
def test_interleaved_sessions_do_not_disturb_each_other(name: str, tiny: Any, ask: Any) -> None:
    """Two requests of one drafter take turns, a round each."""
    import threading

    drafter = tiny.drafter(name)
    prompts = [ask("first question?"), ask("second question?")]
    turn = [threading.Semaphore(1), threading.Semaphore(0)]
    out: list[Any] = [None, None]

    def run(me: int) -> None:
        def wait_for_turn() -> bool:
            turn[me].acquire()
            turn[1 - me].release()
            return False

        out[me] = generate(
            tiny.target, drafter, prompts[me], rule=Greedy(), limits=limits(25, ()), cancel=wait_for_turn
        )
        turn[1 - me].release(10_000)

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for prompt, answer in zip(prompts, out, strict=True):
        assert answer.tokens == plain(tiny, prompt, limits(25, ())).tokens


@pytest.mark.parametrize("name", NAMES)
def test_cancelling_teaches_nothing(name: str, tiny: Any, prompt: Prompt) -> None:
    drafter = tiny.drafter(name)
    asked = iter([False, False, False, True])
    answer = generate(
        tiny.target, drafter, prompt, rule=Greedy(), limits=limits(30, ()), cancel=lambda: next(asked)
    )
    assert answer.finish_reason == "cancelled" and len(answer.rounds) == 2
    assert answer.tokens == plain(tiny, prompt, limits(30, ())).tokens[: len(answer.tokens)]
    if name == "memory":
        assert len(drafter.memory) == 0
    if name == "constant":
        assert drafter.book.opening(prompt.question) == ([], [])


@pytest.mark.parametrize("name", NAMES)
def test_tokens_stream_as_they_are_verified(name: str, tiny: Any, prompt: Prompt) -> None:
    seen: list[tuple[int, ...]] = []
    answer = generate(
        tiny.target, tiny.drafter(name), prompt, rule=Greedy(), limits=limits(), on_tokens=seen.append
    )
    assert [len(s) for s in seen] == [1, *(r.emitted for r in answer.rounds)]
    assert [t for s in seen for t in s] == answer.tokens


def test_a_memory_never_learns_text_beyond_the_end_token(tiny: Any, ask: Any) -> None:
    prompt = ask("what ends?")
    said = plain(tiny, prompt, limits(30, ())).tokens
    short = said[: said.index(said[9]) + 1]
    drafter = tiny.drafter("memory")
    # first it learns the long answer, so that its drafts run past the end token of the next ones
    generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits(30, ()))
    generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits(30, (said[9],)))
    kept = drafter.memory.export()["shelves"][0]["answers"]
    assert kept == [said, short]


@dataclass
class Scripted:
    """Drafts from a script; with ``wrong`` every token is another one than scripted."""

    script: list[int]
    width: int
    wrong: bool = False
    name: str = "scripted"
    needs: Needs = field(default_factory=Needs)
    said: int = 0

    def begin(self, prompt: Prompt, target: Any, window: Any) -> "Scripted":
        return replace(self, said=0)

    def observe(self, step: Step) -> None:
        self.said += len(step.tokens)

    def propose(self, room: int) -> Draft:
        ahead = self.script[self.said : self.said + min(room, self.width)]
        return Draft.chain([(t + 1) % 24 for t in ahead] if self.wrong else ahead)

    def finish(self) -> None:
        pass


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 9), rounds=st.integers(1, 5), seed=st.integers(0, 3))
def test_a_perfect_drafter_has_everything_accepted(width: int, rounds: int, seed: int) -> None:
    tiny, ask = _tiny()
    prompt = ask(f"question {seed}?")
    allowed = limits(1 + rounds * (width + 1), ())
    alone = plain(tiny, prompt, allowed)
    fast = generate(tiny.target, Scripted(alone.tokens, width), prompt, rule=Greedy(), limits=allowed)
    assert fast.tokens == alone.tokens
    assert fast.tau == width + 1 and fast.num_accepted == fast.num_drafted == width * rounds


@settings(max_examples=10, deadline=None)
@given(width=st.integers(1, 9), seed=st.integers(0, 3))
def test_a_hostile_drafter_costs_time_only(width: int, seed: int) -> None:
    tiny, ask = _tiny()
    prompt = ask(f"question {seed}?")
    alone = plain(tiny, prompt, limits(20, ()))
    fast = generate(tiny.target, Scripted(alone.tokens, width, True), prompt, rule=Greedy(), limits=limits(20, ()))
    assert fast.tokens == alone.tokens and fast.tau == 1.0 and fast.num_accepted == 0


@settings(max_examples=15, deadline=None)
@given(data=st.data(), temperature=st.sampled_from([0.0, 0.7, 1.0]))
def test_any_tree_leaves_the_answer_as_it_is(data: Any, temperature: float) -> None:
    """Random trees that hold the right continuation among distractors."""
    tiny, ask = _tiny()
    prompt = ask("what about trees?")
    rule = Greedy() if temperature == 0 else KeyedSampling(Sampling(temperature=temperature, seed=3))
    alone = plain(tiny, prompt, limits(16, ()), rule)

    class Trees(Scripted):
        def propose(self, room: int) -> Draft:
            true = self.script[self.said : self.said + min(room, 3)]
            tokens: list[int] = []
            parents: list[int] = []
            spine = -1
            for token in true:
                for _ in range(data.draw(st.integers(0, 2))):
                    tokens.append(data.draw(st.integers(0, 23)))
                    parents.append(spine)
                tokens.append(token)
                parents.append(spine)
                spine = len(tokens) - 1
            return Draft(torch.tensor(tokens, dtype=torch.long), torch.tensor(parents, dtype=torch.long))

    fast = generate(
        tiny.target, Trees(alone.tokens, 3, needs=Needs(trees=True)), prompt, rule=rule, limits=limits(16, ())
    )
    assert fast.tokens == alone.tokens
    assert len(fast.rounds) <= 5


def test_every_rule_judges_chosen_drafts_at_temperature(tiny: Any, prompt: Prompt) -> None:
    rule = LeviathanSampling(Sampling(temperature=0.7, seed=1))
    answer = generate(tiny.target, tiny.drafter("ngram"), prompt, rule=rule, limits=limits(30, ()))
    assert len(answer.tokens) == 30 and answer.lossless


_made: list[Any] = []


@pytest.fixture(autouse=True)
def _share(tiny: Any, ask: Callable[..., Prompt]) -> None:
    """hypothesis runs a test many times with one set of fixtures; the models hold nothing, so one pair will do."""
    _made[:] = [tiny, ask]


def _tiny() -> tuple[Any, Callable[..., Prompt]]:
    return _made[0], _made[1]
