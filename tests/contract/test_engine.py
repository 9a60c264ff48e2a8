"""The real decoder under every drafter: bf16 and fp32, passes of 1 to 32 rows, not one token differs."""

from functools import lru_cache
from typing import Any

import pytest
import torch

from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import Needs
from crossdraft.core.types import Draft, Limits, PromptView, Sampling, Scores, Step
from crossdraft.decode.audit import audit
from crossdraft.decode.loop import generate
from crossdraft.decode.wrapped import WrappedSession
from crossdraft.drafters import DRAFTERS
from crossdraft.drafters.draft_model import DraftModel
from crossdraft.drafters.layer_skip import LayerSkip
from crossdraft.drafters.length import AssumedCurve
from crossdraft.models.session import DecoderSession
from crossdraft.nn.decoder import Decoder, DecoderConfig
from crossdraft.nn.engine import Engine
from crossdraft.verify import rule_for

VOCAB = 131


class Letters:
    def decode(self, tokens: Any) -> str:
        return "".join(chr(65 + t) for t in tokens)

    def encode(self, text: str) -> list[int]:
        return [2 + ord(c) % (VOCAB - 2) for c in text]


class EngineVLM:
    """A random decoder behind ``core.protocols.VLM``, its prompt the letters of the question."""

    name, hidden_size, vocab_size, max_positions = "engine", 64, VOCAB, 1024
    eos_token_ids = (1,)
    tokenizer = Letters()

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        torch.manual_seed(seed)
        decoder = Decoder(
            DecoderConfig(
                vocab_size=VOCAB, hidden_size=64, intermediate_size=176, num_layers=3, num_heads=4, num_kv_heads=2,
                head_dim=16, rms_norm_eps=1e-5, max_positions=1024,
            )
        )  # fmt: skip
        with torch.no_grad():
            for p in decoder.parameters():
                p.mul_(3.0 if p.ndim == 2 else 1.0)
        # what an untrained drafting head for this model is made after
        self.head, self.num_layers, self.dtype = decoder.lm_head.weight.detach().T, 3, dtype
        self.engine = Engine(decoder, dtype)
        self.exactness = self.engine.exactness

    def encode(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt.question)

    def prefill(self, encoded: list[int], capture: tuple[int, ...] = (), room: int = 256) -> DecoderSession:
        cache = self.engine.new_cache(len(encoded) + room)
        embeds = self.engine.embed(torch.tensor(encoded))
        got = self.engine.prefill(embeds, cache, capture)
        first = Scores(got.logits, {layer: rows[-1:] for layer, rows in got.states.items()})
        return DecoderSession(self.engine, cache, first, PromptView(tuple(encoded), embeds, got.states), capture)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.engine.embed(tokens)

    def unembed(self, states: torch.Tensor) -> torch.Tensor:
        return self.engine.unembed(states)


@lru_cache
def model(dtype: torch.dtype, seed: int) -> EngineVLM:
    return EngineVLM(dtype, seed)


class Scripted:
    """Knows the answer, misspells every 11th token, and makes passes of exactly ``width`` rows."""

    name, needs = "scripted", Needs()

    def __init__(self, script: list[int], width: int) -> None:
        self.script, self.width, self.said = script, width, 0

    def begin(self, prompt: Prompt, target: Any, window: Any) -> "Scripted":
        return self

    def observe(self, step: Step) -> None:
        self.said += len(step.tokens)

    def propose(self, room: int) -> Draft:
        end = self.said + min(room, self.width - 1)
        return Draft.chain([(self.script[i] + (i % 11 == 10)) % VOCAB for i in range(self.said, end)])

    def finish(self) -> None:
        pass


class Guarded:
    """Another drafter, under guard: proposing must leave the target's session as it was."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name, self.needs = inner, inner.name, inner.needs

    def begin(self, prompt: Prompt, target: EngineVLM, window: Any) -> "GuardedSession":
        return GuardedSession(self.inner.begin(prompt, target, window))


class GuardedSession(WrappedSession):
    def share(self, session: Any) -> None:
        self.session = session
        super().share(session)

    def propose(self, room: int) -> Draft:
        before = self.seen()
        draft = super().propose(room)
        after = self.seen()
        assert before[0] == after[0] and all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
        return draft

    def seen(self) -> tuple[Any, list[torch.Tensor]]:
        """Mark and bookkeeping, and all that is committed."""
        cache = self.session._cache
        kept = [memory[:, :, : cache.length].clone() for memory in (cache.keys, cache.values)]
        return (self.session.mark(), self.session.length, cache.pending_rows), kept


DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
TEMPERATURES = pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
LIMITS = Limits(max_new_tokens=48)


def exact_target(dtype: torch.dtype) -> EngineVLM:
    target = model(dtype, 7)
    if not target.exactness.bit_exact:
        pytest.skip(f"this machine's passes are not bit-exact: {target.exactness.detail}")
    return target


@DTYPES
@TEMPERATURES
@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_every_drafter_says_the_same_tokens(name: str, temperature: float, dtype: torch.dtype, tiny: Any) -> None:
    target = exact_target(dtype)
    tiny.target, tiny.event_model = target, model(dtype, 8)  # type: ignore[assignment]
    rule = rule_for(Sampling(temperature=temperature, seed=3))
    drafter, prompt = tiny.drafter(name), Prompt("what is there to see?", stream_id="s")
    alone = generate(target, tiny.drafter("none"), prompt, rule=rule, limits=LIMITS)
    for _ in range(2):
        assert generate(target, Guarded(drafter), prompt, rule=rule, limits=LIMITS).tokens == alone.tokens
    if temperature == 0:
        assert audit(target, prompt, alone).passed


@DTYPES
@pytest.mark.parametrize("length", [1, 4, 15])
def test_the_target_drafts_for_itself_and_is_always_right(length: int, dtype: torch.dtype, tiny: Any) -> None:
    """Sketches with nothing left out, and the target as its own draft model: gamma + 1 tokens a pass."""
    target, prompt, rule = exact_target(dtype), Prompt("what moves?"), rule_for(Sampling())
    limits = Limits(max_new_tokens=1 + 4 * (length + 1))
    for drafter in (
        LayerSkip(costs=AssumedCurve(), max_share=0.0, length=length, max_ahead=16),
        DraftModel(draft_model=target, costs=AssumedCurve(), length=length),
    ):
        out = generate(target, drafter, prompt, rule=rule, limits=limits)
        assert out.tau == length + 1


@DTYPES
@TEMPERATURES
def test_passes_of_every_width_say_the_same_tokens(temperature: float, dtype: torch.dtype, tiny: Any) -> None:
    target, prompt = exact_target(dtype), Prompt("what moves?")
    rule = rule_for(Sampling(temperature=temperature, seed=3))
    alone = generate(target, tiny.drafter("none"), prompt, rule=rule, limits=LIMITS)
    for width in (1, 2, 3, 5, 8, 13, 16, 17, 24, 31, 32):
        fast = generate(target, Scripted(alone.tokens, width), prompt, rule=rule, limits=LIMITS)
        assert fast.tokens == alone.tokens, width
        assert max(r.drafted for r in fast.rounds) == width - 1
