"""Where a round's time goes with a drafting head: its network, the target's pass, and the bookkeeping of trees."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from crossdraft.bench.league import Method
from crossdraft.bench.stopwatch import Sync
from crossdraft.bench.workbench import Workbench
from crossdraft.core.clock import Clock
from crossdraft.core.prompt import Prompt

NETWORK = ("begin", "extend", "step", "logits", "scores")
"""Calls of a head in which its network runs."""


class _Timed:
    """A head that counts the seconds its network runs, to the end of what it started on its device."""

    def __init__(self, head: Any, sync: Sync, now: Callable[[], float]) -> None:
        self._head, self._sync, self._clock, self.seconds = head, sync, now, 0.0

    def _now(self) -> float:
        if self._sync is not None:
            self._sync()
        return self._clock()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._head, name)
        if name not in NETWORK:
            return value

        def timed(*args: Any) -> Any:
            start = self._now()
            out = value(*args)
            self.seconds += self._now() - start
            return out

        return timed


def round_shares(
    bench: Workbench, methods: Sequence[Method], prompt: Prompt, *, max_new_tokens: int = 64,
    sync: Sync = None, now: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each method that drafts with a head: shares of its rounds in one greedy answer, after one to warm up.

    Each: {"method", "network", "bookkeeping", "verify", "commit", "round_ms"}. network: in the head's own layers;
    bookkeeping: the rest of drafting, which is choosing nodes (their softmax included) and gathering them; verify
    and commit as everywhere. The four shares sum to 1. A method that fails here, after all the work, has "error"
    and no figures.
    """
    told = []
    for method in methods:
        if method.make is None or method.foreign:
            continue
        try:
            drafter: Any = method.make(method.settings)
            if not hasattr(getattr(drafter, "head", None), "logits"):
                continue
            bench.answer(drafter, prompt, max_new_tokens)
            timed = _Timed(drafter.head, sync, now)
            answer = bench.answer(replace(drafter, head=timed), prompt, max_new_tokens, clock=Clock(sync=sync))
        except Exception as error:
            told.append({"method": method.name, **_UNKNOWN, "error": f"{type(error).__name__}: {error}"})
            continue
        told.append({"method": method.name, **_shares(answer.rounds, timed.seconds * 1e3)})
    return told


_UNKNOWN = dict.fromkeys(("network", "bookkeeping", "verify", "commit", "round_ms"))


def _shares(rounds: Sequence[Any], network_ms: float) -> dict[str, float | None]:
    spent = {name: sum(r.spans_ms.get(name, 0.0) for r in rounds) for name in ("draft", "verify", "commit")}
    total = sum(spent.values())
    if not total:
        return {**_UNKNOWN}
    return {
        "network": network_ms / total, "bookkeeping": (spent["draft"] - network_ms) / total,
        "verify": spent["verify"] / total, "commit": spent["commit"] / total, "round_ms": total / len(rounds),
    }  # fmt: skip
