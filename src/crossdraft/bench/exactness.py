"""Does drafting ever change a token? Every drafter, pass widths 1-32, against plain decoding.

Greedy, and sampling with noise keyed on (seed, position), where the promise is the same: token for token.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossdraft.bench.workbench import Capped, Flat, Report, Scripted, Workbench, silent
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Drafter

DRAFTERS = ("none", "constant", "ngram", "memory", "cross_modal")
WIDTHS = (1, 2, 3, 5, 8, 12, 16, 17, 24, 31, 32)
QUICK_WIDTHS = (2, 9, 32)


@dataclass
class Tally:
    """Compared tokens and how many of them differed, with where the first few did."""

    tokens: int = 0
    differ: int = 0
    runs: int = 0
    passes: int = 0
    widest: int = 0
    first_differences: list[str] = field(default_factory=list)

    def add(self, what: str, plain: Sequence[int], own: Any) -> None:
        """Count position by position; a missing or surplus token differs."""
        self.runs += 1
        self.tokens += len(plain)
        self.passes += len(own.rounds)
        self.widest = max([self.widest, *(r.drafted + 1 for r in own.rounds)])
        wrong = [i for i, (a, b) in enumerate(zip(plain, own.tokens, strict=False)) if a != b]
        self.differ += len(wrong) + abs(len(plain) - len(own.tokens))
        if (wrong or len(plain) != len(own.tokens)) and len(self.first_differences) < 10:
            at = wrong[0] if wrong else min(len(plain), len(own.tokens))
            self.first_differences.append(f"{what}: at token {at}")


def run_exactness(
    benches: dict[str, Workbench], prompts: Sequence[Prompt], *, max_new_tokens: int = 96, quick: bool = False,
    temperatures: Sequence[float] = (0.7, 1.0), drafters: Sequence[str] = DRAFTERS, report: Report = silent,
) -> dict[str, Any]:  # fmt: skip
    """Compare everything on ``benches`` ({dtype name: pair}); the prompts are used in turn.

    drafters: names that ``Workbench.make_drafter`` knows; a scripted one joins them.

    The record says, for each dtype and temperature, how many tokens were compared and how many differed.
    """
    groups: dict[str, Tally] = {}
    widths = QUICK_WIDTHS if quick else WIDTHS
    plans = [(dtype, t) for dtype in benches for t in (0.0, *temperatures)]
    for done, (dtype, temperature) in enumerate(plans):
        report(f"{dtype}, temperature {temperature}", done, len(plans))
        chosen = widths if temperature == 0 else widths[:: 1 if quick else 3]
        name = f"{dtype}, " + ("greedy" if temperature == 0 else f"temperature {temperature}")
        groups[name] = _compare(benches[dtype], prompts, drafters, chosen, max_new_tokens, temperature)
    total, differ = (sum(getattr(g, key) for g in groups.values()) for key in ("tokens", "differ"))
    return {
        "passed": differ == 0,
        "verdict": f"{differ} of {total} tokens differ from plain decoding",
        "tokens": total,
        "differ": differ,
        "exactness": {dtype: vars(bench.target.exactness) for dtype, bench in benches.items()},
        "groups": {name: vars(group) for name, group in groups.items()},
    }


def _compare(
    bench: Workbench, prompts: Sequence[Prompt], names: Sequence[str], widths: Sequence[int], max_new_tokens: int,
    temperature: float,
) -> Tally:  # fmt: skip
    tally = Tally()
    plain: dict[int, list[int]] = {}
    turn = 0
    for name, drafters in _drafters(bench, names):
        for width in widths:
            i = turn % len(prompts)
            turn += 1
            rule = bench.make_rule(temperature, 7)
            if i not in plain:
                plain[i] = bench.answer(bench.make_drafter("none"), prompts[i], max_new_tokens, rule=rule).tokens
            drafter = drafters(width, plain[i])
            own = bench.answer(drafter, prompts[i], max_new_tokens, rule=rule)
            tally.add(f"{name}, width {width}, prompt {i}", plain[i], own)
    return tally


def _drafters(bench: Workbench, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        if name == "cross_modal" and bench.event_model is None:
            continue
        drafter = bench.make_drafter(name, Flat())

        def capped(width: int, _: Iterable[int], drafter: Drafter = drafter) -> Drafter:
            return Capped(drafter, width)

        yield name, capped
    yield "scripted", lambda width, script: Scripted(script, width)
