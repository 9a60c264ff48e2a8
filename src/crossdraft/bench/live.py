"""The live check: drafters in the real loop, on the wall clock, beside plain decoding and the controls."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from crossdraft.bench.paired import PLAIN, Answer, run_paired, summarise
from crossdraft.bench.trace import Watched, pictures_of, trace_of
from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.core.clock import Clock
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Drafter
from crossdraft.core.types import Generation

PREDICTED = ("tau", "speedup_decode", "speedup_e2e")
"""Figures of a row that may have been predicted."""


@dataclass(frozen=True)
class Contender:
    """A drafter with the prompts that it is given: a control may see other events. expected: what was predicted of
    it before it ran, by the names of the row's figures."""

    name: str
    drafter: Drafter
    prompts: Sequence[Prompt]
    is_control: bool = False
    expected: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveRun:
    """rows: figures of each contender; answers: every generation by contender; traces: of the first prompts."""

    rows: list[dict[str, Any]]
    answers: dict[str, list[Generation]]
    traces: list[dict[str, Any]]


def run_live(
    bench: Workbench,
    contenders: Sequence[Contender],
    *,
    max_new_tokens: int = 128,
    traces: int = 3,
    seed: int = 0,
    report: Report = silent,
) -> LiveRun:
    """Let every contender answer every prompt, beside plain decoding, in an order drawn anew for each prompt.

    traces: how many of the first prompts are kept with their pictures, drafts and timeline. The rows are those of
    ``bench.paired`` with what was expected of each. Raises what the models raise.
    """
    prompts = contenders[0].prompts
    everyone = [Contender(PLAIN, bench.make_drafter("none"), prompts), *contenders]
    told: dict[int, list[dict[str, Any]]] = {}

    def answering(contender: Contender) -> Answer:
        def answer(number: int) -> Generation:
            if number >= traces:
                return bench.answer(contender.drafter, contender.prompts[number], max_new_tokens)
            watched = Watched(contender.drafter)
            made = bench.answer(watched, contender.prompts[number], max_new_tokens, clock=Clock(trace=True))
            lane = "event model" if watched.needs.events else "drafter"
            told.setdefault(number, []).append(
                trace_of(contender.name, made, watched.drafts, bench.target.tokenizer, lane)
            )
            return made

        return answer

    answers = run_paired({c.name: answering(c) for c in everyone}, len(prompts), seed=seed, report=report)
    rows = [
        asdict(row)
        | {"is_control": c.is_control}
        | {f"predicted_{figure}": c.expected.get(figure) for figure in PREDICTED}
        for row, c in zip(summarise(answers, seed), everyone, strict=True)
    ]
    order = [c.name for c in everyone]
    return LiveRun(
        rows,
        answers,
        [
            {
                "title": f"clip {number + 1}", "question": prompts[number].question, **pictures_of(prompts[number]),
                # the warm-up answered the first prompt once more, before all others
                "methods": sorted({m["name"]: m for m in methods}.values(), key=lambda m: order.index(m["name"])),
            }
            for number, methods in sorted(told.items())
        ],
    )  # fmt: skip
