"""Small pairs of states and stores of them."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crossdraft.core.seeds import generator
from crossdraft.data.store import PairedStates, StoreIdentity, StoreWriter


def small_identity(**changes: Any) -> StoreIdentity:
    settings: dict[str, Any] = {
        "target": "target", "event_model": "event", "target_width": 6, "draft_width": 4, "vocab_size": 50,
        "mode": "teacher-forced", "dtype": "bf16", "config_hash": "c0ffee", "tapped": (1, -2), "top_k": 3,
    }  # fmt: skip
    return StoreIdentity(**{**settings, **changes})


def small_sample(number: int, identity: StoreIdentity | None = None, **changes: Any) -> PairedStates:
    """Sample ``number`` of 1 to 5 tokens, always the same; 4 clips a recording."""
    identity = identity or small_identity()
    noise = generator(number, "sample")
    k, j = 1 + number % 5, 1 + number % 3

    def states(rows: int, width: int) -> torch.Tensor:
        return torch.randn(rows, width, generator=noise)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(50, shape, generator=noise)

    fields: dict[str, Any] = {
        "id": f"s{number:03d}", "recording": f"rec_{number // 4}", "clip_index": number % 4, "question": "What?",
        "target_states": states(k, identity.target_width), "draft_states": states(j, identity.draft_width),
        "tapped": {layer: states(k, identity.target_width) for layer in identity.tapped},
    }  # fmt: skip
    if identity.has_tokens:
        fields |= {"target_tokens": ids(k), "draft_tokens": ids(j)}
    if identity.top_k:
        fields |= {"top_ids": ids(k, identity.top_k), "top_log_probs": -states(k, identity.top_k).abs()}
    return PairedStates(**{**fields, **changes})


@pytest.fixture(autouse=True, scope="module")
def quick_syncs() -> Iterator[None]:
    """A sync takes 0.1 s on a busy disk, and what it does shows only when the plug is pulled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture
def identity() -> StoreIdentity:
    return small_identity()


@pytest.fixture
def make_identity() -> Callable[..., StoreIdentity]:
    return small_identity


@pytest.fixture
def make_sample() -> Callable[..., PairedStates]:
    return small_sample


@pytest.fixture
def write_store() -> Callable[..., Path]:
    """write_store(root, numbers, prefix=..., per_shard=..., identity=...): the folder."""

    def write(
        root: Path, numbers: Iterable[int], prefix: str = "w0", per_shard: int = 3,
        identity: StoreIdentity | None = None,
    ) -> Path:  # fmt: skip
        identity = identity or small_identity()
        with StoreWriter(root, identity, prefix=prefix, max_samples=per_shard) as writer:
            for number in numbers:
                writer.put(small_sample(number, identity))
        return root

    return write
