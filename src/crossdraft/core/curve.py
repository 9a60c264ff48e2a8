"""A measured curve between and beyond the points at which it was measured. Standard library only."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any


def points_of(stored: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[int, float]:
    """A curve out of a record: {rows as text: ms}, or pairs. Raises TypeError and ValueError for anything else."""
    pairs = stored.items() if isinstance(stored, Mapping) else stored
    return {int(at): float(value) for at, value in pairs}


def interpolate(points: Mapping[int, float], at: float) -> float:
    """Piecewise linear through ``points`` (one at least), constant to the left, last slope to the right."""
    keys = sorted(points)
    if at <= keys[0] or len(keys) == 1:
        return points[keys[0]]
    right = min(max(bisect_left(keys, at), 1), len(keys) - 1)
    low, high = keys[right - 1], keys[right]
    return points[low] + (points[high] - points[low]) * (at - low) / (high - low)
