"""The same checkpoint in transformers: ``generate`` as it is, with or without prompt lookup, as rows beside ours.

Every answer is timed whole: its own pixels, vision tower and prefill are in it. A streamer tells when tokens come.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from crossdraft.bench.league import Heat, Settings
from crossdraft.bench.paired import Answer
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM
from crossdraft.core.seeds import seed_for
from crossdraft.core.types import Draft, Exactness, FinishReason, Generation, Round

LOOKUP_TOKENS = 10
"""Copied tokens of a prompt lookup, as in Saxena's and in Spec-Bench's."""

_EXACTNESS = Exactness(False, "transformers: passes of different widths round differently")


class _Arrivals:
    """A streamer for transformers: when how many tokens came. The first that it is given is the prompt."""

    def __init__(self) -> None:
        self.came: list[tuple[float, int]] = []
        self._prompt_seen = False

    def put(self, tokens: torch.Tensor) -> None:
        if self._prompt_seen:
            self.came.append((time.perf_counter() * 1e3, tokens.numel()))
        self._prompt_seen = True

    def end(self) -> None:
        pass


class Theirs:
    """A checkpoint as transformers loads it, given the very prompt ids that ``target`` reads.

    folder: text-only, or Video-LLaVA. Raises SettingError for another kind.
    """

    def __init__(self, folder: str | Path, target: VLM, dtype: torch.dtype, device: str = "cpu") -> None:
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            GenerationConfig,
            VideoLlavaForConditionalGeneration,
        )
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        config = AutoConfig.from_pretrained(folder)
        self.watches = config.model_type == "video_llava"
        if not self.watches and hasattr(config, "vision_config"):
            raise SettingError(
                f"transformers' rows are for text-only and Video-LLaVA checkpoints, not for '{config.model_type}'"
            )
        kind = VideoLlavaForConditionalGeneration if self.watches else AutoModelForCausalLM
        self.model: Any = kind.from_pretrained(folder, dtype=dtype).eval().to(device)
        self.target: Any = target
        self.dtype, self.device = dtype, device
        # a checkpoint's own defaults may sample, or punish repetition
        self.model.generation_config = GenerationConfig()
        self.media = config.video_token_index if self.watches else None

    def ids(self, prompt: Prompt) -> torch.Tensor:
        """(1, P) prompt ids, as our target reads them."""
        told = [self.media if token < 0 else token for token in self.target.encode(prompt).tokens]
        return torch.tensor([told], device=self.device)

    def inputs(self, prompt: Prompt, ids: torch.Tensor) -> dict[str, Any]:
        """What ``generate`` takes: ids, and pixels made from the prompt's frames."""
        told = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.watches:
            assert prompt.video is not None, "the target has encoded it"
            pixels = self.target.preprocess(list(prompt.video.frames)).unsqueeze(0)
            told["pixel_values_videos"] = pixels.to(self.device, self.dtype)
        return told

    @torch.inference_mode()
    def answer(
        self, prompt: Prompt, ids: torch.Tensor, max_new_tokens: int, *, temperature: float = 0.0, seed: int = 0,
        lookup: int = 0,
    ) -> Generation:  # fmt: skip
        """One answer with its times. lookup: tokens of a prompt lookup; 0: none. seed: of their own generator."""
        arrivals = _Arrivals()
        ends = list(self.target.eos_token_ids)
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "do_sample": temperature > 0, "eos_token_id": ends or None,
            "pad_token_id": ends[0] if ends else 0, "streamer": arrivals,
        }  # fmt: skip
        if temperature > 0:
            settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        if lookup:
            settings["prompt_lookup_num_tokens"] = lookup
            if self.media is not None:
                # their lookup copies placeholders too, for which there are no pixels then; no model says them
                settings["suppress_tokens"] = [self.media]
        with torch.random.fork_rng(devices=[] if self.device == "cpu" else None):
            torch.manual_seed(seed)
            start = time.perf_counter() * 1e3
            inputs = self.inputs(prompt, ids)
            encoded = time.perf_counter() * 1e3
            out = self.model.generate(**inputs, **settings)
            tokens = out[0, ids.shape[1] :].tolist()
            end = time.perf_counter() * 1e3
        came = [(at - start, count) for at, count in arrivals.came]
        return _told(tokens, came, encoded - start, end - start, ends, self.target.tokenizer.decode, bool(lookup))


def _told(
    tokens: list[int], came: list[tuple[float, int]], encode_ms: float, total_ms: float, ends: list[int],
    decode: Callable[[list[int]], str], lookup: bool,
) -> Generation:  # fmt: skip
    """A generation from when tokens came (ms since the request began). What was drafted is not known, only what was
    kept: of each later delivery all but the last token."""
    first_ms, at = came[0]
    rounds: list[Round] = []
    timeline = [("encode", 0.0, encode_ms), ("prefill", encode_ms, first_ms)]
    before = first_ms
    for ms, count in came[1:]:
        kept = min(count, len(tokens) - at)
        if kept > 0:
            source = "their lookup" if lookup else ""
            rounds.append(Round(source, kept - 1, kept - 1, kept, {"verify": ms - before}))
            timeline.append(("verify", before, ms))
            at, before = at + kept, ms
    finish: FinishReason = "eos" if tokens and tokens[-1] in ends else "length"
    return Generation(
        tokens=tokens, rounds=rounds, text=decode(tokens[:-1] if finish == "eos" else tokens), finish_reason=finish,
        exactness=_EXACTNESS, timeline=timeline,
        spans_ms={"encode": encode_ms, "prefill": first_ms - encode_ms, "decode": before - first_ms,
                  "total": total_ms},
    )  # fmt: skip


def entering(theirs: Callable[[], Theirs], name: str, lookup: int = 0) -> Callable[[Heat, Settings], Answer]:
    """``enter`` of a row of the league. theirs: loads the model, once. Prompt ids are made before it is timed."""

    def enter(heat: Heat, settings: Settings) -> Answer:
        model = theirs()

        def answer(number: int) -> Generation:
            prompt = heat.prompts[number]
            made = model.answer(
                prompt, model.ids(prompt), heat.max_new_tokens, temperature=heat.temperature,
                seed=seed_for(heat.seed, f"theirs/{number}"), lookup=lookup,
            )  # fmt: skip
            heat.trace(name, number, made, _kept(made))
            return made

        return answer

    return enter


def _kept(made: Generation) -> list[Draft]:
    """Of unknown drafts the part that was accepted."""
    at = len(made.tokens) - sum(r.emitted for r in made.rounds)
    drafts = []
    for r in made.rounds:
        drafts.append(Draft.chain(made.tokens[at : at + r.accepted]))
        at += r.emitted
    return drafts
