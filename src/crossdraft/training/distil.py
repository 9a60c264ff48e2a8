"""Teach the event model the target's phrasing, so that what it drafts is what the target would say.

Two ways: all weights of its decoder (``full``), or a low-rank change of it (``l6``). Both learn from the target's
own answers, led through them as the engine is: state t predicts token t. Sources: Zhou et al., "DistillSpec", arXiv
2310.08461 (forward KL); Hu et al., "LoRA", arXiv 2106.09685.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.adapters import build_adapter
from crossdraft.adapters.checkpoint import save_adapter
from crossdraft.adapters.lora import L6
from crossdraft.core.errors import SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.seeds import seed_for
from crossdraft.data.store import Store
from crossdraft.models import fingerprint, resolve_checkpoint
from crossdraft.models.eventgpt import EventGPT, EventGPTParts, read_event_parts
from crossdraft.models.spliced import save_like
from crossdraft.training.adapters import ADAPTER, KIND
from crossdraft.training.answers import Answers, Asked, Report, read_answers, rows_of_step
from crossdraft.training.batches import split_recordings
from crossdraft.training.loop import RECORD, FitConfig, Fitted, ended_before, fit, read_log
from crossdraft.training.pupil import Marks, Pupil, marks
from crossdraft.training.state import STATE

Mode = Literal["full", "l6"]
Loss = Literal["tokens", "states"]
_FIGURES = ("epoch", "loss", "held_out_loss", "held_out_top1", "held_out_run")
_JUDGED_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class DistilTraining:
    """How the event model is taught.

    loss: "tokens": cross-entropy with the target's tokens plus ``kl_weight`` times that with its distribution;
    "states": the study's for L6, of states through a projection and the target's head. peak_lr: None takes 5e-4 for
    full and the study's 1e-4 for l6. batch: clips a step; questions: of one clip in a step, at most. validation:
    share of the recordings that is held out. patience: epochs without a better held-out loss, after which the
    training ends; the best weights are kept. dtype: of the passes; weights are float32.
    """

    mode: Mode = "full"
    loss: Loss = "tokens"
    kl_weight: float = 1.0
    epochs: int = 20
    minutes: float | None = None
    peak_lr: float | None = None
    batch: int = 16
    questions: int = 4
    validation: float = 0.1
    patience: int = 4
    rank: int = 16
    alpha: float = 32.0
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        for name, allowed in (("mode", get_args(Mode)), ("loss", get_args(Loss))):
            if (value := getattr(self, name)) not in allowed:
                raise SettingError(f"{name} is {value!r:.40}, must be one of: {', '.join(allowed)}")
        if self.loss == "states" and self.mode != "l6":
            raise SettingError("loss 'states' teaches what lies behind a LoRA; choose mode 'l6', or loss 'tokens'")
        for name in ("epochs", "batch", "questions"):
            if (value := getattr(self, name)) < 1:
                raise SettingError(f"{name} is {value}, must be 1 or more")
        self.plan(1)

    @property
    def name(self) -> str:
        """Of what comes out."""
        return "distilled" if self.mode == "full" else "l6"

    def plan(self, steps_of_epoch: int) -> FitConfig:
        """What the training loop is told. SettingError for what makes no sense."""
        usual = 5e-4 if self.mode == "full" else 1e-4
        return FitConfig(
            steps=self.epochs * steps_of_epoch, epoch=steps_of_epoch, watch="loss", show=("run", "leading matches"),
            peak_lr=usual if self.peak_lr is None else self.peak_lr, minutes=self.minutes, patience=self.patience,
            dtype=self.dtype, seed=self.seed,
        )  # fmt: skip


def distil(
    event_model: str | Path,
    store: Store,
    jobs: Iterable[Asked],
    out: str | Path,
    config: DistilTraining,
    *,
    head: Float[Tensor, "V Dt"] | None = None,
    device: str = "cpu",
    resume: bool = True,
    stop_after: int | None = None,
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Teach ``event_model``, an EventGPT checkpoint, on a teacher-forced store. Returns the record
    OUT/training.json: held-out figures of every epoch, and before and after with the right clip's events and a
    stranger's.

    full: OUT is a checkpoint of its own, in bfloat16. l6: OUT/adapter.safetensors, to be merged into the very event
    model (``build.load_event_model(..., lora=...)``). Interrupted, the next call with the same ``out`` goes on to
    the numbers of an unbroken run.

    jobs: the questions and clips that the store was extracted from; more do no harm. head: the target's output
    head, for the states loss, and for the target's distribution where the store keeps none of it (top_k 0).
    stop_after: end after so many steps, as if interrupted (for tests); then the result is None.
    Raises DataError when the store cannot teach this event model, SettingError for settings that do not fit it or
    an ``out`` that holds another training, CheckpointError for an event model that cannot be read, and what the
    training loop raises.
    """
    out, folder = Path(out), resolve_checkpoint(event_model)
    wanted = _wanted(config, store, head)
    split = split_recordings(store, config.validation, config.seed)
    about = _about(store, config, fingerprint(folder))
    if (record := ended_before(out, KIND, about, resume=resume, products=(), note=note)) is not None:
        return record
    narrow = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    answers = read_answers(EventGPT.load(folder, narrow, device), store, jobs, out, report)
    parts, _ = read_event_parts(folder, torch.float32)
    course = _Course(answers, split, _pupil(parts, store, config, head, device), wanted, config, device)
    before = course.both_sides()
    ended = fit(
        config.name, course.pupil.module, course.loss_of, config.plan(course.steps_of_epoch), out,
        evaluate=lambda: asdict(course.judge()), about=about, resume=resume, stop_after=stop_after, report=report,
        note=note,
    )  # fmt: skip
    if ended is None:
        return None
    if course.pupil.lora is None:
        save_like(parts.cpu(), folder, out)
    else:
        identity = {"extraction": store.identity.config_hash, "event_model": about["event_model"]}
        save_adapter(out / ADAPTER, course.pupil.lora, **identity)
    sides = {"before": before, "after": course.both_sides()}
    body = {**_body(store, config, course, ended, read_log(out)), **sides, "about": about}
    # a state beside the weights of a checkpoint would be read as a part of them
    (out / STATE).unlink(missing_ok=True)
    write_record(out / RECORD, KIND, body)
    return body


