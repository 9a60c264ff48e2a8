"""The note's tables of its own acceptance: cosines above a threshold, and what they are worth in tokens."""

from typing import Any

from crossdraft.evaluate.bounds import RunBounds, run_bounds
from crossdraft.evaluate.published import capped_geometric, leviathan, run_over_overhead
from crossdraft.report.reference.facts import Facts, joined
from crossdraft.report.reference.model import EMPTY, UNSTATED, Cell, Row, Table, percent

LEVELS = {"L1": "L1", "L2": "L2", "L3": "L3", "L4": "L4", "L4_5f_retrained": "L4 trained longer",
          "L4_1f": "L4, one image"}  # fmt: skip
GAMMA = 5


def pilot_bounds(facts: Facts) -> RunBounds:
    """Mean runs that the pilot's ten positions allow."""
    return run_bounds(facts.note["positions"]["accept"])


def level_bounds(facts: Facts, level: str) -> RunBounds:
    """Mean runs that a level's positions allow, over all pairs of its run."""
    figures = facts.study["levels"][level]
    return run_bounds([count / figures["pairs"] for count in figures["accepted"]])


def window_config(facts: Facts, level: str) -> dict[str, Any]:
    """The replayed end-to-end records of a level."""
    found: dict[str, Any] = facts.study["window"]["configs"][f"{level}+VL"]
    return found


def headline_run(facts: Facts, claimed: Cell, item: str) -> Row:
    """6.35 consecutive accepts against what its ten positions allow."""
    bounds, run = pilot_bounds(facts), facts.claim("note-1", "L1", "pilot run")
    longest = facts.claim("pilot", "L1", "longest run")
    found = facts.study["levels"]["L1"]
    outside = not bounds.minimum <= run.number <= bounds.maximum
    return Row(
        item, claimed, Cell(f"{run.text}; the longest {longest.text}", ("pilot",)),
        Cell(f"{bounds.minimum:.2f} to {bounds.maximum:.2f}; {bounds.independent:.2f} if independent",
             ("note-2", "by-bounds")),
        Cell(f"L1, all pairs: {found['run_90']:.2f} by cosine, {found['token_run']:.2f} by token", ("metrics",)),
        "impossible" if outside else "confirmed",
        f"the ten positions allow {bounds.maximum:.2f} at most; true only if runs go past position 9 and nearly "
        "all acceptances are nested",
    )  # fmt: skip


def headline_speedup(facts: Facts, claimed: Cell, item: str) -> Row:
    """5.77x against the replay of the per-sample records."""
    run, overhead = facts.claim("note-1", "L1", "pilot run"), facts.claim("note-1", "L1", "overhead")
    l1, l4 = window_config(facts, "L1"), window_config(facts, "L4")
    estimate = facts.claim("pilot", "L1", "pilot speedup")
    found = run_over_overhead(run.number, overhead.number)
    return Row(
        item, claimed, Cell(f"{estimate.text}, called an estimate", ("pilot",)),
        Cell(f"{found.speedup:.2f}x = {run.text} / (1 + {overhead.text})", ("note-1", "by-published")),
        Cell(f"{l1['ratio_of_means']:.3f}x (L1), {l4['ratio_of_means']:.3f}x (L4), "
             f"break-even {l4['break_even']:.1f} accepted tokens (L4)", ("window", "by-replay")),
        "contradicted", f"a quotient without {found.leaves_out.split(';')[0]}; replayed, L4 gains "
        f"{l4['ratio_of_means']:.2f}x over {l4['num_samples']} pairs as a ratio of means",
    )  # fmt: skip


