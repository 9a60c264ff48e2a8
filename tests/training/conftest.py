"""Small stores in which the event model's states tell the target's, and small targets for drafting heads."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossdraft.core.prompt import Prompt
from crossdraft.core.seeds import generator
from crossdraft.core.types import Limits
from crossdraft.data.store import PairedStates, Store, StoreIdentity, StoreWriter
from crossdraft.decode.loop import generate
from crossdraft.drafters.none import NoDraft
from crossdraft.models.spliced import Encoded, SplicedVLM
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine
from crossdraft.training.lessons import Lessons, read_lessons
from crossdraft.verify.greedy import Greedy

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


# --- targets for drafting heads -----------------------------------------------------------------------------------

WORDS, WIDTH, PICTURE = 12, 16, 4
SHAPE = DecoderConfig(
    vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=16, num_layers=4, num_heads=2, num_kv_heads=1,
    head_dim=8, max_positions=256,
)  # fmt: skip
AFTER = [(5 * token + 3) % WORDS for token in range(WORDS)]
"""What follows each token in the copy task: one cycle through all tokens but for its length."""


def random_decoder(seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    decoder = Decoder(SHAPE)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2.0 if parameter.ndim == 2 else 1.0)
    return decoder.eval().requires_grad_(False)


def copying_decoder() -> Decoder:
    """Its state is the token's own embedding, and its head says what follows that token: known, by construction."""
    decoder = random_decoder()
    with torch.no_grad():
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr]
            layer.mlp.down_proj.weight.zero_()  # type: ignore[union-attr]
        table = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0][:WORDS]
        decoder.embed_tokens.weight.copy_(table)
        decoder.lm_head.weight[AFTER] = 2.0 * table
    return decoder


class Small(SplicedVLM):
    """A real engine over a small decoder. A prompt's question is its number; some show a picture."""

    def __init__(self, decoder: Decoder, pictures: bool) -> None:
        self.name, self.device, self.pictures = "small", torch.device("cpu"), pictures
        self.engine = Engine(decoder, torch.float32, self_test=False)
        self.hidden_size, self.vocab_size, self.max_positions = WIDTH, WORDS, SHAPE.max_positions
        self.tokenizer: Any = SimpleNamespace(decode=lambda tokens: "")
        self.eos_token_ids = ()

    def encode(self, prompt: Prompt) -> Encoded:
        number = int(prompt.question)
        rng = np.random.default_rng(number)
        question = rng.integers(0, WORDS, 1 + number % 3).tolist()
        if not self.pictures:
            return self.splice([1, *question], [])
        drawn = rng.standard_normal((PICTURE, WIDTH)) * float(self.engine.embed(torch.tensor([1])).std())
        return self.splice([1, -200, *question], [torch.tensor(drawn, dtype=torch.float32)])


def taught(
    decoder: Decoder, pictures: bool, count: int = 12, length: int = 14, ends: tuple[int, ...] = (), **more: Any
) -> tuple[Lessons, Small]:
    """A target's greedy answers to ``count`` questions, as lessons; four groups."""
    target = Small(decoder, pictures)
    limits = Limits(max_new_tokens=length, eos_token_ids=ends)
    answers = []
    for number in range(count):
        prompt = Prompt(str(number))
        said = generate(target, NoDraft(), prompt, rule=Greedy(), limits=limits).tokens
        answers.append((lambda prompt=prompt: prompt, said, f"group {number % 4}", None))
    lessons, scenes = read_lessons(target, answers)
    return Lessons(decoder, lessons, scenes, range(-1, SHAPE.num_layers), **more), target


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Lessons]:
    """Lessons of the copy task, with pictures and without; states are kept, as heads learn from them in turn."""
    return {
        pictures: taught(copying_decoder(), pictures, keep=tmp_path_factory.mktemp("kept"))[0]
        for pictures in (False, True)
    }


@pytest.fixture(scope="session")
def chatter() -> dict[bool, tuple[Lessons, Small]]:
    """Lessons of a random decoder, whose answers are hard to guess; some end early."""
    return {pictures: taught(random_decoder(), pictures, length=24, ends=(11,)) for pictures in (False, True)}
