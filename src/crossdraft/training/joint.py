"""Medusa-2: the target learns with its Medusa heads, and what comes out is another target.

A low-rank change of every linear layer is trained together with the heads. The target is held to what it said
before (the divergence from its own distribution with the change switched off), the heads pull it towards states
from which several tokens can be told. It will not say the same as before, so nothing drafted for it is lossless
against the model it came from: it is written as a checkpoint of its own, with heads of its own.

Source: Cai et al., "Medusa", arXiv 2401.10774, sections 2.2.2 and 2.3.2. Theirs changes the output head too; here
it stays, as it may be tied to the embeddings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossdraft.adapters.lora import LoraSettings, LowRank, LowRankChanges
from crossdraft.core.errors import SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.seeds import seed_for
from crossdraft.core.types import LAST
from crossdraft.core.weights import WEIGHTS
from crossdraft.heads.checkpoint import HEAD, HeadCard, load_head, save_head
from crossdraft.heads.medusa import MedusaHead
from crossdraft.models import fingerprint
from crossdraft.models.spliced import Parts, save_like
from crossdraft.nn import losses
from crossdraft.nn.decoder import Decoder
from crossdraft.nn.losses import LossConfig
from crossdraft.training.heads import HeadTraining, Pupil, plain, train_head
from crossdraft.training.lessons import Batch, Lessons
from crossdraft.training.loop import RECORD, FitConfig, Report, ended_before, fit
from crossdraft.training.narrow import narrowed
from crossdraft.training.state import STATE

KIND = "joint-training"
ALONE, TOGETHER, TARGET = "alone", "together", "target"
"""Folders of a training: the heads by themselves, the state of the joint part, the new target."""

_KEEP = LossConfig(kl=1.0)


@dataclass(frozen=True, kw_only=True)
class JointTraining:
    """How it is trained. heads: the first part, heads alone, and what both parts share (draft vocabulary, batch,
    dtype, seed). epochs, minutes: of the joint part. peak_lr: of the heads; the change learns at a quarter of it.
    heads_weight: of the heads' loss beside the target's, reached by a sine over the first half of
    the steps of all epochs.
    """

    heads: HeadTraining
    epochs: int = 2
    minutes: float | None = None
    peak_lr: float | None = None
    heads_weight: float = 0.2
    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.heads.name != "medusa":
            raise SettingError(f"only Medusa heads are trained together with their target, not '{self.heads.name}'")
        if self.heads.processes != 1:
            raise SettingError("a target and its heads are trained in one process; leave processes at 1")
        if not (math.isfinite(self.heads_weight) and self.heads_weight > 0):
            raise SettingError(f"heads_weight is {self.heads_weight}, must be above 0")
        if type(self.epochs) is not int or self.epochs < 1:
            raise SettingError(f"epochs is {self.epochs!r}, must be a whole number from 1 on")


def train_together(
    parts: Parts,
    source: Path,
    lessons: Lessons,
    train: Sequence[int],
    held_out: Sequence[int],
    out: str | Path,
    config: JointTraining,
    *,
    corpus: str = "",
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
    resume: bool = True,
    stop_after: int | None = None,
) -> dict[str, Any] | None:
    """Train and return the record that was written, OUT/training.json (kind "joint-training").

    parts: the target's modules, read from the checkpoint ``source``; they are changed. lessons: the target's
    answers with its own states, from before. OUT/target is the new checkpoint, OUT/head.safetensors its heads.
    Held out: ``agreement``, the share of answer positions at which it still says what the old one says,
    ``divergence`` in nats from the old one, and the heads' figures on the new target's states led through the old
    answers.

    stop_after: end after so many steps of the joint part, as if interrupted (for tests); then the result is None.
    Raises what ``train_head`` raises.
    """
    out = Path(out)
    before = fingerprint(source)
    about = plain(asdict(config) | {"target": before, "answers": lessons.digest, "train": len(train)})
    del about["minutes"]
    about["heads"] = {k: v for k, v in about["heads"].items() if k not in ("minutes", "device")}
    for name, usual in (("freeze_output", False), ("followed", 1.0)):
        if about["heads"][name] == usual:  # what was begun before there was a choice is gone on with
            del about["heads"][name]
    record = ended_before(
        out, KIND, about, resume=resume, products=(HEAD, Path(TARGET) / WEIGHTS), state=out / TOGETHER, note=note
    )
    if record is not None:
        return record
    alone = train_head(
        lessons, train, held_out, out / ALONE, config.heads, target=source.name, fingerprint=before, corpus=corpus,
        report=report, note=note, resume=resume,
    )  # fmt: skip
    assert alone is not None, "it was not told to stop early"
    course = _Course(parts.decoder, lessons, train, held_out, config, out / ALONE / HEAD)
    peak = config.peak_lr if config.peak_lr is not None else 0.256 / lessons.width
    pupil = course.pupil
    course.steps = config.epochs * pupil.num_batches
    plan = FitConfig(
        steps=course.steps, minutes=config.minutes, epoch=pupil.num_batches, peak_lr=peak, slow="changes",
        slow_rate=0.25, weight_decay=0.01, show=("agreement", "agreement"), dtype=config.heads.dtype,
        seed=config.heads.seed,
    )  # fmt: skip
    ended = fit(
        "medusa2", course.module, course.loss_of, plan, out / TOGETHER, evaluate=course.figures, about=about,
        resume=resume, stop_after=stop_after, report=report, note=note,
    )  # fmt: skip
    if ended is None:
        return None
    course.changes.merge()
    # behind the merge: rounded to the weights' dtype, it is this target that is written
    with torch.no_grad(), narrowed(config.heads.device, plan.dtype):
        figures = course.figures()
    save_like(parts.cpu(), source, out / TARGET, lessons.dtype)
    seen = int(alone["trained_tokens"]) + round(pupil.num_tokens * ended.step / pupil.num_batches)
    seconds = float(alone["seconds"]) + ended.seconds
    card = HeadCard(
        method="medusa", target=f"{source.name} (Medusa-2)", fingerprint=fingerprint(out / TARGET),
        trained_tokens=seen, seconds=seconds, corpus=lessons.digest[:16], accuracies=pupil.accuracies,
    )  # fmt: skip
    save_head(out / HEAD, pupil.head, card)
    body = {
        "name": "medusa2", "target": source.name, "corpus": corpus, "parameters": course.num_trained,
        "steps": ended.step, "ended_by": ended.ended_by, "seconds": seconds, "trained_tokens": seen,
        "num_answers": len(pupil.train), "num_held_out": len(pupil.held_out), "held_out": figures,
        "alone": alone["held_out"], "accuracies": pupil.accuracies,
        "config": plain(asdict(config) | {"peak_lr": peak}), "about": about, "provenance": provenance(),
    }  # fmt: skip
    write_record(out / RECORD, KIND, body)
    (out / TOGETHER / STATE).unlink(missing_ok=True)
    return body


class _Module(nn.Module):
    """What learns: the heads, and a low-rank change for each of a decoder's linears."""

    def __init__(self, head: MedusaHead, changes: nn.ModuleList) -> None:
        super().__init__()
        self.head, self.changes = head, changes