def l1_runs(facts: Facts) -> Table:
    """The pilot (100 clips) and the run over all pairs."""
    level, note = facts.study["levels"]["L1"], "note-1"
    rows = [headline_run(facts, facts.claim(note, "L1", "pilot run").cell, "pilot: consecutive accepts"),
            headline_speedup(facts, facts.claim(note, "L1", "pilot speedup").cell, "pilot: speed-up")]  # fmt: skip
    for key, item, text in (("cosine", "cosine", f"{level['cos']:.3f} over all pairs"),
                            ("share", "share above cosine 0.90",
                            percent(level["accept_90"]) + " over all pairs")):  # fmt: skip
        pilot, full = facts.claim(note, "L1", f"pilot {key}"), facts.claim(note, "L1", f"full {key}")
        rows.append(
            Row(
                f"pilot: {item}", pilot.cell, Cell(pilot.text, ("pilot",)), EMPTY, EMPTY, "confirmed",
                "as in the pilot's own report; its states were not published",
            )
        )  # fmt: skip
        value = level["cos"] if key == "cosine" else level["accept_90"]
        rows.append(
            Row(
                f"full: {item}", full.cell,
                joined(Cell(text, ("metrics",)), Cell("validation saw 440 of them", ("history",))), EMPTY, EMPTY,
                full.mark(value), "taken while training; all pairs give less",
            )
        )  # fmt: skip
    l1 = window_config(facts, "L1")
    rows.append(
        Row(
            "full: consecutive accepts", UNSTATED, Cell(f"{level['run_90']:.2f} by cosine", ("metrics",)), EMPTY,
            joined(Cell(f"{level['token_run']:.2f} by token", ("metrics",)),
                   Cell(f"{l1['accepted_mean']:.2f} accepted live", ("window", "by-replay"))),
            "not checkable", "left open in the note",
        )
    )  # fmt: skip
    rows.append(
        Row(
            "full: speed-up", UNSTATED, EMPTY, EMPTY,
            Cell(f"{l1['ratio_of_means']:.3f}x", ("window", "by-replay")), "not checkable", "left open in the note",
        )
    )  # fmt: skip
    same, rate = facts.claim("note-tldr", "L1", "same-model"), facts.claim("note-tldr", "L1", "same-model rate")
    best = leviathan(rate.number, GAMMA, 0.0)
    rows.append(
        Row(
            "20 % acceptance, same model", same.cell, EMPTY,
            Cell(f"{best.speedup:.2f}x at most", ("note-tldr", "by-published")), EMPTY, same.mark(best.speedup),
            f"even with a drafter that costs nothing, for drafts of {GAMMA} tokens or longer",
        )
    )  # fmt: skip
    return Table(
        "l1", "L1: pilot and full run",
        "The two headline figures, and the plainer ones around them. Cosines were taken between the states of two "
        "different texts, position by position; above 0.90 is not yet the same token.", tuple(rows),
    )  # fmt: skip


def overall_consecutive(facts: Facts) -> Table:
    """Overall share against consecutive accepts, and the runs that positions allow."""
    pattern = facts.note["example"]["pattern"]
    share, run = facts.claim("note-2", "example", "share"), facts.claim("note-2", "example", "run")
    rows = [
        Row("example: overall", share.cell, EMPTY, Cell(percent(sum(pattern) / len(pattern), 0), ("note-2",)),
        EMPTY,
            share.mark(sum(pattern) / len(pattern)), "arithmetic on a made-up row of ten"),
        Row("example: consecutive", run.cell, EMPTY,
            Cell(f"{run_bounds(pattern).maximum:.0f} tokens", ("note-2", "by-bounds")), EMPTY,
            run.mark(run_bounds(pattern).maximum),
            "arithmetic; it treats mean cosines as if every answer had them"),
    ]  # fmt: skip
    rows += [_bounds_row(facts, level, name) for level, name in LEVELS.items()]
    l1, openings = facts.study["levels"]["L1"], facts.study["openings"]
    early = facts.claim("note-tldr", "early")
    tokens = l1["position_tokens"][:3]
    cosines = [count / l1["pairs"] for count in l1["accepted"][:3]]
    rows.append(
        Row(
            "early positions", early.cell, Cell(_shares(cosines) + " by cosine (L1)", ("positions",)), EMPTY,
            Cell(_shares(tokens) + " by token", ("metrics",)), early.mark(min(tokens)),
            "true of cosines; what counts is the token, and the third is often another",
        )
    )  # fmt: skip
    rows.append(
        Row(
            "why early positions align", facts.claim("note-2", "cause").cell, EMPTY,
            Cell(f"the commonest token holds {percent(min(openings['shares']), 0)} to "
                 f"{percent(max(openings['shares']), 0)} of the answers at each of the first 8 places", ("tokens",
                 "by-measurements")),
            EMPTY, "contradicted",
            "the target opens nearly every answer to a question with the same words, whatever it sees",
        )
    )  # fmt: skip
    return Table(
        "overall", "Overall and consecutive acceptance",
        "That drafting stops at the first rejection is right. Shares at each position bound the mean run "
        "(all rejections apart; independent; all acceptances nested): the full runs lie inside, near the top.",
        tuple(rows),
    )  # fmt: skip


def positions(facts: Facts) -> Table:
    """The pilot's ten positions beside the run over all pairs."""
    note, level = facts.note["positions"], facts.study["levels"]["L1"]
    rows = []
    for place, (cosine, share) in enumerate(zip(note["cosine"], note["accept"], strict=True)):
        text = f"{percent(share)} (cosine {cosine:.3f})"
        full = level["accepted"][place] / level["pairs"]
        rows.append(
            Row(
                f"position {place}", Cell(text, ("note-2",)), Cell(text, ("pilot",)), EMPTY,
                joined(Cell(f"{percent(full)} (cosine {level['position_cos'][place]:.3f})", ("positions",)),
                       Cell(f"token {percent(level['position_tokens'][place])}", ("metrics",))),
                "confirmed", "as in the pilot's own report",
            )
        )  # fmt: skip
    return Table(
        "positions", "Acceptance by position, pilot",
        "The pilot's table is copied correctly; its states were not published. Later: L1 over all pairs, by cosine "
        "and by token.", tuple(rows),
    )  # fmt: skip


