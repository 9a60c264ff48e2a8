"""The sections of a report, in reading order. A new one is a function and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from crossdraft.report.gather import Gathered
from crossdraft.report.sections.acceptance import cosines, positions, run_lengths
from crossdraft.report.sections.controls import controls, speed
from crossdraft.report.sections.league import league
from crossdraft.report.sections.machine import answers, benches, profile
from crossdraft.report.sections.requests import timeline, traces
from crossdraft.report.sections.sources import provenance
from crossdraft.report.sections.summary import summary
from crossdraft.report.sections.training import training


@dataclass(frozen=True)
class Section:
    """A part of the page. kinds: of the records that it shows; render: empty where there is nothing to show."""

    name: str
    title: str
    kinds: tuple[str, ...]
    render: Callable[[Gathered], Markup]


SECTIONS = (
    Section("summary", "Summary", ("league", "live", "evaluation", "verdict", "bench-*"), summary),
    Section("league", "The league", ("league",), league),
    Section("controls", "Methods beside their controls", ("evaluation", "live"), controls),
    Section("speed", "Speed beside plain decoding", ("live",), speed),
    Section("positions", "By position", ("evaluation",), positions),
    Section("runs", "Run lengths", ("evaluation",), run_lengths),
    Section("cosine", "What a cosine is worth in tokens", ("evaluation",), cosines),
    Section("training", "Training", ("adapter-training",), training),
    Section("timeline", "What ran when", ("live", "league"), timeline),
    Section("traces", "Who drafted which token", ("live", "league"), traces),
    Section("profile", "Cost of passes", ("latency-profile",), profile),
    Section("answers", "Single answers", ("generation",), answers),
    Section("benches", "Measurements", ("bench-*", "demo"), benches),
    Section("provenance", "Provenance", (), provenance),
)
