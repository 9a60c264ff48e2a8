"""What passes of a pair cost on this machine: measured once and kept."""

from dataclasses import asdict, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from crossdraft.adapters import Adapter
from crossdraft.bench.overheads import adapter_ms
from crossdraft.bench.profile import LatencyProfile, cached, measure
from crossdraft.bench.workbench import Report, silent
from crossdraft.build.load import SOURCES, device_of
from crossdraft.build.pairs import Pair
from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt, VideoFrames
from crossdraft.data.events import make_stream

_profiles: WeakKeyDictionary[Any, WeakKeyDictionary[Any, LatencyProfile]] = WeakKeyDictionary()


def costs_for(
    pair: Pair, prompt: Prompt, *, adapter: Adapter | None = None, refresh: bool = False, report: Report = silent
) -> LatencyProfile:
    """What passes of this pair cost here: kept from an earlier run, else measured now on ``prompt`` and kept.

    adapter: measured beside it, anew each time.
    """
    profile = _pair_costs(pair, prompt, refresh, report)
    if adapter is None:
        return profile
    on_gpu = device_of(pair.target).startswith("cuda")
    return replace(
        profile, adapter_ms=adapter_ms(adapter, pair.target, sync=torch.cuda.synchronize if on_gpu else None)
    )


def _pair_costs(pair: Pair, prompt: Prompt, refresh: bool, report: Report) -> LatencyProfile:
    event_model = pair.event_model if prompt.events is not None else None
    profiles = _profiles.setdefault(pair.target, WeakKeyDictionary())
    known = profiles.get(pair.target if event_model is None else event_model)
    if known is None and event_model is None:
        known = next(iter(profiles.values()), None)  # of the target beside some event model
    if known is not None and not refresh:
        return known
    models = {"target": pair.target, "event": event_model}
    sources = {role: SOURCES.get(model) if model is not None else None for role, model in models.items()}
    known_by = {role: None if source is None else asdict(source) for role, source in sources.items()}
    identity = {**known_by, "threads": torch.get_num_threads()}
    device = device_of(pair.target)

    def run() -> LatencyProfile:
        return measure(pair.target, event_model, prompt, device=device, report=report)

    # a target made by hand has no name, so nothing is kept of it
    profile = run() if sources["target"] is None else cached(identity, run, refresh)
    profiles[pair.target if event_model is None else event_model] = profile
    return profile


def profile_pair(
    pair: Pair, *, adapter: Adapter | None = None, refresh: bool = False, report: Report = silent
) -> LatencyProfile:
    """``costs_for`` on a made-up second of noise: eight frames and 20,000 events, whatever the pair looks at.

    adapter: measured beside it, anew each time.
    """
    rng = np.random.default_rng(0)
    times = np.arange(8, dtype=np.int64) * 125_000
    frames = VideoFrames(rng.integers(0, 256, (8, 240, 320, 3), dtype=np.uint8), times, "noise")
    count = 20_000
    events = make_stream(
        rng.integers(0, 320, count), rng.integers(0, 240, count), np.sort(rng.integers(0, 1_000_000, count)),
        rng.integers(0, 2, count), (320, 240), "noise",
    )  # fmt: skip
    prompt = Prompt("What are the key elements in this scene?", frames, events)
    try:
        pair.target.encode(prompt)
    except DataError:  # a text-only target
        prompt = replace(prompt, video=None)
    return costs_for(pair, prompt, adapter=adapter, refresh=refresh, report=report)
