"""The note's tables of time: parallel timeline, formula and equation, verdicts, and the later wall clock."""

from typing import Any

from crossdraft.evaluate.bounds import full_window_ceiling
from crossdraft.evaluate.latency import Times, amdahl_ceiling, delay_ms, first_token_ms, hiding_gain_ms, window_ms
from crossdraft.evaluate.prediction import Acceptance, alphas_from_runs
from crossdraft.evaluate.published import GAMMA, cross_modal, same_model
from crossdraft.evaluate.viability import CaseVerdict, judge
from crossdraft.report.reference.acceptance_tables import headline_run, headline_speedup, window_config
from crossdraft.report.reference.facts import Facts
from crossdraft.report.reference.model import EMPTY, UNSTATED, Cell, Mark, Row, Table, percent

_LONG_DRAFT = 1000
"""A draft so long that a longer one changes no digit shown."""
_VERIFY_ROWS = 22
"""Tokens of the verify pass in the study's window runs: about 21 drafts and the target's own."""


def claimed_times(facts: Facts) -> Times:
    """The timeline as the note has it; the event model on a device of its own."""
    event, target, verify = (facts.claim("note-4", "timeline", k).number for k in ("event", "target", "verify"))
    return Times(
        target_encode_ms=0.0, target_prefill_ms=target, step_ms=verify, verify_ms={2: verify}, draft_step_ms=0.0,
        event_prefill_ms=event, window="own-device", assumed=frozenset({"target_prefill_ms", "event_prefill_ms"}),
    )  # fmt: skip


def measured_times(facts: Facts, level: str) -> Times:
    """What the study measured in its window run of ``level``, the event model on a device of its own.

    A pass over 2 tokens is taken to cost what the whole pass costs, as the executed rounds of 6 tokens show.
    """
    window, found = facts.study["window"], window_config(facts, level)
    return Times(
        target_encode_ms=0.0, target_prefill_ms=window["target_prefill_ms"], step_ms=found["step_ms"],
        verify_ms={2: found["verify_ms"], _VERIFY_ROWS: found["verify_ms"]},
        draft_step_ms=window["event_token_ms"], event_encode_ms=window["event_encode_ms"],
        event_prefill_ms=window["event_prefill_ms"],
        adapter_ms=found["adapter_ms"], window="own-device",
    )  # fmt: skip


def timeline(facts: Facts) -> Table:
    """72, 597 and 20 ms, and what is added up from them."""
    window, l1 = facts.study["window"], window_config(facts, "L1")
    times, now = claimed_times(facts), measured_times(facts, "L1")
    event = window["event_encode_ms"] + window["event_prefill_ms"]
    found = {"event": event, "target": window["target_prefill_ms"], "verify": l1["verify_ms"]}
    words = {"event": "event model, encode and prefill", "target": "target, prefill", "verify": "verify pass"}
    rows = []
    for key, item in words.items():
        claim = facts.claim("note-4", "timeline", key)
        by = ("window", "by-replay") if key == "verify" else ("window",)
        rows.append(
            Row(
                item,
                claim.cell,
                EMPTY,
                EMPTY,
                Cell(f"{found[key]:.0f} ms", by),
                claim.mark(found[key]),
                _TIME_WHY[key],
            )
        )
    first, total = (facts.claim("note-4", "timeline", key) for key in ("first", "total"))
    later = first_token_ms(now)
    rows.append(
        Row("until both have prefilled", first.cell, EMPTY, Cell(f"{first_token_ms(times):.0f} ms", ("note-4",
        "by-latency")),
            Cell(f"{later:.0f} ms", ("window", "by-latency")), "contradicted",
            "the sum is right, its larger term is not what was measured")
    )  # fmt: skip
    rows.append(
        Row("cross-modal, in total", total.cell, EMPTY,
            Cell(f"{first_token_ms(times) + times.pass_ms(2):.0f} ms", ("note-4", "by-latency")),
            Cell(f"{later + l1['adapter_ms'] + l1['verify_ms']:.0f} ms", ("window", "by-latency")), "contradicted",
            "the sum is right, its parts are not; a first draft is verified at this time, no answer is finished")
    )  # fmt: skip
    rows += [_same_model_total(facts), _hidden(facts, times), _together(facts, event)]
    return Table(
        "timeline", "Parallel prefill",
        "None of the study's measurements gives the note's 72, 597 or 20 ms. And whatever the three are, the target"
        "'s prefill takes its time: hiding another model behind it makes nothing sooner, it only "
        "makes that model's drafts free.", tuple(rows),
    )  # fmt: skip


