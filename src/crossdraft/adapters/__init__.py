"""Maps from the event model's states to the target's. Catalogue: name -> "module:attribute".

Levels are those of the cross-modal study, under its names; beside those that are unsound stands a variant that is
not. ``LEVEL.inputs`` says what a level reads, ``causal`` and ``sees_its_target`` how far it can be believed.
"""

from dataclasses import asdict
from typing import Any

from crossdraft.adapters.base import Adapter
from crossdraft.core.config import from_mapping
from crossdraft.core.registry import find

__all__ = ["ADAPTERS", "Adapter", "build_adapter"]

ADAPTERS = {
    "l1": "crossdraft.adapters.bottleneck:L1",  # draft states
    "l2": "crossdraft.adapters.bottleneck:L2",  # draft states
    "l3": "crossdraft.adapters.bottleneck:L3",  # draft states
    "l3_2block": "crossdraft.adapters.bottleneck:L3TwoBlocks",  # draft states
    "l4": "crossdraft.adapters.attention:L4",  # draft states, all at once
    "l4_causal": "crossdraft.adapters.attention:L4Causal",  # draft states
    "l5": "crossdraft.adapters.predictive:L5",  # draft states
    "l5_tokens": "crossdraft.adapters.predictive:L5Tokens",  # draft states, embeddings of earlier tokens
    "l5f": "crossdraft.adapters.predictive:L5F",  # draft states, target states: sees its target
    "l5f_sound": "crossdraft.adapters.predictive:L5FSound",  # draft states, earlier target states
    "b1": "crossdraft.adapters.predictive:B1",  # target states: sees its target
    "b1_sound": "crossdraft.adapters.predictive:B1Sound",  # earlier target states
    "l6": "crossdraft.adapters.lora:L6",  # draft states of the event model that it changes
}


def build_adapter(name: str, *, width_in: int, width_out: int, **changes: Any) -> Adapter:
    """A new adapter of the level ``name``; ``changes`` replace the study's settings.

    width_in, width_out: widths of the event model's and of the target's states.
    Raises SettingError for an unknown level, an unknown setting or one that makes no sense.
    """
    level = find("adapter", ADAPTERS, name)
    settings = from_mapping(type(level.defaults), {**asdict(level.defaults), **changes}, f"adapter '{name}'")
    adapter: Adapter = level(width_in, width_out, settings)
    return adapter
