"""The columns of the league: figures of each method's answers beside plain decoding's of the same run.

Terms as everywhere: tau is the acceptance length, pooled, bonus included; alpha_k the acceptance rate at depth k
given that all above it were accepted; speed-ups are ratios of summed times over the same prompts, with intervals
from drawing whole prompts anew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from crossdraft.bench.league import Cost, Method, Played, Results
from crossdraft.bench.paired import PLAIN, Row, summarise
from crossdraft.bench.published_methods import published
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.types import Generation, Round
from crossdraft.decode.audit import audit
from crossdraft.evaluate.acceptance import Rounds, as_record, round_figures
from crossdraft.evaluate.intervals import Recordings, ratio

Body = dict[str, Any]
FOREIGN = "other arithmetic"
"""Output of a row whose answers another library gave: they are compared, and nothing is promised of them."""

DRAFTS = ("training-free", "trained")
"""Kinds of methods that are compared with each other; the others are what they are held against."""

_PERCENTILES = (5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, kw_only=True)
class LeagueRow:
    """One method at one temperature; None where a figure has no meaning, and everywhere in a row with an error.

    output: "lossless", "lossy" or "other arithmetic"; arithmetic: "bit-exact" or "near-exact" (passes of different
    shapes agree up to rounding only). rule: what judged the drafts.
    mismatches: tokens that differ from plain decoding's of the same prompt and seed, position by position, a
    missing or surplus one counts; compared_tokens: plain tokens that they were held against, over all repeats;
    differing_answers: answers with a mismatch; agreeing_tokens: tokens before each answer's first mismatch. None
    where the rule draws otherwise than plain decoding does: the same law, other tokens.
    audit: tokens of greedy answers re-scored through fresh passes, those that are not the target's argmax, and the
    largest logit gap among them.
    reach: share of rounds that accepted the first k drafted tokens, k = 1, 2, ...: they sum to tau_draft.
    nodes, levels: of a draft, means over rounds. drafting_share: of the rounds, those with a draft.
    histogram: rounds by accepted tokens.
    token_ms: percentiles of a token's share of its round; delivery_ms: of the pauses between deliveries.
    first_token_ms: median over requests, encoding and prefill included. shares: of the time in rounds that went
    into drafting, verifying, and committing (which includes what a drafter does on observing).
    draft_cost: c, the time of one level of a draft over a plain step. weight_bytes: of the drafter's own weights.
    """

    method: str
    temperature: float
    kind: str
    note: str
    settings: Body
    published: str | None
    output: str
    lossless: bool
    error: str | None = None
    rule: str | None = None
    arithmetic: str | None = None
    requests: int | None = None
    identical: bool | None = None
    mismatches: int | None = None
    compared_tokens: int | None = None
    differing_answers: int | None = None
    agreeing_tokens: int | None = None
    audit: Body | None = None
    tokens: int | None = None
    rounds: int | None = None
    tau: float | None = None
    tau_interval: list[float | None] | None = None
    tau_draft: float | None = None
    depths: Body | None = None
    reach: list[float] | None = None
    histogram: list[int] | None = None
    nodes: float | None = None
    levels: float | None = None
    drafting_share: float | None = None
    draft_utilisation: float | None = None
    decode_tokens_per_s: float | None = None
    speedup_decode: float | None = None
    speedup_decode_interval: list[float] | None = None
    speedup_e2e: float | None = None
    speedup_e2e_interval: list[float] | None = None
    slower_share: float | None = None
    token_ms: Body | None = None
    delivery_ms: Body | None = None
    first_token_ms: float | None = None
    shares: Body | None = None
    draft_cost: float | None = None
    parameters: int | None = None
    training_tokens: int | None = None
    training_seconds: float | None = None
    weight_bytes: int | None = None
    answers: list[Body] = field(default_factory=list)


def league_rows(
    results: Results, methods: Sequence[Method], temperatures: Sequence[float], auditor: "Auditor", seed: int = 0
) -> list[LeagueRow]:
    """One row for each temperature and method, plain decoding's first; a method that failed is a row as well."""
    rows = []
    for temperature in temperatures:
        plain = results.played[temperature, PLAIN]
        for method in methods:
            played = results.played.get((temperature, method.name))
            if played is None:
                rows.append(LeagueRow(**_named(method, temperature), error=results.failures[method.name]))
            else:
                rows.append(_row(method, temperature, played, plain, results.costs[method.name], auditor, seed))
    return rows


