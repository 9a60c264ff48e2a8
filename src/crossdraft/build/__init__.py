"""Composition root: the one place that turns names into objects and checks that they fit together."""

from crossdraft.build.answers import generate, make_request, save_generation, workbench
from crossdraft.build.costs import costs_for, profile_pair
from crossdraft.build.drafters import fitted_head, make_drafter, open_memory
from crossdraft.build.extraction import keep_head, load_extractor
from crossdraft.build.load import (
    CHANGED,
    NANO,
    NANO_DISTILLED,
    Source,
    load_draft_model,
    load_event_model,
    load_for_training,
    load_target,
    pick_device,
    pick_dtype,
    resolve,
    set_threads,
    training_dtype,
    watches,
    with_trees,
)
from crossdraft.build.pairs import Pair, fitting_adapter, load_nano, load_pair, lora_of, plan_pair
from crossdraft.build.prompts import make_prompt

__all__ = [
    "CHANGED",
    "NANO",
    "NANO_DISTILLED",
    "Pair",
    "Source",
    "costs_for",
    "fitted_head",
    "fitting_adapter",
    "generate",
    "keep_head",
    "load_draft_model",
    "load_event_model",
    "load_extractor",
    "load_for_training",
    "load_nano",
    "load_pair",
    "load_target",
    "lora_of",
    "make_drafter",
    "make_prompt",
    "make_request",
    "open_memory",
    "pick_device",
    "pick_dtype",
    "plan_pair",
    "profile_pair",
    "resolve",
    "save_generation",
    "set_threads",
    "training_dtype",
    "watches",
    "with_trees",
    "workbench",
]
