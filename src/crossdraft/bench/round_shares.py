"""Where a round's time goes with a drafting head: its network, the target's pass, and the bookkeeping of trees."""

import copy
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


class _Timer:
    """The seconds that a head's network runs, to the end of what it started on its device."""

    def __init__(self, sync: Sync, now: Callable[[], float]) -> None:
        self._sync, self._clock, self._within, self.seconds = sync, now, False, 0.0

    def of(self, head: Any) -> Any:
        """The same head, timed: a copy, whose other attributes are as quick to find as its own."""
        timed = copy.copy(head)
        for name in NETWORK:
            if hasattr(head, name):
                object.__setattr__(timed, name, self._timing(getattr(timed, name)))
        return timed

    def _now(self) -> float:
        if self._sync is not None:
            self._sync()
        return self._clock()

    def _timing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            if self._within:  # one that another calls
                return call(*args)
            self._within, start = True, self._now()
            try:
                return call(*args)
            finally:
                self._within = False
                self.seconds += self._now() - start

        return timed


def round_shares(
    bench: Workbench, methods: Sequence[Method], prompt: Prompt, *, max_new_tokens: int = 64,
    sync: Sync = None, now: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each method that drafts with a head: shares of its rounds in one greedy answer, after one to warm up.

    Each: {"method", "network", "bookkeeping", "verify", "commit", "round_ms"}. network: in the head's own layers;
    bookkeeping: the rest of drafting, which is choosing nodes (their softmax included) and their embeddings; verify
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
            timer = _Timer(sync, now)
            timed = replace(drafter, head=timer.of(drafter.head))
            answer = bench.answer(timed, prompt, max_new_tokens, clock=Clock(sync=sync))
        except Exception as error:
            told.append({"method": method.name, **_UNKNOWN, "error": f"{type(error).__name__}: {error}"})
            continue
        told.append({"method": method.name, **_shares(answer.rounds, timer.seconds * 1e3)})
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
