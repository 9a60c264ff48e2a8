"""The whole training of the built-in pair, stage by stage; every stage resumes where it was interrupted.

data -> target's eyes -> target's tongue -> event model's eyes -> event model's tongue -> two checkpoints
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError, SettingError
from crossdraft.core.records import write_atomically
from crossdraft.nn.decoder import DecoderConfig
from crossdraft.training.loop import FitConfig, LossOf, Report, fit
from crossdraft.training.nano.clips import ClipSet, load_clips, load_questions
from crossdraft.training.nano.export import export, restore
from crossdraft.training.nano.eyes import Eyes, EyesConfig, batch_of, half_lesson, normalise
from crossdraft.training.nano.tongue import Lessons, Pair, Tongue, TongueConfig, fact_accuracy
from crossdraft.training.nano.words import VOCABULARY, Role, Words, corpus, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model of the pair is made. pictures: of a batch of the eyes; clips and questions: of the tongue's."""

    role: Role
    num_clips: int
    eyes: EyesConfig
    eyes_fit: FitConfig
    pictures: int
    decoder: DecoderConfig
    aux_layer: int
    tongue_fit: FitConfig
    clips: int
    questions: int
    num_validation: int = 120

    @property
    def sense(self) -> str:
        """Which camera it watches."""
        return "video" if self.role == "target" else "events"


def _decoder(width: int, feed: int, layers: int, heads: int, vocabulary: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=feed, num_layers=layers, num_heads=heads,
        num_kv_heads=heads, head_dim=width // heads, max_positions=2048, rms_norm_eps=1e-5,
    )  # fmt: skip


ANEW, ONWARD = 1.0, 0.6


def recipes(minutes: float, pace: float = ANEW, vocabulary: int = VOCABULARY) -> tuple[Recipe, Recipe]:
    """Target and event model for ``minutes`` of training in all (data not counted).

    Eyes take 25 %, eyes and tongue together 60 %, the event model's 6 % and 9 %. pace: scales the learning rates;
    training that goes on from a finished pair starts lower.
    """
    forever = 1_000_000

    def stage(share: float, peak_lr: float, **more: Any) -> FitConfig:
        return FitConfig(steps=forever, peak_lr=peak_lr * pace, minutes=minutes * share, **more)

    def spoken(share: float, peak_lr: float) -> FitConfig:
        return stage(share, peak_lr, slow="eyes.", slow_rate=0.3, dtype="bfloat16")

    target = Recipe(
        role="target", num_clips=9000, pictures=96, aux_layer=2, clips=8, questions=6,
        eyes=EyesConfig(width=160, layers=5, heads=5, read_layer=-2, sees_colour=True),
        eyes_fit=stage(0.25, 1.5e-3), tongue_fit=spoken(0.60, 1e-3), decoder=_decoder(320, 640, 6, 5, vocabulary),
    )  # fmt: skip
    event = Recipe(
        role="event", num_clips=3500, pictures=96, aux_layer=1, clips=16, questions=5,
        eyes=EyesConfig(width=128, layers=3, heads=4, read_layer=-1, sees_colour=False),
        eyes_fit=stage(0.06, 1.5e-3), tongue_fit=spoken(0.09, 2e-3), decoder=_decoder(160, 384, 4, 5, vocabulary),
    )  # fmt: skip
    return target, event


def smoke_recipes(vocabulary: int = VOCABULARY) -> tuple[Recipe, Recipe]:
    """The same pipeline in seconds, for tests: a handful of clips, steps instead of minutes."""
    few = FitConfig(steps=4, peak_lr=1e-3)

    def tiny(role: Role, read_layer: int, sees_colour: bool) -> Recipe:
        return Recipe(
            role=role, num_clips=4, num_validation=2, pictures=4, aux_layer=0, clips=2, questions=2,
            eyes=EyesConfig(width=32, layers=2, heads=2, read_layer=read_layer, sees_colour=sees_colour),
            eyes_fit=few, tongue_fit=replace(few, dtype="bfloat16"), decoder=_decoder(32, 48, 2, 2, vocabulary),
        )  # fmt: skip

    return tiny("target", -2, True), tiny("event", -1, False)


@dataclass(frozen=True)
class Lab:
    """Where and how stages run. stop_after: as in ``fit``."""

    folder: Path
    device: str
    resume: bool
    stop_after: int | None
    processes: int
    report: Report
    note: Callable[[str], None]

    def fit(
        self,
        name: str,
        module: nn.Module,
        loss_of: LossOf,
        config: FitConfig,
        evaluate: Callable[[], Mapping[str, float]],
    ) -> bool:
        """``loop.fit`` in this lab. Returns whether the stage is complete."""
        ended = fit(
            name, module, loss_of, config, self.folder / name, evaluate=evaluate, resume=self.resume,
            stop_after=self.stop_after, processes=self.processes, report=self.report, note=self.note,
        )  # fmt: skip
        return ended is not None


def new_pair(recipe: Recipe, device: str) -> Pair:
    """Eyes and tongue as they are before any lesson."""
    torch.manual_seed(1)
    eyes = Eyes(recipe.eyes)
    torch.manual_seed(2)
    tongue = Tongue(
        TongueConfig(
            role=recipe.role, eyes_width=recipe.eyes.width, decoder=recipe.decoder, aux_layer=recipe.aux_layer
        )
    )
    return Pair(eyes, tongue).to(device)


