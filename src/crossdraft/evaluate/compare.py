"""Every candidate over one store, beside the controls: constant, stream memory, prompt lookup, a shuffled clip."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crossdraft.core.errors import DataError
from crossdraft.core.protocols import CostCurve, Tokenizer
from crossdraft.data.store import Store
from crossdraft.evaluate.acceptance import (
    MatchByCosine,
    RoundFigures,
    Rounds,
    StateFigures,
    TokenFigures,
    match_by_cosine,
    round_figures,
    state_figures,
    tau_contribution,
    token_contribution,
    token_figures,
)
from crossdraft.evaluate.intervals import Estimate, Paired, Recordings, ratio
from crossdraft.evaluate.offline import Candidate, Judged, first_runs, judge, play
from crossdraft.evaluate.recited import FREE, controls, recite

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Compared:
    """One row. What is None cannot be known of it.

    states, tokens, map: over all positions of the answers, the first included, as the study counted. first_run:
    accepted tokens of a first and only draft, behind the target's own first token. rounds: decoding in rounds;
    ``length`` tokens a draft, or for a control as many as its method can make. contribution: right clip against
    shuffled clip, without the first token. void: why the row says nothing about drafting.
    """

    name: str
    is_control: bool
    void: str | None
    trained_on: str | None
    parameters: int
    states: StateFigures | None
    tokens: TokenFigures | None
    map: MatchByCosine | None
    first_run: Estimate | None
    length: int | None
    rounds: RoundFigures | None
    contribution: dict[str, Paired] | None


def compare_one(
    store: Store,
    candidate: Candidate,
    *,
    shuffled: Store | None = None,
    length: int = 4,
    depth: int = 8,
    draws: int = 2000,
) -> tuple[Compared, Judged]:
    """The row of one candidate, and what it made of each sample.

    shuffled: the same samples with the events of other clips. length: tokens of a draft in ``rounds``; depth: of
    the longest draft tried of an adapter that reads the target's states. draws: of the bootstrap, 0 for none.
    Raises DataError when the candidate or the shuffled store does not fit, MeasureError when intervals are asked
    for and there is one recording.
    """
    recordings = Recordings.of([entry.recording for entry in store.entries], draws=draws)
    if shuffled is not None:
        _check_pairs(store, shuffled)
    judged = judge(store, candidate, depth=max(depth, length))
    other = None if shuffled is None else judge(shuffled, candidate, depth=max(depth, length))
    return _row(candidate, judged, other, recordings, length), judged


def compare_controls(
    store: Store,
    tokenizer: Tokenizer,
    *,
    learn_from: Store | None = None,
    costs: CostCurve = FREE,
    draws: int = 2000,
    report: Report = lambda what, done, total: None,
) -> list[Compared]:
    """A row for each drafter that knows nothing of the clip; see ``recited.recite``."""
    recordings = Recordings.of([entry.recording for entry in store.entries], draws=draws)
    rows = []
    for number, (name, drafter) in enumerate(controls(costs).items()):
        report(f"control: {name}", number, 3)
        answers = recite(store, drafter, tokenizer, learn_from=learn_from)
        first = np.array([answer.rounds[0].accepted if answer.rounds else 0 for answer in answers])
        rows.append(
            Compared(
                name=name, is_control=True, void=None, trained_on=None, parameters=0, states=None, tokens=None,
                map=None, first_run=_mean(first, recordings), length=None,
                rounds=round_figures(Rounds.of(answers), recordings), contribution=None,
            )
        )  # fmt: skip
    return rows


def _row(
    candidate: Candidate, judged: Judged, other: Judged | None, recordings: Recordings, length: int
) -> Compared:
    cosines = judged.cosines
    rounds = None if judged.runs is None else play(judged.runs, length)
    contribution = None
    if other is not None and candidate.void is None:
        contribution = token_contribution(judged.matches.after(1), other.matches.after(1), recordings)
        if rounds is not None and other.runs is not None:
            contribution["tau"] = tau_contribution(rounds, play(other.runs, length), recordings)
    return Compared(
        name=candidate.name,
        is_control=False,
        void=candidate.void,
        trained_on=candidate.trained_on,
        parameters=candidate.parameters,
        states=None if cosines is None else state_figures(cosines, recordings),
        tokens=token_figures(judged.matches, recordings, judged.ranks),
        map=None if cosines is None else match_by_cosine(cosines, judged.matches, recordings),
        first_run=None if judged.runs is None else _mean(first_runs(judged), recordings),
        length=None if rounds is None else length,
        rounds=None if rounds is None else round_figures(rounds, recordings),
        contribution=contribution,
    )


def _mean(values: np.ndarray, recordings: Recordings) -> Estimate:
    samples = np.arange(len(values))
    return recordings.estimate(ratio, recordings.tally(samples, values), recordings.tally(samples))


def _check_pairs(store: Store, shuffled: Store) -> None:
    pairs = zip(store.entries, shuffled.entries, strict=False)
    if len(store) != len(shuffled) or any(
        a.id != b.id or a.num_target_tokens != b.num_target_tokens for a, b in pairs
    ):
        raise DataError(
            f"{shuffled.root}: does not hold the same samples as {store.root}; extract both from the same clips"
        )
