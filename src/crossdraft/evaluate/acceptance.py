"""Every metric of acceptance, under the names of the field.

Two families that never mix. From *cosines* of states: Accept@theta and runs above theta, diagnostics that accept
nothing. From *tokens*: match, acceptance rate alpha_k (given that all before were accepted) and acceptance length
tau (tokens per target pass, bonus included). What one says of the other is measured in ``match_by_cosine``.

Averages are pooled over positions or rounds unless a name says otherwise; a mean over samples flatters, because
a sample that needs few rounds counts as much as one that needs many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from crossdraft.core.errors import DataError
from crossdraft.core.types import Generation
from crossdraft.evaluate.consecutive import (
    Depths,
    Positions,
    Runs,
    depths_of,
    positions_of,
    run_tallies,
    runs_of,
)
from crossdraft.evaluate.expected import fit_alpha
from crossdraft.evaluate.intervals import Curve, Estimate, Paired, Recordings, Tally, ratio
from crossdraft.evaluate.ragged import Cosines, Matches, Ragged, Ranks

THETAS = (0.80, 0.85, 0.90, 0.95)
EDGES = (-1.0, 0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.95, 0.98, 1.0)
_ROUNDING = 1e-12


# -- states: diagnostics -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AcceptAt:
    """Accept@theta: share of positions with a cosine above theta, and the runs of such positions. No token here."""

    theta: float
    share: Estimate
    runs: Runs
    positions: Positions


@dataclass(frozen=True, eq=False)
class StateFigures:
    """What cosines say. cos_std: over all positions; cos_by_position: mean over the samples that reach."""

    num_samples: int
    num_positions: int
    num_recordings: int
    cos_mean: Estimate
    cos_std: float
    cos_by_position: Curve
    accept_at: tuple[AcceptAt, ...]


def state_figures(cosines: Cosines, recordings: Recordings, thetas: Sequence[float] = THETAS) -> StateFigures:
    """Figures of cosines. Raises DataError when ``recordings`` are of other samples."""
    _same_samples(recordings, cosines.num_samples)
    by_position = (cosines.position, cosines.longest)
    return StateFigures(
        num_samples=cosines.num_samples,
        num_positions=len(cosines.values),
        num_recordings=len(recordings.names),
        cos_mean=_share(cosines, cosines.values, recordings),
        cos_std=float(cosines.values.std()),
        cos_by_position=recordings.curve(
            ratio,
            recordings.tally(cosines.sample, cosines.values, *by_position),
            recordings.tally(cosines.sample, 1.0, *by_position),
        ),
        accept_at=tuple(_accept_at(cosines, theta, recordings) for theta in thetas),
    )


def _accept_at(cosines: Cosines, theta: float, recordings: Recordings) -> AcceptAt:
    above = cosines.above(theta)
    positions = positions_of(above, recordings)
    return AcceptAt(
        theta, _share(above, above.values, recordings), runs_of(above, positions, recordings), positions
    )


# -- tokens, before any decoding ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TokenFigures:
    """What tokens say of a drafter that wrote each sample once.

    top1: the drafter's token is the target's own; top5, top10: the target's own is among its 5, 10 best (None
    without ranks). runs: leading matches, the accepted tokens of a first and only draft.
    """

    num_samples: int
    num_positions: int
    num_recordings: int
    top1: Estimate
    top5: Estimate | None
    top10: Estimate | None
    runs: Runs
    positions: Positions
    depths: Depths


def token_figures(matches: Matches, recordings: Recordings, ranks: Ranks | None = None) -> TokenFigures:
    """Figures of token matches. Position 0 counts; use ``matches.after(1)`` where the target's prefill gives it.

    Raises DataError when ``recordings`` or ``ranks`` are of other samples, or a match is not its drafter's first
    choice.
    """
    _same_samples(recordings, matches.num_samples)
    if ranks is not None:
        matches.must_match(ranks, "token matches and ranks")
        if (ranks.values[matches.values] > 0).any():
            raise DataError("a token that matches has a rank above 0: the ranks are of other tokens")
    positions, runs = positions_of(matches, recordings), matches.leading()
    return TokenFigures(
        num_samples=matches.num_samples,
        num_positions=len(matches.values),
        num_recordings=len(recordings.names),
        top1=_share(matches, matches.values, recordings),
        top5=None if ranks is None else _share(ranks, ranks.values < 5, recordings),
        top10=None if ranks is None else _share(ranks, ranks.values < 10, recordings),
        runs=runs_of(matches, positions, recordings),
        positions=positions,
        # a run that ends with its sample was not refused there
        depths=depths_of(runs, np.minimum(runs + 1, matches.lengths), np.arange(matches.num_samples), recordings),
    )


def token_contribution(right: Matches, shuffled: Matches, recordings: Recordings) -> dict[str, Paired]:
    """What the right clip adds over a shuffled one: "top1" and "run" (mean), over the same samples in one order.

    Draws follow the recording of the question; that the shuffled clip has a recording of its own is not counted.
    """
    _same_samples(recordings, right.num_samples)
    right.must_match(shuffled, "the right and the shuffled clip's matches")
    sides = (right, shuffled)
    top1 = [_share_tallies(side, side.values, recordings) for side in sides]
    run = [run_tallies(side, recordings) for side in sides]
    return {"top1": recordings.paired(ratio, *top1), "run": recordings.paired(ratio, *run)}


# -- tokens, in rounds of decoding -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rounds:
    """Counts of each round of each request: drafted, accepted, emitted tokens.

    depth: levels of each draft; None: chains, as deep as they are long. Of a tree, a level counts as accepted when
    one of its nodes is; where the accepted path ends above the deepest level, the level below it was refused.
    A request without rounds (its prefill ended it) counts as a request. Raises DataError on counts that cannot be.
    """

    drafted: Int[np.ndarray, "M"]
    accepted: Int[np.ndarray, "M"]
    emitted: Int[np.ndarray, "M"]
    lengths: Int[np.ndarray, "N"]
    depth: Int[np.ndarray, "M"] | None = None

    def __post_init__(self) -> None:
        if not len(self.drafted) == len(self.accepted) == len(self.emitted) == self.lengths.sum():
            raise DataError("rounds need one count of drafted, accepted and emitted tokens each")
        emitted_fits = (self.emitted == self.accepted) | (self.emitted == self.accepted + 1)
        if not (emitted_fits & (self.accepted >= 0) & (self.accepted <= self.drafted) & (self.emitted > 0)).all():
            raise DataError("a round emits its accepted tokens and at most one more, and accepts what was drafted")
        if self.depth is not None and not ((self.accepted <= self.depth) & (self.depth <= self.drafted)).all():
            raise DataError("a draft is no deeper than it has tokens, and no path goes deeper than the draft")

    @classmethod
    def of(cls, answers: Sequence[Generation]) -> Self:
        """From one generation for each request."""
        counts = [(r.drafted, r.accepted, r.emitted, r.depth) for a in answers for r in a.rounds]
        drafted, accepted, emitted, depth = np.array(counts, dtype=np.int64).reshape(-1, 4).T
        return cls(drafted, accepted, emitted, np.array([len(a.rounds) for a in answers], dtype=np.int64), depth)

    @property
    def request(self) -> Int[np.ndarray, "M"]:
        """The request of each round."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def limit(self) -> Int[np.ndarray, "M"]:
        """How many drafts could have been accepted: a round cut at its last accepted token refused nothing."""
        deepest = self.drafted if self.depth is None else self.depth
        return np.where(self.emitted > self.accepted, deepest, self.accepted)


