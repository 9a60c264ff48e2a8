"""Paired runs: every contender answers every prompt in one job, in shuffled order, beside plain decoding.

Figures follow the usual definitions of speculative decoding: tau is pooled over all passes (bonus included, the
prefill is no pass), a speed-up is the ratio of summed times over the same prompts and the same tokens.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crossdraft.core.errors import SettingError
from crossdraft.core.types import Generation

PLAIN = "none"
"""The contender that everybody is compared with."""

Answer = Callable[[int], Generation]
"""Answers prompt number i."""


@dataclass(frozen=True)
class Row:
    """One contender over all prompts. Intervals: 95 %, bootstrap over prompts.

    slower_share: share of prompts whose whole request took longer than plain decoding's.
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
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, list[Generation]]:
    """Let every contender answer prompts 0..num_prompts-1; the order of contenders is drawn anew for each prompt.

    Prompts keep their order, because a memory learns from the ones before. ``warm_up`` plain answers are run first
    and thrown away. Raises SettingError when plain decoding is not among the contenders.
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
            report(f"clip {prompt + 1}: {name}", prompt * len(order) + step, num_prompts * len(order))
            answers[name].append(contenders[name](prompt))
    return answers


def summarise(answers: dict[str, list[Generation]], seed: int = 0) -> list[Row]:
    """One row for each contender, in the order they were given."""
    plain = answers[PLAIN]
    return [_row(name, own, plain, seed) for name, own in answers.items()]


def _row(name: str, own: Sequence[Generation], plain: Sequence[Generation], seed: int) -> Row:
    passes = sum(len(g.rounds) for g in own)
    emitted = sum(r.emitted for g in own for r in g.rounds)
    drafted = sum(g.num_drafted for g in own)
    decode, decode_plain = (np.array([g.decode_ms for g in side]) for side in (own, plain))
    total, total_plain = (np.array([g.total_ms for g in side]) for side in (own, plain))
    return Row(
        drafter=name,
        identical=all(a.tokens == b.tokens for a, b in zip(own, plain, strict=True)),
        tokens=sum(len(g.tokens) for g in own),
        tau=emitted / passes if passes else 1.0,
        decode_tokens_per_s=emitted / decode.sum() * 1e3 if decode.sum() else 0.0,
        speedup_decode=ratio(decode_plain, decode),
        speedup_e2e=ratio(total_plain, total),
        slower_share=float((total > total_plain).mean()),
        speedup_decode_interval=bootstrap(decode_plain, decode, seed),
        speedup_e2e_interval=bootstrap(total_plain, total, seed),
        draft_utilisation=sum(g.num_accepted for g in own) / drafted if drafted else 0.0,
    )


def ratio(plain_ms: np.ndarray, own_ms: np.ndarray) -> float:
    """Ratio of summed times; 1.0 where no time was spent at all."""
    return float(plain_ms.sum() / own_ms.sum()) if own_ms.sum() else 1.0


def bootstrap(plain_ms: np.ndarray, own_ms: np.ndarray, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of ``ratio`` when the prompts (pairs of times) are drawn anew with replacement."""
    if not own_ms.sum():
        return (1.0, 1.0)
    picks = np.random.default_rng(seed).integers(0, len(own_ms), size=(draws, len(own_ms)))
    own = np.maximum(own_ms[picks].sum(1), 1e-9)
    low, high = np.quantile(plain_ms[picks].sum(1) / own, [0.025, 0.975])
    return (float(low), float(high))
