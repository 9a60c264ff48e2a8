"""A generation in numbers, and the honest sentence on what drafting gained in it."""

import math
from dataclasses import asdict
from typing import Any

from crossdraft.core.types import Generation

# two runs of the same thing differ by about this much on a shared machine
NOISE = 0.03


def describe(answer: Generation) -> dict[str, Any]:
    """All of an answer but its rounds, ready for JSON. Times in milliseconds, tau None when there was no pass."""
    return {
        "text": answer.text,
        "tokens": list(answer.tokens),
        "finish_reason": answer.finish_reason,
        "lossless": answer.lossless,
        "bit_exact": answer.exactness.bit_exact,
        "exactness": answer.exactness.detail,
        "passes": len(answer.rounds),
        "tau": None if math.isnan(answer.tau) else answer.tau,
        "drafted": answer.num_drafted,
        "accepted": answer.num_accepted,
        "spans_ms": dict(answer.spans_ms),
        "window": {key: value for key, value in answer.window.items()},
    }


def rounds_of(answer: Generation) -> list[dict[str, Any]]:
    """Every round, ready for JSON: source, drafted, accepted, emitted, spans_ms."""
    return [asdict(r) for r in answer.rounds]


def compare(plain: Generation, own: Generation) -> dict[str, Any]:
    """Tokens and times of one answer beside plain decoding of the same prompt, run in the same process."""
    identical = plain.tokens == own.tokens
    decode = plain.decode_ms / own.decode_ms if own.decode_ms else None
    whole = plain.total_ms / own.total_ms if own.total_ms else None
    return {
        "identical": identical,
        "plain_decode_ms": plain.decode_ms,
        "plain_total_ms": plain.total_ms,
        "speedup_decode": decode,
        "speedup_e2e": whole,
        "verdict": _sentence(identical, decode, whole, plain, own),
    }


def _sentence(
    identical: bool, decode: float | None, whole: float | None, plain: Generation, own: Generation
) -> str:
    if not identical:
        same = next((i for i, (a, b) in enumerate(zip(plain.tokens, own.tokens, strict=False)) if a != b), None)
        at = min(len(plain.tokens), len(own.tokens)) if same is None else same
        return f"NOT identical to plain decoding: the tokens differ from number {at} on"
    if decode is None or whole is None:
        return "identical to plain decoding; too short to time"
    times = (
        f"decode {own.decode_ms:.0f} against {plain.decode_ms:.0f} ms ({decode:.2f}x), "
        f"the whole request {own.total_ms:.0f} against {plain.total_ms:.0f} ms ({whole:.2f}x), one run each"
    )
    if whole > 1 + NOISE:
        return f"identical to plain decoding, and faster: {times}"
    if whole < 1 - NOISE:
        return f"identical to plain decoding, but nothing was gained, it was slower: {times}"
    return f"identical to plain decoding, and nothing was gained: {times}"
