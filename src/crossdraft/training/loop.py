"""The one training loop: whatever is trained here hands in a module and a loss, and is brought back from any break.

A step is a function of its number and of the weights alone: batches are drawn by the step, and so is dropout. What
else decides how it goes on (moments, best weights, patience) is in the saved state. So an interrupted training that
goes on gives the very numbers of an unbroken one, unless ``minutes`` makes the clock a part of it.
"""

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossdraft.core.errors import CrossdraftError
from crossdraft.core.records import read_record
from crossdraft.data.store.durable import cannot_write, locked
from crossdraft.nn.decoder import many_lengths
from crossdraft.training.gradients import Gradients, LossOf
from crossdraft.training.log import LOG, NO_TENSORBOARD, TENSORBOARD, Log, read_log
from crossdraft.training.narrow import narrowed
from crossdraft.training.optim import FitConfig, make_optimiser, set_rate
from crossdraft.training.ranks import Ranks, join
from crossdraft.training.state import (
    STATE,
    Progress,
    Weights,
    check_about,
    load_state,
    put_weights,
    save_state,
    weights_of,
)

__all__ = ["Diverged", "FitConfig", "Fitted", "LossOf", "Ranks", "Report", "fit", "join", "read_log"]

RECORD = "training.json"
"""What every training leaves in its folder when it has ended."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how much is done and how much there is: steps, or seconds where the clock decides."""

Evaluate = Callable[[], Mapping[str, float]]


class Diverged(CrossdraftError):
    """A loss or gradient that is no finite number. best_step: of the weights that the module got back; 0: none."""

    def __init__(self, line: str, best_step: int) -> None:
        super().__init__(line)
        self.best_step = best_step


@dataclass(frozen=True)
class Fitted:
    """An ended training. ended_by: "steps", "minutes" or "patience"; best_step: of the weights that are kept;
    figures: their held-out figures, where this call has taken them."""

    step: int
    best_step: int
    ended_by: str
    seconds: float
    figures: Mapping[str, float] | None = field(default=None, compare=False)


def fit(
    name: str,
    module: nn.Module,
    loss_of: LossOf,
    config: FitConfig,
    folder: Path,
    *,
    evaluate: Evaluate | None = None,
    about: Mapping[str, Any] | None = None,
    resume: bool = True,
    stop_after: int | None = None,
    processes: int = 1,
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> Fitted | None:
    """Train ``module`` in place; its state and its log are kept in ``folder``, which is its own.

    The module lies where it is trained (CPU or GPU); launched in several processes, each has one (``ranks.join``).

    Args:
        loss_of: depends on the step, the part, torch's generator and the weights only.
        evaluate: held-out figures, computed in eval mode and by the first process alone, with the second's thread.
        about: plain values that a training which is resumed must share with the one that was saved.
        resume: False begins anew.
        processes: 1, or 2 that halve every batch (the caller then sets one thread for each).
        stop_after: end this call after so many steps, as if interrupted (for tests).

    Returns how it ended, or None when it was stopped early. An ended training is loaded and not trained again.
    Raises Diverged (the best weights, if there are any, are in the module then), SettingError when the folder holds
    another training, CrossdraftError when somebody else trains in it or the disk is full.
    """
    device = next(module.parameters()).device
    ranks = join(str(device))
    with _alone(folder, ranks), torch.random.fork_rng([device] if device.type == "cuda" else []):
        run = _Run(name, module, config, folder, evaluate, about or {}, ranks, report, processes)
        run.begin(resume)
        if run.progress.ended_by:
            return run.end()
        with Gradients(module, loss_of, config, run.ranks, processes) as gradients, run.logging(note):
            first = run.progress.step
            with _between_steps() as interrupted, warnings.catch_warnings(), many_lengths(device):
                # under autocast a norm's input is narrower than its weight: slower by nothing that counts here
                warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
                while not run.progress.ended_by:
                    if stop_after is not None and run.progress.step - first >= stop_after:
                        run.save()
                        return None
                    run.advance(gradients)
                    if interrupted():
                        run.save()
                        raise KeyboardInterrupt
            return run.end()


@contextmanager
def _alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Nobody else trains in ``folder`` meanwhile. Raises CrossdraftError where somebody does."""
    if not ranks.first:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with locked(folder / ".lock", f"{folder}: another process is training here; wait for it"):
        yield


@contextmanager
def _between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the end of a step, so that a whole state can be saved; a second one does not wait."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def ended_before(
    out: Path, kind: str, about: Mapping[str, Any], *, resume: bool, products: Sequence[str | Path],
    state: Path | None = None, ranks: Ranks | None = None, note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:  # fmt: skip
    """The record OUT/training.json of a training that has ended; None when it has to be done.

    resume: False removes the record, the ``products`` (paths in OUT) and the ``state`` folder's files (None: OUT's)
    instead. Raises SettingError when OUT holds another training, DataError for a damaged record.
    """
    if not resume:
        if ranks is None or ranks.first:
            forget(state or out)
            for path in (RECORD, *products):
                (out / path).unlink(missing_ok=True)
        return None
    if not (out / RECORD).exists():
        return None
    record = read_record(out / RECORD, kind)
    check_about(record["about"], about, out)
    if "best_epoch" in record:
        how = f"best epoch {record['best_epoch']} of {len(record['epochs'])}"
    else:
        how = f"{record['ended_by']} after {record['steps']} steps"
    note(f"{out}: is finished ({how}); nothing to do")
    return record


def forget(folder: Path) -> None:
    """Remove state, log and TensorBoard's files of an earlier training in ``folder``."""
    for path in (folder / STATE, folder / LOG, *(folder / TENSORBOARD).glob("events.out.tfevents.*")):
        path.unlink(missing_ok=True)


