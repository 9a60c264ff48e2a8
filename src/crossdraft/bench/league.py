"""The league: every method on one target, in one process, with one loop and one timer, beside plain decoding.

All methods answer all prompts in *heats*: passes over the prompts at one temperature and one seed, which every
drafter begins with nothing remembered, so that no method has seen an answer before it drafts for it. Within a heat
the order of methods is drawn anew for each prompt. At temperature 0 heats are repeats, and the median over them
counts; above it each seed is one heat.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median, median_low
from typing import Any

from crossdraft.bench.paired import PLAIN, Answer, run_paired, summarise
from crossdraft.bench.trace import Watched, pictures_of, trace_of
from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.core.clock import Clock
from crossdraft.core.errors import CrossdraftError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Drafter, Rule
from crossdraft.core.types import Draft, Generation

Settings = Mapping[str, Any]
"""What can be chosen of a method, ready for a record."""

THEIR_SAMPLING = "sampling (theirs)"
WARM_UP_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a method cost before its first request, and what it keeps in memory beside the target.

    parameters: trained ones; training_tokens, training_seconds: None where nobody knows; weight_bytes: of all
    weights that the drafter alone needs, trained or not.
    """

    parameters: int = 0
    training_tokens: int | None = 0
    training_seconds: float | None = 0.0
    weight_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the league.

    make: a drafter of the settings with nothing remembered. Called once for each heat, so weights are read once and
    shared; what it raises is the row's error.
    enter: instead of ``make``, for what is no drafter of our loop or must be told something: how it answers in a
    heat.
    settings: as it comes; grid: settings that may be tried to find the best; equal: (nodes, depth) -> settings of
    that budget, None: a budget means nothing to it.
    rule: (temperature, seed) -> the rule that judges its drafts; None: the league's own.
    lossless: False for a method that does not keep the target's law whatever its rule says, such as one that
    changes the target. foreign: another library answers; its drafts are unknown, its arithmetic is its own.
    kind: "baseline", "training-free", "trained" or "control". cost: asked for once the method has been warmed up.
    """

    name: str
    make: Callable[[Settings], Drafter] | None = None
    enter: "Callable[[Heat, Settings], Answer] | None" = None
    settings: Settings = field(default_factory=dict)
    grid: tuple[Settings, ...] = ()
    equal: Callable[[int, int], Settings] | None = None
    rule: Callable[[float, int], Rule] | None = None
    lossless: bool = True
    foreign: bool = False
    kind: str = "training-free"
    cost: Callable[[], Cost] = Cost
    note: str = ""


@dataclass
class Heat:
    """One pass over the prompts. traced: so many of the first prompts are kept with their drafts and timeline.

    said: plain decoding's answers at this temperature and seed, as far as they are known; traces: what was kept, by
    prompt and method.
    """

    bench: Workbench
    prompts: Sequence[Prompt]
    temperature: float = 0.0
    seed: int = 0
    max_new_tokens: int = 128
    traced: int = 0
    said: dict[int, list[int]] = field(default_factory=dict)
    traces: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def enter(self, method: Method) -> Answer:
        """How ``method`` answers in this heat, with nothing remembered. Raises what its ``make`` raises."""
        if method.enter is not None:
            return method.enter(self, method.settings)
        assert method.make is not None, f"method '{method.name}' has neither make nor enter"
        drafter = method.make(method.settings)
        return lambda number: self.answer(method, drafter, number)

    def rule_of(self, method: Method) -> Rule:
        """What judges the drafts of ``method``."""
        return (method.rule or self.bench.make_rule)(self.temperature, self.seed)

    def answer(self, method: Method, drafter: Drafter, number: int) -> Generation:
        """Prompt ``number`` with ``drafter``, judged by the method's rule."""
        rule, prompt = self.rule_of(method), self.prompts[number]
        if number >= self.traced:
            made = self.bench.answer(drafter, prompt, self.max_new_tokens, rule=rule)
        else:
            watched = Watched(drafter)
            made = self.bench.answer(
                watched, prompt, self.max_new_tokens, rule=rule, clock=Clock(trace=True)
            )  # fmt: skip
            lane = "event model" if drafter.needs.events else "drafter"
            self.trace(method.name, number, made, watched.drafts, lane)
        if method.name == PLAIN:
            self.said[number] = made.tokens
        return made

    def trace(
        self, name: str, number: int, made: Generation, drafts: Sequence[Draft], lane: str = "drafter"
    ) -> None:  # fmt: skip
        """Keep an answer with its drafts and timeline, if ``number`` is to be traced."""
        if number < self.traced:
            told = trace_of(name, made, drafts, self.bench.target.tokenizer, lane)
            self.traces.setdefault(number, {})[name] = told

    def plain_tokens(self, number: int) -> list[int]:
        """What plain decoding says, for controls that may know it; answered now where it is not known yet."""
        if number not in self.said:
            plain, rule = self.bench.make_drafter(PLAIN), self.bench.make_rule(self.temperature, self.seed)
            self.said[number] = self.bench.answer(
                plain, self.prompts[number], self.max_new_tokens, rule=rule
            ).tokens  # fmt: skip
        return self.said[number]


