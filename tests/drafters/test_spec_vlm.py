"""SpecVLM: EagleVLM over compressed pictures."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits
from crossdraft.decode.loop import generate
from crossdraft.drafters.vision import SpecVLM
from crossdraft.heads.recipes import recipe_of
from crossdraft.heads.runner import HeadRunner
from crossdraft.heads.visual import BRANCHES, VisualConfig
from crossdraft.verify.greedy import Greedy

SAID = (5, 9, 2, 17)
LEFT = {"prune": 2, "pool": 2, "conv": 2, "resample": 2, "text-only": 0}
"""Entries that five of a picture become."""


@pytest.fixture
def watched(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny pair, with a picture of five positions behind the first token of every prompt."""
    plain = type(tiny.target).encode
    monkeypatch.setattr(type(tiny.target), "encode", lambda self, prompt: [3, *[-1] * 5, *plain(self, prompt)[2:]])
    return tiny


@pytest.mark.parametrize("branch", BRANCHES)
@torch.inference_mode()
def test_its_cache_holds_less_and_positions_go_on(
    branch: str, watched: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    torch.manual_seed(0)
    visual = VisualConfig(kind="compress", branches=(branch,))
    head = recipe_of("spec_vlm").network(watched.head("eagle").config.layer, visual=visual).double().eval()
    runner = HeadRunner(head, watched.target.head.T, torch.float64)
    drafter = replace(watched.drafter("spec_vlm"), head=runner, branch=3, depth=4, nodes=15)
    session = begin(drafter, watched.target, prompt, SAID)
    draft = session.propose(99)
    text = len(watched.target.encode(prompt)) + len(SAID)
    assert session._state.length == text - 1 - 5 + LEFT[branch]
    assert session._state.length + session._state.shift == text - 1
    assert set(paths(draft)) == retell(head, watched.target, prompt, SAID).tree(3, 4, 15)


def test_the_gates_choice_depends_on_the_question(watched: Any, ask: Any, begin: Any) -> None:
    """And on nothing that is said behind it."""
    questions = ("what?", "what moves, and where to?", "is it dark?", "how many are there?", "why?")
    visual = VisualConfig(kind="compress", branches=("prune", "text-only"))
    head = recipe_of("spec_vlm").network(watched.head("eagle").config.layer, visual=visual).double().eval()
    ends = torch.stack([watched.target.state(watched.target.encode(ask(question))) for question in questions])
    with torch.no_grad():  # undecided between the questions
        head.visual.gate.bias -= head.visual.gate(ends).mean(0)
    drafter = replace(watched.drafter("spec_vlm"), head=HeadRunner(head, watched.target.head.T, torch.float64))
    taken = {}
    for question in questions:
        lengths = []
        for said in (SAID, SAID[:2], (7, 7, 7, 7, 7)):
            session = begin(drafter, watched.target, ask(question), said)
            with torch.inference_mode():
                session.propose(99)
            lengths.append(session._state.length - len(watched.target.encode(ask(question))) - len(said))
        assert len(set(lengths)) == 1
        taken[question] = lengths[0]
    assert len(set(taken.values())) > 1, "some question has its pictures dropped, another does not"


def test_the_target_still_reads_its_own_prompt(watched: Any, prompt: Prompt) -> None:
    limits = Limits(max_new_tokens=20)
    alone = generate(watched.target, watched.drafter("none"), prompt, rule=Greedy(), limits=limits)
    fast = generate(watched.target, watched.drafter("spec_vlm"), prompt, rule=Greedy(), limits=limits)
    assert fast.tokens == alone.tokens and watched.drafter("spec_vlm").depth == SpecVLM.depth == 7
