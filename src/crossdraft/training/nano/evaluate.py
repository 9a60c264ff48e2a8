"""What the built-in pair says on streams it never saw: greedy answers, read back and compared with the world.

Every answer comes from the shipped checkpoint through the classes that serve users (``models.load_vlm``), token by
token; nothing of the training code takes part.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossdraft.core.prompt import Prompt, VideoFrames
from crossdraft.core.protocols import VLM
from crossdraft.core.types import Draft
from crossdraft.data.scenes import QA, SceneClip, grade, make_stream
from crossdraft.data.scenes.calibrate import memory_tau, repeats
from crossdraft.data.scenes.lexicon import read_fact
from crossdraft.models import load_vlm
from crossdraft.models.nano import nano_dir
from crossdraft.training.nano.clips import NUM_FRAMES, SPLIT_SEEDS
from crossdraft.training.nano.words import Role

MAX_ANSWER_TOKENS = 160


def answer(model: VLM, encoded: Any) -> list[int]:
    """Greedy ids, end token left out."""
    session = model.prefill(encoded, room=MAX_ANSWER_TOKENS + 8)
    tokens = [int(session.first.logits[-1].argmax())]
    session.commit((), tokens[0])
    empty = Draft.chain([])
    while tokens[-1] not in model.eos_token_ids and len(tokens) < MAX_ANSWER_TOKENS:
        tokens.append(int(session.score(empty).logits[0].argmax()))
        session.commit((), tokens[-1])
    return tokens[:-1] if tokens[-1] in model.eos_token_ids else tokens


def prompt_of(clip: SceneClip, question: str, role: Role, blank: bool = False) -> Prompt:
    """The clip as a user would give it; ``blank``: black frames, or the events of nothing."""
    if role == "event":
        return Prompt(question, events=clip.events())
    frames = clip.frames(NUM_FRAMES)
    times_us = np.asarray(clip.frame_times_us(NUM_FRAMES), np.int64)
    return Prompt(question, video=VideoFrames(np.zeros_like(frames) if blank else frames, times_us, clip.name))


def _encodings(
    model: VLM, clip: SceneClip, role: Role, blank: bool, kinds: Sequence[str] | None
) -> Iterator[tuple[QA, Any]]:
    """Every question of a clip with its encoded prompt; what is watched is made once."""
    base: Prompt | None = None
    for qa in clip.questions():
        if kinds is not None and qa.kind not in kinds:
            continue
        base = base or prompt_of(clip, qa.question, role, blank)
        yield qa, model.encode(Prompt(qa.question, video=base.video, events=base.events))


def held_out_clips(num_clips: int, clips_of_a_stream: int = 4, split: str = "test") -> list[SceneClip]:
    """Clips of held-out streams, 8 s apart, so that hardly an object is met twice."""
    found = []
    for i in range(-(-num_clips // clips_of_a_stream)):
        stream = make_stream(SPLIT_SEEDS[split] + 5000 + i, clips_of_a_stream * 16)
        found += [stream.clip(j * 16 + 3) for j in range(clips_of_a_stream)]
    return found[:num_clips]


def fact_shares(
    model: VLM,
    role: Role,
    clips: Sequence[SceneClip],
    *,
    blank: bool = False,
    kinds: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Share of facts stated right by category, over every question of ``clips``.

    chance: the share that the best constant word would get, and the share got by giving each clip the text that was
    said about another one (which keeps every habit of the model but looks at the wrong clip).
    """
    right: defaultdict[str, list[bool]] = defaultdict(list)
    shuffled: defaultdict[str, list[bool]] = defaultdict(list)
    truth: defaultdict[str, list[str]] = defaultdict(list)
    said: list[tuple[QA, str]] = []
    for n, clip in enumerate(clips):
        for qa, encoded in _encodings(model, clip, role, blank, kinds):
            text = model.tokenizer.decode(answer(model, encoded))
            said.append((qa, text))
            for category, ok in grade(qa, text, role).items():
                right[category].append(ok)
                truth[category].append(qa.facts[category])
        note(f"{role}{' blank' if blank else ''}: clip {n + 1} of {len(clips)}")
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for qa, text in said:
        by_kind[qa.kind].append(text)
    draw = random.Random(0)
    for qa, _ in said:
        other = draw.choice(by_kind[qa.kind])
        for category in qa.stated(role):
            shuffled[category].append(read_fact(other, category, role) == qa.facts[category])
    return {
        "answers": len(said),
        "right": {c: float(np.mean(v)) for c, v in sorted(right.items())},
        "facts": {c: len(v) for c, v in sorted(right.items())},
        "chance_constant": {c: max(map(v.count, set(v))) / len(v) for c, v in sorted(truth.items())},
        "chance_other_clip": {c: float(np.mean(v)) for c, v in sorted(shuffled.items())},
    }


def stream_figures(
    model: VLM,
    num_streams: int,
    num_clips: int,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """How well a plain n-gram memory of the last 16 clips foretells the target's own outputs on held-out streams.

    tau: tokens per pass pooled over all passes at width 16, clips 16 on; repeat_share: neighbours word for word the
    same; the tokens are the model's. The same two figures for the reference answers stand beside them.
    """
    tokens = passes = same = pairs = 0
    lengths: list[int] = []
    for s in range(num_streams):
        stream = make_stream(SPLIT_SEEDS["test"] + 9000 + s, num_clips)
        said: defaultdict[str, list[list[int]]] = defaultdict(list)
        for i in range(num_clips):
            for qa, encoded in _encodings(model, stream.clip(i), "target", False, None):
                said[qa.kind].append(answer(model, encoded))
            note(f"stream {s + 1} of {num_streams}: clip {i + 1} of {num_clips}")
        for answers in said.values():
            more, of = memory_tau(answers, start=min(16, num_clips - 1))
            tokens, passes = tokens + more, passes + of
            more, of = repeats(answers)
            same, pairs = same + more, pairs + of
            lengths += [len(a) for a in answers]
    return {
        "tau": tokens / max(passes, 1),
        "repeat_share": same / max(pairs, 1),
        "mean_tokens": float(np.mean(lengths)),
        "streams": num_streams,
        "clips": num_clips,
        "passes": passes,
    }


def evaluate_nano(
    target: str | Path | None = None,
    event: str | Path | None = None,
    *,
    num_clips: int = 40,
    num_blank: int = 12,
    num_streams: int = 2,
    clips_of_a_stream: int = 40,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Figures of the pair on held-out streams; None stands for the packaged checkpoint.

    Raises CheckpointError when there is none.
    """
    first = load_vlm(target or nano_dir("target"), dtype=dtype, device=device)
    clips = held_out_clips(num_clips)
    out: dict[str, Any] = {
        "target": fact_shares(first, "target", clips, note=note),
        "target_blank_frames": fact_shares(first, "target", clips[:num_blank], blank=True, note=note),
        "target_streams": stream_figures(first, num_streams, clips_of_a_stream, note=note),
    }
    second = load_vlm(event or nano_dir("event"), dtype=dtype, device=device)
    out["event"] = fact_shares(second, "event", clips, note=note)
    return out
