"""A measured curve between and beyond the points at which it was measured. Standard library only."""

from bisect import bisect_left
from collections.abc import Mapping


def interpolate(points: Mapping[int, float], at: float) -> float:
    """Piecewise linear through ``points`` (one at least), constant to the left, last slope to the right."""
    keys = sorted(points)
    if at <= keys[0] or len(keys) == 1:
        return points[keys[0]]
    right = min(max(bisect_left(keys, at), 1), len(keys) - 1)
    low, high = keys[right - 1], keys[right]
    return points[low] + (points[high] - points[low]) * (at - low) / (high - low)
