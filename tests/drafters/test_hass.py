"""HASS: EAGLE's network, another training."""

from dataclasses import fields
from typing import Any

import torch

from crossdraft.core.prompt import Prompt
from crossdraft.drafters.eagle import Eagle2
from crossdraft.heads.recipes import recipe_of

SAID = (5, 9, 2, 17)


@torch.inference_mode()
def test_it_drafts_as_eagle2_does_with_the_same_weights(tiny: Any, prompt: Prompt, begin: Any, paths: Any) -> None:
    hass = tiny.drafter("hass")
    assert tiny.head("hass").load_state_dict(tiny.head("eagle").state_dict())
    same = {f.name: getattr(hass, f.name) for f in fields(hass) if f.init}
    ours, eagles = (
        begin(drafter, tiny.target, prompt, SAID).propose(99) for drafter in (hass, Eagle2(**same))
    )  # fmt: skip
    assert paths(ours) == paths(eagles) and (ours.source, eagles.source) == ("hass", "eagle2")


def test_it_is_taught_on_its_own_guesses() -> None:
    hass, eagle = recipe_of("hass"), recipe_of("eagle")
    assert (hass.passes, eagle.passes) == (3, 1) and hass.detach and hass.decay == 1
    assert hass.loss is not None and eagle.loss is not None
    assert (hass.loss.smooth_l1, hass.loss.kl) == (eagle.loss.smooth_l1, eagle.loss.kl) == (1.0, 0.1)
    assert hass.loss.top_k_ce > eagle.loss.top_k_ce == 0
