"""EagleVLM, SpecVLM, ViSpec and MSD: EAGLE-2's tree by heads that differ in how they read pictures."""

from dataclasses import dataclass
from typing import ClassVar

from crossdraft.drafters.feature import FeatureDrafter


@dataclass(frozen=True, kw_only=True)
class EagleVLM(FeatureDrafter):
    """Reads every visual token, behind an input norm. Source: the baseline of arXiv 2509.11815, section 3."""

    depth: int = 7
    name: ClassVar[str] = "eagle_vlm"


@dataclass(frozen=True, kw_only=True)
class SpecVLM(FeatureDrafter):
    """Reads visual tokens compressed in the way that a gate chooses for the question. Source: arXiv 2509.11815."""

    depth: int = 7
    name: ClassVar[str] = "spec_vlm"


@dataclass(frozen=True, kw_only=True)
class ViSpec(FeatureDrafter):
    """Reads one learned token for the pictures, and blends a second one into all text. Source: arXiv 2509.15235."""

    depth: int = 3
    name: ClassVar[str] = "vispec"


@dataclass(frozen=True, kw_only=True)
class MSD(FeatureDrafter):
    """Takes a visual token as it is where text takes embedding and feature. Source: arXiv 2505.14260."""

    name: ClassVar[str] = "msd"
