"""How figures are said: what is undefined as a dash, an interval beside every figure that has one."""

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "–"
PLAIN = "none"
"""The contender that decodes plainly, as ``bench.paired`` names it."""


def known(value: Any) -> float | None:
    """A finite number as float; None for what is undefined (null in a record). TypeError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is not a number")
    return float(value) if math.isfinite(value) else None


def figure(value: Any, digits: int = 2, unit: str = "") -> str:
    """A number with ``digits`` decimals."""
    number = known(value)
    return NOTHING if number is None else f"{number:,.{digits}f}{unit}"


def count(value: Any) -> str:
    """A whole number."""
    return figure(value, 0)


def band(low: Any, high: Any, digits: int = 2) -> str:
    """Both ends of an interval, "" where there is none."""
    if known(low) is None or known(high) is None:
        return ""
    return f"{figure(low, digits)} to {figure(high, digits)}"


def estimate(body: Mapping[str, Any] | None, digits: int = 2, unit: str = "") -> str:
    """A record's ``Estimate``: the figure and its interval."""
    if body is None:
        return NOTHING
    ends = band(body["low"], body["high"], digits)
    return figure(body["value"], digits, unit) + (f" ({ends})" if ends else "")


def several(number: int, one: str) -> str:
    """ "1 clip", "3 clips"."""
    return f"{number:,} {one}" + ("" if number == 1 else "s")


def basis(samples: Any, recordings: Any) -> str:
    """What intervals rest on."""
    return f"{count(samples)} samples, 95 % intervals over {several(int(recordings), 'recording')}"


def short(value: Any, width: int = 120) -> str:
    """Anything of a record in one line of at most ``width`` characters."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if math.isfinite(value) else NOTHING
    if isinstance(value, Mapping):
        value = "  ".join(f"{key} {short(part)}" for key, part in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(short(part) for part in value)
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"
