"""Shares of a round with a drafting head, on a clock that only the network and the target move."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from crossdraft.bench.league import Method
from crossdraft.bench.round_shares import round_shares


@dataclass
class Clock:
    ms: float = 0.0


@dataclass(frozen=True)
class Head:
    clock: Clock
    config: str = "its own"

    def step(self, ms: float) -> str:
        self.clock.ms += ms
        return "guesses"

    scores = step

    def logits(self, ms: float) -> str:
        return self.scores(ms)  # counted once


@dataclass(frozen=True)
class Drafter:
    head: Any
    seen: list[Any] = field(default_factory=list)


def test_what_is_neither_network_nor_target_is_bookkeeping() -> None:
    clock, made = Clock(), Drafter(Head(Clock()))

    def answer(drafter: Any, prompt: Any, max_new_tokens: int, clock: Any = None) -> Any:
        made.seen.append(drafter)
        rounds = []
        for _ in range(3):
            drafter.head.clock.ms += 1  # choosing
            assert drafter.head.step(3) == drafter.head.logits(1) == drafter.head.scores(1) == "guesses"
            assert drafter.head.config == "its own"
            rounds.append(SimpleNamespace(spans_ms={"draft": 6.0, "verify": 13.0, "commit": 1.0}))
        return SimpleNamespace(rounds=rounds)

    bench: Any = SimpleNamespace(answer=answer)
    methods = [
        Method(name="tree", make=lambda settings: Drafter(Head(clock), made.seen)),
        Method(name="no head", make=lambda settings: SimpleNamespace()),  # type: ignore[arg-type,return-value]
        Method(name="theirs", foreign=True, make=lambda settings: pytest.fail("is not ours")),
        Method(name="broken", make=lambda settings: 1 / 0),  # type: ignore[arg-type,return-value]
    ]
    told, broken = round_shares(bench, methods, "prompt", now=lambda: clock.ms / 1e3)  # type: ignore[arg-type]
    assert broken == {
        "method": "broken", "network": None, "bookkeeping": None, "verify": None, "commit": None, "round_ms": None,
        "error": "ZeroDivisionError: division by zero",
    }  # fmt: skip
    assert told == {
        "method": "tree", "network": pytest.approx(0.25), "bookkeeping": pytest.approx(0.05),
        "verify": pytest.approx(0.65), "commit": pytest.approx(0.05), "round_ms": pytest.approx(20),
    }  # fmt: skip
    assert len(made.seen) == 2, "once to warm up"
