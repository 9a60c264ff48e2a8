"""The note's tables of other people's methods: what the papers say, and what others measured again."""

from itertools import pairwise

from crossdraft.evaluate.expected import expected_tokens, fit_alpha, reach
from crossdraft.report.reference.facts import Facts, Figure, joined
from crossdraft.report.reference.model import EMPTY, UNSTATED, Cell, Row, Table, percent

METHODS = {"SpS": "Speculative Sampling", "Medusa": "Medusa", "EAGLE": "EAGLE", "EAGLE-2": "EAGLE-2",
           "HASS": "HASS", "EAGLE-3": "EAGLE-3"}  # fmt: skip
VLM = {"EagleVLM 1.5-7B": "EagleVLM, LLaVA-1.5-7B", "SpecVLM 1.5-7B": "SpecVLM, LLaVA-1.5-7B",
       "EagleVLM 1.6-13B": "EagleVLM, LLaVA-1.6-13B", "SpecVLM 1.6-13B": "SpecVLM, LLaVA-1.6-13B"}  # fmt: skip

_LONG_DRAFT = 1000
"""A draft so long that a longer one changes no digit shown."""
_NO_RATE = "the table that the other two figures come from prints no acceptance rate"


def prior_methods(facts: Facts) -> Table:
    """Average accepted tokens, speed-up and acceptance rate of six methods."""
    rows = tuple(
        row for key, name in METHODS.items()
        for row in (_tokens(facts, key, name), _speedup(facts, key, name), _rate(facts, key, name))
    )  # fmt: skip
    return Table(
        "prior", "Prior methods",
        "Most of what the note copied stands in the papers. Its acceptance rates do not stand beside the other "
        "figures there, except EAGLE's. Spec-Bench, which measured five of the methods again on other tasks, finds "
        "smaller speed-ups for all five.", rows,
    )  # fmt: skip


def vlm_methods(facts: Facts) -> Table:
    """Average accepted tokens and speed-up of two methods on two vision-language targets."""
    rows = []
    for key, name in VLM.items():
        for what in ("tokens", "speedup"):
            claim, found = facts.claim("note-1", "vlm", key, what), facts.paper(f"{key} {what}")
            mark = claim.mark(found.value)
            why = "average of six benchmarks, one epoch of training" if mark == "confirmed" else (
                "the figure of one of the six benchmarks stands beside averages")  # fmt: skip
            rows.append(Row(f"{name}: {_WHAT[what]}", claim.cell, found.cell, EMPTY, EMPTY, mark, why))
    return Table(
        "vlm", "Methods for vision-language models",
        "All eight figures are from one paper; one of them is not the average that it is printed beside. That "
        "paper's accepted length may or may not count the target's own token.", tuple(rows),
    )  # fmt: skip


def depth(facts: Facts) -> Table:
    """How EAGLE's acceptance falls with the number of features it predicted itself."""
    section, rates = facts.note["depth"], facts.papers["EAGLE 70B alphas"]
    rows = []
    for n, (claimed, found, arrive) in enumerate(zip(section["rates"], rates, reach(rates), strict=True)):
        rows.append(
            Row(
                f"{n}-alpha (LLaMA2-Chat 70B)", Cell(percent(claimed, 0), ("note-3",)),
                Cell(f"{found:.2f}", ("eagle-t2",)),
                Cell(f"{arrive:.2f} of drafts get this far", ("eagle-t2", "by-expected")), EMPTY,
                "confirmed" if abs(claimed - found) < 0.005 else "contradicted",
                "a conditional rate: what a draft gains is the product of all up to here",
            )
        )  # fmt: skip
    falls = [a - b for a, b in pairwise(rates)]
    drop, chain = facts.claim("note-3", "depth", "drop"), facts.paper("EAGLE 70B chain")
    mean = (rates[0] - rates[-1]) / len(falls)
    rows.append(
        Row(
            "drop", drop.cell, Cell(", ".join(f"{100 * fall:.0f}" for fall in falls) + " points", ("eagle-t2",)),
            Cell(f"{100 * mean:.1f} points on average", ("eagle-t2", "by-expected")), EMPTY, drop.mark(mean),
            "as an average; nearly all of it is lost over the first two self-predicted features",
        )
    )  # fmt: skip
    rows.append(
        Row(
            "tokens a pass from these rates", UNSTATED, chain.cell,
            Cell(f"{expected_tokens(rates, len(rates)):.2f}", ("eagle-t2", "by-expected")), EMPTY, "not checkable",
            "the note draws no length from them; the product comes close to the chain that the paper measured",
        )
    )  # fmt: skip
    return Table(
        "depth", "EAGLE's degradation by depth",
        "The rates are the paper's. They are given a correct prefix, verified by the target; the note's own drafts "
        "are written once and never corrected, so they do not carry over.", tuple(rows),
    )  # fmt: skip


