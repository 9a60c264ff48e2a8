"""The whole training of the built-in pair, stage by stage; every stage resumes where it was interrupted.

data -> target's eyes -> target's tongue -> event model's eyes -> event model's tongue -> two checkpoints
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.nn.decoder import DecoderConfig
from crossdraft.training.nano.clips import ClipSet, load_clips, load_questions
from crossdraft.training.nano.export import export
from crossdraft.training.nano.eyes import Eyes, EyesConfig, batch_of, features_of, half_loss, normalise
from crossdraft.training.nano.fitting import FitConfig, fit
from crossdraft.training.nano.tongue import Lessons, Tongue, TongueConfig, fact_accuracy
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


def recipes(minutes: float, vocabulary: int = VOCABULARY) -> tuple[Recipe, Recipe]:
    """Target and event model for ``minutes`` of training in all (data not counted).

    The shares follow the shipped pair: eyes 35 %, tongue 48 %, event model's eyes 7 %, tongue 10 %.
    """
    forever = 1_000_000

    def stage(share: float, peak_lr: float) -> FitConfig:
        return FitConfig(steps=forever, peak_lr=peak_lr, minutes=minutes * share)

    target = Recipe(
        role="target", num_clips=9000, pictures=96, aux_layer=2, clips=8, questions=6,
        eyes=EyesConfig(width=160, layers=5, heads=5, read_layer=-2, sees_colour=True),
        eyes_fit=stage(0.35, 1.5e-3), tongue_fit=stage(0.48, 1e-3), decoder=_decoder(320, 640, 6, 5, vocabulary),
    )  # fmt: skip
    event = Recipe(
        role="event", num_clips=3500, pictures=96, aux_layer=1, clips=16, questions=5,
        eyes=EyesConfig(width=128, layers=3, heads=4, read_layer=-1, sees_colour=False),
        eyes_fit=stage(0.07, 1.5e-3), tongue_fit=stage(0.10, 2e-3), decoder=_decoder(160, 384, 4, 5, vocabulary),
    )  # fmt: skip
    return target, event


def smoke_recipes(vocabulary: int = VOCABULARY) -> tuple[Recipe, Recipe]:
    """The same pipeline in seconds, for tests: a handful of clips, steps instead of minutes."""
    few = FitConfig(steps=4, peak_lr=1e-3)

    def tiny(role: Role, read_layer: int, sees_colour: bool) -> Recipe:
        return Recipe(
            role=role, num_clips=4, num_validation=2, pictures=4, aux_layer=0, clips=2, questions=2,
            eyes=EyesConfig(width=32, layers=2, heads=2, read_layer=read_layer, sees_colour=sees_colour),
            eyes_fit=few, tongue_fit=few, decoder=_decoder(32, 48, 2, 2, vocabulary),
        )  # fmt: skip

    return tiny("target", -2, True), tiny("event", -1, False)


def teach_eyes(
    recipe: Recipe, folder: Path, device: str, resume: bool, stop_after: int | None, processes: int
) -> tuple[Eyes, bool]:
    """Stage 1 of one model. Returns the eyes and whether they are ready."""
    train, held_out = (_clips(recipe, folder, split) for split in ("train", "validation"))
    torch.manual_seed(1)
    eyes = Eyes(recipe.eyes).to(device)

    def loss_of(step: int, part: int, parts: int) -> Tensor:
        several = recipe.pictures // parts
        batch = batch_of(train, step * parts + part, several, 1, recipe.role == "target", device)
        return half_loss(eyes, *batch)

    def held() -> Mapping[str, float]:
        pictures = held_out.pictures.reshape(-1, *held_out.pictures.shape[2:])
        patches = torch.from_numpy(np.array(held_out.patches.reshape(len(pictures), *held_out.patches.shape[2:])))
        wholes = torch.from_numpy(np.array(held_out.wholes.reshape(len(pictures), -1)))
        return eyes.accuracy(normalise(pictures, device), patches.to(device), wholes.to(device))

    done = fit(
        f"{recipe.role}_eyes", eyes, loss_of, recipe.eyes_fit, folder,
        evaluate=held, resume=resume, stop_after=stop_after, processes=processes,
    )  # fmt: skip
    return eyes, done


def teach_tongue(
    recipe: Recipe,
    eyes: Eyes,
    tokenizer: Tokenizer,
    folder: Path,
    device: str,
    resume: bool,
    stop_after: int | None,
    processes: int,
) -> tuple[Tongue, bool]:
    """Stage 2 of one model, on the finished eyes."""
    words = Words(tokenizer, recipe.role)
    lessons = {}
    for split in ("train", "validation"):
        data = _clips(recipe, folder, split)
        asked = load_questions(folder / "data", split, len(data))
        segments = [[words.segment(qa) for qa in clip] for clip in asked]
        seen = _features(recipe, eyes, data, folder, split, device)
        lessons[split] = Lessons(words, seen, data.patches, data.wholes, segments)
    torch.manual_seed(2)
    tongue = Tongue(
        TongueConfig(
            role=recipe.role, eyes_width=recipe.eyes.width, decoder=recipe.decoder, aux_layer=recipe.aux_layer
        )
    ).to(device)

    def loss_of(step: int, part: int, parts: int) -> Tensor:
        batch = lessons["train"].draw(step, recipe.clips, recipe.questions, 3, device, part, parts)
        with torch.autocast(device, torch.bfloat16):
            return tongue.loss(batch)

    rng = np.random.default_rng(0)
    some = range(min(48, recipe.num_validation))
    held = [
        lessons["validation"].take([i], [rng.permutation(len(lessons["validation"].segments[i]))[:4]], device)
        for i in some
    ]

    def accuracy() -> Mapping[str, float]:
        with torch.autocast(device, torch.bfloat16):
            return fact_accuracy(tongue, held)

    done = fit(
        f"{recipe.role}_tongue", tongue, loss_of, recipe.tongue_fit, folder,
        evaluate=accuracy, resume=resume, stop_after=stop_after, processes=processes,
    )  # fmt: skip
    return tongue, done


def _clips(recipe: Recipe, folder: Path, split: str) -> ClipSet:
    count = recipe.num_clips if split == "train" else recipe.num_validation
    return load_clips(folder / "data", split, recipe.sense, count)


def _features(recipe: Recipe, eyes: Eyes, data: ClipSet, folder: Path, split: str, device: str) -> Tensor:
    """What the finished eyes see, made once: (N, F, 37, W) bfloat16, kept as int16 bits."""
    path = folder / "data" / f"{recipe.role}_{split}_{len(data)}_features.npy"
    if not path.exists():
        seen = features_of(eyes, data.pictures, device)
        partial = path.with_suffix(".part.npy")
        np.save(partial, seen.view(torch.int16).numpy())
        partial.replace(path)
    return torch.from_numpy(np.load(path, allow_pickle=False)).view(torch.bfloat16)


def train_nano(
    workdir: str | Path,
    *,
    minutes: float = 95.0,
    device: str = "cpu",
    resume: bool = True,
    smoke: bool = False,
    stop_after: int | None = None,
    note: Callable[[str], None] = print,
) -> dict[str, Path] | None:
    """Train the pair from scratch and write WORKDIR/nano-target and WORKDIR/nano-event.

    Interrupt it at any time; the next call with the same ``workdir`` goes on from the last saved state (every three
    minutes), to the very numbers that an unbroken run of as many steps gives.

    Args:
        workdir: folder for data, states, logs and results; 5 GB.
        minutes: of training on all cores, shared out over the four stages; making the data takes about 10 more.
        device: "cpu" or "cuda".
        resume: False begins anew.
        smoke: a few steps at tiny sizes, for tests.
        stop_after: end after so many steps of the first unfinished stage, as if interrupted (for tests).
        note: told what is going on.

    Returns the two folders, or None when stopped early. Raises SettingError for a device that is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError(
            "device cuda was asked for, but torch finds no GPU; leave out --device to train on the CPU"
        )
    if minutes <= 0:
        raise SettingError(f"minutes is {minutes}, must be above 0")
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    plans = smoke_recipes() if smoke else recipes(minutes)
    tokenizer = _tokenizer(folder, plans[0])
    processes = 1 if smoke or device != "cpu" else min(2, os.cpu_count() or 1)
    if processes == 2:
        torch.set_num_threads(1)
    out: dict[str, Path] = {}
    for recipe in plans:
        note(f"{recipe.role}: clips")
        for split in ("train", "validation"):
            _clips(recipe, folder, split)
        note(f"{recipe.role}: eyes")
        eyes, done = teach_eyes(recipe, folder, device, resume, stop_after, processes)
        if not done:
            return None
        note(f"{recipe.role}: tongue")
        tongue, done = teach_tongue(recipe, eyes, tokenizer, folder, device, resume, stop_after, processes)
        if not done:
            return None
        out[recipe.role] = export(eyes, tongue, tokenizer, folder / f"nano-{recipe.role}")
        note(f"{recipe.role}: written to {out[recipe.role]}")
    (folder / "done.json").write_text(json.dumps({k: str(v) for k, v in out.items()}) + "\n")
    return out


def _tokenizer(folder: Path, recipe: Recipe) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        asked = load_questions(folder / "data", "train", recipe.num_clips)
        # the decoders' vocabulary is fixed; a few scenes give fewer words than that
        train_tokenizer(corpus(asked[:3000])).save(str(path))
    return Tokenizer.from_file(str(path))