@dataclass
class _Run:
    """One call of ``fit``."""

    name: str
    module: nn.Module
    config: FitConfig
    folder: Path
    evaluate: Evaluate | None
    about: Mapping[str, Any]
    ranks: Ranks
    report: Report
    processes: int
    progress: Progress = field(default_factory=Progress)
    best: Weights | None = None
    log: Log | None = None
    shown: str = ""

    def __post_init__(self) -> None:
        self.optimiser = make_optimiser(self.module, self.config)
        self._started = self._saved = self._judged = time.monotonic()
        self._spent_before = 0.0
        self._figures: dict[int, Mapping[str, float]] = {}

    # -- begin and end ---------------------------------------------------------------------------------------------

    def begin(self, resume: bool) -> None:
        """Load the saved state, or clear the folder of one that shall not be used."""
        if resume and (self.folder / STATE).exists():
            self.progress, self.best = load_state(self.folder / STATE, self.module, self.optimiser, self.about)
            self._spent_before = self.progress.spent_s
        elif not resume and self.ranks.first:
            forget(self.folder)
        self.module.train()

    @contextmanager
    def logging(self, note: Callable[[str], None]) -> Iterator[None]:
        """While the block runs, the first process logs figures."""
        if not self.ranks.first:
            yield
            return
        with Log(self.folder, self.name, self.progress.step) as self.log:
            if not self.log.writes_board:
                note(NO_TENSORBOARD)
            yield

    def end(self) -> Fitted:
        """Leave the kept weights in the module, ready for inference."""
        self.module.eval()
        p = self.progress
        kept = p.best_step if self.config.watch else p.step
        return Fitted(p.step, kept, p.ended_by, p.spent_s, self._figures.get(kept))

    # -- one step --------------------------------------------------------------------------------------------------

    def advance(self, gradients: Gradients) -> None:
        """One step, and whatever is due after it."""
        p, config = self.progress, self.config
        set_rate(self.optimiser, config, self.share())
        loss = gradients(p.step)
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), config.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged("loss" if not math.isfinite(loss) else "gradient")
        self.optimiser.step()
        p.step += 1
        p.loss_sum += loss
        if p.step % config.log_every == 0:
            self.write({"loss": loss, "lr": self.optimiser.param_groups[0]["lr"]})
        ending = self._ending()
        if self.evaluate is not None and (ending or self._due()):
            self._judge(self.evaluate)
            ending = ending or self._patience()
        self.tell(loss)
        if ending:
            p.ended_by = ending
            if self.best is not None:
                put_weights(self.module, self.best)
        if ending or time.monotonic() - self._saved > config.save_every_s:
            self.save()

    def share(self) -> float:
        """How much of the training is behind us, 0 to 1."""
        by_time = self.used_s() / (60 * self.config.minutes) if self.config.minutes else 0.0
        share = max(self.progress.step / self.config.steps, by_time)
        return float(self.ranks.agree(share)) if self.config.minutes else share

    def used_s(self) -> float:
        """Seconds of training, in all sessions."""
        return self._spent_before + time.monotonic() - self._started

    def _ending(self) -> str:
        if self.progress.step >= self.config.steps:
            return "steps"
        return "minutes" if self.share() >= 1.0 else ""

    def _patience(self) -> str:
        patience = self.config.patience
        return "patience" if patience is not None and self.progress.stale >= patience else ""

    def _diverged(self, what: str) -> None:
        p = self.progress
        kept = "no epoch had ended, so nothing of it is kept"
        if self.best is not None:
            put_weights(self.module, self.best)
            kept = f"the best weights, of step {p.best_step}, are kept"
        self.module.eval()
        raise Diverged(
            f"{self.name}: the training diverged: its {what} is no finite number in step {p.step + 1}; lower the "
            f"learning rate (its peak is {self.config.peak_lr:g}) and begin anew; {kept}",
            p.best_step,
        )

    # -- figures ---------------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        if self.config.epoch is not None:
            return self.progress.step % self.config.epoch == 0
        late = time.monotonic() - self._judged > self.config.evaluate_every_s
        return bool(self.ranks.agree(late))

    def _judge(self, evaluate: Evaluate) -> None:
        """Take the held-out figures, log them, and keep the weights if they are the best so far."""
        p, config = self.progress, self.config
        figures = self.ranks.agree(self._measured(evaluate) if self.ranks.first else None)
        self._figures[p.step] = figures
        head = {"epoch": math.ceil(p.step / config.epoch)} if config.epoch is not None else {}
        mean = p.loss_sum / (p.step - p.judged) if p.step > p.judged else math.nan
        self.write({**head, "loss": mean, **{f"held_out_{name}": value for name, value in figures.items()}})
        p.judged, p.loss_sum = p.step, 0.0
        if config.watch is not None:
            if figures[config.watch] < p.best:
                p.best, p.best_step, p.stale = float(figures[config.watch]), p.step, 0
                self.best = weights_of(self.module)
            else:
                p.stale += 1
        if config.show is not None and config.show[0] in figures:
            self.shown = f", {config.show[1]} {figures[config.show[0]]:.2f}"
        self._judged = time.monotonic()

    def _measured(self, evaluate: Evaluate) -> dict[str, float]:
        kind = next(self.module.parameters()).device.type
        self.module.eval()
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.processes)  # the second process waits meanwhile
        try:
            with torch.no_grad(), narrowed(kind, self.config.dtype):
                figures = dict(evaluate())
        finally:
            torch.set_num_threads(threads)
        self.module.train()
        return figures

    def write(self, figures: Mapping[str, float]) -> None:
        """A line of the log."""
        if self.log is not None:
            self.log.write(self.progress.step, self.used_s() / 60, figures)

    def tell(self, loss: float) -> None:
        """The progress, in steps, or in seconds where the clock ends the training first."""
        p, config = self.progress, self.config
        done, total = p.step, config.steps
        if config.minutes and self.used_s() / (60 * config.minutes) > p.step / config.steps:
            done, total = round(self.used_s()), round(60 * config.minutes)
        epoch = f" epoch {math.ceil(p.step / config.epoch)}" if config.epoch else ""
        self.report(f"{self.name}{epoch}, loss {loss:.4g}{self.shown}", done, total)

    def save(self) -> None:
        """Everything that a training that goes on needs."""
        self.progress.spent_s = self.used_s()
        if self.ranks.first:
            path = self.folder / STATE
            save_state(path, self.module, self.optimiser, self.progress, self.best, self.about)
        self._saved = time.monotonic()
