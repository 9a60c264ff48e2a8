"""The league's heats, and its columns recomputed by hand from the very answers they were made of."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from crossdraft.bench.league import Cost, Heat, Method, Played, Results, middle, play, told, tune, with_budget
from crossdraft.bench.league_rows import Auditor, LeagueRow, compared, league_rows, tau_differences
from crossdraft.bench.paired import PLAIN
from crossdraft.bench.workbench import Capped, Scripted, Workbench
from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import Needs
from crossdraft.core.types import Draft, Exactness, Generation, Round, Step
from crossdraft.evaluate.intervals import Recordings


@pytest.fixture
def prompts(tiny: Any, ask: Callable[..., Any]) -> list[Any]:
    """Five questions, answered at length: few of the answers end by themselves."""
    tiny.target.end_bias = -6.0
    questions = ("what is there to see?", "who waits?", "where does it go?", "what is there to see?", "how many?")
    return [ask(question, num_events=5 + i) for i, question in enumerate(questions)]


def drafting(bench: Workbench, name: str, **settings: Any) -> Method:
    return Method(name=name, make=lambda chosen: bench.make_drafter(name), **settings)


def rows_of(
    bench: Workbench, methods: Sequence[Method], prompts: Sequence[Any], **settings: Any
) -> tuple[Results, dict[tuple[str, float], LeagueRow]]:
    settings = {"repeats": 1, "max_new_tokens": 24, "traces": 0, **settings}
    results = play(bench, methods, prompts, **settings)
    temperatures = settings.get("temperatures", (0.0,))
    plain = Method(name=PLAIN, make=lambda _: bench.make_drafter(PLAIN), kind="baseline")
    rows = league_rows(results, [plain, *methods], temperatures, Auditor(bench.target, prompts))
    return results, {(row.method, row.temperature): row for row in rows}


@pytest.mark.parametrize("whole", [0, 1, 2, 4])
def test_an_interrupted_league_is_its_whole_heats(
    bench: Workbench, prompts: list[Any], monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    """Two repeats at temperature 0, then a seed each: what was played to the end stands."""
    from crossdraft.bench import league

    made: list[Any] = []

    def run(*args: Any, original: Any = league._run) -> Any:
        if len(made) == whole:
            raise KeyboardInterrupt
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(league, "_run", run)

    def played() -> Results:
        return play(
            bench, [drafting(bench, "ngram")], prompts[:2], temperatures=(0.0, 1.0), seeds=(0, 1), repeats=2,
            max_new_tokens=6, traces=0,
        )  # fmt: skip

    if whole == 0:
        with pytest.raises(KeyboardInterrupt):
            played()
        return
    results = played()
    assert results.interrupted == (whole < 4)
    answers = {t: len(results.played[t, "ngram"].repeats) for t, name in results.played if name == "ngram"}
    assert answers == {1: {0.0: 2}, 2: {0.0: 4}, 4: {0.0: 4, 1.0: 4}}[whole]


def test_columns_are_what_the_answers_say(bench: Workbench, prompts: list[Any]) -> None:
    cost = Cost(parameters=7, training_tokens=8, training_seconds=9.0, weight_bytes=10)
    methods = [drafting(bench, "memory"), drafting(bench, "ngram", cost=lambda: cost)]
    results, rows = rows_of(bench, methods, prompts)
    for name in ("memory", "ngram"):
        own, plain = (results.played[0.0, who].own for who in (name, PLAIN))
        row, rounds = rows[name, 0.0], [r for a in own for r in a.rounds]
        assert row.error is None and row.lossless and row.output == "lossless" and row.rule == "greedy"
        assert row.identical and row.mismatches == row.differing_answers == 0
        assert row.compared_tokens == row.agreeing_tokens == sum(len(a.tokens) for a in plain)
        assert row.audit == {"checked": row.tokens, "doubts": 0, "largest_gap": None}
        assert row.tau == pytest.approx(sum(r.emitted for r in rounds) / len(rounds))
        assert row.tau_draft == pytest.approx(sum(r.accepted for r in rounds) / len(rounds))
        assert row.reach is not None and sum(row.reach) == pytest.approx(row.tau_draft)
        assert row.histogram == [sum(r.accepted == k for r in rounds) for k in range(len(row.histogram or ()))]
        assert row.nodes == row.levels == pytest.approx(np.mean([r.drafted for r in rounds]))
        low, high = row.tau_interval or (None, None)
        assert low is not None and high is not None and low <= row.tau <= high
        for sums, said in (("decode_ms", row.speedup_decode), ("total_ms", row.speedup_e2e)):
            assert said == pytest.approx(sum(getattr(a, sums) for a in plain) / sum(getattr(a, sums) for a in own))
        assert row.slower_share == np.mean([a.total_ms > b.total_ms for a, b in zip(own, plain, strict=True)])
        spent = [sum(r.spans_ms.values()) for r in rounds]
        each = [ms / r.emitted for r, ms in zip(rounds, spent, strict=True) for _ in range(r.emitted)]
        shares = (5, 10, 25, 50, 75, 90, 95, 99)
        assert row.token_ms == {f"p{p}": pytest.approx(np.percentile(each, p)) for p in shares}
        assert row.delivery_ms is not None and row.delivery_ms["p50"] == pytest.approx(np.median(spent))
        assert row.first_token_ms == pytest.approx(np.median([a.total_ms - a.decode_ms for a in own]))
        draft = sum(r.spans_ms.get("draft", 0.0) for r in rounds)
        assert row.shares is not None and row.shares["draft"] == pytest.approx(draft / sum(spent))
        assert sum(row.shares.values()) == pytest.approx(1.0)
        step = np.mean([sum(r.spans_ms.values()) for a in plain for r in a.rounds])
        assert row.draft_cost == pytest.approx(draft / sum(r.drafted for r in rounds) / step)
        assert [a["tokens"] for a in row.answers] == [len(a.tokens) for a in own]
    assert rows["ngram", 0.0].parameters == 7 and rows["ngram", 0.0].weight_bytes == 10
    plain_row = rows[PLAIN, 0.0]
    assert plain_row.tau == plain_row.speedup_decode == plain_row.speedup_e2e == 1.0
    assert plain_row.draft_cost is None and plain_row.slower_share == 0


def test_alpha_by_depth_is_counted_among_those_that_got_there(bench: Workbench, prompts: list[Any]) -> None:
    results, rows = rows_of(bench, [drafting(bench, "memory")], prompts)
    rounds = [r for a in results.played[0.0, "memory"].own for r in a.rounds]
    depths = rows["memory", 0.0].depths or {}
    for k, (judged, alpha) in enumerate(zip(depths["judged"], depths["alpha"]["values"], strict=True), 1):
        # a round that was cut at its last accepted token refused nothing
        there = [
            r for r in rounds if r.accepted >= k or (r.accepted == k - 1 and r.drafted >= k and r.emitted == k)
        ]
        assert judged == len(there)
        assert alpha == pytest.approx(sum(r.accepted >= k for r in there) / len(there))


class Broken:
    """Drafts for ``good`` requests, then fails."""

    name, needs = "broken", Needs()

    def __init__(self, bench: Workbench, good: int, error: Exception) -> None:
        self.inner, self.good, self.error = bench.make_drafter("ngram"), good, error

    def begin(self, *where: Any) -> Any:
        self.good -= 1
        if self.good < 0:
            raise self.error
        return self.inner.begin(*where)


def test_a_failure_is_a_row_with_its_reason_and_harms_nobody(bench: Workbench, prompts: list[Any]) -> None:
    def cannot(settings: Any) -> Any:
        raise SettingError("needs a head; train one")

    methods = [
        Method(name="never", make=cannot, kind="trained", lossless=True),
        Method(name="midway", make=lambda _: Broken(bench, 3, RuntimeError("out\nof luck"))),  # type: ignore[arg-type, return-value]
        drafting(bench, "ngram"),
    ]
    results, rows = rows_of(bench, methods, prompts, temperatures=(0.0, 1.0), seeds=(5,))
    assert rows["never", 0.0].error == rows["never", 1.0].error == "needs a head; train one"
    assert rows["midway", 0.0].error == "RuntimeError: out of luck"
    blank = asdict(rows["midway", 1.0])
    assert blank["tau"] is blank["speedup_decode"] is blank["mismatches"] is None and blank["answers"] == []
    assert rows["never", 0.0].kind == "trained"
    for temperature in (0.0, 1.0):
        assert rows["ngram", temperature].requests == len(prompts) and rows["ngram", temperature].error is None
    assert set(results.failures) == {"never", "midway"}


def test_a_method_that_fails_when_sampling_keeps_its_greedy_row(bench: Workbench, prompts: list[Any]) -> None:
    def enter(heat: Heat, settings: Any) -> Callable[[int], Generation]:
        if heat.temperature > 0:
            raise SettingError("is greedy only")
        return lambda number: heat.answer(Method(name="x"), bench.make_drafter("ngram"), number)

    _, rows = rows_of(bench, [Method(name="x", enter=enter)], prompts, temperatures=(0.0, 1.0), seeds=(0, 1))
    assert rows["x", 0.0].identical and rows["x", 1.0].error == "is greedy only"


def test_plain_decoding_may_not_fail(bench: Workbench, prompts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.target, "prefill", lambda *a, **k: (_ for _ in ()).throw(SettingError("no room")))
    with pytest.raises(SettingError, match="no room"):
        play(bench, [], prompts)


def test_every_heat_begins_with_nothing_remembered(bench: Workbench, ask: Any) -> None:
    made = []

    def make(settings: Any) -> Any:
        made.append(bench.make_drafter("memory"))
        return made[-1]

    method = Method(name="memory", make=make)
    results = play(bench, [method], [ask("what is it?")], repeats=3, max_new_tokens=24)
    assert len(made) == 1 + 3, "one to warm up, one for each repeat"
    sampled = play(
        bench, [method], [ask("what is it?")], temperatures=(1.0,), seeds=(1, 2, 3), repeats=3, max_new_tokens=24
    )
    assert len(made) == 4 + 1 + 3, "above temperature 0 each seed is run once"
    assert sampled.played[1.0, "memory"].seeds == [1, 2, 3]
    # with the answer remembered it would have been drafted whole
    first = results.played[0.0, "memory"]
    alone = bench.answer(bench.make_drafter("memory"), ask("what is it?"), 24)
    assert [r.accepted for r in first.own[0].rounds] == [r.accepted for r in alone.rounds]
    assert len(first.repeats) == 3


def test_sampling_is_compared_seed_by_seed(bench: Workbench, prompts: list[Any]) -> None:
    _, rows = rows_of(bench, [drafting(bench, "ngram")], prompts, temperatures=(1.0,), seeds=(0, 1, 2))
    row = rows["ngram", 1.0]
    assert row.rule == "sampling" and row.identical and row.audit is None
    assert row.requests == 3 * len(prompts)
    assert {(a["prompt"], a["seed"]) for a in row.answers} == {(p, s) for p in range(5) for s in range(3)}


def test_tokens_of_another_rule_are_not_held_against_plain_decoding(bench: Workbench, prompts: list[Any]) -> None:
    from crossdraft.core.types import Sampling
    from crossdraft.verify.leviathan import LeviathanSampling

    def rule(temperature: float, seed: int) -> Any:
        return (
            LeviathanSampling(Sampling(temperature=temperature, seed=seed))
            if temperature
            else bench.make_rule(0, 0)
        )

    method = drafting(bench, "ngram", rule=rule)
    _, rows = rows_of(bench, [method], prompts, temperatures=(0.0, 1.0), seeds=(0,))
    assert rows["ngram", 0.0].mismatches == 0
    row = rows["ngram", 1.0]
    assert row.rule == "leviathan" and row.lossless and row.mismatches is row.identical is None


def test_the_bootstrap_is_the_same_twice_and_another_with_another_seed(
    bench: Workbench, prompts: list[Any]
) -> None:
    methods = [drafting(bench, "memory")]
    results = play(bench, methods, prompts, repeats=1, max_new_tokens=24)
    auditor = Auditor(bench.target, prompts)
    one, same, other = (league_rows(results, methods, (0.0,), auditor, seed)[0] for seed in (0, 0, 1))
    assert one == same
    assert one.tau_interval != other.tau_interval or one.speedup_decode_interval != other.speedup_decode_interval
    assert one.tau == other.tau


def test_methods_are_compared_on_the_same_prompts(bench: Workbench, prompts: list[Any]) -> None:
    """By falling tau, each with the next; controls and plain decoding are nobody's neighbours. The interval is that
    of drawing prompts by hand."""
    methods = [
        drafting(bench, "ngram"), drafting(bench, "memory", kind="trained"),
        drafting(bench, "constant"), drafting(bench, "layer_skip", kind="control"),
    ]  # fmt: skip
    _, rows = rows_of(bench, methods, prompts)
    told = tau_differences(list(rows.values()), seed=3)
    order = sorted(("ngram", "memory", "constant"), key=lambda name: -(rows[name, 0.0].tau or 0))
    assert [(d["above"], d["below"]) for d in told] == list(pairwise(order))
    for one in told:
        above, below = (rows[one[name], 0.0] for name in ("above", "below"))
        assert one["difference"] == pytest.approx((above.tau or 0) - (below.tau or 0))
        draws = Recordings.of([str(a["prompt"]) for a in above.answers], seed=3).weights
        gaps = 0.0
        for row, sign in ((above, 1), (below, -1)):
            emitted = np.array([a["tokens"] - 1 for a in row.answers])
            gaps = gaps + sign * (draws @ emitted) / (draws @ np.array([a["rounds"] for a in row.answers]))
        assert [one["low"], one["high"]] == pytest.approx(np.quantile(gaps, [0.025, 0.975]).tolist())


def test_one_prompt_gives_figures_without_intervals(bench: Workbench, ask: Any) -> None:
    _, rows = rows_of(bench, [drafting(bench, "ngram")], [ask("what is it?")])
    row = rows["ngram", 0.0]
    assert row.tau is not None and row.tau_interval == [None, None]
    _, rows = rows_of(bench, [drafting(bench, "ngram")], [ask("what is it?")], max_new_tokens=1)
    assert rows["ngram", 0.0].rounds == 0 and rows["ngram", 0.0].tau is None and rows["ngram", 0.0].identical


def test_a_perfect_drafter_gives_gamma_plus_one_and_a_hostile_one_one(bench: Workbench, prompts: list[Any]) -> None:
    methods = [
        Method(name=name, enter=told(lambda tokens, s, w=wrong: Scripted(tokens, 5, w), name), kind="control")  # type: ignore[misc]
        for name, wrong in (("perfect", 1 << 30), ("hostile", 1))
    ]
    results, rows = rows_of(
        bench, methods, prompts, temperatures=(0.0, 1.0), seeds=(0, 1), max_new_tokens=21
    )  # fmt: skip
    for temperature in (0.0, 1.0):
        perfect, hostile = rows["perfect", temperature], rows["hostile", temperature]
        assert hostile.tau == 1.0 and hostile.tau_draft == 0 and hostile.identical
        assert perfect.identical and set((perfect.depths or {})["alpha"]["values"]) == {1.0}
        answers = results.played[temperature, "perfect"].own
        # all but the round in which the answer ends
        assert all(r.emitted == r.drafted + 1 == 5 for a in answers for r in a.rounds[:-1])
    assert any(len(a.rounds) > 1 for played in results.played.values() for a in played.own)


def test_mismatches_are_counted_by_position() -> None:
    told_ = compared([([1, 2, 3], [1, 2, 3]), ([1, 9, 3, 9], [1, 2, 3]), ([1], [1, 2, 3])])
    assert told_ == {
        "identical": False, "mismatches": 0 + 2 + 2, "compared_tokens": 9, "differing_answers": 2,
        "agreeing_tokens": 3 + 1 + 1,
    }  # fmt: skip


def made(rounds: list[Round], tokens: int, decode: float, total: float, exact: bool = True) -> Generation:
    return Generation(
        tokens=list(range(tokens)), rounds=rounds, spans_ms={"decode": decode, "total": total},
        exactness=Exactness(exact, ""),
    )  # fmt: skip


def test_a_lossy_rule_and_an_inexact_pass_are_named(bench: Workbench, prompts: list[Any]) -> None:
    own = replace(made([Round("x", 2, 1, 2, {"verify": 1.0})], 3, 1.0, 2.0, exact=False), lossless=False)
    plain = made([Round("", 0, 0, 1, {"verify": 1.0})] * 2, 3, 2.0, 3.0)
    results = Results(costs=dict.fromkeys((PLAIN, "lossy", "theirs"), Cost()))
    for name, answer in ((PLAIN, plain), ("lossy", own), ("theirs", own)):
        results.played[0.0, name] = Played("greedy", [answer], [plain], [0], [0], [(answer.tokens, plain.tokens)])
    methods = [Method(name="lossy"), Method(name="theirs", foreign=True, kind="baseline")]
    lossy, theirs = league_rows(results, methods, (0.0,), Auditor(bench.target, prompts))
    assert (lossy.output, lossy.lossless, lossy.arithmetic) == ("lossy", False, "near-exact")
    assert (theirs.output, theirs.lossless, theirs.arithmetic) == ("other arithmetic", False, None)
    assert theirs.tau == 2 and theirs.depths is theirs.nodes is theirs.shares is theirs.draft_cost is None
    assert lossy.audit is not None and lossy.audit["doubts"] > 0 and lossy.audit["largest_gap"] > 0


def test_the_middle_repeat_has_the_medians() -> None:
    rounds = [Round("x", 0, 0, 1, {})]
    answers = [
        made(rounds * n, n + 1, decode, total) for n, (decode, total) in enumerate([(5, 50), (3, 90), (9, 70)])
    ]
    chosen = middle(answers)
    assert chosen.tokens == answers[0].tokens and chosen.spans_ms == {"decode": 5, "total": 70}
    assert middle(answers[:2]).spans_ms == {"decode": 4, "total": 70}


@pytest.mark.parametrize("seed", range(3))
def test_the_fastest_settings_are_chosen_and_all_are_disclosed(
    bench: Workbench, prompts: list[Any], seed: int
) -> None:
    def make(settings: Any) -> Any:
        if settings["width"] == 0:
            raise SettingError("no such width")
        return Capped(bench.make_drafter("memory"), settings["width"])

    grid = tuple({"width": width} for width in random.Random(seed).sample([0, 2, 4, 8], 4))
    methods = [
        Method(name="memory", make=make, settings={"width": 2}, grid=grid),
        Method(name="lost", make=make, settings={"width": 9}, grid=({"width": 0},)),
        drafting(bench, "ngram"),
    ]
    best, told_ = tune(bench, methods, prompts, max_new_tokens=16, seed=seed)
    tried = told_["methods"]["memory"]["tried"]
    assert [t["settings"] for t in tried] == list(grid)
    good = [t for t in tried if t["error"] is None]
    assert len(good) == 3 and all(t["tau"] >= 1 for t in good)
    fastest = max(good, key=lambda t: t["speedup_decode"])["settings"]
    assert best[0].settings == told_["methods"]["memory"]["chosen"] == fastest
    assert best[1].settings == {"width": 9} and told_["methods"]["lost"]["tried"][0]["error"] == "no such width"
    assert best[2] == methods[2] and "ngram" not in told_["methods"]


def test_a_budget_is_the_same_for_all_that_draft(bench: Workbench) -> None:
    tree = Method(name="tree", equal=lambda nodes, depth: {"nodes": nodes, "depth": depth})
    plain = Method(name="x", settings={"a": 1})
    assert [m.settings for m in with_budget([tree, plain], 12, 3)] == [{"nodes": 12, "depth": 3}, {"a": 1}]


class Twig:
    """Drafts a tree of two branches, of which one begins as the stream went on before."""

    name, needs = "twig", Needs(trees=True)

    def begin(self, *where: Any) -> "Twig":
        self.said: list[int] = []
        return self

    def observe(self, step: Step) -> None:
        self.said += step.tokens

    def propose(self, room: int) -> Draft:
        if room < 2:
            return Draft.chain([])
        last = self.said[-1]
        after = [b for a, b in zip(self.said, self.said[1:], strict=False) if a == last]
        guess = after[-1] if after else (last + 1) % 24
        return Draft(torch.tensor([(guess + 1) % 24, guess, guess]), torch.tensor([-1, -1, 1]), source="twig")

    def finish(self) -> None:
        pass


def test_a_tree_is_judged_by_its_levels(bench: Workbench, prompts: list[Any]) -> None:
    results, rows = rows_of(
        bench, [Method(name="twig", make=lambda _: Twig())], prompts, max_new_tokens=40, traces=2  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    row, answers = rows["twig", 0.0], results.played[0.0, "twig"].own
    rounds = [r for a in answers for r in a.rounds]
    assert row.identical and any(r.accepted for r in rounds)
    assert {r.depth for r in rounds if r.drafted} == {2} and {r.drafted for r in rounds if r.drafted} == {3}
    assert row.nodes is not None and row.levels is not None and row.nodes == pytest.approx(row.levels * 1.5)
    depths = row.depths or {}
    assert len(depths["judged"]) == 2
    second = [r for r in rounds if r.accepted >= 1 and not (r.accepted == 1 and r.emitted == 1)]
    assert depths["judged"][1] == len(second)
    # the trace puts the accepted path first, and adds up to the answer
    for number, trace in enumerate(results.traces):
        method = next(m for m in trace["methods"] if m["name"] == "twig")
        text = method["first"]
        for r, counted in zip(method["rounds"], answers[number].rounds, strict=True):
            assert len(r["drafted"]) == counted.drafted
            text += "".join(r["drafted"][: r["accepted"]]) + r["bonus"]
        assert text == answers[number].text


def test_first_requests_are_traced_for_every_method(bench: Workbench, prompts: list[Any]) -> None:
    methods = [drafting(bench, "memory"), drafting(bench, "cross_modal")]
    results = play(bench, methods, prompts, repeats=2, max_new_tokens=12, traces=2)
    assert [t["title"] for t in results.traces] == ["prompt 1", "prompt 2"]
    for trace in results.traces:
        assert [m["name"] for m in trace["methods"]] == [PLAIN, "memory", "cross_modal"]
        assert all(m["timeline"] for m in trace["methods"])
        assert {s["lane"] for s in trace["methods"][2]["timeline"]} == {"target", "event model"}
