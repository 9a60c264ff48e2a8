"""The document: every table of the note in its order, and a summary."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crossdraft.report.reference.acceptance_tables import (
    cosine_map,
    l1_runs,
    overall_consecutive,
    pilot_bounds,
    positions,
    window_config,
)
from crossdraft.report.reference.facts import Facts, load_facts
from crossdraft.report.reference.final_tables import comparison, projected
from crossdraft.report.reference.model import Document, Table, count_marks
from crossdraft.report.reference.published_tables import depth, prior_methods, training, vlm_methods
from crossdraft.report.reference.timing_tables import components, equation, timeline, verdict, wall_clock

TABLES = (
    prior_methods, vlm_methods, l1_runs, overall_consecutive, positions, cosine_map, depth, timeline, components,
    equation, verdict, training, projected, comparison, wall_clock,
)  # fmt: skip


def build(study: Mapping[str, Any] | None = None) -> Document:
    """The whole document. study: what ``measurements.condense`` returns; default: the packaged figures."""
    facts = load_facts() if study is None else replace(load_facts(), study=dict(study))
    tables = tuple(make(facts) for make in TABLES)
    return Document("The original note, recomputed", _summary(facts, tables), tables, facts.sources)


def _summary(facts: Facts, tables: tuple[Table, ...]) -> tuple[str, ...]:
    bounds = pilot_bounds(facts)
    l1, l4 = window_config(facts, "L1"), window_config(facts, "L4")
    executed = facts.study["executed"]["e2e_50tok"]["ratio_of_means"]["L4+VL"]
    run, speedup = (facts.claim("note-1", "L1", key) for key in ("pilot run", "pilot speedup"))
    marks = count_marks([row for table in tables for row in table.rows])
    said = ", ".join(f"{count} {mark}" for mark, count in marks.items())
    return (
        "A note of February 2026 (xifan-zhang/EventGPT) claimed that an event-camera model that drafts while a "
        f"video model prefills makes it {speedup.text} as fast, from {run.text} consecutively accepted tokens. "
        "This page holds each of its tables against its sources, against arithmetic, and against what the study "
        "measured afterwards.",
        f"{speedup.text} was not measured. It is {run.text} divided by one and an assumed overhead. The study's "
        f"records of {l4['num_samples']} answers give {l1['ratio_of_means']:.3f}x for the note's adapter and "
        f"{l4['ratio_of_means']:.3f}x for the best of four, on a timeline put together afterwards; with both "
        f"models really running on one GPU, {executed:.2f}x. To gain anything, {l4['break_even']:.1f} tokens must "
        "be accepted.",
        f"{run.text} is more than the note's own ten positions allow, {bounds.minimum:.2f} to "
        f"{bounds.maximum:.2f}, and "
        "it counts similar states, not equal tokens.",
        "What holds: most figures copied from papers, the pilot's positions, the remark that drafting stops at the "
        "first rejection, and the study's own correction a day later, that the verify pass eats the gain.",
        f"Of {sum(marks.values())} lines: {said}.",
    )  # fmt: skip
