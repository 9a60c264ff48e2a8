"""What drafting costs besides passes: a round's remainder, the prefill beside a busy event model, an adapter.

All by running the very thing: the decoding loop with the event model drafting, both models side by side in the
window's own thread, the adapter at the shapes of a draft step.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from crossdraft.adapters import Adapter
from crossdraft.adapters.base import DRAFT, TARGET, TOKENS
from crossdraft.bench.stopwatch import Now, Sync, median_ms, rooted
from crossdraft.bench.workbench import Flat
from crossdraft.core.clock import Clock
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, VLMSession, Window
from crossdraft.core.types import Draft, Limits, Sampling, Scores
from crossdraft.decode.loop import generate
from crossdraft.decode.window import run_together
from crossdraft.drafters.cross_modal import CrossModal
from crossdraft.verify import rule_for

DRAFTED = 4
"""Tokens of the drafts in which a round's remainder is measured."""

ANSWER_ROWS = 64
"""Length of the answer over which an adapter looks back."""

_ROOM = 40
_NOTHING = Draft.chain([])


class _Timed:
    """A model whose sessions note how long each of their passes takes."""

    def __init__(self, model: VLM, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self.passes_ms: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prefill(self, encoded: Any, capture: tuple[int, ...] = (), room: int = 512) -> VLMSession:
        return cast(VLMSession, _TimedSession(self._model.prefill(encoded, capture, room), self))

    def take(self) -> list[float]:
        passes, self.passes_ms = self.passes_ms, []
        return passes

    def time(self, run: Callable[[], Scores]) -> Scores:
        start = self._clock.now_ms()
        scores = run()
        self.passes_ms.append(self._clock.now_ms() - start)
        return scores


class _TimedSession:
    def __init__(self, inner: VLMSession, model: _Timed) -> None:
        self._inner, self._model = inner, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def score(self, draft: Draft) -> Scores:
        return self._model.time(lambda: self._inner.score(draft))


def overhead_ms(
    target: VLM, event_model: VLM, prompt: Prompt, *, rounds: int = 9, sync: Sync = None,
    now: Now = time.perf_counter,
) -> float | None:  # fmt: skip
    """Median of what a round of ``DRAFTED`` drafted tokens takes besides a pass for each of them and the target's.

    Such as going back to the verified text, both commits, and the loop itself. None when the event model cannot
    follow the target's words.
    """
    clock = Clock(now, sync)
    own, verifying = _Timed(event_model, clock), _Timed(target, clock)
    drafter: Any = CrossModal(
        event_model=cast(VLM, own), costs=Flat(), token_ms=0.0, max_ahead=DRAFTED, room=_ROOM + DRAFTED
    )
    passes: list[tuple[list[float], list[float]]] = []
    answer = generate(
        cast(VLM, verifying), drafter, prompt, rule=rule_for(Sampling()), clock=clock,
        limits=Limits(max_new_tokens=_ROOM), on_tokens=lambda _: passes.append((own.take(), verifying.take())),
        cancel=lambda: len(passes) > rounds + 1,
    )  # fmt: skip
    # the first entry is the first token's; the first round reads the event model's prompt and warms everything up
    left = [
        sum(step.spans_ms.values()) - sum(verified) - sum(drafted[-step.drafted :])
        for step, (drafted, verified) in list(zip(answer.rounds, passes[1:], strict=True))[1:]
        if step.drafted == DRAFTED
    ]
    return max(0.0, statistics.median(left)) if left else None


def side_by_side(
    target: VLM, event_model: VLM, prompt: Prompt, *, repeats: int = 3, now: Now = time.perf_counter
) -> tuple[float, float]:
    """(by what factor the target's encode and prefill take longer while the event model works beside them on the
    same device, ms until both have prefilled), medians, alone and together in turn after a warm-up of each.

    The event model reads its prompt and then writes on until the target is ready, as in an overlapped window.
    """
    alone, shared, both = [], [], []
    for _ in range(repeats + 1):
        start = now()
        rooted(target, target.encode(prompt), 8)
        alone.append(now() - start)
        ready, all_ready = _together(target, event_model, prompt, now)
        shared.append(ready)
        both.append(all_ready)
    medians = [statistics.median(times[1:]) for times in (alone, shared, both)]
    stretch = medians[1] / medians[0] if medians[0] else 1.0
    return max(1.0, stretch), medians[2] * 1e3


def _together(target: VLM, event_model: VLM, prompt: Prompt, now: Now) -> tuple[float, float]:
    """Seconds until the target is ready, and until both are."""
    read: list[float] = []

    def begin(window: Window) -> Any:
        session = rooted(event_model, event_model.encode(prompt), 8)
        read.append(now())
        while window.is_open:
            int(session.score(_NOTHING).logits[-1].argmax())
        return session

    def prefill() -> float:
        rooted(target, target.encode(prompt), 8)
        return now()

    start = now()
    ready, join, _ = run_together("overlapped", begin, prefill, Clock(now))
    join()
    return ready - start, max(ready, read[0]) - start


@torch.inference_mode()
def adapter_ms(
    adapter: Adapter, target: VLM, *, repeats: int = 9, sync: Sync = None, now: Now = time.perf_counter
) -> float:
    """Median time from an event model's state to a token: the adapter, then the target's head on its last row.

    One row for a level that looks at one position alone, else the answer so far, ``ANSWER_ROWS`` of them.
    """
    rows = 1 if adapter.pointwise else ANSWER_ROWS
    weight = next(adapter.parameters())
    tokens = torch.ones(rows, dtype=torch.long)
    head = target.embed(tokens[:1])

    def states(name: str, width: int) -> Tensor | None:
        return weight.new_ones((1, rows, width)) if name in adapter.inputs else None

    draft, known = states(DRAFT, adapter.width_in), states(TARGET, adapter.width_out)

    def step() -> int:
        said = target.embed(tokens).to(weight)[None] if TOKENS in adapter.inputs else None
        adapted = adapter(draft, target_states=known, token_embeddings=said)[0, -1:]
        return int(target.unembed(adapted.to(head)).argmax())

    return median_ms(step, repeats, sync=sync, now=now)
