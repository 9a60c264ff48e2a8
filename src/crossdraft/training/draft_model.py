"""A draft model out of the target itself: a few of its layers, taught to say what the whole of it says.

It starts from the target's own weights and keeps its embeddings, output head and tokenizer, so it speaks the same
tokens and needs few answers; its layers learn from the target's distribution along the target's own answers. Source
of the loss: Zhou et al., "DistillSpec", arXiv 2310.08461 (forward KL, on the target's text).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from crossdraft.core.errors import SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.rounds import play
from crossdraft.core.types import LAST
from crossdraft.core.weights import WEIGHTS
from crossdraft.models import fingerprint
from crossdraft.models.spliced import Parts, save_like
from crossdraft.nn import losses
from crossdraft.nn.decoder import Decoder
from crossdraft.nn.losses import LossConfig
from crossdraft.training.gradients import check_processes
from crossdraft.training.lessons import Batch, Lessons
from crossdraft.training.loop import RECORD, FitConfig, Report, ended_before, fit
from crossdraft.training.narrow import narrowed
from crossdraft.training.state import STATE

KIND = "draft-model-training"
_KL = LossConfig(kl=1.0)


@dataclass(frozen=True, kw_only=True)
class DraftModelTraining:
    """How it is taught. layers: of the target, that are kept, by number; epochs, minutes: whichever ends first;
    batch: answers of a step; length: of the chains in the held-out figures; dtype: of the computation, weights are
    float32; processes: 2 halve every batch on a CPU."""

    layers: tuple[int, ...]
    epochs: int = 3
    minutes: float | None = None
    batch: int = 8
    peak_lr: float = 5e-4
    length: int = 4
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "cpu"
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "length"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingError(f"{name} is {value!r}, must be a whole number from 1 on")
        check_processes(self.processes, self.device)
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise SettingError(f"layers are {list(self.layers)}, must be numbers of layers, rising")


def outer_layers(num_layers: int, count: int) -> tuple[int, ...]:
    """``count`` layers from both ends, where they differ most from each other: the first ones if one is left over.

    Raises SettingError unless there are more layers than that.
    """
    if not 1 <= count < num_layers:
        raise SettingError(
            f"{count} layers were asked for, the target has {num_layers}; keep fewer, and at least one"
        )
    first = -(-count // 2)
    return (*range(first), *range(num_layers - (count - first), num_layers))


def check_layers(layers: Sequence[int], num_layers: int) -> None:
    """SettingError unless ``layers`` are some of the target's, not all."""
    if layers[-1] >= num_layers or len(layers) >= num_layers:
        raise SettingError(
            f"layers are {list(layers)}, but the target has {num_layers}: keep some of 0 to {num_layers - 1}"
        )


def train_draft_model(
    parts: Parts,
    source: Path,
    lessons: Lessons,
    train: Sequence[int],
    held_out: Sequence[int],
    out: str | Path,
    config: DraftModelTraining,
    *,
    corpus: str = "",
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
    resume: bool = True,
    stop_after: int | None = None,
) -> dict[str, Any] | None:
    """Train and return the record that was written, OUT/training.json; OUT is a checkpoint in the target's layout.

    parts: the target's modules, read from ``source`` in float32; their layers are changed. lessons: the target's
    answers with its states. Held out: ``top1``, the share of the target's tokens that the draft model says after
    the same text, and ``tau``, tokens for each pass of chains of ``config.length``, played through the held-out
    answers.

    stop_after: end after so many steps, as if interrupted (for tests); then the result is None.
    Raises SettingError for settings that cannot work, and when OUT holds another training; Diverged.
    """
    out = Path(out)
    deep = parts.decoder.config.num_layers
    check_layers(config.layers, deep)
    about = {k: v for k, v in asdict(config).items() if k not in ("minutes", "device")}
    about |= {"layers": list(config.layers), "target": fingerprint(source), "answers": lessons.digest,
              "train": len(train)}  # fmt: skip
    if (record := ended_before(out, KIND, about, resume=resume, products=(WEIGHTS,), note=note)) is not None:
        (out / STATE).unlink(missing_ok=True)
        return record
    keep_layers(parts, config.layers)
    course = _Course(parts.decoder, lessons, train, held_out, config)
    plan = FitConfig(
        steps=config.epochs * course.num_batches, minutes=config.minutes, epoch=course.num_batches,
        peak_lr=config.peak_lr, weight_decay=0.01, show=("tau", "tau"), dtype=config.dtype, seed=config.seed,
    )  # fmt: skip
    ended = fit(
        "draft model", parts.decoder, course.loss_of, plan, out, evaluate=course.figures, about=about,
        resume=resume, stop_after=stop_after, processes=config.processes, report=report, note=note,
    )  # fmt: skip
    if ended is None:
        return None
    figures = ended.figures
    if figures is None:
        with torch.no_grad(), narrowed(config.device, config.dtype):
            figures = course.figures()
    save_like(parts.cpu(), source, out, lessons.dtype)
    body = {
        "target": source.name, "corpus": corpus, "layers": list(config.layers),
        "parameters": course.num_trained, "steps": ended.step, "ended_by": ended.ended_by,
        "seconds": ended.seconds, "trained_tokens": round(course.num_tokens * ended.step / course.num_batches),
        "num_answers": len(course.train), "num_held_out": len(course.held_out), "held_out": dict(figures),
        "config": {**asdict(config), "layers": list(config.layers)}, "about": about, "provenance": provenance(),
    }  # fmt: skip
    write_record(out / RECORD, KIND, body)
    # a state beside the weights of a checkpoint would be read as a part of them
    (out / STATE).unlink(missing_ok=True)
    return body