def told(make: Callable[[Sequence[int], Settings], Drafter], method: str) -> Callable[[Heat, Settings], Answer]:
    """``enter`` of a control that knows plain decoding's answer: ``make`` gives its drafter for that answer."""
    own = Method(name=method)

    def enter(heat: Heat, settings: Settings) -> Answer:
        return lambda number: heat.answer(own, make(heat.plain_tokens(number), settings), number)

    return enter


def plain_method(bench: Workbench) -> Method:
    """Plain decoding: what all are compared with."""
    return Method(name=PLAIN, make=lambda settings: bench.make_drafter(PLAIN), kind="baseline")


@dataclass(frozen=True)
class Played:
    """A method's answers at one temperature. own[i] and plain[i] answer prompt prompts[i] with seed seeds[i], each
    with the medians of its repeats as times; repeats: (own, plain) tokens of every single answer. rule: name of
    what judged the drafts."""

    rule: str
    own: list[Generation]
    plain: list[Generation]
    prompts: list[int]
    seeds: list[int]
    repeats: list[tuple[list[int], list[int]]]


@dataclass
class Results:
    """What was played. played: by temperature and method; costs: of each method; failures: why a method plays no
    more; interrupted: by the user, after whole heats; traces: of the first prompts at the first temperature."""

    played: dict[tuple[float, str], Played] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    traces: list[dict[str, Any]] = field(default_factory=list)

    def failed(self, name: str, error: Exception) -> None:
        """Keep the reason in one line."""
        said = " ".join(str(error).split())
        self.failures[name] = said if isinstance(error, CrossdraftError) else f"{type(error).__name__}: {said}"


def play(
    bench: Workbench,
    methods: Sequence[Method],
    prompts: Sequence[Prompt],
    *,
    temperatures: Sequence[float] = (0.0,),
    seeds: Sequence[int] = (0, 1, 2),
    repeats: int = 3,
    max_new_tokens: int = 128,
    traces: int = 2,
    seed: int = 0,
    report: Report = silent,
) -> Results:
    """Let plain decoding and all ``methods`` answer all prompts at every temperature.

    Each method answers the first prompt once before, untimed, with a drafter that is thrown away. A method that
    fails is left out from then on, and is a failure of the temperature it failed at and of all after it. seed: of
    the orders. Interrupted, it returns what the whole heats so far gave; before the first one it raises.
    Raises what plain decoding raises.
    """
    everyone = [plain_method(bench), *(m for m in methods if m.name != PLAIN)]
    results = Results()
    cold = Heat(bench, prompts[:1], temperatures[0], seeds[0], min(WARM_UP_TOKENS, max_new_tokens))
    for method in everyone:
        report(f"warming up: {method.name}", 0, 0)
        # the cost may be that of weights which the first drafter has read
        cost = _try(results, method, lambda m: (cold.enter(m)(0), m.cost()))
        if cost is not None:
            results.costs[method.name] = cost[1]
    plans = [
        (t, [(s, i) for s in (seeds if t > 0 else seeds[:1]) for i in range(1 if t > 0 else repeats)])
        for t in temperatures
    ]
    total, done = sum(len(heats) for _, heats in plans), 0
    for temperature, heats in plans:
        answers: dict[int, list[dict[str, list[Generation]]]] = {}
        said: dict[int, dict[int, list[int]]] = {}
        for own_seed, _ in heats:
            heat = Heat(
                bench, prompts, temperature, own_seed, max_new_tokens, 0 if done else traces,
                said.setdefault(own_seed, {}),
            )  # fmt: skip
            try:
                made = _run(heat, everyone, results, seed + done, _nth(report, done, total))
            except KeyboardInterrupt:
                if not done:
                    raise
                results.interrupted = True
                break
            answers.setdefault(own_seed, []).append(made)
            if heat.traced:
                results.traces = _traces(heat, [m.name for m in everyone])
            done += 1
        for method in everyone:
            if answers and method.name not in results.failures:
                results.played[temperature, method.name] = _played(method, heat, answers)
        if results.interrupted:
            break
    return results


