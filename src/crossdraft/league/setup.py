"""What the league's rows are made from, and the simple kinds of them.

A row is a function from ``Setup`` to ``bench.league.Method``. It loads nothing: what it needs is loaded by the
method's ``make``, so that a method that cannot be made here is a row with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from crossdraft.bench.league import Cost, Method, Settings, told
from crossdraft.bench.theirs import Theirs, entering
from crossdraft.bench.workbench import Capped, Flat, Scripted, Workbench
from crossdraft.build import Pair, Source
from crossdraft.core.protocols import Drafter
from crossdraft.models.loading import read_headers
from crossdraft.models.nano import nano_dir
from crossdraft.models.vision import module_dtype

LENGTH = 8
"""Tokens of a control's drafts, where nothing else was asked for."""

LENGTHS: tuple[Settings, ...] = ({}, {"length": 4}, {"length": 8}, {"length": 16})
"""Tried for a chain: as long as pays by the measured costs, and no longer than so many tokens."""


@dataclass
class Setup:
    """What a method can be made from. source: of the target; heads, adapters: folders of trained ones, if there are
    any; draft_model: a smaller model's folder or hub id."""

    pair: Pair
    bench: Workbench
    source: Source
    heads: Path | None = None
    adapters: Path | None = None
    draft_model: str | None = None
    _loaded: dict[str, Any] = field(init=False, default_factory=dict)

    @property
    def is_nano(self) -> bool:
        """Whether the target is the built-in one."""
        return Path(self.source.folder) == nano_dir("target")

    @cached_property
    def theirs(self) -> Theirs:
        """The target once more, in transformers: in float32 where the CPU would emulate bfloat16, which is slower.

        Raises SettingError for a kind that it is not compared for.
        """
        dtype = module_dtype(getattr(torch, self.source.dtype), self.source.device)
        return Theirs(self.source.folder, self.pair.target, dtype, self.source.device)

    def once(self, key: str, load: Callable[[], Any]) -> Any:
        """``load()``, kept under ``key``: weights are read once and shared by the drafters of all heats."""
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]

    def chain(self, name: str, settings: Settings) -> Drafter:
        """A drafter of the catalogue whose drafts are chains. length: tokens, at most; free: a wider pass counts as
        free, so that drafts are as long as their method can make them."""
        drafter = self.bench.make_drafter(name, Flat() if settings.get("free") else self.bench.costs)
        return Capped(drafter, settings["length"] + 1) if "length" in settings else drafter


def in_budget(nodes: int, depth: int) -> Settings:
    """A chain within a budget: one node at each depth."""
    return {"length": min(nodes, depth), "free": True}


def chain(name: str, note: str = "", cost: Callable[[Setup], Cost] = lambda setup: Cost()) -> "Recipe":
    """A drafter of the catalogue that needs no training for this target."""
    return lambda setup: Method(
        name=name, make=lambda settings: setup.chain(name, settings), grid=LENGTHS, equal=in_budget,
        cost=lambda: cost(setup), note=note,
    )  # fmt: skip


def scripted(name: str, wrong_every: int, note: str) -> "Recipe":
    """A control that knows the answer, and misspells every ``wrong_every``-th token of it."""

    def make(tokens: Any, settings: Settings) -> Drafter:
        return Scripted(tokens, settings.get("length", LENGTH) + 1, wrong_every)

    return lambda setup: Method(
        name=name, enter=told(make, name), settings={"length": LENGTH}, kind="control", note=note,
        equal=lambda nodes, depth: {"length": min(nodes, depth)},
    )  # fmt: skip


def transformers(name: str, lookup: int, note: str) -> "Recipe":
    """The target in transformers."""
    return lambda setup: Method(
        name=name, enter=entering(lambda: setup.theirs, name, lookup), foreign=True, kind="baseline", note=note,
        settings={"lookup": lookup} if lookup else {},
    )  # fmt: skip


def event_model_cost(setup: Setup) -> Cost:
    """The event model as it is: trained for its own task, resident for drafting."""
    return Cost(weight_bytes=weight_bytes(setup.pair.event_model))


def weight_bytes(model: Any) -> int:
    """Bytes of the weights of a model of ours, as it was loaded, or of a module."""
    if isinstance(model, torch.nn.Module):
        return sum(p.numel() * p.element_size() for p in model.parameters())
    return sum(prod(entry.shape) for entry in read_headers(model.folder).values()) * model.engine.dtype.itemsize


Recipe = Callable[[Setup], Method]
