"""Values at every position of every sample, and what kind of value they are.

Shape legend of ``evaluate``: ``N`` samples, ``M`` positions of all samples together, ``L`` positions of the longest
sample, ``G`` recordings, ``R`` bootstrap draws, ``K`` figures computed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from crossdraft.core.errors import DataError

# bf16 states give cosines a little above 1
_COSINE_LIMIT = 1.01


@dataclass(frozen=True, eq=False)
class Ragged:
    """One value for each position of each sample, the samples end to end.

    values:  sample 0's positions, then sample 1's, ...
    lengths: how many positions each sample has; 0 is allowed, a set without any position is not.
    Raises DataError when the two do not fit each other.
    """

    # End to end, not padded with a mask: a pooled figure is a plain mean that cannot take in padding by mistake,
    # answers of 10 and of 500 tokens take the room they fill, and sums per sample, per position or per recording
    # are one bincount over `sample` and `position`, without a loop over tokens.
    values: Shaped[np.ndarray, "M"]
    lengths: Int[np.ndarray, "N"]

    def __post_init__(self) -> None:
        lengths = np.asarray(self.lengths)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
            raise DataError("the lengths of samples must be one whole number, 0 or more, for each sample")
        object.__setattr__(self, "lengths", lengths.astype(np.int64))
        object.__setattr__(self, "values", self._checked(np.asarray(self.values)))
        if self.values.shape != (self.lengths.sum(),):
            raise DataError(
                f"{self.lengths.sum()} positions are announced, the values have the shape {self.values.shape}"
            )
        if not len(self.values):
            raise DataError("there is nothing to measure: no sample has any position")

    def _checked(self, values: np.ndarray) -> np.ndarray:
        """``values`` in the one dtype of this kind. DataError when they are of another kind."""
        return values

    @classmethod
    def of(cls, rows: Sequence[ArrayLike]) -> Self:
        """From one row of values for each sample."""
        arrays = [np.asarray(row) for row in rows]
        # an empty list would turn the others into floats
        filled = [row for row in arrays if row.size]
        return cls(np.concatenate(filled) if filled else np.empty(0), np.array([a.size for a in arrays], int))

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """L."""
        return int(self.lengths.max())

    @cached_property
    def sample(self) -> Int[np.ndarray, "M"]:
        """The sample of each value."""
        return np.repeat(np.arange(self.num_samples), self.lengths)

    @cached_property
    def position(self) -> Int[np.ndarray, "M"]:
        """The position of each value in its sample, from 0."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(len(self.values)) - np.repeat(starts, self.lengths)

    def after(self, first: int) -> Self:
        """Without the first ``first`` positions of every sample.

        ``after(1)`` leaves out the token that the target's own prefill gives, which no draft can save.
        """
        return type(self)(self.values[self.position >= first], np.maximum(self.lengths - first, 0))

    def must_match(self, other: "Ragged", what: str) -> None:
        """DataError, naming ``what``, unless ``other`` has the same positions."""
        if not np.array_equal(self.lengths, other.lengths):
            raise DataError(f"{what} do not have the same positions: the lengths of their samples differ")


class Flags(Ragged):
    """Whether something holds at each position."""

    values: Bool[np.ndarray, "M"]

    def _checked(self, values: np.ndarray) -> np.ndarray:
        if values.size and values.dtype != bool:
            raise DataError(f"{type(self).__name__.lower()} must be booleans, these are {values.dtype}")
        return values.astype(bool)

    def leading(self) -> Int[np.ndarray, "N"]:
        """Length of each sample's run: positions before the first that does not hold."""
        runs = self.lengths.copy()
        missed = np.flatnonzero(~self.values)
        np.minimum.at(runs, self.sample[missed], self.position[missed])
        return runs


class Matches(Flags):
    """Whether each position's token is the target's own. A type of its own: only tokens are ever accepted."""


class Ranks(Ragged):
    """How many tokens the drafter scores above the target's own token; 0 is its first choice."""

    values: Int[np.ndarray, "M"]

    def _checked(self, values: np.ndarray) -> np.ndarray:
        if values.size and (values.dtype.kind not in "iu" or (values < 0).any()):
            raise DataError("ranks must be whole numbers from 0 (the drafter's first choice) on")
        return values.astype(np.int64)


class Cosines(Ragged):
    """Cosine similarity of the drafter's (adapted) state and the target's at each position. A diagnostic."""

    values: Float[np.ndarray, "M"]

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = np.flatnonzero(~(np.abs(self.values) <= _COSINE_LIMIT))
        if len(wrong):
            at = int(wrong[0])
            raise DataError(
                f"sample {self.sample[at]}, position {self.position[at]}: the cosine is {self.values[at]}, so its "
                "states are damaged; extract this sample again"
            )

    def _checked(self, values: np.ndarray) -> np.ndarray:
        if values.size and values.dtype.kind != "f":
            raise DataError(f"cosines must be floating-point numbers, these are {values.dtype}")
        return values.astype(np.float64)

    def above(self, theta: float) -> Flags:
        """Where the cosine lies above ``theta``; no ``Matches``, because it says nothing of tokens."""
        return Flags(self.values > theta, self.lengths)