def components(facts: Facts) -> Table:
    """The formula's parts, same-model (SpecVLM) against cross-modal."""
    l1, now = window_config(facts, "L1"), measured_times(facts, "L1")
    claims = {key: facts.claim("note-4", "components", key) for key in facts.note["components"]}
    ours = claims["our overhead"]
    tokens, speedup = facts.paper("SpecVLM 1.6-13B tokens"), facts.paper("SpecVLM 1.6-13B speedup")
    saved = claims["our saved"]
    hidden = claimed_times(facts)
    rows = (
        Row("draft overhead, same-model", claims["same overhead"].cell, EMPTY, EMPTY, EMPTY, "not checkable",
            "the paper's tables print no such times"),
        Row("draft overhead, cross-modal", ours.cell, EMPTY, EMPTY,
            Cell(f"adapter {l1['adapter_ms']:.1f} ms (L1); drafting {now.draft_step_ms:.1f} ms a token",
                 ("window", "by-replay")),
            ours.mark(l1["adapter_ms"]), "the adapter took twice as long, and drafting is left out"),
        Row("prefill saved, same-model", claims["same saved"].cell, EMPTY,
            Cell("0 ms", ("by-latency",)), EMPTY, "confirmed",
            "no speculative method shortens the target's prefill"),
        Row("prefill saved, cross-modal", saved.cell, EMPTY,
            Cell(f"0 ms saved; {window_ms(hidden):.0f} ms in which the event model may draft",
                 ("note-4", "by-latency")),
            Cell(f"window of {window_ms(now):.0f} ms", ("window", "by-latency")), "contradicted",
            "the figure is the length of the window, not a saving: the first token comes no sooner"),
        Row("tokens accepted, same-model", claims["same tokens"].cell, tokens.cell, EMPTY, EMPTY,
            claims["same tokens"].mark(tokens.value), "LLaVA-1.6-13B"),
        headline_run(facts, claims["our tokens"].cell, "tokens accepted, cross-modal"),
        Row("total, same-model", claims["same total"].cell, speedup.cell, EMPTY, EMPTY,
            claims["same total"].mark(speedup.value), "LLaVA-1.6-13B"),
        headline_speedup(facts, claims["our total"].cell, "total, cross-modal"),
    )  # fmt: skip
    return Table(
        "components", "Components of the formula",
        "Same-model figures are SpecVLM's. On the cross-modal side neither the saving nor the two headline "
        "figures hold.", rows,
    )  # fmt: skip


def equation(facts: Facts) -> Table:
    """The cross-modal equation: acceptance and overhead to speed-up."""
    rows = []
    for name, formula in (("same-model", same_model), ("cross-modal", cross_modal)):
        alpha, overhead = (facts.note["equation"][name][key] for key in ("alpha", "overhead"))
        claim = facts.claim("note-4", "equation", name, "speedup")
        short, most = (formula(alpha, gamma, overhead).speedup for gamma in (GAMMA, _LONG_DRAFT))
        over = claim.number - claim.within > most
        quoted = facts.claim("threshold", "equation", "threshold").cell if name == "cross-modal" else Cell(
            claim.text, ("threshold",))  # fmt: skip
        rows.append(
            Row(
                f"{name}: acceptance {percent(alpha, 0)}, overhead {overhead}", claim.cell, quoted,
                Cell(f"{short:.2f}x for drafts of {GAMMA}; {most:.2f}x for any length", ("note-4", "by-published")),
                _live(facts) if name == "cross-modal" else EMPTY, "impossible" if over else claim.mark(short),
                "no draft length gives it"
                + ("; the analysis it is quoted from has other inputs" if name == "cross-modal" else ""),
            )
        )  # fmt: skip
    return Table(
        "equation", "The cross-modal equation",
        "Expected tokens over one plus overhead is the study's own formula. Neither printed result follows from "
        "it: the cross-modal one is a run length over an assumed overhead instead.", tuple(rows),
    )  # fmt: skip


