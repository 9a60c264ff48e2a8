"""ViSpec: one token for the pictures, and one in all text."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from crossdraft.core.prompt import Prompt
from crossdraft.drafters.vision import ViSpec
from crossdraft.heads.runner import HeadRunner

SAID = (5, 9, 2, 17)


@pytest.fixture
def watched(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny pair, with a picture of five positions behind the first token of every prompt."""
    plain = type(tiny.target).encode
    monkeypatch.setattr(type(tiny.target), "encode", lambda self, prompt: [3, *[-1] * 5, *plain(self, prompt)[2:]])
    return tiny


def taught(tiny: Any) -> Any:
    """A head whose blend is no identity any more."""
    head = tiny.head("vispec")
    torch.manual_seed(3)
    torch.nn.init.normal_(head.visual.img_fc.weight, std=0.3)
    return head


@torch.inference_mode()
def test_one_entry_stands_for_the_picture(
    watched: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    head = taught(watched)
    runner = HeadRunner(head, watched.target.head.T, torch.float64)
    drafter = replace(watched.drafter("vispec"), head=runner, branch=3, depth=4, nodes=15)
    session = begin(drafter, watched.target, prompt, SAID)
    draft = session.propose(99)
    text = len(watched.target.encode(prompt)) + len(SAID)
    assert session._state.length == text - 1 - 5 + 1 and session._state.shift == 4
    assert set(paths(draft)) == retell(head, watched.target, prompt, SAID).tree(3, 4, 15)


@torch.inference_mode()
def test_the_picture_colours_every_guess(watched: Any, prompt: Prompt, begin: Any) -> None:
    """The same text behind another summary is drafted otherwise, verified tokens and guesses alike."""
    runner = HeadRunner(taught(watched), watched.target.head.T, torch.float64)
    drafter = replace(watched.drafter("vispec"), head=runner, branch=4, nodes=30)
    drafts = []
    for shift in (0.0, 1.0):
        session = begin(drafter, watched.target, prompt, SAID)
        session.propose(1)
        session._state.context = session._state.context + shift
        drafts.append(session._dynamic(runner.step(
            session._state, torch.ones(1, 16, dtype=torch.float64), torch.tensor([0]),
            torch.ones(1, 16, dtype=torch.float64), 0, torch.zeros(1, 1, dtype=torch.int32),
        ), 3))  # fmt: skip
    assert drafts[0].tokens.tolist() != drafts[1].tokens.tolist()


def test_its_depth(tiny: Any) -> None:
    assert tiny.drafter("vispec").depth == ViSpec.depth == 3
    assert tiny.head("vispec").config.visual.queries == 2
