"""Small drafting heads with no weight left at a special value, and what a target would show them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from crossdraft.core.types import LAST, PromptView
from crossdraft.heads.feature import FeatureHead
from crossdraft.heads.recipes import recipe_of
from crossdraft.nn import kernels
from crossdraft.nn.decoder import DecoderConfig

SHAPE = DecoderConfig(
    vocab_size=13, hidden_size=16, intermediate_size=24, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=8,
    max_positions=256, rms_norm_eps=1e-5,
)  # fmt: skip

PICTURE = range(2, 9)
"""Positions of the picture in a prompt: seven, so that windows of three do not fill them."""


def stirred(head: Any, seed: int = 0) -> Any:
    """float64, every parameter random: norms and biases too."""
    noise = torch.Generator().manual_seed(seed)
    head = head.double()
    with torch.no_grad():
        for parameter in head.parameters():
            drawn = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1 + 0.2 * drawn)
    return head


@dataclass(frozen=True)
class Said:
    """One text with a target's states: tokens (placeholders negative), embeds (T, D), states {layer: (T, D)}."""

    tokens: tuple[int, ...]
    embeds: Tensor
    states: dict[int, Tensor]

    def view(self, length: int) -> PromptView:
        return PromptView(
            self.tokens[:length], self.embeds[:length], {layer: s[:length] for layer, s in self.states.items()}
        )

    def taps(self, head: FeatureHead) -> Tensor:
        return torch.cat([self.states[layer] for layer in head.config.taps], dim=-1)

    @property
    def is_visual(self) -> Tensor:
        return torch.tensor([token < 0 for token in self.tokens])


def make_said(length: int = 24, pictures: bool = True, seed: int = 1) -> Said:
    noise = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, SHAPE.vocab_size, (length,), generator=noise).tolist()
    if pictures:
        for at in PICTURE:
            tokens[at] = -200
    drawn = torch.randn(8, length, SHAPE.hidden_size, generator=noise, dtype=torch.float64)
    return Said(tuple(tokens), drawn[7], {layer: drawn[layer] for layer in (*range(6), LAST)})


def make_head(name: str, seed: int = 0, **settings: Any) -> FeatureHead:
    head = stirred(recipe_of(name).network(SHAPE, **settings), seed).eval()
    assert isinstance(head, FeatureHead)
    return head


@pytest.fixture
def said() -> Callable[..., Said]:
    return make_said


@pytest.fixture
def head() -> Callable[..., FeatureHead]:
    return make_head


@pytest.fixture
def stirring() -> Callable[..., Any]:
    return stirred


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our own kernels in plain floats, for any machine."""
    return kernels.load(kernels.compiled(tmp_path_factory.mktemp("kernels"), ("-O2", "-fopenmp", "-fPIC")))


@pytest.fixture
def shape() -> DecoderConfig:
    return SHAPE