# the band of cosines in which a line of the note's map lies, as far as the study's files tell them apart
_BAND_OF = {"0.70": "below 0.80", "0.75": "below 0.80", "0.77": "below 0.80", "0.80": "0.80 to 0.85",
            "0.85": "0.85 to 0.90", "0.90": "0.90 to 0.95", "0.95": "above 0.95"}  # fmt: skip


def cosine_map(facts: Facts) -> Table:
    """Cosine -> token match, chain length and speed-up."""
    rows, b1 = [], facts.study["levels"]["B1"]
    for cosine in facts.note["cosine map"]:
        rows += [_match(facts, cosine), _chain(facts, cosine), _map_speedup(facts, cosine)]
    return Table(
        "cosine", "From cosine to token match, chain and speed-up",
        "The note calls this map synthesised from papers and names no table that has it. Chains are stated for "
        "drafts of 5 tokens, yet four of the seven are longer. B1 shows that a mean cosine decides nothing: it has "
        f"{b1['cos']:.3f} and {percent(b1['token_match'])} of the tokens.",
        tuple(rows),
    )  # fmt: skip


def _match(facts: Facts, cosine: str) -> Row:
    claim, band = facts.claim("note-3", "cosine map", cosine, "match"), _BAND_OF[cosine]
    found = [facts.study["levels"][level]["match_by_cosine"][band] for level in LEVELS]
    means = [(v["cos"], v["token_match"]) for k, v in facts.study["levels"].items() if k in LEVELS]
    b1 = facts.study["levels"]["B1"]
    later = EMPTY
    if cosine == "0.77":
        near = min(means, key=lambda pair: abs(pair[0] - float(cosine)))
        later = Cell(f"{percent(near[1])} at a mean cosine of {near[0]:.3f}", ("metrics",))
    elif cosine == "0.90":
        later = Cell(f"B1: {percent(b1['token_match'])} at a mean cosine of {b1['cos']:.3f}", ("metrics",))
    hits = any(claim.agrees(value) for value in found)
    why = "the share of these states that give the target's token, over L1 to L4"
    return Row(
        f"cosine {cosine}: token match", claim.cell, EMPTY,
        Cell(f"{percent(min(found))} to {percent(max(found))} ({band})", ("metrics", "by-measurements")), later,
        "confirmed" if hits else "contradicted", why,
    )  # fmt: skip


def _chain(facts: Facts, cosine: str) -> Row:
    claim, match = (facts.claim("note-3", "cosine map", cosine, what) for what in ("chain", "match"))
    accepted = capped_geometric(match.number, GAMMA) - 1
    over = claim.number - claim.within > GAMMA
    return Row(
        f"cosine {cosine}: chain (of {GAMMA} drafts)", claim.cell, EMPTY,
        Cell(f"{accepted:.2f} accepted at the line's own match", ("note-3", "by-published")), EMPTY,
        "impossible" if over else claim.mark(accepted),
        f"a draft of {GAMMA} tokens cannot have more accepted" if over else "a chain at this match rate is shorter",
    )  # fmt: skip


def _map_speedup(facts: Facts, cosine: str) -> Row:
    claim, match = (facts.claim("note-3", "cosine map", cosine, what) for what in ("speedup", "match"))
    found, most = leviathan(match.number, GAMMA, 0.0).speedup, leviathan(1.0, GAMMA, 0.0).speedup
    over = claim.number - claim.within > most
    return Row(
        f"cosine {cosine}: speed-up", claim.cell, EMPTY,
        Cell(f"{found:.2f}x at the line's own match; {most:.2f}x if all were accepted", ("note-3", "by-published")),
        EMPTY, "impossible" if over else claim.mark(found),
        "more than all drafts accepted by a drafter that costs nothing" if over
        else "though the drafter is taken to cost nothing",
    )  # fmt: skip


def _bounds_row(facts: Facts, level: str, name: str) -> Row:
    bounds, figures = level_bounds(facts, level), facts.study["levels"][level]
    inside = bounds.minimum <= figures["run_90"] <= bounds.maximum
    live = EMPTY
    if f"{level}+VL" in facts.study["window"]["configs"]:
        live = Cell(f"{window_config(facts, level)['accepted_mean']:.2f} accepted live", ("window", "by-replay"))
    return Row(
        f"{name}: mean run, all pairs", Cell(f"{figures['run_90']:.2f} by cosine", ("metrics",)),
        Cell(f"{figures['token_run']:.2f} by token", ("metrics",)),
        Cell(f"{bounds.minimum:.2f} / {bounds.independent:.2f} / {bounds.maximum:.2f}", ("positions", "by-bounds")),
        live, "confirmed" if inside else "impossible",
        "a figure of the study's files; possible, and far above independence",
    )  # fmt: skip


def _shares(values: list[float]) -> str:
    return ", ".join(percent(value) for value in values)