def _run(
    heat: Heat, methods: Sequence[Method], results: Results, order: int, report: Report
) -> dict[str, list[Generation]]:
    """One heat of all methods that have not failed yet."""
    entered = {}
    for method in methods:
        if method.name not in results.failures:
            answer = _try(results, method, heat.enter)
            if answer is not None:
                entered[method.name] = answer
    return run_paired(
        entered, len(heat.prompts), seed=order, warm_up=0, on_error=results.failed, report=report
    )  # fmt: skip


def _try(results: Results, method: Method, run: Callable[[Method], Any]) -> Any:
    try:
        return run(method)
    except Exception as error:
        if method.name == PLAIN:
            raise
        results.failed(method.name, error)
        return None


def _nth(report: Report, done: int, total: int) -> Report:
    """The report of heat ``done`` of ``total``, as a part of the whole."""
    return lambda what, own, own_total: report(what, done * own_total + own, total * own_total)


def _played(method: Method, last: Heat, answers: Mapping[int, list[dict[str, list[Generation]]]]) -> Played:
    rule = THEIR_SAMPLING if method.foreign and last.temperature > 0 else last.rule_of(method).name
    played = Played(rule, [], [], [], [], [])
    for seed, heats in answers.items():
        for prompt in range(len(last.prompts)):
            own, plain = ([heat[who][prompt] for heat in heats] for who in (method.name, PLAIN))
            played.own.append(middle(own))
            played.plain.append(middle(plain))
            played.prompts.append(prompt)
            played.seeds.append(seed)
            played.repeats.extend((a.tokens, b.tokens) for a, b in zip(own, plain, strict=True))
    return played


def middle(answers: Sequence[Generation]) -> Generation:
    """The repeat with the median decoding time, with every span of the whole request as its median over repeats."""
    at = median_low([(answer.decode_ms, number) for number, answer in enumerate(answers)])[1]
    names = answers[at].spans_ms
    spans = {name: median([answer.spans_ms.get(name, 0.0) for answer in answers]) for name in names}
    return replace(answers[at], spans_ms=spans)


def _traces(heat: Heat, order: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {
            "title": f"prompt {number + 1}", "question": heat.prompts[number].question,
            **pictures_of(heat.prompts[number]),
            "methods": [methods[name] for name in order if name in methods],
        }
        for number, methods in sorted(heat.traces.items())
    ]  # fmt: skip


# --- settings ---------------------------------------------------------------------------------------------------


def with_budget(methods: Sequence[Method], nodes: int, depth: int) -> list[Method]:
    """All methods with drafts of at most ``nodes`` nodes and ``depth`` levels."""
    return [m if m.equal is None else replace(m, settings=m.equal(nodes, depth)) for m in methods]


def tune(
    bench: Workbench,
    methods: Sequence[Method],
    prompts: Sequence[Prompt],
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 128,
    seed: int = 0,
    report: Report = silent,
) -> tuple[list[Method], dict[str, Any]]:
    """Every method with the settings of its grid that decode fastest on ``prompts``, and what was tried.

    One answer to each prompt for each setting, beside plain decoding. Settings that fail are not chosen; where all
    do, the method keeps its own and will fail again where it is told. Raises what plain decoding raises.
    """
    tried = {
        f"{method.name} {number}": replace(method, name=f"{method.name} {number}", settings=settings)
        for method in methods
        for number, settings in enumerate(method.grid)
    }
    results = play(
        bench, list(tried.values()), prompts, temperatures=(temperature,), seeds=(seed,), repeats=1,
        max_new_tokens=max_new_tokens, traces=0, seed=seed, report=report,
    )  # fmt: skip
    fine = [name for name in (PLAIN, *tried) if name not in results.failures]
    played = {name: results.played[temperature, name].own for name in fine}
    rows = {row.drafter: row for row in summarise(played, seed)}
    told: dict[str, Any] = {}
    best: list[Method] = []
    for method in methods:
        own = [f"{method.name} {number}" for number in range(len(method.grid))]
        good = [name for name in own if name in rows]
        chosen = max(good, key=lambda name: rows[name].speedup_decode, default=None)
        best.append(method if chosen is None else replace(method, settings=tried[chosen].settings))
        if own:
            told[method.name] = {
                "chosen": dict(best[-1].settings),
                "tried": [
                    {
                        "settings": dict(tried[name].settings), "error": results.failures.get(name),
                        "speedup_decode": rows[name].speedup_decode if name in rows else None,
                        "tau": rows[name].tau if name in rows else None,
                    }
                    for name in own
                ],
            }  # fmt: skip
    return best, {"prompts": len(prompts), "temperature": temperature, "methods": told}