def teach_eyes(recipe: Recipe, eyes: Eyes, lab: Lab) -> bool:
    """Stage 1 of one model, in place. Returns whether the eyes are ready."""
    train, held_out = (_clips(recipe, lab.folder, split) for split in ("train", "validation"))

    def loss_of(step: int, part: int, parts: int) -> Tensor:
        several = recipe.pictures // parts
        batch = batch_of(train, step * parts + part, several, 1, recipe.role == "target", lab.device)
        return half_lesson(eyes, *batch)[1]

    def held() -> Mapping[str, float]:
        pictures = held_out.pictures.reshape(-1, *held_out.pictures.shape[2:])
        patches = torch.from_numpy(np.array(held_out.patches.reshape(len(pictures), *held_out.patches.shape[2:])))
        wholes = torch.from_numpy(np.array(held_out.wholes.reshape(len(pictures), -1)))
        return eyes.accuracy(normalise(pictures, lab.device), patches.to(lab.device), wholes.to(lab.device))

    return lab.fit(f"{recipe.role}_eyes", eyes, loss_of, recipe.eyes_fit, held)


def teach_tongue(recipe: Recipe, pair: Pair, tokenizer: Tokenizer, lab: Lab) -> bool:
    """Stage 2 of one model, in place: the tongue from the start, the eyes slowly on. Returns whether it is done."""
    words = Words(tokenizer, recipe.role)
    lessons = {}
    for split in ("train", "validation"):
        data = _clips(recipe, lab.folder, split)
        asked = load_questions(lab.folder / "data", split, len(data))
        segments = [[words.segment(qa) for qa in clip] for clip in asked]
        lessons[split] = Lessons(
            words, data.pictures, data.patches, data.wholes, segments, recipe.role == "target" and split == "train"
        )

    def loss_of(step: int, part: int, parts: int) -> Tensor:
        return pair.loss(lessons["train"].draw(step, recipe.clips, recipe.questions, 3, lab.device, part, parts))

    rng = np.random.default_rng(0)
    some = range(min(48, recipe.num_validation))
    held = [
        lessons["validation"].take([i], [rng.permutation(len(lessons["validation"].segments[i]))[:4]], lab.device)
        for i in some
    ]

    return lab.fit(f"{recipe.role}_tongue", pair, loss_of, recipe.tongue_fit, lambda: fact_accuracy(pair, held))


def _clips(recipe: Recipe, folder: Path, split: str) -> ClipSet:
    count = recipe.num_clips if split == "train" else recipe.num_validation
    return load_clips(folder / "data", split, recipe.sense, count)


def train_nano(
    workdir: str | Path,
    *,
    minutes: float = 95.0,
    device: str = "cpu",
    resume: bool = True,
    smoke: bool = False,
    start_from: str | Path | None = None,
    stop_after: int | None = None,
    note: Callable[[str], None] = print,
    report: Report = lambda what, done, total: None,
) -> dict[str, Path] | None:
    """Train the pair and write WORKDIR/nano-target and WORKDIR/nano-event.

    Interrupt it at any time; the next call with the same ``workdir`` goes on from the last saved state (every three
    minutes), to the very numbers that an unbroken run of as many steps gives.

    Args:
        workdir: folder for data, states, logs and results; 5 GB.
        minutes: of training on all cores, shared out over the four stages; making the data takes about 10 more.
        device: "cpu" or "cuda".
        resume: False begins anew.
        smoke: a few steps at tiny sizes, for tests.
        start_from: a folder with a finished nano-target and nano-event, whose training goes on with new lessons
            and at a lower rate; None begins from nothing.
        stop_after: end after so many steps of the first unfinished stage, as if interrupted (for tests).
        note: told what is going on. report: how far a stage is.

    Returns the two folders, or None when stopped early. Raises SettingError for a device that is not there,
    CheckpointError for a pair to start from that is lacking or of another shape.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError(
            "device cuda was asked for, but torch finds no GPU; leave out --device to train on the CPU"
        )
    if minutes <= 0:
        raise SettingError(f"minutes is {minutes}, must be above 0")
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    plans = smoke_recipes() if smoke else recipes(minutes, ANEW if start_from is None else ONWARD)
    pairs = [new_pair(recipe, device) for recipe in plans]
    if start_from is not None:
        for recipe, pair in zip(plans, pairs, strict=True):
            restore(pair.eyes, pair.tongue, Path(start_from) / f"nano-{recipe.role}")
    tokenizer = _tokenizer(folder, plans[0], start_from)
    processes = 1 if smoke or device != "cpu" else min(2, os.cpu_count() or 1)
    if processes == 2:
        torch.set_num_threads(1)
    lab = Lab(folder, device, resume, stop_after, processes, report, note)
    out: dict[str, Path] = {}
    for recipe, pair in zip(plans, pairs, strict=True):
        note(f"{recipe.role}: clips")
        for split in ("train", "validation"):
            _clips(recipe, folder, split)
        note(f"{recipe.role}: eyes")
        if not teach_eyes(recipe, pair.eyes, lab):
            return None
        note(f"{recipe.role}: eyes and tongue")
        if not teach_tongue(recipe, pair, tokenizer, lab):
            return None
        out[recipe.role] = export(pair.eyes, pair.tongue, tokenizer, folder / f"nano-{recipe.role}")
        note(f"{recipe.role}: written to {out[recipe.role]}")
    (folder / "done.json").write_text(json.dumps({k: str(v) for k, v in out.items()}) + "\n")
    return out


def _tokenizer(folder: Path, recipe: Recipe, start_from: str | Path | None) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        if start_from is not None:
            known = Path(start_from) / f"nano-{recipe.role}" / "tokenizer.json"
            if not known.is_file():
                raise CheckpointError(
                    f"{known} is not there; give the folder that holds nano-target and nano-event"
                )
            write_atomically(path, known.read_bytes())
        else:
            asked = load_questions(folder / "data", "train", recipe.num_clips)
            # the decoders' vocabulary is fixed; a few scenes give fewer words than that
            train_tokenizer(corpus(asked[:3000])).save(str(path))
    return Tokenizer.from_file(str(path))