def keep_layers(parts: Parts, layers: Sequence[int]) -> None:
    """Drop all other layers of the decoder, and say so in the configuration."""
    decoder = parts.decoder
    decoder.layers = nn.ModuleList(decoder.layers[i] for i in layers)
    config = dict(parts.config)
    where = "text_config" if "text_config" in config else None
    if where is None:
        config["num_hidden_layers"] = len(layers)
    else:
        config[where] = {**config[where], "num_hidden_layers": len(layers)}
    parts.config = config


class _Course:
    """A decoder of few layers, and the answers it learns from and is judged by."""

    def __init__(
        self, decoder: Decoder, lessons: Lessons, train: Sequence[int], held_out: Sequence[int],
        config: DraftModelTraining,
    ) -> None:  # fmt: skip
        lengths = lessons.lengths
        self.decoder, self.lessons, self.config = decoder.to(config.device), lessons, config
        self.train = [i for i in train if lengths[i] > lessons.lessons[i].prompt]
        self.held_out = sorted(
            (i for i in held_out if lengths[i] > lessons.lessons[i].prompt), key=lambda i: lengths[i]
        )
        if not self.train or not self.held_out:
            raise SettingError("a draft model needs answers to learn from, and some to be judged by")
        self.num_batches = -(-len(self.train) // config.batch)
        self.num_tokens = sum(int(lengths[i]) - lessons.lessons[i].prompt for i in self.train)
        # embeddings and output head stay the target's: its tokens mean what they meant
        decoder.requires_grad_(False)
        decoder.layers.requires_grad_(True)
        decoder.norm.requires_grad_(True)
        self.head = lessons.decoder.lm_head.weight.detach().to(config.device)

    @property
    def num_trained(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.decoder.parameters() if p.requires_grad)

    def loss_of(self, step: int, part: int, parts: int) -> Tensor:
        """The divergence from the target at every token of the step's answers."""
        places = self.lessons.places_of(self.train, self.num_batches, self.config.seed, step, part, parts)
        logits, labels, _ = self._said(self.lessons.batch(places))
        return losses.soft_ce(logits, labels).mean()

    def _said(self, batch: Batch) -> tuple[Tensor, losses.SoftLabels, Bool[Tensor, "B T"]]:
        """Logits and the target's labels at the positions that predict a token of the answer, and these."""
        there = batch.predicts
        states = self.decoder(batch.embeds.to(self.decoder.norm.weight.dtype), capture=(LAST,))[1][LAST]
        with torch.no_grad():
            labels = losses.soft_labels(_KL, F.linear(batch.states[LAST][there].to(self.head.dtype), self.head))
        return F.linear(states[there], self.decoder.lm_head.weight), labels, there

    def figures(self) -> Mapping[str, float]:
        """Loss, top1 and simulated tau over the held-out answers."""
        loss, right, total, emitted, rounds = 0.0, 0, 0, 0, 0
        for start in range(0, len(self.held_out), self.config.batch):
            places = self.held_out[start : start + self.config.batch]
            batch = self.lessons.batch(places)
            logits, labels, there = self._said(batch)
            loss += float(losses.soft_ce(logits, labels).detach().sum())
            same = logits.argmax(-1) == batch.tokens.roll(-1, 1)[there]
            right, total = right + int(same.sum()), total + len(same)
            hits = torch.zeros_like(there)
            hits[there] = same
            for row in range(len(places)):
                pairs = play(_runs(hits[row][there[row]].cpu().numpy()), self.config.length)
                emitted += sum(e for _, e in pairs)
                rounds += len(pairs)
        return {"loss": loss / total, "top1": right / total, "tau": emitted / max(rounds, 1)}


def _runs(hits: Bool[np.ndarray, "T"]) -> list[int]:
    """How many tokens in a row a draft gets right that begins behind each token said: entry s, after s tokens."""
    runs: Int[np.ndarray, T] = np.zeros(len(hits) + 1, dtype=np.int64)
    for at in range(len(hits) - 1, -1, -1):
        runs[at] = runs[at + 1] + 1 if hits[at] else 0
    return [int(run) for run in runs[:-1]]
