"""The live check of an evaluation: adapters draft on the wall clock, beside what was predicted of them.

The prediction comes first: acceptance from stored pairs of the same clips and questions, times from a stopwatch.
Then the same questions are answered for real.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from crossdraft.bench.live import Contender, run_live
from crossdraft.bench.rounds import measure_rounds
from crossdraft.bench.workbench import Workbench
from crossdraft.build import Pair, make_drafter, workbench
from crossdraft.core.errors import DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import CostCurve, Drafter
from crossdraft.core.provenance import provenance
from crossdraft.data.store import Store
from crossdraft.evaluate.acceptance import Rounds, as_record, round_figures
from crossdraft.evaluate.intervals import Recordings
from crossdraft.evaluate.latency import Times, best_length, times_from_figures
from crossdraft.evaluate.offline import Candidate, Judged, play
from crossdraft.evaluate.prediction import Acceptance, alphas_from_rounds, predict
from crossdraft.extraction.jobs import Job, choose_jobs, shuffled
from crossdraft.study.evaluation import LENGTH, Report

KIND = "live"
CONTROLS = ("constant", "ngram", "memory")


@dataclass(frozen=True, eq=False)
class Entrant:
    """A drafter of the event model's states: with ``candidate.adapter``, or with the event model's own head.

    pair: the target, and the event model whose states are in ``store``. judged: what the candidate made of that
    store. with_shuffled: run it on other clips' events as well.
    """

    candidate: Candidate
    pair: Pair
    store: Store
    judged: Judged
    with_shuffled: bool = False


def check_live(
    entrants: Sequence[Entrant],
    jobs: Sequence[Job],
    *,
    count: int = 24,
    max_new_tokens: int = 128,
    traces: int = 3,
    seed: int = 0,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """The body of a live record: every entrant, a control on shuffled events where asked for, the controls that
    know nothing of the clip, and plain decoding, on the same questions, in an order drawn anew for each.

    Each entrant drafts as many tokens a round as promise the shortest time, by times measured in the loop on other
    questions. Raises DataError when the stores lack a chosen job.
    """
    chosen = choose_jobs(jobs, count)
    everything = {job.id: job for job in shuffled(jobs)}
    prompts = [job.load() for job in chosen]
    others = [everything[job.id].seen(prompt) for job, prompt in zip(chosen, prompts, strict=True)]
    # the event model begins behind the target, so that its time is paid and not hidden
    bench = workbench(entrants[0].pair, prompts[0], window="off", report=report)
    contenders: list[Contender] = []
    lengths: dict[str, int] = {}
    timed = _others(jobs, chosen)
    for number, entrant in enumerate(entrants):
        name = entrant.candidate.name
        report(f"predicting {name}", number, len(entrants))

        def make(length: int, entrant: Entrant = entrant) -> Drafter:
            return _drafter(entrant, length, bench.costs)

        measured = measure_rounds(bench, make, timed, max_new_tokens)
        length, expected = expect(entrant, [job.id for job in chosen], times_from_figures({}, measured))
        lengths[name] = length
        contenders.append(Contender(name, make(length), prompts, expected=expected))
        if entrant.with_shuffled:
            control = f"{name} (shuffled clip)"
            lengths[control] = length
            contenders.append(Contender(control, make(length), others, is_control=True))
    contenders += [Contender(name, bench.make_drafter(name), prompts, is_control=True) for name in CONTROLS]
    run = run_live(bench, contenders, max_new_tokens=max_new_tokens, traces=traces, seed=seed, report=report)
    recordings = Recordings.of([job.recording for job in chosen], draws=2000 if _several(chosen) else 0)
    for row in run.rows:
        row["length"] = lengths.get(row["drafter"])
        rounds = round_figures(Rounds.of(run.answers[row["drafter"]]), recordings)
        row["rounds"] = as_record(rounds)
    exact = bench.target.exactness
    return {
        "clips": len(chosen), "num_recordings": len(recordings.names), "question": chosen[0].question,
        "max_new_tokens": max_new_tokens, "window": "off", "bit_exact": exact.bit_exact, "exactness": exact.detail,
        "as_stored": _same_answers(bench, entrants[0].store, chosen, run.answers["none"]),
        "rows": run.rows, "traces": run.traces, "provenance": provenance(),
    }  # fmt: skip


def expect(entrant: Entrant, ids: Sequence[str], times: Times) -> tuple[int, dict[str, float]]:
    """(tokens of a draft, what is predicted of decoding the samples ``ids`` with such drafts): modelled figures.

    Length: the best by the acceptance on the whole store and the measured times, at least 1. Then tau, pooled, and
    the ratios of summed times, from the acceptance on the samples themselves. Raises DataError when the store lacks
    one of them, or the candidate cannot draft.
    """
    runs = entrant.judged.runs
    if runs is None:
        why = entrant.candidate.void or "its store is not teacher-forced"
        raise DataError(f"'{entrant.candidate.name}' cannot draft: {why}")
    places = {entry.id: place for place, entry in enumerate(entrant.store.entries)}
    if lacking := [name for name in ids if name not in places]:
        raise DataError(
            f"{entrant.store.root}: lacks {len(lacking)} of {len(ids)} samples to check live ('{lacking[0]}'); "
            "extract the same clips and questions first"
        )
    some = [runs[places[name]] for name in ids]
    length = max(1, best_length(times, alphas_of(runs, LENGTH)))
    acceptance = Acceptance(alphas_of(some, length))
    by_length = Counter(len(own) for own in some)
    answers = [(predict(times, acceptance, tokens, drafted=length), many) for tokens, many in by_length.items()]
    plain, own, rounds, tokens, before = (
        sum(many * value(p) for p, many in answers)
        for value in (
            lambda p: p.plain_ms,
            lambda p: p.total_ms,
            lambda p: p.rounds,
            lambda p: p.tokens - 1,
            lambda p: times.target_encode_ms + times.target_prefill_ms,
        )
    )
    return length, {
        "tau": tokens / rounds if rounds else 1.0,
        "speedup_e2e": plain / own,
        # the event model's start is a cost of decoding, as on the clock
        "speedup_decode": (plain - before) / (own - before) if own > before else 1.0,
    }


def alphas_of(runs: Sequence[Int[np.ndarray, "K"]], length: int) -> tuple[float, ...]:
    """Acceptance rate at each depth of drafts of ``length`` tokens, played through ``runs`` of a ``Judged``."""
    rounds = play(runs, length)
    counts = zip(rounds.drafted, rounds.accepted, rounds.emitted, strict=True)
    return alphas_from_rounds({"drafted": int(d), "accepted": int(a), "emitted": int(e)} for d, a, e in counts)


def _others(jobs: Sequence[Job], chosen: Sequence[Job]) -> list[Prompt]:
    """The questions by which times are measured: not those that will be answered, where there are others."""
    known = {job.id for job in chosen}
    left = [job for job in jobs if job.id not in known] or list(chosen)
    return [left[0].load(), left[len(left) // 2].load()]


def _drafter(entrant: Entrant, length: int, costs: CostCurve) -> Drafter:
    return make_drafter(
        "cross_modal", target=entrant.pair.target, event_model=entrant.pair.event_model,
        adapter=entrant.candidate.adapter, length=length, costs=costs,
    )  # fmt: skip


def _several(jobs: Sequence[Job]) -> bool:
    return len({job.recording for job in jobs}) > 1


def _same_answers(bench: Workbench, store: Store, jobs: Sequence[Job], answers: Sequence[Any]) -> float:
    """Share of plain decoding's answers that are the stored ones: below 1, the store is of another machine's
    arithmetic, and predictions rest on other answers."""
    stored = [store[job.id].target_tokens for job in jobs]
    same = [
        tokens is not None and answer.tokens == tokens.tolist()
        for tokens, answer in zip(stored, answers, strict=True)
    ]
    return float(np.mean(same))
