"""Medians of repeated runs, taken so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from crossdraft.core.protocols import VLM, VLMSession
from crossdraft.core.tree import static_tree
from crossdraft.core.types import Draft

Now = Callable[[], float]
Sync = Callable[[], None] | None
K = TypeVar("K")


def median_ms(
    run: Callable[[], Any], repeats: int, budget_ms: float = 2000.0, sync: Sync = None,
    now: Now = time.perf_counter,
) -> float:  # fmt: skip
    """Median time of ``run()`` after one warm-up; stops early when ``budget_ms`` is spent (3 runs at least)."""
    return medians_ms({0: run}, repeats, budget_ms, sync, now)[0]


def medians_ms(
    runs: Mapping[K, Callable[[], Any]], repeats: int, budget_ms: float = 2000.0, sync: Sync = None,
    now: Now = time.perf_counter,
) -> dict[K, float]:  # fmt: skip
    """Median time of each run, taken in turn, after one warm-up of all.

    sync: waits for the device. Stops early when ``budget_ms`` a run is spent (3 of each at least).
    """

    def once(run: Callable[[], Any]) -> float:
        start = now()
        run()
        if sync is not None:
            sync()
        return (now() - start) * 1e3

    for run in runs.values():
        once(run)
    rows: list[list[float]] = []
    while len(rows) < repeats and (len(rows) < 3 or sum(map(sum, rows)) < budget_ms * len(runs)):
        rows.append([once(run) for run in runs.values()])
    return {name: statistics.median(column) for name, column in zip(runs, zip(*rows, strict=True), strict=True)}


def rooted(model: VLM, encoded: Any, room: int) -> VLMSession:
    """A session right after its prefill, with the model's own first token as root; waits for the device."""
    session = model.prefill(encoded, room=room)
    session.commit((), int(session.first.logits[-1].argmax()))
    return session


TREE_WIDTHS = (4, 8, 16, 32, 64)
"""Rows of the passes over trees that are timed; of fewer rows there is hardly a tree that is no chain."""


def tree_widths(model: VLM, room: int) -> list[int]:
    """Those that ``model`` can take with ``room`` positions left: none where it takes chains only."""
    return [] if getattr(model, "chains_only", False) else [width for width in TREE_WIDTHS if width <= room]


def chain(nodes: int) -> Draft:
    """Any chain."""
    return Draft.chain([1 + i % 7 for i in range(nodes)])


def typical_tree(nodes: int) -> Draft:
    """Any tokens in the tree that is best for a head whose first guess is right in 60 of 100 cases, and every
    further one in 0.4 times as many as the one before."""
    accuracies = torch.tensor([[0.6 * 0.4**rank for rank in range(8)]] * 6)
    parents = static_tree(accuracies, nodes).parents
    return Draft(torch.tensor([1 + i % 7 for i in range(nodes)]), torch.tensor(parents))


def passes_ms(
    session: VLMSession, widths: Sequence[int], repeats: int = 9, shape: Callable[[int], Draft] = chain,
    sync: Sync = None, now: Now = time.perf_counter,
) -> dict[int, float]:  # fmt: skip
    """Median time of a target pass over so many new positions; a pass repeats one score without committing.

    shape: of what hangs below the root, by the number of its nodes. The session needs room for the widest. Raises
    SettingError when it has none.
    """
    drafts = {width: shape(width - 1) for width in widths}
    if not drafts:
        return {}
    runs = {width: partial(session.score, draft) for width, draft in drafts.items()}
    return medians_ms(runs, repeats, sync=sync, now=now)
