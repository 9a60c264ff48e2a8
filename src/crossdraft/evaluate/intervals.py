"""Intervals of figures when whole recordings are drawn anew.

Clips of one recording overlap and repeat each other, and several questions are asked about each clip: samples are
not independent, recordings nearly are. So recordings are what the bootstrap draws (Davison and Hinkley, "Bootstrap
Methods and their Application", 1997, section 3.8; Field and Welsh, JRSS B 69, 2007).

Every figure is a function of sums over samples. The sums of each recording are taken once; a draw is a weighted sum
of those few rows, whatever the number of samples, and all figures of a report see the same draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from crossdraft.core.errors import DataError, MeasureError, SettingError
from crossdraft.core.seeds import seed_for

LEVEL = 0.95
FEWEST_DRAWS = 100

Tally = Float[np.ndarray, "G K"]
"""Sums of each recording."""

Figure = Callable[..., np.ndarray]
"""Figures from sums: each argument (K,) for all of the data, or (R, K) for the draws. NaN where undefined."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; NaN where it is undefined, and for the ends when none were asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """As ``Estimate``, for one figure at each position, depth or bin."""

    values: Float[np.ndarray, "K"]
    low: Float[np.ndarray, "K"]
    high: Float[np.ndarray, "K"]


@dataclass(frozen=True)
class Paired:
    """A figure with the right clip and with a shuffled one, over the same samples; gap is right minus shuffled."""

    right: Estimate
    shuffled: Estimate
    gap: Estimate


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient of two sums; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True, eq=False)
class Recordings:
    """Which recording each sample is from, and how often each draw holds each recording.

    The interval is the percentile one. It is too narrow where recordings are few; measured coverage of the nominal
    95 % for a mean, recordings drawn from a normal law: 0.50 with 2 recordings, 0.80 with 4, 0.88 with 8, 0.91
    with 12, 0.93 with 30. So print the number of recordings beside every interval.
    """

    of_sample: Int[np.ndarray, "N"]
    names: tuple[str, ...]
    draws: int
    seed: int

    @classmethod
    def of(cls, labels: Sequence[str], *, draws: int = 2000, seed: int = 0) -> Self:
        """From each sample's recording. draws: bootstrap draws; 0 gives figures without intervals.

        Raises MeasureError when intervals are asked for and there is one recording only.
        """
        if draws and draws < FEWEST_DRAWS:
            raise SettingError(f"draws is {draws}, must be 0 (no intervals) or at least {FEWEST_DRAWS}")
        if not len(labels):
            raise DataError("there is nothing to measure: no samples")
        names, of_sample = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        if draws and len(names) < 2:
            raise MeasureError(
                "intervals need two or more recordings, this data has 1; add recordings, or ask for no "
                "intervals (--no-intervals)"
            )
        return cls(of_sample.reshape(-1), tuple(names.tolist()), draws, seed)

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.of_sample)

    @cached_property
    def weights(self) -> Float[np.ndarray, "R G"]:
        """How often each draw holds each recording; rows sum to G."""
        noise = np.random.default_rng(seed_for(self.seed, "bootstrap"))
        many = len(self.names)
        return noise.multinomial(many, np.full(many, 1 / many), size=self.draws).astype(np.float64)

    def tally(
        self,
        sample: Int[np.ndarray, "M"],
        values: Float[np.ndarray, "M"] | float = 1.0,
        column: Int[np.ndarray, "M"] | int = 0,
        columns: int = 1,
    ) -> Tally:
        """Sums of ``values`` (default: counts) over the recordings of their samples, spread over ``columns``."""
        cell = self.of_sample[sample] * columns + column
        spread = np.broadcast_to(np.asarray(values, dtype=np.float64), cell.shape)
        cells = np.bincount(cell, weights=spread, minlength=len(self.names) * columns)
        return cells.reshape(len(self.names), columns)

    def estimate(self, figure: Figure, *tallies: Tally) -> Estimate:
        """One figure of tallies with one column each."""
        return Estimate(*(float(part.item()) for part in self._bootstrap(figure, tallies)))

    def curve(self, figure: Figure, *tallies: Tally) -> Curve:
        """One figure for each column."""
        return Curve(*self._bootstrap(figure, tallies))

    def paired(self, figure: Figure, right: Sequence[Tally], shuffled: Sequence[Tally]) -> Paired:
        """The figure of both, and of their difference within each draw: what both share cancels."""
        many = len(right)

        def gap(*sums: np.ndarray) -> np.ndarray:
            return figure(*sums[:many]) - figure(*sums[many:])

        return Paired(
            right=self.estimate(figure, *right),
            shuffled=self.estimate(figure, *shuffled),
            gap=self.estimate(gap, *right, *shuffled),
        )

    def _bootstrap(
        self, figure: Figure, tallies: Sequence[Tally]
    ) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
        """Value, low and high. Draws in which a figure is undefined say nothing about it and are left out."""
        value = figure(*(t.sum(0) for t in tallies))
        drawn = figure(*(self.weights @ t for t in tallies))  # (R, K)
        low, high = np.full((2, *value.shape), np.nan)
        some = ~np.isnan(drawn).all(0)
        if self.draws and some.any():
            ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
            low[some], high[some] = np.nanquantile(drawn[:, some], ends, axis=0)
        return value, low, high
