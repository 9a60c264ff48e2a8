"""The cost of a verification pass by its width, at two lengths of the context: what a drafter has to earn back."""

import time
from collections.abc import Sequence
from typing import Any

from crossdraft.bench.stopwatch import Now, Sync, passes_ms, rooted, tree_widths, typical_tree
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.types import Draft

WIDTHS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
FURTHER = 512
"""Positions between the two contexts."""

_CHUNK, _LEAST = 32, 64


def verify_costs(
    target: VLM, prompt: Prompt, *, widths: Sequence[int] = WIDTHS, further: int = FURTHER, repeats: int = 9,
    sync: Sync = None, now: Now = time.perf_counter,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measured medians behind ``prompt``, and behind ``further`` positions more (fewer where the context ends, and
    not at all where hardly any are left).

    Each: {"context", "passes": [{"width", "ms", "ratio"}], "trees": the same of a root and a tree as heads draft
    them, for widths up to the widest of ``widths``}; ratio is v(w), the time over that of a plain step.
    """
    encoded = target.encode(prompt)
    before = rooted(target, encoded, max(widths) + 8).length
    left = target.max_positions - before - max(widths) - _CHUNK
    further = min(further, left)
    trees_of = tree_widths(target, max(widths))
    session = rooted(target, encoded, max(widths) + _CHUNK + max(further, 0))

    def told_here() -> dict[str, Any]:
        passes = passes_ms(session, widths, repeats, sync=sync, now=now)
        trees = passes_ms(session, trees_of, repeats, typical_tree, sync=sync, now=now)
        step = passes[min(passes)]
        return {"context": session.length, "passes": _listed(passes, step), "trees": _listed(trees, step)}

    told = [told_here()]
    if further >= _LEAST:
        while session.length < before + further:
            session.rewind(session.mark())  # drops the pass that was only timed
            session.score(Draft.chain([1 + i % 7 for i in range(_CHUNK - 1)]))
            session.commit(tuple(range(_CHUNK - 1)), 1)
        told.append(told_here())
    return told


def _listed(passes: dict[int, float], step: float) -> list[dict[str, float]]:
    return [{"width": width, "ms": ms, "ratio": ms / step} for width, ms in passes.items()]