def tau_differences(rows: Sequence[LeagueRow], seed: int = 0) -> list[Body]:
    """For each temperature the lossless drafting methods by falling tau, and by how much each is above the next.

    Both are on the same prompts, which are drawn anew together, so that what makes a prompt easy for both cancels.
    95 % intervals; None with a single prompt.
    """
    told = []
    for temperature in dict.fromkeys(row.temperature for row in rows):
        own = [
            r
            for r in rows
            if r.temperature == temperature and r.tau is not None and r.lossless and r.kind in DRAFTS
        ]
        own.sort(key=lambda row: -(row.tau or 0.0))
        told += [_difference(above, below, seed) for above, below in pairwise(own)]
    return told


def _difference(above: LeagueRow, below: LeagueRow, seed: int) -> Body:
    labels = [str(answer["prompt"]) for answer in above.answers]
    drawn = Recordings.of(labels, draws=2000 if len(set(labels)) > 1 else 0, seed=seed)
    sums = []
    for row in (above, below):
        assert [a["prompt"] for a in row.answers] == [a["prompt"] for a in above.answers]
        # the first token came with the prefill
        emitted = np.array([answer["tokens"] - 1 for answer in row.answers], dtype=float)
        rounds = np.array([answer["rounds"] for answer in row.answers], dtype=float)
        sums.append([drawn.tally(np.arange(len(labels)), values) for values in (emitted, rounds)])
    gap = drawn.paired(ratio, *sums).gap
    low, high = (None if math.isnan(end) else end for end in (gap.low, gap.high))
    return {
        "temperature": above.temperature, "above": above.method, "below": below.method, "difference": gap.value,
        "low": low, "high": high,
    }  # fmt: skip


def _named(method: Method, temperature: float, lossless: bool | None = None) -> Body:
    keeps = method.lossless and not method.foreign and lossless is not False
    return {
        "method": method.name, "temperature": temperature, "kind": method.kind, "note": method.note,
        "settings": dict(method.settings), "published": published(method.name), "lossless": keeps,
        "output": "lossless" if keeps else FOREIGN if method.foreign else "lossy",
    }  # fmt: skip


def _row(
    method: Method, temperature: float, played: Played, plain: Played, cost: Cost, auditor: "Auditor", seed: int
) -> LeagueRow:
    own = played.own
    same_tokens = temperature == 0 or played.rule == plain.rule
    return LeagueRow(
        **_named(method, temperature, all(answer.lossless for answer in own)),
        rule=played.rule,
        arithmetic=None if method.foreign else _arithmetic(own),
        requests=len(own),
        **(compared(played.repeats) if same_tokens else {}),
        audit=auditor.of(played) if temperature == 0 else None,
        first_token_ms=float(np.median([answer.total_ms - answer.decode_ms for answer in own])),
        parameters=cost.parameters, training_tokens=cost.training_tokens,
        training_seconds=cost.training_seconds, weight_bytes=cost.weight_bytes,
        answers=[
            {
                "prompt": prompt, "seed": s, "tokens": len(a.tokens), "rounds": len(a.rounds),
                "decode_ms": a.decode_ms, "total_ms": a.total_ms,
            } for prompt, s, a in zip(played.prompts, played.seeds, own, strict=True)
        ],
        **_speed(summarise({PLAIN: plain.own, method.name: own}, seed, played.prompts)[-1]),
        **_acceptance(method, own, played.prompts, seed),
        **_times(method, own, plain.own),
    )  # fmt: skip