def verdict(facts: Facts) -> Table:
    """The verdict by use case, as inequalities between measured milliseconds."""
    answers = {level: _judged(facts, level) for level in ("L1", "L4")}
    rows = []
    for number, (name, said) in enumerate(facts.note["verdict"].items()):
        l1, l4 = answers["L1"][number], answers["L4"][number]
        yes = said[0].startswith("YES")
        rows.append(
            Row(
                name, facts.claim("note-5", "verdict", name).cell, EMPTY,
                Cell(f"L1: {_answer(l1)}; L4: {_answer(l4)}", ("window", "by-viability")),
                _live(facts) if number in (0, 3) else EMPTY, "confirmed" if yes == (l1.answer == "VIABLE")
                else "contradicted", _CASE_WHY[number],
            )
        )  # fmt: skip
    return Table(
        "verdict", "Verdict by use case",
        "The note asks for a share of cosines. The question is whether the tokens accepted pay for the pass that "
        "verifies them: recomputed from the study's times, with the event model on a free device of its own and "
        "every pass over 2 tokens or more at the cost measured. The note judges L1; L4 clears the first bar by a "
        "hair.", tuple(rows),
    )  # fmt: skip


def wall_clock(facts: Facts) -> Table:
    """What the study measured the day after, and its records replayed."""
    rows = [*_full_rows(facts), *(_replay_row(facts, level) for level in ("L1", "L2", "L3", "L4"))]
    l4 = window_config(facts, "L4")
    rows.append(
        Row("L4: accepted tokens at 10, 25, 50, 75, 90, 95 %", UNSTATED, EMPTY,
            Cell(", ".join(f"{l4['accepted_quantiles'][q]:.0f}" for q in ("10", "25", "50", "75", "90", "95")),
                 ("window", "by-replay")), EMPTY, "not checkable",
            "three drafts in four or more are wasted in half of the answers")
    )  # fmt: skip
    rows.append(
        Row("L4: speed-up at 5, 25, 50, 75, 95 %", UNSTATED, EMPTY,
            Cell(", ".join(f"{l4['speedup_quantiles'][q]:.3f}" for q in ("5", "25", "50", "75", "95")),
                 ("window", "by-replay")), EMPTY, "not checkable", "the median answer gains two hundredths")
    )  # fmt: skip
    rows.append(
        Row("L4: break-even", UNSTATED, EMPTY,
            Cell(f"{l4['break_even']:.1f} accepted tokens; {percent(l4['slower_share'], 0)} of answers are slower",
                 ("window", "by-replay")),
            Cell(f"verify {l4['verify_ms']:.0f} ms, step {l4['step_ms']:.1f} ms", ("window", "by-replay")),
            "not checkable", "the pass costs as much as four to five steps")
    )  # fmt: skip
    rows += [_executed_row(facts, name, found) for name, found in facts.study["executed"].items()]
    return Table(
        "wallclock", "Wall clock, a day later",
        "The study's own correction of its note. Its timeline was composed: the event model ran first, its time "
        "was dropped. Where both models really ran on one GPU, answers took over three times as long. Replayed "
        "figures are ratios of summed times.", tuple(rows),
    )  # fmt: skip


# --- rows -------------------------------------------------------------------------------------------------------

