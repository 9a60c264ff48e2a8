"""The note's last two tables: what larger adapters would give, and everything side by side."""

from crossdraft.evaluate.published import end_to_end
from crossdraft.report.reference.acceptance_tables import (
    headline_run,
    headline_speedup,
    level_bounds,
    window_config,
)
from crossdraft.report.reference.facts import Claim, Facts, joined
from crossdraft.report.reference.model import EMPTY, Cell, Row, Table, percent
from crossdraft.report.reference.published_tables import again, eagle_rate

GAMMA, TOKENS = 5, 50
ASSUMED = {"target_prefill_ms": 310.0, "draft_prefill_ms": 130.0, "adapter_ms": 1.5, "step_ms": 25.0}
"""The constants that the study's own end-to-end estimate assumes."""


def projected(facts: Facts) -> Table:
    """L1 to L5 as projected, beside what they became."""
    rows = tuple(row for level in facts.note["projected"] for row in _projected(facts, level))
    return Table(
        "projected", "Projected results, L1 to L5",
        "The parameter counts hold but for L3. Every projected cosine, share, run and speed-up beyond L1 was too "
        "high. What the study's own end-to-end formula gives for exact tokens is in the recomputed column.", rows,
    )  # fmt: skip


def comparison(facts: Facts) -> Table:
    """The final comparison of eight systems."""
    rows = tuple(row for name in facts.note["final"] for row in _compared(facts, name))
    return Table(
        "comparison", "Final comparison",
        "Tokens of the first seven systems were accepted by their targets. The last line's are cosines above 0.90 "
        "at the same position of two different texts, so the column compares two different things.", rows,
    )  # fmt: skip


# --- projections ------------------------------------------------------------------------------------------------


def _projected(facts: Facts, level: str) -> list[Row]:
    claims = {what: facts.claim("note-6", "projected", level, what) for what in facts.note["projected"][level]}
    found, bounds = facts.study["levels"][level], level_bounds(facts, level)
    millions = found["params"] / 1e6
    built = "as built" if claims["params"].agrees(millions) else "two blocks; three were trained"
    return [
        Row(f"{level}: parameters", claims["params"].cell, Cell(f"{found['params']:,}", ("configs",)), EMPTY, EMPTY,
            claims["params"].mark(millions), built),
        _level_row(f"{level}: cosine", claims["cosine"], found["cos"], f"{found['cos']:.3f}"),
        _level_row(f"{level}: share above 0.90", claims["share"], found["accept_90"], percent(found["accept_90"])),
        Row(f"{level}: consecutive", claims["run"].cell, Cell(f"{found['run_90']:.2f} by cosine", ("metrics",)),
            Cell(f"{bounds.minimum:.2f} to {bounds.maximum:.2f} possible", ("positions", "by-bounds")),
            Cell(f"{found['token_run']:.2f} by token", ("metrics",)), claims["run"].mark(found["run_90"]),
            "by cosine; fewer of these positions give the target's token"),
        _level_speedup(facts, level, claims["speedup"]),
    ]  # fmt: skip


def _level_row(item: str, claim: Claim, value: float, text: str) -> Row:
    mark = claim.mark(value)
    why = "over all pairs, after training" if mark == "contradicted" else "as measured over all pairs"
    return Row(item, claim.cell, Cell(text, ("metrics",)), EMPTY, EMPTY, mark, why)


def _level_speedup(facts: Facts, level: str, claim: Claim) -> Row:
    run = facts.study["levels"][level]["token_run_first5"]
    modelled = end_to_end(run, GAMMA, TOKENS, **ASSUMED).speedup
    if level == "L5":
        found = facts.study["single"]["L5_ratio_of_means"]
        live = Cell(
            f"{found:.2f}x executed, {facts.study['single']['num_samples']} answers", ("single", "by-replay")
        )
    else:
        found = window_config(facts, level)["ratio_of_means"]
        executed = facts.study["executed"]["e2e_50tok"]["ratio_of_means"][f"{level}+VL"]
        live = joined(Cell(f"{found:.3f}x composed", ("window", "by-replay")),
                      Cell(f"{executed:.2f}x executed", ("executed", "by-replay")))  # fmt: skip
    return Row(
        f"{level}: speed-up", claim.cell, EMPTY,
        Cell(f"{modelled:.2f}x by the study's end-to-end formula", ("metrics", "by-published")), live,
        claim.mark(found), "a projection; no run came near it",
    )  # fmt: skip


