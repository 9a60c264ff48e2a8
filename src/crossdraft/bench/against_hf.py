"""Plain decoding beside transformers' ``generate``: same weights, dtype, threads, prompt ids, in one paired run."""

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossdraft.bench.theirs import Theirs
from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.core.prompt import Prompt

# the shape of SmolLM2-135M
TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 2048,
    "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LEAST_SPEEDUP = 1.5


@dataclass(frozen=True)
class Race:
    """One model: ours, and a function that lets transformers continue the very same prompt by n tokens."""

    name: str
    bench: Workbench
    prompt: Prompt
    theirs: Callable[[int], list[int]]


def run_against_hf(
    races: list[Race], *, num_tokens: int = 96, repeats: int = 7, report: Report = silent
) -> dict[str, Any]:
    """Time both sides in turn, order shuffled.

    Decoding takes what ``num_tokens`` take less what one token takes, the prefill. transformers is given
    ready tensors, ours starts from frames.
    """
    rows = []
    for done, race in enumerate(races):
        report(race.name, done, len(races))
        rows.append(_race(race, num_tokens, repeats))
    worst = min(row["speedup_decode"] for row in rows)
    return {
        "passed": worst >= LEAST_SPEEDUP,
        "verdict": "; ".join(
            f"{r['model']}: {r['speedup_decode']:.2f}x while decoding ({r['own_tokens_per_s']:.0f} against "
            f"{r['hf_tokens_per_s']:.0f} tokens/s), {r['speedup_whole']:.2f}x in all, "
            f"{r['same_tokens']} of {r['tokens']} tokens alike"
            for r in rows
        ),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


def _race(race: Race, num_tokens: int, repeats: int) -> dict[str, Any]:
    drafter = race.bench.make_drafter("none")

    def ours(count: int) -> list[int]:
        return race.bench.answer(drafter, race.prompt, count, to_the_end=False).tokens

    sides = {"own": ours, "hf": race.theirs}
    times: dict[tuple[str, int], list[float]] = {(side, n): [] for side in sides for n in (1, num_tokens)}
    tokens = {side: run(num_tokens) for side, run in sides.items()}  # warm-up
    order = list(times)
    shuffle = random.Random(0)
    for _ in range(repeats):
        shuffle.shuffle(order)
        for side, count in order:
            start = time.perf_counter()
            sides[side](count)
            times[side, count].append((time.perf_counter() - start) * 1e3)
    whole = {side: statistics.median(times[side, num_tokens]) for side in sides}
    decode = {side: whole[side] - statistics.median(times[side, 1]) for side in sides}
    rate = {side: (num_tokens - 1) / decode[side] * 1e3 for side in sides}
    return {
        "model": race.name,
        "tokens": num_tokens,
        "own_decode_ms": decode["own"], "hf_decode_ms": decode["hf"],
        "own_whole_ms": whole["own"], "hf_whole_ms": whole["hf"],
        "own_tokens_per_s": rate["own"], "hf_tokens_per_s": rate["hf"],
        "speedup_decode": decode["hf"] / decode["own"],
        "speedup_whole": whole["hf"] / whole["own"],
        "same_tokens": sum(a == b for a, b in zip(tokens["own"], tokens["hf"], strict=False)),
    }  # fmt: skip


def write_text_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A Llama checkpoint of 135M random parameters with a byte tokenizer, as ``save_pretrained`` writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    config: Any = LlamaConfig(**TEXT_CONFIG)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def video_race(bench: Workbench, prompt: Prompt, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Race:
    """A Video-LLaVA checkpoint: transformers gets our ids and pixels of the same frames."""
    theirs = Theirs(folder, bench.target, dtype)
    return Race(f"video ({bench.target.name})", bench, prompt, _continued(theirs, prompt))


def text_race(bench: Workbench, prompt: Prompt, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Race:
    """A text-only checkpoint: transformers gets our ids."""
    theirs = Theirs(folder, bench.target, dtype)
    size = sum(p.numel() for p in theirs.model.parameters()) / 1e6
    return Race(f"text-only Llama, {size:.0f}M", bench, prompt, _continued(theirs, prompt))


def _continued(theirs: Theirs, prompt: Prompt) -> Callable[[int], list[int]]:
    return continuation(theirs.model, theirs.inputs(prompt, theirs.ids(prompt)))


def continuation(model: Any, inputs: dict[str, Any]) -> Callable[[int], list[int]]:
    """transformers' greedy ``generate`` of exactly n tokens, end tokens ignored."""
    start = inputs["input_ids"].shape[1]
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def run(count: int) -> list[int]:
        out = model.generate(**inputs, max_new_tokens=count, do_sample=False, pad_token_id=0)
        return out[0, start:].tolist()

    return run