@dataclass(frozen=True, eq=False)
class RoundFigures:
    """Acceptance in decoding.

    tau:               acceptance length, pooled over all rounds: tokens per target pass, bonus included.
    tau_per_request:   mean of each request's own tau; for comparison with figures that are quoted so.
    tau_draft:         accepted drafts per round.
    draft_utilisation: accepted / drafted; falls with longer drafts by construction, so it is no acceptance rate.
    alpha:             the constant acceptance rate that gives tau_draft with these drafts; NaN without drafts.
    histogram:         rounds by accepted drafts, from 0 to the most.
    """

    num_requests: int
    num_rounds: int
    num_recordings: int
    tau: Estimate
    tau_per_request: Estimate
    tau_draft: Estimate
    draft_utilisation: Estimate
    alpha: float
    depths: Depths
    histogram: Int[np.ndarray, "most+1"]


def round_figures(rounds: Rounds, recordings: Recordings) -> RoundFigures:
    """Figures of decoding; ``recordings``: one for each request. DataError when there is no round at all."""
    _same_samples(recordings, len(rounds.lengths))
    if not len(rounds.drafted):
        raise DataError("there is nothing to measure: no request has a round after its prefill")
    request = rounds.request
    passes, drafted, accepted, emitted = (
        recordings.tally(request, counts) for counts in (1.0, rounds.drafted, rounds.accepted, rounds.emitted)
    )
    own = np.bincount(request, weights=rounds.emitted, minlength=len(rounds.lengths)) / np.maximum(
        rounds.lengths, 1
    )
    limit, some = rounds.limit, np.flatnonzero(rounds.lengths)
    return RoundFigures(
        num_requests=len(rounds.lengths),
        num_rounds=len(request),
        num_recordings=len(recordings.names),
        tau=recordings.estimate(ratio, emitted, passes),
        tau_per_request=recordings.estimate(ratio, recordings.tally(some, own[some]), recordings.tally(some)),
        tau_draft=recordings.estimate(ratio, accepted, passes),
        draft_utilisation=recordings.estimate(ratio, accepted, drafted),
        alpha=fit_alpha(1 + float(rounds.accepted.mean()), limit) if limit.any() else float("nan"),
        depths=depths_of(rounds.accepted, np.minimum(rounds.accepted + 1, limit), request, recordings),
        histogram=np.bincount(rounds.accepted),
    )


