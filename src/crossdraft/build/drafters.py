"""Drafters of the catalogue, with all that they need."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from crossdraft.adapters import Adapter
from crossdraft.adapters.lora import L6
from crossdraft.bench.overheads import adapter_ms
from crossdraft.build import heads
from crossdraft.build.costs import profile_pair
from crossdraft.build.load import SOURCES
from crossdraft.build.pairs import EVENT_DRAFTERS, Pair, fitting_adapter, lacks_draft_model
from crossdraft.build.vocabulary import check_vocabulary, token_map
from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import VLM, CostCurve, Drafter
from crossdraft.core.registry import find
from crossdraft.core.types import Sampling
from crossdraft.drafters import DRAFTERS
from crossdraft.drafters.combined import Combined, parts_of
from crossdraft.drafters.constant import OpeningBook
from crossdraft.drafters.memory import StreamMemory

PACED_DRAFTERS = ("cross_modal", "draft_model", "layer_skip")
"""Those whose every token costs a pass of a model: their drafts can be given a fixed length."""

_fitted: WeakKeyDictionary[Any, dict[Path, heads.Fitted]] = WeakKeyDictionary()


def make_drafter(
    name: str,
    *,
    target: VLM,
    event_model: VLM | None = None,
    memory: StreamMemory | None = None,
    adapter: str | Path | Adapter | None = None,
    length: int | None = None,
    head: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    costs: CostCurve | None = None,
    draft_model: VLM | None = None,
    sampling: Sampling | None = None,
) -> Drafter:
    """A drafter of the catalogue. What it learns stays with it, so use one for all requests of a stream.

    name: of the catalogue, or a headed one's with a lookup's, as "eagle3+ngram" (``drafters.combined``).

    memory: for "memory"; None makes an empty one. adapter: for "cross_modal", a file or what ``fitting_adapter``
    gave; an 'l6' wants the event model that was loaded with it (``lora``). length: for ``PACED_DRAFTERS``, tokens
    of every draft; None: as many as pay. head: for a drafter with a trained head, its file, its folder, or a
    folder of heads; None: those that lie beside the target (``build.heads.find_head``). settings: of such a drafter
    (shape, depth, branch, nodes). costs: of the target's passes; None takes what was measured for the pair, or
    measures it now. draft_model: for "draft_model". sampling: draw the drafts ("draft_model", and heads whose tree
    is static or a chain), which want ``LeviathanSampling`` with the same one as rule.
    Raises SettingError for an unknown name and when the event model is missing or of another vocabulary,
    CheckpointError for an adapter or head that does not fit.
    """
    own, lookup = parts_of(name)
    if lookup is not None:
        if not heads.is_headed(own):
            raise SettingError(f"'{name}' adds a lookup to a tree, but '{own}' has no trained head to grow one")
        if costs is None:
            costs = profile_pair(Pair(target, event_model))
        return Combined(
            head=make_drafter(
                own, target=target, head=head, settings=settings, costs=costs, sampling=sampling,
                adapter=adapter, length=length, draft_model=draft_model,
            ),
            lookup=make_drafter(lookup, target=target, memory=memory, costs=costs),
            costs=costs,
        )  # fmt: skip
    kind = find("drafter", DRAFTERS, name)
    if name == "none":
        plain: Drafter = kind()
        return plain
    if name in EVENT_DRAFTERS and event_model is None:
        raise SettingError(f"drafter '{name}' needs an event model; give one with --event-model")
    is_headed = heads.is_headed(name)
    if name != "cross_modal" and adapter is not None:
        raise SettingError(f"an adapter is for 'cross_modal', not for '{name}'")
    if name not in PACED_DRAFTERS and length is not None:
        raise SettingError(f"length is for {', '.join(PACED_DRAFTERS)}, not for '{name}'")
    if name != "draft_model" and draft_model is not None:
        raise SettingError(f"draft_model is for 'draft_model', not for '{name}'")
    if sampling is not None and name != "draft_model" and not is_headed:
        raise SettingError(f"sampling is for 'draft_model' and trained heads, not for '{name}'")
    if (head is not None or settings) and not is_headed:
        raise SettingError(f"head and its settings are for drafters with a trained head, not for '{name}'")
    if costs is None:
        costs = profile_pair(Pair(target, event_model))
    if is_headed:
        chosen = dict(settings or {}) if sampling is None else {**(settings or {}), "sampling": sampling}
        return heads.headed_drafter(name, fitted_head(name, target, head), costs, chosen)
    given: dict[str, Any] = {"costs": costs}
    if name == "memory":
        given["memory"] = memory if memory is not None else StreamMemory()
    elif name == "constant":
        given["book"] = OpeningBook()
    elif name == "layer_skip":
        given["length"] = length
    elif name == "draft_model":
        if draft_model is None:
            raise lacks_draft_model()
        given |= {
            "draft_model": draft_model, "tokens": token_map(target, draft_model), "sampling": sampling,
            "room": min(512, draft_model.max_positions // 2), "length": length,
        }  # fmt: skip
    elif name == "cross_modal":
        assert event_model is not None
        check_vocabulary(target, event_model)
        # half of its context is plenty for an answer, and leaves the other half to the prompt
        room = min(512, event_model.max_positions // 2)
        fitting = _fitting(adapter, Pair(target, event_model))
        token_ms = getattr(costs, "event_token_ms", None)
        if fitting is not None and token_ms is not None:
            token_ms += adapter_ms(fitting, target)
        given |= {
            "event_model": event_model, "token_ms": token_ms, "room": room, "adapter": fitting, "length": length,
        }  # fmt: skip
    made: Drafter = kind(**given)
    return made


def fitted_head(name: str, target: VLM, head: str | Path | None = None) -> heads.Fitted:
    """The packed head that drafter ``name`` runs, loaded once for a target; see ``make_drafter``."""
    source = SOURCES.get(target)
    if source is None:
        raise SettingError(f"drafter '{name}' has a trained head, which belongs to a checkpoint; load the target")
    path = heads.find_head(name, source.folder, head)
    known = _fitted.setdefault(target, {})
    if path not in known:
        known[path] = heads.fit_head(path, target, source.folder, getattr(torch, source.dtype), source.device)
    return known[path]


def _fitting(adapter: str | Path | Adapter | None, pair: Pair) -> Adapter | None:
    if adapter is None:
        return None
    fitting = adapter if isinstance(adapter, Adapter) else fitting_adapter(adapter, pair)
    source = SOURCES.get(pair.event_model)
    if isinstance(fitting, L6) and source is not None and source.lora is None:
        raise SettingError(
            "adapter 'l6' changes the event model; load it with that: load_event_model(..., lora=FILE)"
        )
    return fitting


def open_memory(path: str | Path | None) -> StreamMemory:
    """The streams' memory kept under ``path``, an empty one where there is none yet. DataError if it is damaged."""
    if path is None or not Path(path).exists():
        return StreamMemory()
    return StreamMemory.load(path)