class _Course:
    """A target with a change in it, its heads, and the answers that both learn from."""

    def __init__(
        self, decoder: Decoder, lessons: Lessons, train: Sequence[int], held_out: Sequence[int],
        config: JointTraining, start: Path,
    ) -> None:  # fmt: skip
        self.config, self.decoder, self.lessons, self.steps = config, decoder, lessons, 1
        self.pupil = Pupil(lessons, train, held_out, config.heads)
        head, _ = load_head(start)
        self.pupil.head.load_state_dict(head.state_dict())
        assert isinstance(self.pupil.head, MedusaHead)
        decoder.to(config.heads.device).requires_grad_(False)
        linears = [m for layer in decoder.layers for m in layer.modules() if isinstance(m, nn.Linear)]
        low = LoraSettings(rank=config.rank, alpha=config.alpha, dropout=config.dropout)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed_for(config.heads.seed, "change"))
            parts = [LowRank(linear.in_features, linear.out_features, low) for linear in linears]
        self.module = _Module(self.pupil.head, nn.ModuleList(parts)).to(config.heads.device)
        self.changes = LowRankChanges(zip(linears, parts, strict=True))

    @property
    def num_trained(self) -> int:
        """Trained parameters, the heads' and the change's."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def seen(self, batch: Batch) -> Batch:
        """The batch with the states that the changed target has."""
        states = self.decoder(batch.embeds, capture=(LAST,))[1]
        return replace(batch, states={**batch.states, LAST: states[LAST]})

    def loss_of(self, step: int, part: int, parts: int) -> Tensor:
        """The divergence from the old target, and the heads' loss with a weight that climbs."""
        batch = self.lessons.batch(self.pupil.places_of(step, part, parts))
        now = self.seen(batch)
        ramp = math.sin(math.pi / 2 * min(1.0, (step + 1) / max(1.0, self.steps / 2)))
        apart = self._divergence(batch, now).mean()
        return apart + self.config.heads_weight * ramp * self.pupil.learn(now)

    def _divergence(self, batch: Batch, now: Batch) -> Tensor:
        """KL of the new target's distribution from the old one's, at each answer token."""
        there = batch.predicts
        with torch.no_grad():
            labels = losses.soft_labels(_KEEP, self._logits(batch, there))
        return losses.soft_ce(self._logits(now, there), labels)

    def _logits(self, batch: Batch, there: Tensor) -> Tensor:
        head = self.decoder.lm_head.weight
        return F.linear(batch.states[LAST][there].to(head.dtype), head)

    def figures(self) -> Mapping[str, float]:
        """Held-out figures; leaves the heads' accuracies in the pupil."""
        said, apart, total = 0, 0.0, 0
        places = self.pupil.held_out
        for start in range(0, len(places), self.config.heads.batch):
            batch = self.lessons.batch(places[start : start + self.config.heads.batch])
            now, there = self.seen(batch), batch.predicts
            best = self._logits(now, there)
            said += int((best.argmax(-1) == self._logits(batch, there).argmax(-1)).sum())
            apart += float(self._divergence(batch, now).detach().sum())
            total += int(there.sum())
        heads = self.pupil.figures(self.seen)
        return {"agreement": said / max(1, total), "divergence": apart / max(1, total), **heads}