def tau_contribution(right: Rounds, shuffled: Rounds, recordings: Recordings) -> Paired:
    """Acceptance length with the right clip's drafts and with a shuffled clip's, over the same requests."""
    for side in (right, shuffled):
        _same_samples(recordings, len(side.lengths))
    tau = [(recordings.tally(r.request, r.emitted), recordings.tally(r.request)) for r in (right, shuffled)]
    return recordings.paired(ratio, *tau)


# -- what cosines say of tokens ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MatchAbove:
    """P(token match | cosine above theta), and the number of positions it rests on."""

    theta: float
    count: int
    match: Estimate


@dataclass(frozen=True, eq=False)
class MatchByCosine:
    """The measured map from cosine to token match.

    edges:   bins, each without its lower and with its upper edge (-1 belongs to the first).
    counts:  positions in each bin; match: share of them whose token matches, NaN in an empty bin.
    pearson: correlation of cosine and match over all positions; NaN when one of them never changes.
    """

    edges: tuple[float, ...]
    counts: Int[np.ndarray, "B"]
    match: Curve
    above: tuple[MatchAbove, ...]
    pearson: Estimate


def match_by_cosine(
    cosines: Cosines,
    matches: Matches,
    recordings: Recordings,
    *,
    edges: Sequence[float] = EDGES,
    thetas: Sequence[float] = THETAS,
) -> MatchByCosine:
    """Measure what a cosine is worth in tokens. edges: ascending, from -1 to 1.

    Raises DataError when the two are not of the same positions.
    """
    _same_samples(recordings, cosines.num_samples)
    cosines.must_match(matches, "cosines and token matches")
    if len(edges) < 2 or edges[0] != -1 or edges[-1] != 1 or not (np.diff(edges) > 0).all():
        raise DataError(f"edges of cosine bins must ascend from -1 to 1, these are {tuple(edges)}")
    bins = len(edges) - 1
    # rounding may put a cosine a little beyond the ends
    column = np.clip(np.searchsorted(edges, cosines.values, side="left") - 1, 0, bins - 1)
    counts = recordings.tally(cosines.sample, 1.0, column, bins)
    return MatchByCosine(
        edges=tuple(edges),
        counts=counts.sum(0).astype(np.int64),
        match=recordings.curve(ratio, recordings.tally(cosines.sample, matches.values, column, bins), counts),
        above=tuple(_match_above(cosines, matches, theta, recordings) for theta in thetas),
        pearson=_pearson(cosines, matches, recordings),
    )


def _match_above(cosines: Cosines, matches: Matches, theta: float, recordings: Recordings) -> MatchAbove:
    chosen = np.flatnonzero(cosines.values > theta)
    sample = cosines.sample[chosen]
    match = recordings.estimate(ratio, recordings.tally(sample, matches.values[chosen]), recordings.tally(sample))
    return MatchAbove(theta, len(chosen), match)


def _pearson(cosines: Cosines, matches: Matches, recordings: Recordings) -> Estimate:
    # centred first: the sums below would lose digits otherwise
    x, y = cosines.values - cosines.values.mean(), matches.values.astype(np.float64)
    return recordings.estimate(
        _correlation, *(recordings.tally(cosines.sample, v) for v in (1.0, x, y, x * x, x * y))
    )


def _correlation(n: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Pearson's r from sums; y is 0 or 1, so its squares sum to y."""
    spread_x, spread_y = n * xx - x * x, n * y - y * y
    varied = (spread_x > _ROUNDING * n * n) & (spread_y > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(varied, (n * xy - x * y) / np.sqrt(spread_x * spread_y), np.nan)


def _share(ragged: Ragged, values: np.ndarray, recordings: Recordings) -> Estimate:
    return recordings.estimate(ratio, *_share_tallies(ragged, values, recordings))


def _share_tallies(ragged: Ragged, values: np.ndarray, recordings: Recordings) -> tuple[Tally, Tally]:
    return recordings.tally(ragged.sample, values), recordings.tally(ragged.sample)


def _same_samples(recordings: Recordings, num_samples: int) -> None:
    if recordings.num_samples != num_samples:
        raise DataError(f"{num_samples} samples, but recordings are given for {recordings.num_samples}")


# -- records -----------------------------------------------------------------------------------------------------


def as_record(figures: Any) -> Any:
    """Any figures of this module, ready for a JSON record: arrays as lists, what is undefined as None."""
    if is_dataclass(figures):
        return {field.name: as_record(getattr(figures, field.name)) for field in fields(figures)}
    if isinstance(figures, dict):
        return {key: as_record(value) for key, value in figures.items()}
    if isinstance(figures, np.ndarray | tuple):
        return [as_record(value) for value in (figures.tolist() if isinstance(figures, np.ndarray) else figures)]
    if isinstance(figures, float):
        return float(figures) if np.isfinite(figures) else None
    return figures
