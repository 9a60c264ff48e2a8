"""Does a token cost more late in an answer than early on? Beyond attention, which must read a longer cache."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.core.clock import Clock
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Generation
from crossdraft.nn.attention import attend_chain
from crossdraft.nn.engine import Engine

EARLY, LATE, SPREAD = 64, 1024, 32
MOST_GROWTH = 0.10


def run_growth(
    bench: Workbench, engine: Engine, prompt: Prompt, *, repeats: int = 5, report: Report = silent
) -> dict[str, Any]:
    """Median step time around tokens 64 and 1,024 of the same plain answers, attention's own time taken off both.

    Processor time, so that other work on the machine does not show (run it with one thread: waiting threads count).
    Attention alone is timed within passes of one row behind a cache of the same length, all layers.
    """
    early: list[float] = []
    late: list[float] = []
    positions = 0
    for done in range(repeats):
        report("decoding 1,056 tokens", done, repeats)
        plain = bench.answer(
            bench.make_drafter("none"), prompt, LATE + SPREAD, to_the_end=False, clock=Clock(time.process_time)
        )
        early += _steps(plain, EARLY)
        late += _steps(plain, LATE)
        positions = len(bench.target.prefill(bench.target.encode(prompt), room=8).prompt.tokens)
    step = {EARLY: statistics.median(early), LATE: statistics.median(late)}
    attention = {at: attention_ms(engine, positions + at) for at in (EARLY, LATE)}
    rest = {at: step[at] - attention[at] for at in step}
    growth = rest[LATE] / rest[EARLY] - 1
    return {
        "passed": growth < MOST_GROWTH,
        "verdict": f"a step takes {step[EARLY]:.2f} ms at token {EARLY} and {step[LATE]:.2f} ms at token {LATE}; "
        f"attention alone {attention[EARLY]:.2f} and {attention[LATE]:.2f} ms; the rest grows by {growth:+.1%}",
        "step_ms": step,
        "attention_ms": attention,
        "growth_beyond_attention": growth,
        "prompt_positions": positions,
    }


def _steps(plain: Generation, at: int) -> Sequence[float]:
    return [sum(r.spans_ms.values()) for r in plain.rounds[at - SPREAD : at + SPREAD]]


def attention_ms(engine: Engine, length: int, repeats: int = 50) -> float:
    """Milliseconds of the attention of one row behind ``length`` cached positions, over all layers.

    Timed within whole passes, as its keys and values then come from where they come from in a step: the weights of
    the layers between push them out of the caches.
    """
    cache = engine.new_cache(length + 1)
    spent = 0.0

    def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        nonlocal spent
        began = time.process_time()
        out = attend_chain(q, k, v, cache, layer, length, engine.pins, False)
        spent += time.process_time() - began
        return out

    row = torch.randn(1, engine.config.hidden_size).to(engine.device, engine.dtype)
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            spent = 0.0
            engine.run_layers(row, engine.turns[length : length + 1], attend, (), {})
            times.append(1e3 * spent)
    return statistics.median(times)