_TIME_WHY = {
    "event": "somewhat more, on the study's GPU",
    "target": "the video target that was used takes little more than half",
    "verify": "4-bit weights: a pass over many tokens costs several plain steps",
}
_CASE_WHY = (
    "L1 stays below break-even; the measured gain of L4 is a hundredth",
    "the drafter's step alone costs most of a target's step",
    "exact tokens are fewer than cosines above 0.90, and the pass costs more than they save",
    "the target's prefill alone forbids it for short answers",
)


def _same_model_total(facts: Facts) -> Row:
    claim, parts = facts.claim("note-4", "timeline", "same-model"), facts.note["timeline"]["same-model parts"]
    return Row(
        "same-model, in total", claim.cell, EMPTY, Cell(f"{sum(parts)} ms", ("note-4", "by-measurements")), EMPTY,
        "not checkable", "the sum is right; SpecVLM's tables print no such times",
    )  # fmt: skip


def _hidden(facts: Facts, times: Times) -> Row:
    claim = facts.claim("note-tldr", "timeline", "saved")
    saved = -delay_ms(times)
    return Row(
        "latency hidden", claim.cell, EMPTY,
        Cell(f"{abs(saved):.0f} ms sooner; a window of {window_ms(times):.0f} ms", ("note-4", "by-latency")), EMPTY,
        claim.mark(saved), "the target alone would have its first token at the same time",
    )  # fmt: skip


def _together(facts: Facts, event: float) -> Row:
    run = facts.study["executed"]["e2e_50tok"]
    return Row(
        "both prefills at once, one GPU", facts.claim("note-4", "timeline", "first").cell, EMPTY, EMPTY,
        Cell(f"{run['prefill_ms']:.0f} ms together; {run['plain_prefill_ms']:.0f} ms for the target alone",
             ("executed",)), "contradicted" if run["prefill_ms"] > run["plain_prefill_ms"] + event else "confirmed",
        "longer than one after the other: the device is shared",
    )  # fmt: skip


def _live(facts: Facts) -> Cell:
    composed = window_config(facts, "L1")["ratio_of_means"]
    executed = facts.study["executed"]["e2e_50tok"]["ratio_of_means"]["L1+VL"]
    return Cell(
        f"L1: {composed:.3f}x composed, {executed:.2f}x executed on one GPU", ("window", "executed", "by-replay")
    )


def _judged(facts: Facts, level: str) -> tuple[CaseVerdict, ...]:
    found = window_config(facts, level)
    runs = {int(length): count for length, count in found["accepted_histogram"].items()}
    rates = Acceptance(alphas_from_runs(runs, found["drafted_max"]))
    return judge(measured_times(facts, level), rates, round(facts.study["window"]["tokens"]))


def _answer(case: CaseVerdict) -> str:
    unit = case.unit if case.unit == "x" else f" {case.unit}"
    return f"{case.answer.lower()} by {abs(case.margin):.2f}{unit}"


