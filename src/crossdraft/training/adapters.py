"""Train an adapter on a store of paired states, and keep what is needed to believe its figures."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.adapters import ADAPTERS, Adapter, build_adapter
from crossdraft.adapters.base import TOKENS
from crossdraft.adapters.checkpoint import save_adapter
from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.registry import find
from crossdraft.core.seeds import seed_for
from crossdraft.data.store import Store
from crossdraft.data.store.head import check_head
from crossdraft.nn.losses import LossConfig, adapter_loss
from crossdraft.training.batches import Batch, Order, Pairs, split_recordings
from crossdraft.training.loop import (
    RECORD,
    Diverged,
    FitConfig,
    Fitted,
    Ranks,
    Report,
    ended_before,
    fit,
    join,
    read_log,
)
from crossdraft.training.state import STATE

KIND, ADAPTER = "adapter-training", "adapter.safetensors"
_FIGURES = ("loss", "held_out_loss", "held_out_cos", "held_out_top1", "held_out_run")
# rows whose logits are held at once when figures are taken
_ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class AdapterTraining:
    """How an adapter is trained; defaults are the study's, the loss included.

    level: of ``adapters.ADAPTERS``, but l6, which changes the event model. settings: replace the level's own.
    loss: None takes the study's for this level; ``nn.losses.TOKENS`` is the one for acceptance.
    batch: samples of one part, of which a step has ``accumulate``. patience: epochs without a better held-out loss,
    after which the training ends. validation: share of the recordings that is held out for it.
    dtype: "bfloat16" computes in it, with float32 weights. processes: 2 halve every batch on a CPU.
    """

    level: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: LossConfig | None = None
    epochs: int = 50
    batch: int = 64
    accumulate: int = 1
    peak_lr: float = 1e-3
    weight_decay: float = 0.01
    patience: int = 10
    validation: float = 0.1
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    processes: int = 1

    def __post_init__(self) -> None:
        if self.level == "l6":
            raise SettingError(
                "adapter 'l6' changes the event model itself; train it with: crossdraft train distil"
            )
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingError(f"{name} is {value!r}, must be a whole number from 1 on")

    def fit_config(self, batches: int) -> FitConfig:
        """The same for the loop, with ``batches`` in an epoch. Raises SettingError."""
        epoch = batches // self.accumulate
        return FitConfig(
            steps=self.epochs * epoch, epoch=epoch, peak_lr=self.peak_lr, weight_decay=self.weight_decay,
            watch="loss", patience=self.patience, show=("run", "accepted"), accumulate=self.accumulate,
            dtype=self.dtype, seed=self.seed,
        )  # fmt: skip


def train_adapter(
    store: Store,
    out: str | Path,
    config: AdapterTraining,
    *,
    head: Float[Tensor, "V Dt"] | None,
    embeddings: Float[Tensor, "V Dt"] | None = None,
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
    resume: bool = True,
    stop_after: int | None = None,
) -> dict[str, Any] | None:
    """Train on ``store`` and return the record that was written, OUT/training.json (kind "adapter-training").

    OUT/adapter.safetensors has the weights of the best epoch by held-out loss; OUT/log.jsonl and OUT/tensorboard
    have the figures. Of each epoch: ``held_out_cos``, and through the head ``held_out_top1``, the share of the
    target's tokens that the adapted states give, and ``held_out_run``, the mean number of leading ones (None
    without a head). Interrupted, the next call goes on to the numbers of an unbroken one; an ended training is not
    trained again.

    head: the target's output head (logits = head @ state). embeddings: its token embeddings, for levels that read
    them. note: told in a line what should be known. stop_after: end after so many steps, as if interrupted (for
    tests); then the result is None.
    Raises DataError when the store cannot teach this, or head and embeddings are of another target; SettingError
    for settings that cannot work, and when OUT holds another training; Diverged; CrossdraftError for a full disk.
    """
    out, ranks = Path(out), join(config.device)
    teacher = Teacher(store, config, head, embeddings, ranks)
    about = _about(store, config, teacher, ranks)
    record = ended_before(out, KIND, about, resume=resume, products=(ADAPTER,), ranks=ranks, note=note)
    if record is not None:
        return record
    path = out / ADAPTER
    try:
        ended = fit(
            config.level, teacher.adapter, teacher.loss_of, config.fit_config(teacher.order.num_batches), out,
            evaluate=teacher.figures, about=about, resume=resume, stop_after=stop_after, processes=config.processes,
            report=report, note=note,
        )  # fmt: skip
    except Diverged as error:
        if error.best_step and ranks.first:
            save_adapter(path, teacher.adapter, extraction=store.identity.config_hash)
        raise Diverged(f"{error} in {path}" if error.best_step else str(error), error.best_step) from None
    if ended is None:
        return None
    body = _body(store, config, teacher, ended, read_log(out)) | {"about": about}
    if ranks.first:
        save_adapter(path, teacher.adapter, extraction=store.identity.config_hash)
        write_record(out / RECORD, KIND, body)
        (out / STATE).unlink(missing_ok=True)
    return body


class Teacher:
    """An adapter, the pairs that it learns from, and those that it is judged by."""

    def __init__(
        self, store: Store, config: AdapterTraining, head: Tensor | None, embeddings: Tensor | None, ranks: Ranks
    ) -> None:
        identity = store.identity
        level = find("adapter", ADAPTERS, config.level)
        self.loss = config.loss or level.study_loss
        needs_tokens = TOKENS in level.inputs
        _check_matrices(store, config.level, self.loss, needs_tokens, head, embeddings)
        self.train, self.validation = split_recordings(store, config.validation, config.seed)
        self.pairs, self.device, self.accumulate = Pairs(store), ranks.device, config.accumulate
        self.places = [place for name in self.train for place in store.recordings[name]]
        held_out = [place for name in self.validation for place in store.recordings[name]]
        self.held_out = sorted(held_out, key=lambda place: self.pairs.lengths[place])
        self.order = Order(self.pairs, self.places, config.batch, config.seed, multiple=config.accumulate)
        self.batch = config.batch
        self._check_parts(config.processes * ranks.count)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed_for(config.seed, "adapter"))
            self.adapter: Adapter = build_adapter(
                config.level, width_in=identity.draft_width, width_out=identity.target_width, **config.settings
            )
        self._check_positions()
        self.adapter.to(self.device)
        self.head = None if head is None else head.detach().to(self.device, torch.float32)
        self.embeddings = None
        if needs_tokens and embeddings is not None:
            self.embeddings = embeddings.detach().to(self.device, torch.float32)

    def _check_parts(self, split: int) -> None:
        fewest = len(self.places) // self.order.num_batches
        if fewest < split:
            raise SettingError(
                f"a step has {self.accumulate * split} parts, but {len(self.places)} samples in batches of "
                f"{self.batch} do not fill them; accumulate less, or take larger batches"
            )

    def _check_positions(self) -> None:
        known, longest = getattr(self.adapter.settings, "max_positions", None), int(self.pairs.lengths.max())
        if known is not None and longest > known:
            raise SettingError(
                f"adapter '{self.adapter.name}' knows {known} positions, but the store has answers of {longest}; "
                f"set max_positions={longest}"
            )

    def loss_of(self, step: int, part: int, parts: int) -> Tensor:
        """The loss of a part of a step: a batch of the epoch's order, or every so many samples of one."""
        split = parts // self.accumulate
        places = self.order.batch(step * self.accumulate + part // split)[part % split :: split]
        batch = self.pairs.take(places, self.device)
        return adapter_loss(self.loss, self.adapted(batch), batch.target, mask=batch.mask, head=self.head)[0]

    def adapted(self, batch: Batch) -> Float[Tensor, "B K Dt"]:
        """What the adapter makes of a batch, given the inputs that it declares."""
        embedded = None if self.embeddings is None else F.embedding(self.tokens(batch), self.embeddings)
        out: Tensor = self.adapter(
            batch.draft, mask=batch.mask, target_states=batch.target, token_embeddings=embedded
        )
        return out

    def tokens(self, batch: Batch) -> Int[Tensor, "B K"]:
        """The target's tokens; where the store has none, what the head makes of the target's states."""
        return batch.tokens if batch.tokens is not None else self.best_tokens(batch.target)

    @torch.no_grad()
    def best_tokens(self, states: Float[Tensor, "B K Dt"]) -> Int[Tensor, "B K"]:
        """The argmax through the head, in float32, a few rows at a time."""
        assert self.head is not None, "checked before"
        with torch.autocast(self.device.type, enabled=False):
            parts = [F.linear(rows, self.head).argmax(-1) for rows in states.float().flatten(0, 1).split(_ROWS)]
        return torch.cat(parts).view(states.shape[:2])

    def figures(self) -> dict[str, float]:
        """Over the held-out pairs: loss, cos and top1 by position, accepted by sample."""
        sums = dict.fromkeys(("loss", "cos", "top1", "run"), 0.0)
        positions = 0
        for start in range(0, len(self.held_out), self.batch):
            batch = self.pairs.take(self.held_out[start : start + self.batch], self.device)
            adapted, count = self.adapted(batch).float(), int(batch.mask.sum())
            loss, _ = adapter_loss(self.loss, adapted, batch.target, mask=batch.mask, head=self.head)
            sums["loss"] += float(loss) * count
            sums["cos"] += float(F.cosine_similarity(adapted, batch.target, dim=-1)[batch.mask].sum())
            if self.head is not None:
                matches = (self.best_tokens(adapted) == self.tokens(batch)) & batch.mask
                sums["top1"] += float(matches.sum())
                sums["run"] += float(matches.cumprod(-1).sum())
            positions += count
        out = {name: sums[name] / positions for name in ("loss", "cos")}
        if self.head is not None:
            out |= {"top1": sums["top1"] / positions, "run": sums["run"] / len(self.held_out)}
        return out


def _check_matrices(
    store: Store, level: str, loss: LossConfig, needs_tokens: bool, head: Tensor | None, embeddings: Tensor | None
) -> None:
    """Refuse head and embeddings that are missing or of another target."""
    if head is not None:
        check_head(head, store.identity, f"the head for {store.root}")
    elif loss.needs_head:
        raise SettingError(
            f"the loss compares tokens, which needs the target's output head, and {store.root} has none; name the "
            "target or a saved head, or use the study's loss"
        )
    if not needs_tokens:
        return
    if head is None and not store.identity.has_tokens:
        raise SettingError(
            f"adapter '{level}' reads tokens, and {store.root} kept texts only; name the target, whose head gives "
            "them"
        )
    if embeddings is None:
        raise SettingError(f"adapter '{level}' reads token embeddings, which only the target has; name the target")
    check_head(embeddings, store.identity, f"the token embeddings for {store.root}")
    if head is not None and len(embeddings) != len(head):
        raise DataError(
            f"the head has {len(head)} tokens and the embeddings {len(embeddings)}; give those of one target"
        )


def _about(store: Store, config: AdapterTraining, teacher: Teacher, ranks: Ranks) -> dict[str, Any]:
    """All that decides the numbers: what a training that goes on must share with its beginning."""
    identity = store.identity
    return {
        "target": identity.target, "event_model": identity.event_model, "mode": identity.mode,
        "extraction": identity.config_hash, "samples": store.digest, "level": config.level,
        "settings": asdict(teacher.adapter.settings), "loss": asdict(teacher.loss),
        **{name: getattr(config, name) for name in (
            "epochs", "batch", "accumulate", "peak_lr", "weight_decay", "patience", "validation", "seed", "dtype",
        )},
        "processes": config.processes * ranks.count,
    }  # fmt: skip


def _body(
    store: Store, config: AdapterTraining, teacher: Teacher, ended: Fitted, log: list[dict[str, Any]]
) -> dict[str, Any]:
    adapter, identity = teacher.adapter, store.identity
    epochs = [
        {"epoch": line["epoch"], **{name: line.get(name) for name in _FIGURES}} for line in log if "epoch" in line
    ]
    steps = teacher.order.num_batches // config.accumulate
    return {
        "name": config.level, "level": config.level, "settings": asdict(adapter.settings),
        "parameters": sum(p.numel() for p in adapter.parameters()), "inputs": sorted(adapter.inputs),
        "causal": adapter.causal, "sees_its_target": adapter.sees_its_target, "trained_on": identity.mode,
        "store": {
            "path": str(store.root), "target": identity.target, "event_model": identity.event_model,
            "extraction": identity.config_hash,
        },
        "loss": asdict(teacher.loss),
        "config": {k: v for k, v in asdict(config).items() if k not in ("level", "settings", "loss")},
        "seconds": ended.seconds, "num_samples": len(teacher.places),
        "num_tokens": int(teacher.pairs.lengths[teacher.places].sum()),
        "num_validation_samples": len(teacher.held_out),
        "recordings": {"train": teacher.train, "validation": teacher.validation},
        "best_epoch": ended.best_step // steps, "ended_by": ended.ended_by, "epochs": epochs,
        "provenance": provenance(),
    }  # fmt: skip
