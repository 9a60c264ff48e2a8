"""What the parts of a request cost while it runs: measured in real requests, not each part by itself.

A part that is timed by itself finds its weights in the processor's caches; in a request each model has just driven
out the other's. On the built-in pair that is 5 to 40 % of a part's time. So a prediction that shall be held against
a stopwatch is made of times that were taken in the loop, as means, since what a request takes is a sum.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import mean

from crossdraft.bench.workbench import Workbench
from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Drafter
from crossdraft.core.types import Generation, Round

LENGTHS = (1, 6)
"""Tokens of the drafts that are timed; between and beyond them times are drawn out as a line."""


def measure_rounds(
    bench: Workbench, make: Callable[[int], Drafter], prompts: Sequence[Prompt], max_new_tokens: int
) -> dict[str, float | dict[int, float]]:
    """Answer ``prompts`` plainly and with drafts of each of ``LENGTHS``; figures by the names of
    ``evaluate.latency.Times``, in ms.

    make: a drafter of so many tokens a round. The window must be off: what a drafter reads before its first draft
    is then part of the first round, and is told as event_encode_ms. Raises DataError when the answers are too short
    to time drafts in.
    """
    plain: list[Generation] = []
    own: dict[int, list[Generation]] = {length: [] for length in LENGTHS}
    bench.answer(make(LENGTHS[0]), prompts[0], max_new_tokens)  # a warm-up that nobody times
    for prompt in prompts:
        plain.append(bench.answer(bench.make_drafter("none"), prompt, max_new_tokens))
        for length in LENGTHS:
            own[length].append(bench.answer(make(length), prompt, max_new_tokens))
    short, long = LENGTHS
    draft, verify, commit = (
        {length: _mean(part, _later(answers, length), length) for length, answers in own.items()}
        for part in ("draft", "verify", "commit")
    )
    step = max(0.0, (draft[long] - draft[short]) / (long - short))
    starts = [
        answer.rounds[0].spans_ms["draft"] - draft[length]
        for length, answers in own.items()
        for answer in answers
        if answer.rounds and answer.rounds[0].drafted == length
    ]
    return {
        "target_encode_ms": mean(answer.spans_ms["encode"] for answer in plain),
        "target_prefill_ms": mean(answer.spans_ms["prefill"] for answer in plain),
        "step_ms": mean(sum(r.spans_ms.values()) for answer in plain for r in answer.rounds),
        "verify_ms": {length + 1: ms for length, ms in verify.items()},
        "draft_step_ms": step,
        "overhead_ms": max(0.0, draft[short] - short * step + commit[short]),
        "event_encode_ms": max(0.0, mean(starts)) if starts else 0.0,
        "event_prefill_ms": 0.0,
    }


def _later(answers: Iterable[Generation], length: int) -> list[Round]:
    """Whole drafts behind the first round, which also reads the prompt."""
    return [r for answer in answers for r in answer.rounds[1:] if r.drafted == length]


def _mean(part: str, rounds: Sequence[Round], length: int) -> float:
    if not rounds:
        raise DataError(f"the answers are too short to time drafts of {length} tokens in; allow longer ones")
    return mean(r.spans_ms[part] for r in rounds)
