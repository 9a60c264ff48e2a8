"""What this machine's passes cost for a pair of models, measured once and kept.

The curve ``pass_ms(rows)`` decides how long a draft may be; encode, prefill and draft-token times decide when the
event model runs. Everything here is a stopwatch's median in milliseconds; nothing is modelled.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from crossdraft.adapters import Adapter
from crossdraft.bench.overheads import adapter_ms, overhead_ms, side_by_side
from crossdraft.bench.stopwatch import Now, median_ms, passes_ms, rooted, tree_widths, typical_tree
from crossdraft.core.curve import interpolate, points_of
from crossdraft.core.errors import CrossdraftError, DataError
from crossdraft.core.places import cache_dir
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.provenance import provenance
from crossdraft.core.records import read_record, write_record
from crossdraft.core.types import Draft
from crossdraft.nn import kernels

KIND = "latency-profile"
WIDTHS = (1, 2, 4, 8, 16, 24, 32)
_SPARE = 8
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LatencyProfile:
    """Medians on one machine, all in milliseconds; implements ``core.protocols.TreeCostCurve``.

    target_pass_ms: new positions in one target pass -> time; key 1 is a plain step. target_tree_ms: the same of a
    root and a tree as heads draft them; empty where it was not measured. Event model times are None
    without an event model. ``context`` is the number of cached positions the passes were measured behind.
    adapter_ms: an adapter and the target's head for one drafted token; None without an adapter.
    overhead_ms: what a drafting round takes besides its passes. contention: the target's encode and prefill take so
    many times as long beside the event model on the same device; overlapped_ms: until both have prefilled then.
    These three are None without an event model and in older records.
    """

    target_encode_ms: float
    target_prefill_ms: float
    target_pass_ms: dict[int, float]
    context: int
    event_encode_ms: float | None = None
    event_prefill_ms: float | None = None
    event_token_ms: float | None = None
    adapter_ms: float | None = None
    overhead_ms: float | None = None
    contention: float | None = None
    overlapped_ms: float | None = None
    device: str = "cpu"
    own_device: bool = False
    threads: int = 1
    measured: dict[str, Any] = field(default_factory=dict)
    target_tree_ms: dict[int, float] = field(default_factory=dict)

    def pass_ms(self, rows: int) -> float:
        """Milliseconds of a target pass over ``rows`` new positions: interpolated, and beyond the widest measured
        pass extended with the last slope."""
        return interpolate(self.target_pass_ms, rows)

    def tree_ms(self, rows: int) -> float:
        """Like ``pass_ms``, of a root and a tree of ``rows`` - 1 nodes.

        Below the narrowest tree that was measured it is a chain's, which a tree of two nodes mostly is.
        """
        if not self.target_tree_ms or rows < min(self.target_tree_ms):
            return self.pass_ms(rows)
        return interpolate(self.target_tree_ms, rows)

    def verify_cost_ratio(self) -> dict[int, float]:
        """v(w) = cost of a pass over w positions / cost of a plain step."""
        return {width: ms / self.target_pass_ms[1] for width, ms in self.target_pass_ms.items()}


def measure(
    target: VLM, event_model: VLM | None, prompt: Prompt, *, adapter: Adapter | None = None, repeats: int = 9,
    device: str = "cpu", widths: Sequence[int] = WIDTHS, report: Report = lambda what, done, total: None,
    now: Now = time.perf_counter,
) -> LatencyProfile:  # fmt: skip
    """Measure the pair on ``prompt``. The passes repeat one score without committing, behind the prompt."""
    sync = torch.cuda.synchronize if device.startswith("cuda") else None
    stages = ("target: encode and prefill", "target: passes", "event model", "both side by side", "a round")
    report(stages[0], 0, len(stages))
    encode = median_ms(lambda: target.encode(prompt), 3, sync=sync, now=now)
    encoded = target.encode(prompt)
    prefill = median_ms(lambda: target.prefill(encoded, room=8), 3, sync=sync, now=now)
    report(stages[1], 1, len(stages))
    session = rooted(target, encoded, max(widths) + _SPARE)
    passes = passes_ms(session, widths, repeats, sync=sync, now=now)
    trees: dict[int, float] = {}
    if trees_of := tree_widths(target, target.max_positions - session.length - _SPARE):
        session = rooted(target, encoded, max(trees_of) + _SPARE)
        trees = passes_ms(session, trees_of, repeats, typical_tree, sync=sync, now=now)
    own: dict[str, Any] = {}
    if event_model is not None:
        report(stages[2], 2, len(stages))
        own["event_encode_ms"] = median_ms(lambda: event_model.encode(prompt), 3, sync=sync, now=now)
        seen = event_model.encode(prompt)
        own["event_prefill_ms"] = median_ms(lambda: event_model.prefill(seen, room=8), 3, sync=sync, now=now)
        drafting = rooted(event_model, seen, 8)
        own["event_token_ms"] = median_ms(lambda: drafting.score(Draft.chain([])), repeats, sync=sync, now=now)
        report(stages[3], 3, len(stages))
        own["contention"], own["overlapped_ms"] = side_by_side(target, event_model, prompt, now=now)
        report(stages[4], 4, len(stages))
        own["overhead_ms"] = overhead_ms(target, event_model, prompt, rounds=repeats, sync=sync, now=now)
    if adapter is not None:
        own["adapter_ms"] = adapter_ms(adapter, target, repeats=repeats, sync=sync, now=now)
    return LatencyProfile(
        target_encode_ms=encode, target_prefill_ms=prefill, target_pass_ms=passes, target_tree_ms=trees,
        context=session.length,
        device=device, threads=torch.get_num_threads(), measured=provenance(), **own,
    )  # fmt: skip


_CURVES = ("target_pass_ms", "target_tree_ms")


def cache_path(identity: dict[str, Any]) -> Path:
    """The file of the profile of ``identity`` (models, dtype, device, threads) on this machine."""
    here = provenance()
    key = {
        **identity,
        "machine": here["machine"],
        "torch": here["versions"]["torch"],
        "package": here["versions"]["crossdraft"],
        "kernels": kernels.status().name,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:20]
    return cache_dir() / f"profile-{digest}.json"


def save(profile: LatencyProfile, path: Path) -> None:
    """Keep ``profile`` as a record. CrossdraftError when it cannot be written."""
    body = asdict(profile)
    for curve in _CURVES:
        body[curve] = [[width, ms] for width, ms in body[curve].items()]
    write_record(path, KIND, {"profile": body})


def load(path: Path) -> LatencyProfile | None:
    """The profile kept under ``path``; None when there is none or it cannot be used any more."""
    if not path.is_file():
        return None
    try:
        body = dict(read_record(path, KIND)["profile"])
        for curve in _CURVES:
            body[curve] = points_of(body[curve])
        return LatencyProfile(**body)
    except (DataError, KeyError, TypeError, ValueError):
        return None  # another version wrote it, or it is damaged: it will be measured again


def cached(identity: dict[str, Any], run: Callable[[], LatencyProfile], refresh: bool = False) -> LatencyProfile:
    """The kept profile of ``identity``, else ``run()``, which is then kept (unless the disk refuses)."""
    path = cache_path(identity)
    kept = None if refresh else load(path)
    if kept is not None:
        return kept
    profile = run()
    try:
        save(profile, path)
    except CrossdraftError as error:
        profile.measured["not_kept"] = str(error)
    return profile