def _full_rows(facts: Facts) -> list[Row]:
    update, full = facts.note["update"], facts.study["full"]
    short = full["short"]
    claims = {key: facts.claim("note-update", "update", key) for key in
              ("short", "ceiling", "accepted", "verify", "saving", "slower", "perfect")}  # fmt: skip
    times = Times(
        target_encode_ms=0.0, target_prefill_ms=short["prefill_ms"], step_ms=update["step_ms"],
        verify_ms={update["drafts"] + 1: update["verify_ms"]}, draft_step_ms=0.0,
    )  # fmt: skip
    plain = Times(
        target_encode_ms=0.0, target_prefill_ms=short["prefill_ms"], draft_step_ms=0.0, verify_ms={2: 1.0},
        step_ms=short["decode_ms"] / (update["tokens"] - 1),
    )  # fmt: skip
    ceiling, saving = (
        amdahl_ceiling(plain, update["tokens"]),
        hiding_gain_ms(times, claims["accepted"].number, update["drafts"]),
    )
    perfect = full_window_ceiling(
        plain_ms=short["plain_ms"], step_ms=update["step_ms"], num_drafts=update["drafts"],
        verify_ms=update["verify_ms"]
    )  # fmt: skip
    verify = window_config(facts, "L4")["verify_ms"]
    return [
        _ratio_row(facts, "L4, answers of 30 tokens", claims["short"].cell, "short"),
        _ratio_row(facts, "L4, answers to their end", facts.claim("full", "update", "long").cell, "long"),
        Row("ceiling of any method, 30 tokens", claims["ceiling"].cell, EMPTY,
            Cell(f"{ceiling:.2f}x", ("full", "by-latency")), EMPTY, claims["ceiling"].mark(ceiling),
            "Amdahl: the target's prefill is never shortened"),
        Row("accepted tokens", claims["accepted"].cell, EMPTY,
            Cell(f"{short['accepted']:.2f} of {short['drafted']:.1f}", ("full", "by-measurements")), EMPTY,
            claims["accepted"].mark(short["accepted"]), "the mean of the published histogram"),
        Row("verify pass", claims["verify"].cell, EMPTY, EMPTY, Cell(f"{verify:.0f} ms", ("window", "by-replay")),
            claims["verify"].mark(verify), "fitted to the records of the 50-token run"),
        Row("net saving", claims["saving"].cell, EMPTY, Cell(f"{saving:.1f} ms", ("note-update", "by-latency")),
        EMPTY,
            claims["saving"].mark(saving), "accepted tokens and one more, less the pass"),
        Row("samples that get slower", claims["slower"].cell,
            Cell(f"{percent(short['least_share'])} have 0 or 1 accepted", ("full",)),
            Cell(f"{percent(short['slow_share'])} have 3 or fewer", ("full", "by-measurements")), EMPTY,
            claims["slower"].mark(short["slow_share"]), "its own table has less than 1x up to 3 accepted tokens"),
        Row("all drafts accepted", claims["perfect"].cell, EMPTY,
            Cell(f"{perfect:.2f}x", ("note-update", "by-bounds")), EMPTY, claims["perfect"].mark(perfect),
            "a perfect drafter in the window gains no more"),
    ]  # fmt: skip


def _ratio_row(facts: Facts, item: str, claimed: Cell, run: str) -> Row:
    found = facts.study["full"][run]
    claim = facts.claim("note-update", "update", run)
    mark: Mark = claim.mark(found["ratio_of_means"])
    return Row(
        item, claimed, Cell(f"{found['plain_ms']} and {found['total_ms']} ms", ("full",)),
        Cell(f"{found['ratio_of_means']:.3f}x", ("full", "by-measurements")), EMPTY, mark,
        "a mean of ratios flatters; its own totals give less",
    )  # fmt: skip


def _replay_row(facts: Facts, level: str) -> Row:
    found = window_config(facts, level)
    printed, ratio = f"{found['mean_of_ratios']:.3f}", f"{found['ratio_of_means']:.3f}"
    return Row(
        f"{level}, answers of 50 tokens", Cell(f"{printed}x", ("window",)), EMPTY,
        Cell(f"{ratio}x", ("window", "by-replay")),
        Cell(f"{found['accepted_mean']:.2f} accepted of {found['drafted_mean']:.1f}", ("window", "by-replay")),
        "confirmed" if printed == ratio else "contradicted", f"ratio of means over {found['num_samples']} pairs",
    )  # fmt: skip


def _executed_row(facts: Facts, name: str, found: dict[str, Any]) -> Row:
    tokens = name.removeprefix("e2e_").removesuffix("tok")
    return Row(
        f"L4, {tokens} tokens, executed on one GPU", facts.claim("note-1", "L1", "pilot speedup").cell, EMPTY,
        Cell(f"{found['ratio_of_means']['L4+VL']:.2f}x", ("executed", "by-replay")),
        Cell(f"{found['round_ms']:.0f} ms a round of 5 drafts", ("executed", "by-measurements")), "contradicted",
        f"ratio of means over {found['num_samples']} pairs; nothing was composed",
    )  # fmt: skip
