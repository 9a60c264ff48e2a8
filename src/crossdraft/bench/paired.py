"""Paired runs: every contender answers every prompt in one job, in shuffled order, beside plain decoding.

Figures follow the usual definitions of speculative decoding: tau is pooled over all passes (bonus included, the
prefill is no pass), a speed-up is the ratio of summed times over the same prompts and the same number of tokens.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Generation
from crossdraft.evaluate import intervals

PLAIN = "none"
"""The contender that everybody is compared with."""

Answer = Callable[[int], Generation]
"""Answers prompt number i."""


@dataclass(frozen=True)
class Row:
    """One contender over all prompts. Intervals: 95 %, bootstrap over prompts.

    slower_share: share of prompts whose whole request took longer than plain decoding's. Where an answer is longer
    or shorter than the plain one (another arithmetic, another draw), its decoding time is scaled to the plain
    answer's length first.
    """

    drafter: str
    identical: bool
    tokens: int
    tau: float
    decode_tokens_per_s: float
    speedup_decode: float
    speedup_e2e: float
    slower_share: float
    speedup_decode_interval: tuple[float, float]
    speedup_e2e_interval: tuple[float, float]
    draft_utilisation: float

    def brief(self) -> dict[str, Any]:
        """The eight columns of the demo's table."""
        return {key: value for key, value in asdict(self).items() if key in BRIEF}


BRIEF = (
    "drafter", "identical", "tokens", "tau", "decode_tokens_per_s", "speedup_decode", "speedup_e2e", "slower_share",
)  # fmt: skip


def run_paired(
    contenders: dict[str, Answer],
    num_prompts: int,
    *,
    seed: int = 0,
    warm_up: int = 1,
    on_error: Callable[[str, Exception], None] | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, list[Generation]]:
    """Let every contender answer prompts 0..num_prompts-1; the order of contenders is drawn anew for each prompt.

    Prompts keep their order, because a memory learns from the ones before. ``warm_up`` plain answers are run first
    and thrown away. on_error: told when a contender fails, which is left out from then on; None: the run fails.
    Raises SettingError when plain decoding is not among the contenders, and whatever plain decoding raises.
    """
    if PLAIN not in contenders:
        raise SettingError(f"a comparison needs the contender '{PLAIN}' (plain decoding)")
    for _ in range(warm_up):
        contenders[PLAIN](0)
    shuffle = random.Random(seed)
    answers: dict[str, list[Generation]] = {name: [] for name in contenders}
    for prompt in range(num_prompts):
        order = list(contenders)
        shuffle.shuffle(order)
        for step, name in enumerate(order):
            if name not in answers:
                continue
            report(f"clip {prompt + 1}: {name}", prompt * len(order) + step, num_prompts * len(order))
            try:
                answers[name].append(contenders[name](prompt))
            except Exception as error:
                if on_error is None or name == PLAIN:
                    raise
                on_error(name, error)
                del answers[name]
    return answers


def summarise(
    answers: dict[str, list[Generation]], seed: int = 0, groups: Sequence[int] | None = None
) -> list[Row]:  # fmt: skip
    """One row for each contender, in the order they were given.

    groups: which answers belong together (the same prompt, another seed) and are drawn together; None: none do.
    """
    plain = answers[PLAIN]
    return [_row(name, own, plain, seed, groups) for name, own in answers.items()]


def _row(
    name: str, own: Sequence[Generation], plain: Sequence[Generation], seed: int, groups: Sequence[int] | None
) -> Row:
    passes = sum(len(g.rounds) for g in own)
    emitted = sum(r.emitted for g in own for r in g.rounds)
    drafted = sum(g.num_drafted for g in own)
    decode, decode_plain, total_plain = (
        np.array(ms)
        for ms in ([g.decode_ms for g in own], [g.decode_ms for g in plain], [g.total_ms for g in plain])
    )
    scaled = decode * [_to_length(a, b) for a, b in zip(own, plain, strict=True)]
    total = np.array([g.total_ms for g in own]) - decode + scaled
    return Row(
        drafter=name,
        identical=all(a.tokens == b.tokens for a, b in zip(own, plain, strict=True)),
        tokens=sum(len(g.tokens) for g in own),
        tau=emitted / passes if passes else 1.0,
        decode_tokens_per_s=emitted / decode.sum() * 1e3 if decode.sum() else 0.0,
        speedup_decode=ratio(decode_plain, scaled),
        speedup_e2e=ratio(total_plain, total),
        slower_share=float((total > total_plain).mean()),
        speedup_decode_interval=bootstrap(decode_plain, scaled, seed, groups=groups),
        speedup_e2e_interval=bootstrap(total_plain, total, seed, groups=groups),
        draft_utilisation=sum(g.num_accepted for g in own) / drafted if drafted else 0.0,
    )


def _to_length(own: Generation, plain: Generation) -> float:
    """By what the decoding time of ``own`` is multiplied so that it stands for as many tokens as ``plain`` has."""
    mine, theirs = (sum(r.emitted for r in g.rounds) for g in (own, plain))
    return theirs / mine if mine and theirs else 1.0


def ratio(plain_ms: np.ndarray, own_ms: np.ndarray) -> float:
    """Ratio of summed times; 1.0 where no time was spent at all."""
    return float(plain_ms.sum() / own_ms.sum()) if own_ms.sum() else 1.0


def bootstrap(
    plain_ms: np.ndarray, own_ms: np.ndarray, seed: int = 0, draws: int = 2000, groups: Sequence[int] | None = None
) -> tuple[float, float]:
    """95 % interval of ``ratio`` when the prompts (pairs of times, or groups of them) are drawn anew with
    replacement. One prompt alone says nothing of others: both ends are its ratio then."""
    labels = [str(group) for group in (range(len(own_ms)) if groups is None else groups)]
    if len(set(labels)) < 2 or not own_ms.sum():
        return (ratio(plain_ms, own_ms),) * 2
    drawn, each = intervals.Recordings.of(labels, draws=draws, seed=seed), np.arange(len(own_ms))
    made = drawn.estimate(intervals.ratio, drawn.tally(each, plain_ms), drawn.tally(each, own_ms))
    return (made.low, made.high)
