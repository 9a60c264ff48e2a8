"""Small stores in which the event model's states tell the target's."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossdraft.core.seeds import generator
from crossdraft.data.store import PairedStates, Store, StoreIdentity, StoreWriter

IN, OUT, VOCABULARY = 8, 16, 20


@pytest.fixture(autouse=True)
def quick_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync takes 0.1 s on a busy disk, and what it does shows only when the plug is pulled."""
    monkeypatch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)


@dataclass(frozen=True)
class Lesson:
    """A store whose target states are a linear function of the draft's, normed; its head and token embeddings."""

    store: Store
    head: Tensor
    embeddings: Tensor


def make_lesson(
    root: Path,
    *,
    recordings: int = 5,
    clips: int = 6,
    free_running: bool = False,
    per_shard: int = 8,
    **changes: Any,
) -> Lesson:
    """recordings x clips answers of 2 to 7 tokens; a free-running draft is longer or shorter by up to 2."""
    noise = generator(0, "lesson")
    mix = torch.randn(IN, OUT, generator=noise)
    head, embeddings = (torch.randn(VOCABULARY, OUT, generator=noise) for _ in range(2))
    settings: dict[str, Any] = {
        "target": "target", "event_model": "event", "target_width": OUT, "draft_width": IN,
        "vocab_size": VOCABULARY, "dtype": "fp32", "config_hash": "c0ffee",
        "mode": "free-running" if free_running else "teacher-forced",
    }  # fmt: skip
    identity = StoreIdentity(**{**settings, **changes})
    with StoreWriter(root, identity, max_samples=per_shard) as writer:
        for recording in range(recordings):
            for clip in range(clips):
                k = 2 + (recording * clips + clip) % 6
                j = max(1, k + (clip % 5 - 2)) if free_running else k
                draft = torch.randn(max(j, k), IN, generator=noise)
                states = F.layer_norm(draft @ mix, (OUT,))[:k]
                tokens = (states @ head.T).argmax(-1)
                own = torch.cat((tokens, torch.zeros(max(0, j - k), dtype=torch.long)))[:j]
                writer.put(
                    PairedStates(
                        id=f"r{recording}c{clip}", recording=f"rec_{recording}", clip_index=clip, question="What?",
                        target_states=states, draft_states=draft[:j],
                        target_tokens=tokens if identity.has_tokens else None,
                        draft_tokens=own if identity.has_tokens else None,
                    )
                )  # fmt: skip
    return Lesson(Store.open(root), head, embeddings)


@pytest.fixture
def lesson(tmp_path: Path) -> Iterator[Callable[..., Lesson]]:
    """lesson(**changes): a store in a folder of its own."""
    made = 0

    def make(**changes: Any) -> Lesson:
        nonlocal made
        made += 1
        return make_lesson(tmp_path / f"store{made}", **changes)

    yield make
