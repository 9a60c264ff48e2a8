"""EAGLE, EAGLE-2 and HASS: one network, two trees, two trainings."""

from dataclasses import dataclass
from typing import ClassVar

from crossdraft.drafters.feature import FeatureDrafter
from crossdraft.drafters.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Eagle(FeatureDrafter):
    """EAGLE's head with its tree of 25 nodes. Source: Li et al., arXiv 2401.15077."""

    shape: Shape = "static"
    name: ClassVar[str] = "eagle"


@dataclass(frozen=True, kw_only=True)
class Eagle2(FeatureDrafter):
    """EAGLE's head with a tree that its own confidence grows. Source: Li et al., arXiv 2406.16858."""

    name: ClassVar[str] = "eagle2"


@dataclass(frozen=True, kw_only=True)
class Hass(FeatureDrafter):
    """EAGLE's network, trained on its own guesses and for the target's best tokens; EAGLE-2's tree.

    Source: Zhang et al., arXiv 2408.15766.
    """

    name: ClassVar[str] = "hass"
