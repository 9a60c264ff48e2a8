"""Small decoders of several shapes, and engines over them."""

from functools import lru_cache

import pytest
import torch

from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine

SHAPES = {
    "mha": {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16},
    "gqa": {"hidden_size": 96, "num_heads": 6, "num_kv_heads": 2, "head_dim": 16, "tie_embeddings": True},
    # head_dim 32 has a scale that is no power of two
    "biased": {"hidden_size": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "attention_bias": True},
}


@lru_cache
def _engine(shape: str, dtype: torch.dtype) -> Engine:
    torch.manual_seed(7)
    config = DecoderConfig(
        vocab_size=131, intermediate_size=176, num_layers=3, rms_norm_eps=1e-5, max_positions=512, **SHAPES[shape]
    )
    decoder = Decoder(config)
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(3.0 if p.ndim == 2 else 1.0)
    return Engine(decoder, dtype)


@pytest.fixture(params=sorted(SHAPES))
def shape(request):
    return request.param


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def engine(request, shape):
    return _engine(shape, request.param)


@pytest.fixture(scope="session")
def small_engine():
    return _engine("gqa", torch.float32)


@pytest.fixture(scope="session")
def half_engine():
    return _engine("gqa", torch.bfloat16)


@pytest.fixture
def tiny_decoder():
    torch.manual_seed(1)
    return Decoder(
        DecoderConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=64,
            num_layers=1,
            num_heads=2,
            num_kv_heads=2,
            head_dim=16,
            max_positions=256,
        )
    )