def training(facts: Facts) -> Table:
    """SpecVLM over epochs, and the note's own adapter."""
    rows = []
    for epoch in ("1", "3", "5"):
        for what in ("tokens", "speedup"):
            claim, found = facts.claim("note-6", "training", epoch, what), facts.paper(f"epoch {epoch} {what}")
            drawn = epoch == "3"
            rows.append(
                Row(
                    f"SpecVLM, epoch {epoch}: {_WHAT[what]}", claim.cell, found.cell, EMPTY,
                    _own_epoch(facts, epoch) if what == "tokens" else EMPTY,
                    "not checkable" if drawn else claim.mark(found.value),
                    "read off a curve: the study's own two readings differ" if drawn
                    else "LLaVA-1.5-7B on one benchmark",
                )
            )  # fmt: skip
    epochs = facts.study["epochs"]
    later = epochs["best_cos"] - epochs["cos"]["12"]
    rows.append(
        Row(
            "the note's adapter L1", facts.claim("note-6", "training", "own").cell,
            Cell(f"cosine {epochs['cos']['12']:.3f} at epoch 12", ("history",)),
            Cell(f"{later:+.3f} until its best epoch, {epochs['best_epoch']} of {epochs['num_epochs']}",
                 ("history", "by-measurements")),
            EMPTY, "confirmed" if later > 0 else "contradicted",
            "true, and worth little: a hundredth of cosine",
        )
    )  # fmt: skip
    return Table(
        "training", "Training scaling",
        "SpecVLM's accepted length grows with training. What is measured later, in its column, is the note's own "
        "adapter L1 at the same epochs: it had nearly all of its cosine after the first.", tuple(rows),
    )  # fmt: skip


# --- rows -------------------------------------------------------------------------------------------------------

_WHAT = {"tokens": "accepted tokens", "speedup": "speed-up", "rate": "acceptance rate"}


def again(facts: Facts, key: str, what: str) -> Cell:
    """What the independent benchmark measured for the method, on another task mix."""
    if key not in facts.papers["Spec-Bench"]:
        return EMPTY
    tokens, speedup = facts.papers["Spec-Bench"][key]
    return Cell(f"{tokens:.2f}" if what == "tokens" else f"{speedup:.2f}x", ("specbench",))


def _tokens(facts: Facts, key: str, name: str) -> Row:
    claim = facts.claim("note-1", "prior", key, "tokens")
    ends = _ends(facts, key, "tokens")
    why = {
        "SpS": "measured by EAGLE's authors with a 68M drafter; the target's own token included",
        "Medusa": "to a hundredth; Medusa-2 changes the target's weights, so the upper end is not lossless",
        "EAGLE": "ends of a selection: the upper one is not the largest of its table",
        "HASS": "two of the paper's four targets; another has more",
    }.get(key, "Vicuna-13B on MT-bench; the target's own token included")
    cells = [end.cell for end in ends] + ([facts.paper("Hydra tokens").cell] if key == "Medusa" else [])
    return Row(
        f"{name}: accepted tokens", claim.cell, joined(*cells), EMPTY, again(facts, key, "tokens"),
        "confirmed" if all(claim.agrees(end.value) for end in ends) else "contradicted", why,
    )  # fmt: skip


def _speedup(facts: Facts, key: str, name: str) -> Row:
    claim = facts.claim("note-1", "prior", key, "speedup")
    ends = _ends(facts, key, "speedup")
    low, high = (claim.number, claim.value[1]) if isinstance(claim.value, tuple) else (claim.number, claim.number)
    stands = abs(ends[0].value - low) <= claim.within and abs(ends[-1].value - high) <= claim.within
    cells, why = [end.cell for end in ends], "on MT-bench, greedy, one request at a time"
    if key == "Medusa":
        cells.append(facts.paper("Hydra speedup").cell)
        why = "the upper end is a figure of another method, Hydra"
    elif key == "HASS":
        why = "averages of three tasks, the lower end not the lowest"
    elif key == "EAGLE":
        why = "LLaMA2-Chat over several tasks"
    return Row(
        f"{name}: speed-up", claim.cell, joined(*cells), EMPTY, again(facts, key, "speedup"),
        "confirmed" if stands else "contradicted", why,
    )  # fmt: skip


def _rate(facts: Facts, key: str, name: str) -> Row:
    claim = facts.claim("note-1", "prior", key, "rate")
    item = f"{name}: acceptance rate"
    if key == "EAGLE":
        return eagle_rate(facts, item, claim.cell)
    if key == "SpS":
        least = fit_alpha(facts.paper("SpS tokens").value, _LONG_DRAFT)
        return Row(
            item, claim.cell, facts.paper("SpS rate").cell,
            Cell(f"at least {percent(least, 0)} for its accepted tokens, if equal at all depths",
                 ("eagle2-t1", "by-expected")),
            EMPTY, "not checkable", _NO_RATE,
        )  # fmt: skip
    return Row(item, claim.cell, EMPTY, EMPTY, EMPTY, "not checkable", _NO_RATE)


def eagle_rate(facts: Facts, item: str, claimed: Cell) -> Row:
    """EAGLE's 0-alpha over all tables of its paper."""
    claim = facts.claim("note-1", "prior", "EAGLE", "rate")
    rates = [rate for table in facts.papers["EAGLE 0-alpha"].values() for rate in table]
    assert isinstance(claim.value, tuple)
    same = max(abs(min(rates) - claim.value[0]), abs(max(rates) - claim.value[1])) <= claim.within
    return Row(
        item, claimed,
        Cell(f"{min(rates):.2f} to {max(rates):.2f} (0-alpha)", tuple(facts.papers["EAGLE 0-alpha"])),
        EMPTY, EMPTY, "confirmed" if same else "contradicted",
        "the first drafted token only, over all tasks and targets; deeper ones fare worse",
    )  # fmt: skip


def _ends(facts: Facts, key: str, what: str) -> list[Figure]:
    names = (f"{key} {what}", f"{key} {what} low", f"{key} {what} high")
    return [facts.paper(name) for name in names if name in facts.papers]


def _own_epoch(facts: Facts, epoch: str) -> Cell:
    own = facts.study["epochs"]
    return Cell(f"L1: cosine {own['cos'][epoch]:.3f}, {percent(own['accept_90'][epoch])} above 0.90", ("history",))
