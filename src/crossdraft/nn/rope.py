"""Rotary position embeddings: frequencies with the scalings that Llama checkpoints use, and their tables.

Source: Su et al., "RoFormer", arXiv 2104.09864; "linear": Chen et al., arXiv 2306.15595; "llama3": the scaling rule
published with Llama 3.1.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.core.errors import CheckpointError


def inverse_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None, max_positions: int = 0
) -> Float[Tensor, "half"]:
    """Angle per position of each pair of channels, float32.

    scaling: None, or a Hugging Face ``rope_scaling`` mapping of kind "default", "linear" or "llama3".
    Raises CheckpointError for another kind or a missing entry.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    freq = 1.0 / (theta**exponent)
    if scaling is None:
        return freq
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    try:
        if kind == "default":
            return freq
        if kind == "linear":
            return freq / float(scaling["factor"])
        if kind == "llama3":
            return _llama3(freq, scaling, max_positions)
    except KeyError as missing:
        raise CheckpointError(
            f"rope_scaling of kind '{kind}' lacks {missing}; see the model's config.json"
        ) from None
    raise CheckpointError(f"rope_scaling of kind '{kind}' is not supported; known: default, linear, llama3")


def _llama3(freq: Tensor, scaling: Mapping[str, Any], max_positions: int) -> Tensor:
    factor, low, high = (float(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling.get("original_max_position_embeddings", max_positions))
    wavelength = 2 * math.pi / freq
    slow = torch.where(wavelength > original / low, freq / factor, freq)
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * slow / factor + smooth * slow
    is_between = ~(wavelength < original / high) & ~(wavelength > original / low)
    return torch.where(is_between, between, slow)


def rope_table(freq: Float[Tensor, "half"], positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (*positions.shape, half), float32 on the device of ``positions``."""
    angle = positions.to(torch.float32).unsqueeze(-1) * freq.to(positions.device)
    return angle.cos(), angle.sin()
