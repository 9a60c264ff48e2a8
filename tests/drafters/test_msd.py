"""MSD: a visual token stands for itself."""

from dataclasses import replace
from typing import Any

import torch

from crossdraft.core.prompt import Prompt
from crossdraft.core.types import PromptView, Step
from crossdraft.drafters.vision import MSD

SAID = (5, 9, 2, 17)


@torch.inference_mode()
def test_it_reads_every_position_and_grows_eagle2s_tree(
    tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    drafter = replace(tiny.drafter("msd"), branch=3, depth=4, nodes=15)
    session = begin(drafter, tiny.target, prompt, SAID)
    draft = session.propose(99)
    assert session._state.length == len(tiny.target.encode(prompt)) + len(SAID) - 1
    assert set(paths(draft)) == retell(tiny.head("msd"), tiny.target, prompt, SAID).tree(3, 4, 15)
    assert draft.source == MSD.name == "msd" and drafter.needs.capture == (-1,)


@torch.inference_mode()
def test_the_feature_in_front_of_a_visual_token_is_not_read(tiny: Any, prompt: Prompt, begin: Any) -> None:
    """That of the picture's last position is: a word follows there."""
    drafter = tiny.drafter("msd")
    ids = [4, -1, -1, -1, 6, 7]
    view = tiny.target.prefill(ids, (-1,)).prompt

    def guess(changed: int | None) -> torch.Tensor:
        states = view.states[-1].clone()
        if changed is not None:
            states[changed] += 1.0
        session = drafter.begin(prompt, tiny.target, None)
        session.see_prompt(PromptView(view.tokens, view.embeds, {-1: states}))
        session.observe(Step((5,), is_prompt=True))
        return session._digest(9)  # type: ignore[no-any-return]

    plain = guess(None)
    for position in (0, 1, 2):
        assert torch.equal(guess(position), plain)
    for position in (3, 4, 5):
        assert not torch.equal(guess(position), plain)