# --- comparison -------------------------------------------------------------------------------------------------

_FULL = {"SpS": "Speculative Sampling", "L1": "the note's L1"}
_PAPERS = {
    "Medusa": ("Medusa tokens high", "Medusa speedup high"),
    "EAGLE": ("EAGLE 7B tokens", "EAGLE 13B speedup"),
    "HASS": ("HASS tokens high", "HASS speedup high"),
    "EagleVLM": ("EagleVLM 1.6-13B tokens", "EagleVLM 1.6-13B speedup"),
    "SpecVLM": ("SpecVLM 1.6-13B tokens", "SpecVLM 1.6-13B speedup"),
}
_SPEED_WHY = {
    "Medusa": "another method's figure: Hydra's",
    "EAGLE": "true of Vicuna-13B; the tokens beside it are Vicuna-7B's",
    "EagleVLM": "one benchmark's figure beside averages",
}
_TOKEN_WHY = {
    "Medusa": "Medusa-2 changes the target's weights, so it is not lossless",
    "EAGLE": "true of Vicuna-7B; the speed-up beside it is Vicuna-13B's",
    "HASS": "the target's own token included; LLaMA3 70B",
    "EagleVLM": "may or may not count the target's own token",
    "SpecVLM": "may or may not count the target's own token",
}


def _compared(facts: Facts, name: str) -> list[Row]:
    claims = {what: facts.claim("note-7", "final", name, what) for what in facts.note["final"][name]}
    full = _FULL.get(name, name)
    if name == "L1":
        return _own_line(facts, full, claims)
    keys = _PAPERS.get(name, (f"{name} tokens", f"{name} speedup"))
    tokens, speedup = (facts.paper(key) for key in keys)
    beside = [speedup.cell]
    if name == "Medusa":
        beside.append(facts.paper("Hydra speedup").cell)
    if name == "EAGLE":
        beside.append(facts.paper("EAGLE 7B speedup").cell)
    rows = [_metric(facts, name, full, claims["metric"]),
            Row(f"{full}: tokens", claims["tokens"].cell, tokens.cell, EMPTY, again(facts, name, "tokens"),
                claims["tokens"].mark(tokens.value), _TOKEN_WHY.get(name, "the target's own token included")),
            Row(f"{full}: speed-up", claims["speedup"].cell, joined(*beside), EMPTY, again(facts, name, "speedup"),
                claims["speedup"].mark(speedup.value), _SPEED_WHY.get(name, "as in the paper"))]  # fmt: skip
    if "cosine" in claims:
        rows.append(Row(f"{full}: cosine", claims["cosine"].cell, EMPTY, EMPTY, EMPTY, "not checkable",
                        "implied by the note; it names no figure of the paper"))  # fmt: skip
    return rows


def _metric(facts: Facts, name: str, full: str, claim: Claim) -> Row:
    item = f"{full}: acceptance"
    if name == "EAGLE":
        return eagle_rate(facts, item, claim.cell)
    return Row(
        item,
        claim.cell,
        EMPTY,
        EMPTY,
        EMPTY,
        "not checkable",
        "no rate stands beside these figures in the paper's table",
    )


def _own_line(facts: Facts, full: str, claims: dict[str, Claim]) -> list[Row]:
    level = facts.study["levels"]["L1"]
    return [
        Row(f"{full}: acceptance", claims["metric"].cell, Cell(percent(level["accept_90"]), ("metrics",)), EMPTY,
            Cell(percent(level["token_match"]) + " of tokens", ("metrics",)),
            claims["metric"].mark(level["accept_90"]),
            "less over all pairs, and a share of cosines, not of accepted tokens"),
        headline_run(facts, claims["tokens"].cell, f"{full}: tokens"),
        headline_speedup(facts, claims["speedup"].cell, f"{full}: speed-up"),
        Row(f"{full}: cosine", claims["cosine"].cell, Cell(f"{level['cos']:.3f}", ("metrics",)), EMPTY, EMPTY,
            claims["cosine"].mark(level["cos"]), "over all pairs"),
    ]  # fmt: skip