def _about(store: Store, config: DistilTraining, event_model: str) -> dict[str, Any]:
    """All that decides the numbers: what a training that goes on must share with its beginning."""
    samples = {"extraction": store.identity.config_hash, "samples": store.digest}
    return {**asdict(config), "event_model": event_model, **samples}


def _body(
    store: Store, config: DistilTraining, course: "_Course", ended: Fitted, log: list[dict[str, Any]]
) -> dict[str, Any]:
    identity = store.identity
    epochs = [{name: line.get(name) for name in _FIGURES} for line in log if "epoch" in line]
    return {
        "name": config.name, "level": config.mode, "trained_on": identity.mode, **course.counts(),
        "store": {
            "path": str(store.root), "target": identity.target, "event_model": identity.event_model,
            "extraction": identity.config_hash,
        },
        "config": asdict(config), "seconds": ended.seconds, "ended_by": ended.ended_by,
        "best_epoch": math.ceil(ended.best_step / course.steps_of_epoch), "epochs": epochs,
        "provenance": provenance(),
    }  # fmt: skip


class _Course:
    """The answers, split by recording, and the pupil who is taught on one part and judged on the other."""

    def __init__(
        self, answers: Answers, split: tuple[list[str], list[str]], pupil: Pupil, wanted: tuple[str, ...],
        config: DistilTraining, device: str,
    ) -> None:  # fmt: skip
        self.answers, self.split, self.pupil = answers, split, pupil
        self.wanted, self.config, self.device = wanted, config, device
        self.lessons, self.test = (answers.rows(names, config.questions) for names in self.split)

    @property
    def steps_of_epoch(self) -> int:
        """Steps in which every answer is met once."""
        return -(-len(self.lessons) // self.config.batch)

    def loss_of(self, step: int, part: int, parts: int) -> Tensor:
        """As the training loop wants it."""
        rows = rows_of_step(self.lessons, step, self.config.batch, self.config.seed)[part::parts]
        return self.pupil.loss(self.answers.pack(rows, self.wanted).to(self.device))

    def judge(self, shuffled: bool = False) -> Marks:
        """On the held-out answers; shuffled: with the events of a stranger's clip."""
        several = (self.test[at : at + _JUDGED_ROWS] for at in range(0, len(self.test), _JUDGED_ROWS))
        return marks(
            self.pupil, (self.answers.pack(rows, shuffled=shuffled).to(self.device) for rows in several)
        )  # fmt: skip

    def both_sides(self) -> dict[str, dict[str, float]]:
        """Held-out figures with the right clip's events, and with a stranger's."""
        return {"right": asdict(self.judge()), "shuffled": asdict(self.judge(shuffled=True))}

    def counts(self) -> dict[str, Any]:
        """What was learned from, and how much learns."""
        used = [self.answers.answers[number] for row in self.lessons for number in row.answers]
        return {
            "parameters": sum(p.numel() for p in self.pupil.module.parameters() if p.requires_grad),
            "num_samples": len(used), "num_tokens": sum(len(answer.tokens) for answer in used),
            "num_validation_samples": sum(len(row.answers) for row in self.test),
            "recordings": dict(zip(("train", "validation"), self.split, strict=True)),
        }  # fmt: skip


def _wanted(config: DistilTraining, store: Store, head: Tensor | None) -> tuple[str, ...]:
    """What of the store each step reads besides tokens. SettingError where a head is needed and none is given."""
    if config.loss == "tokens" and not config.kl_weight:
        return ()
    if config.loss == "tokens" and store.identity.top_k:
        return ("top_ids", "top_log_probs")
    if head is None:
        if config.loss == "states":
            raise SettingError(
                "loss 'states' goes through the target's output head; give it, or take loss 'tokens'"
            )
        raise SettingError(
            f"{store.root}: keeps no log-probabilities, and the target's head is not given; extract with --top-k"
        )
    if head.ndim != 2 or head.shape[1] != store.identity.target_width:
        raise SettingError(
            f"the head is {list(head.shape)}, but the store's states have width {store.identity.target_width}; "
            "give the head of the target that the store was extracted from"
        )
    return ("target_states",)


def _pupil(parts: EventGPTParts, store: Store, config: DistilTraining, head: Tensor | None, device: str) -> Pupil:
    decoder = parts.decoder.to(device)
    head = None if head is None else head.detach().to(device, torch.float32)
    if config.mode == "full":
        decoder.requires_grad_(True)
        return Pupil(decoder, None, head, config.kl_weight)
    width, through_head = decoder.config.hidden_size, config.loss == "states"
    torch.manual_seed(seed_for(config.seed, "lora"))
    lora = build_adapter(
        "l6", width_in=width, width_out=store.identity.target_width if through_head else width,
        rank=config.rank, alpha=config.alpha, **L6.shape_of(decoder.config),
    ).to(device)  # fmt: skip
    assert isinstance(lora, L6)
    lora.inject(decoder)
    return Pupil(decoder, lora, head, config.kl_weight, through_head)
