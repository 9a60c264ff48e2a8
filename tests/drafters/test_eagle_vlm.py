"""EagleVLM: every visual token, behind an input norm."""

from dataclasses import replace
from typing import Any

import torch

from crossdraft.core.prompt import Prompt
from crossdraft.drafters.vision import EagleVLM

SAID = (5, 9, 2, 17)


@torch.inference_mode()
def test_it_reads_every_position_and_grows_eagle2s_tree(
    tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    drafter = replace(tiny.drafter("eagle_vlm"), branch=3, depth=4, nodes=15)
    session = begin(drafter, tiny.target, prompt, SAID)
    draft = session.propose(99)
    text = len(tiny.target.encode(prompt)) + len(SAID)
    assert session._state.length == text - 1 and session._state.shift == 0, "one entry for every pair of positions"
    assert set(paths(draft)) == retell(tiny.head("eagle_vlm"), tiny.target, prompt, SAID).tree(3, 4, 15)


def test_its_norm_and_its_depth(tiny: Any) -> None:
    head = tiny.head("eagle_vlm")
    assert head.layer.input_layernorm is not None and head.visual is None
    assert tiny.head("eagle").layer.input_layernorm is None
    assert tiny.drafter("eagle_vlm").depth == EagleVLM.depth == 7
