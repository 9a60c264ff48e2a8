"""Teach the event model the target's phrasing, so that what it drafts is what the target would say.

Two ways: all weights of its decoder (``full``), or a low-rank change of it (``l6``). Both learn from the target's
own answers, led through them as the engine is: state t predicts token t. Sources: Zhou et al., "DistillSpec", arXiv
2310.08461 (forward KL); Hu et al., "LoRA", arXiv 2106.09685.
"""

import shutil
import time
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
from crossdraft.models.spliced import save_parts
from crossdraft.training.answers import Asked, Report, read_answers, rows_of_step
from crossdraft.training.batches import split_recordings
from crossdraft.training.loop import FitConfig, fit, read_log
from crossdraft.training.pupil import Marks, Pupil, marks

KIND = "adapter-training"
RECORD, ADAPTER, STATE = "training.json", "adapter.safetensors", "training"
Mode = Literal["full", "l6"]
Loss = Literal["tokens", "states"]
_JUDGED_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class DistilTraining:
    """How the event model is taught.

    loss: "tokens": cross-entropy with the target's tokens plus ``kl_weight`` times that with its distribution;
    "states": the study's for L6, of states through a projection and the target's head. peak_lr: None takes 5e-4 for
    full and the study's 1e-4 for l6. batch: clips a step; questions: of one clip in a step, at most. held_out:
    share of the recordings that are not trained on. patience: epochs without a better held-out loss, then it ends;
    the best weights are kept. dtype: of the passes; weights are float32.
    """

    mode: Mode = "full"
    loss: Loss = "tokens"
    kl_weight: float = 1.0
    epochs: int = 20
    minutes: float | None = None
    peak_lr: float | None = None
    batch: int = 16
    questions: int = 4
    held_out: float = 0.1
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
        if not 0 < self.held_out < 1:
            raise SettingError(f"held_out is {self.held_out}, must be above 0 and below 1")
        self.plan(1)

    @property
    def name(self) -> str:
        """Of what comes out."""
        return "distilled" if self.mode == "full" else "l6"

    def plan(self, steps_of_epoch: int) -> FitConfig:
        """What the training loop is told. SettingError for what makes no sense."""
        usual = 5e-4 if self.mode == "full" else 1e-4
        return FitConfig(
            steps=self.epochs * steps_of_epoch, epoch=steps_of_epoch, watch="loss", show=("run", "accepted"),
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
    narrow = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    answers = read_answers(EventGPT.load(folder, narrow, device), store, jobs, out / STATE, report)
    train, held_out = split_recordings(store, config.held_out, config.seed)
    lessons, test = (answers.rows(names, config.questions) for names in (train, held_out))
    parts, _ = read_event_parts(folder, torch.float32)
    pupil = _pupil(parts, store, config, head, device)

    def judge(shuffled: bool = False) -> Marks:
        at = range(0, len(test), _JUDGED_ROWS)
        return marks(
            pupil, (answers.pack(test[i : i + _JUDGED_ROWS], shuffled=shuffled).to(device) for i in at)
        )  # fmt: skip

    def loss_of(step: int, part: int, parts: int) -> Tensor:
        rows = rows_of_step(lessons, step, config.batch, config.seed)[part::parts]
        return pupil.loss(answers.pack(rows, wanted).to(device))

    identity = fingerprint(folder)
    before = _sides(judge)
    started = time.monotonic()
    fitted = fit(
        config.name, pupil.module, loss_of, config.plan(-(-len(lessons) // config.batch)), out / STATE,
        evaluate=lambda: asdict(judge()), resume=resume, stop_after=stop_after, report=report, note=note,
        about={"settings": asdict(config), "event_model": identity, "extraction": store.identity.config_hash},
    )  # fmt: skip
    if fitted is None:
        return None
    if pupil.lora is None:
        _save_checkpoint(parts, folder, out)
    else:
        save_adapter(
            out / ADAPTER, pupil.lora, extraction=store.identity.config_hash, event_model=identity
        )  # fmt: skip
    used = [answers.answers[number] for row in lessons for number in row.answers]
    body = {
        "name": config.name, "level": config.mode, "trained_on": store.identity.mode,
        "parameters": sum(p.numel() for p in pupil.module.parameters() if p.requires_grad),
        "seconds": fitted.seconds, "num_samples": len(used), "num_tokens": sum(len(a.tokens) for a in used),
        "num_held_out_samples": sum(len(row.answers) for row in test),
        "recordings": {"train": train, "held_out": held_out},
        "event_model": {"ref": str(event_model), "fingerprint": identity},
        "extraction": store.identity.config_hash, "settings": asdict(config),
        "ended_by": fitted.ended_by, "best_step": fitted.best_step, "before": before, "after": _sides(judge),
        "epochs": [_epoch(line) for line in read_log(out / STATE) if "epoch" in line],
        "provenance": {**provenance(), "wall_s": time.monotonic() - started},
    }  # fmt: skip
    write_record(out / RECORD, KIND, body)
    return body


def _epoch(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name in ("epoch", "loss") or name.startswith("held_out")}


def _sides(judge: Callable[[bool], Marks]) -> dict[str, dict[str, float]]:
    """Held-out figures with the right clip's events, and with a stranger's."""
    return {name: asdict(judge(shuffled)) for name, shuffled in (("right", False), ("shuffled", True))}


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


def _save_checkpoint(parts: EventGPTParts, source: Path, out: Path) -> None:
    """The published layout, with the tokenizer and the pre-processing of the event model that was taught."""
    save_parts(parts.cpu(), out)
    for pattern in ("*.json", "tokenizer.model", "*.jinja"):
        for path in source.glob(pattern):
            if path.name not in ("config.json", "model.safetensors.index.json", RECORD):
                shutil.copyfile(path, out / path.name)
