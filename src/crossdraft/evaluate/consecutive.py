"""What holds at each position, and for how long from the start: shares by position, runs, rates by depth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from crossdraft.evaluate.bounds import RunBounds, assert_run_possible
from crossdraft.evaluate.intervals import Curve, Estimate, Recordings, Tally, ratio
from crossdraft.evaluate.ragged import Flags


@dataclass(frozen=True, eq=False)
class Runs:
    """Consecutive accepts: positions that hold before the first that does not, one run for each sample.

    histogram: samples by the length of their run, from 0 to the longest.
    bounds:    what the acceptances at each position alone allow for the mean; it has been checked against them.
    """

    mean: Estimate
    median: float
    longest: int
    histogram: Int[np.ndarray, "longest+1"]
    bounds: RunBounds


@dataclass(frozen=True, eq=False)
class Positions:
    """Shares by position.

    reached:    samples long enough to have the position.
    of_all:     share of all samples; one too short counts as rejected. The only one that may be chained into runs.
    of_reached: share of the samples that reach the position.
    """

    reached: Int[np.ndarray, "L"]
    of_all: Curve
    of_reached: Curve


@dataclass(frozen=True, eq=False)
class Depths:
    """Acceptance rate alpha_k by depth k = 1, 2, ...: accepted there among those whose first k - 1 were accepted.

    judged: how many were judged at each depth (a chain that ends earlier says nothing about it).
    """

    judged: Int[np.ndarray, "K"]
    alpha: Curve


def positions_of(flags: Flags, recordings: Recordings) -> Positions:
    """Both shares of every position."""
    reached = recordings.tally(flags.sample, 1.0, flags.position, flags.longest)
    holds = recordings.tally(flags.sample, flags.values, flags.position, flags.longest)
    samples = recordings.tally(np.arange(flags.num_samples))
    return Positions(
        reached=reached.sum(0).astype(np.int64),
        of_all=recordings.curve(ratio, holds, samples),
        of_reached=recordings.curve(ratio, holds, reached),
    )


def run_tallies(flags: Flags, recordings: Recordings) -> tuple[Tally, Tally]:
    """Sums of runs and of samples: their ratio is the mean run."""
    samples = np.arange(flags.num_samples)
    return recordings.tally(samples, flags.leading()), recordings.tally(samples)


def runs_of(flags: Flags, positions: Positions, recordings: Recordings) -> Runs:
    """The runs of ``flags``, whose ``positions`` are given. MeasureError if their mean cannot be."""
    mean = recordings.estimate(ratio, *run_tallies(flags, recordings))
    runs = flags.leading()
    return Runs(
        mean=mean,
        median=float(np.median(runs)),
        longest=int(runs.max()),
        histogram=np.bincount(runs),
        bounds=assert_run_possible(mean.value, positions.of_all.values),
    )


def depths_of(
    accepted: Int[np.ndarray, "M"],
    judged: Int[np.ndarray, "M"],
    sample: Int[np.ndarray, "M"],
    recordings: Recordings,
) -> Depths:
    """Acceptance rates from how deep each draft (of ``sample``) was accepted, and how deep it was judged."""
    deepest = int(judged.max())

    def at_least(depth: np.ndarray) -> Tally:
        exactly = recordings.tally(sample, 1.0, depth, deepest + 1)
        return exactly[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # (G, deepest): depth 1 and deeper

    reached = at_least(judged)
    return Depths(reached.sum(0).astype(np.int64), recordings.curve(ratio, at_least(accepted), reached))
