"""EAGLE-3: three taps, an output head and a vocabulary of its own."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits, Sampling
from crossdraft.decode.loop import generate
from crossdraft.drafters.eagle3 import Eagle3
from crossdraft.heads.recipes import recipe_of
from crossdraft.heads.runner import HeadRunner
from crossdraft.verify.greedy import Greedy
from crossdraft.verify.leviathan import LeviathanSampling

SAID = (5, 9, 2, 17)
DRAFTED = torch.tensor([2, 3, 5, 8, 13, 21, 1])


def small(tiny: Any) -> Any:
    """A head that can say seven of the target's tokens."""
    torch.manual_seed(1)
    head = recipe_of("eagle3").network(tiny.head("eagle3").config.layer, draft_vocab=7, taps=(1, 2, 4)).double()
    head.d2t.copy_(DRAFTED)
    return head.eval().requires_grad_(False)


@torch.inference_mode()
def test_the_tree_is_the_one_found_by_trying(
    tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    """As EAGLE-2's, with features that no norm has seen, and tokens of its own vocabulary."""
    head = small(tiny)
    runner = HeadRunner(head, None, torch.float64)
    drafter = replace(tiny.drafter("eagle3"), head=runner, branch=3, depth=4, nodes=15)
    draft = begin(drafter, tiny.target, prompt, SAID).propose(99)
    assert set(paths(draft)) == retell(head, tiny.target, prompt, SAID).tree(3, 4, 15)
    assert set(draft.tokens.tolist()) <= set(DRAFTED.tolist())


def test_it_asks_for_low_middle_and_high_states(tiny: Any) -> None:
    drafter = tiny.drafter("eagle3")
    assert drafter.needs.capture == (0, 2, 4) == drafter.head.config.taps
    assert drafter.depth == 8 and drafter.shape == "dynamic" and Eagle3.name == "eagle3"


@pytest.mark.parametrize("shape", ["dynamic", "static", "chain"])
def test_a_few_tokens_drafted_change_nothing_said(shape: str, tiny: Any, prompt: Prompt) -> None:
    drafter = replace(tiny.drafter("eagle3"), head=HeadRunner(small(tiny), None, torch.float64), shape=shape)
    limits = Limits(max_new_tokens=20)
    alone = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    assert generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits).tokens == alone.tokens


@torch.inference_mode()
def test_laws_lie_at_the_targets_own_ids(tiny: Any, prompt: Prompt, begin: Any) -> None:
    sampling = Sampling(temperature=1.0, seed=2)
    runner = HeadRunner(small(tiny), None, torch.float64)
    drafter = replace(tiny.drafter("eagle3"), head=runner, shape="static", sampling=sampling)
    draft = begin(drafter, tiny.target, prompt, SAID).propose(99)
    assert draft.probs is not None and draft.probs.shape == (25, tiny.target.vocab_size)
    beyond = torch.ones(tiny.target.vocab_size, dtype=torch.bool)
    beyond[DRAFTED] = False
    assert not draft.probs[:, beyond].any()
    assert (draft.probs[torch.arange(25), draft.tokens] > 0).all()
    answer = generate(
        tiny.target, drafter, prompt, rule=LeviathanSampling(sampling), limits=Limits(max_new_tokens=20)
    )
    assert answer.lossless and len(answer.tokens) == 20