def compared(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Body:
    """The columns that say how far answers are plain decoding's; pairs: (own, plain) tokens of each answer."""
    mismatches = [
        sum(a != b for a, b in zip(own, plain, strict=False)) + abs(len(own) - len(plain)) for own, plain in pairs
    ]
    agreeing = [
        next((i for i, (a, b) in enumerate(zip(own, plain, strict=False)) if a != b), min(len(own), len(plain)))
        for own, plain in pairs
    ]
    return {
        "identical": not any(mismatches), "mismatches": sum(mismatches),
        "compared_tokens": sum(len(plain) for _, plain in pairs),
        "differing_answers": sum(map(bool, mismatches)), "agreeing_tokens": sum(agreeing),
    }  # fmt: skip


@dataclass
class Auditor:
    """Re-scores greedy answers through fresh passes; an answer that several methods gave, once."""

    target: VLM
    prompts: Sequence[Prompt]
    known: dict[tuple[int, tuple[int, ...]], list[float]] = field(default_factory=dict)

    def of(self, played: Played) -> Body:
        """Checked tokens, doubts, the largest gap among the doubts (None without any)."""
        gaps: list[float] = []
        for prompt, answer in zip(played.prompts, played.own, strict=True):
            key = (prompt, tuple(answer.tokens))
            if key not in self.known:
                report = audit(self.target, self.prompts[prompt], answer)
                self.known[key] = [doubt.gap for doubt in report.doubts]
            gaps += self.known[key]
        return {
            "checked": sum(len(answer.tokens) for answer in played.own), "doubts": len(gaps),
            "largest_gap": max(gaps, default=None),
        }  # fmt: skip


def _arithmetic(answers: Sequence[Generation]) -> str:
    return "bit-exact" if all(answer.exactness.bit_exact for answer in answers) else "near-exact"


def _speed(row: Row) -> Body:
    return {
        "tokens": row.tokens, "decode_tokens_per_s": row.decode_tokens_per_s, "slower_share": row.slower_share,
        "speedup_decode": row.speedup_decode, "speedup_decode_interval": list(row.speedup_decode_interval),
        "speedup_e2e": row.speedup_e2e, "speedup_e2e_interval": list(row.speedup_e2e_interval),
    }  # fmt: skip


def _acceptance(method: Method, own: Sequence[Generation], prompts: Sequence[int], seed: int) -> Body:
    rounds = Rounds.of(own)
    if not len(rounds.drafted):
        return {"rounds": 0}
    labels = [str(prompt) for prompt in prompts]
    figures = round_figures(rounds, Recordings.of(labels, draws=2000 if len(set(labels)) > 1 else 0, seed=seed))
    told = as_record(figures)
    body = {
        "rounds": figures.num_rounds, "tau": figures.tau.value, "tau_draft": figures.tau_draft.value,
        "tau_interval": [told["tau"]["low"], told["tau"]["high"]], "histogram": told["histogram"],
        "reach": [float((rounds.accepted >= k).mean()) for k in range(1, len(figures.histogram))],
    }  # fmt: skip
    if method.foreign:
        return body  # what another library drafted and was refused is not known
    return body | {
        "depths": told["depths"], "nodes": float(rounds.drafted.mean()),
        "levels": float(np.mean([r.depth for a in own for r in a.rounds])),
        "drafting_share": float((rounds.drafted > 0).mean()),
        "draft_utilisation": told["draft_utilisation"]["value"],
    }  # fmt: skip


def _times(method: Method, own: Sequence[Generation], plain: Sequence[Generation]) -> Body:
    rounds = [r for answer in own for r in answer.rounds]
    if not rounds:
        return {}
    spent = np.array([_ms(r) for r in rounds])
    emitted = np.array([r.emitted for r in rounds])
    body: Body = {
        "token_ms": _percentiles(np.repeat(spent / emitted, emitted)), "delivery_ms": _percentiles(spent),
    }  # fmt: skip
    if method.foreign:
        return body
    parts = {part: sum(r.spans_ms.get(part, 0.0) for r in rounds) for part in ("draft", "verify", "commit")}
    whole, levels = sum(parts.values()), sum(r.depth for r in rounds)
    steps = [_ms(r) for answer in plain for r in answer.rounds]
    if whole:
        body["shares"] = {part: ms / whole for part, ms in parts.items()}
    if levels and any(steps):
        body["draft_cost"] = parts["draft"] / levels / float(np.mean(steps))
    return body


def _ms(r: Round) -> float:
    return sum(r.spans_ms.values())


def _percentiles(values: np.ndarray) -> Mapping[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in _PERCENTILES}
