"""EAGLE-3: guesses tokens from low, middle and high features, with an output head of its own."""

from dataclasses import dataclass
from typing import ClassVar

from crossdraft.drafters.feature import FeatureDrafter


@dataclass(frozen=True, kw_only=True)
class Eagle3(FeatureDrafter):
    """A head of the "attention" kind, trained on its own chains; EAGLE-2's tree, two levels deeper.

    Source: Li et al., arXiv 2503.01840.
    """

    depth: int = 8
    name: ClassVar[str] = "eagle3"
