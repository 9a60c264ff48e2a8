"""One training loop for the eyes and the tongues: cosine schedule, clipping, log, progress bar, exact resume.

Batches are a function of the step alone, so an interrupted run that goes on from its last saved state gives the
very numbers of an unbroken one.
"""

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from crossdraft.core.errors import SettingError

LossOf = Callable[[int, int, int], Tensor]
"""(step, part, parts) -> loss of that part of the step's batch."""


class Gradients:
    """Computes a step's gradients, alone or halved between two processes of one thread each.

    On a busy machine two threads that meet at every operation wait for each other a third of the time; two
    processes that meet once a step do not. The child is forked at the first step, after the data was loaded, and
    shares the weights; it must be closed (``with``).
    """

    def __init__(self, module: nn.Module, loss_of: LossOf, parts: int = 1) -> None:
        if parts not in (1, 2):
            raise SettingError(f"{parts} processes were asked for; training runs in 1 or 2")
        self.module, self.loss_of, self.parts = module, loss_of, parts
        self._child: BaseProcess | None = None
        if parts == 2:
            module.share_memory()
            self._theirs = [torch.zeros_like(p).share_memory_() for p in module.parameters()]

    def __enter__(self) -> "Gradients":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._pipe.send(None)
            self._child.join(10)
            self._child = None

    def __call__(self, step: int) -> float:
        """Leave the gradients of ``step`` in the module; returns its loss."""
        if self.parts == 2:
            if self._child is None:
                context = multiprocessing.get_context("fork")
                self._pipe, end = context.Pipe()
                self._child = context.Process(target=self._serve, args=(end,), daemon=True)
                self._child.start()
            self._pipe.send(step)
        loss = self._backward(step, 0)
        if self.parts == 2:
            loss = (loss + self._pipe.recv()) / 2
            for parameter, theirs in zip(self.module.parameters(), self._theirs, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(theirs).mul_(0.5)
        return loss

    def _backward(self, step: int, part: int) -> float:
        self.module.zero_grad(set_to_none=True)
        loss = self.loss_of(step, part, self.parts)
        loss.backward()
        return float(loss.detach())

    def _serve(self, pipe: Connection) -> None:
        while (step := pipe.recv()) is not None:
            loss = self._backward(step, 1)
            for parameter, theirs in zip(self.module.parameters(), self._theirs, strict=True):
                theirs.zero_() if parameter.grad is None else theirs.copy_(parameter.grad)
            pipe.send(loss)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast.

    minutes: wall clock of this stage, after which it ends early; None: steps alone. slow: parameters whose names
    begin so learn at ``slow_rate`` times the rate of the others.
    """

    steps: int
    peak_lr: float
    minutes: float | None = None
    warmup: float = 0.03
    floor: float = 0.03
    weight_decay: float = 0.05
    clip: float = 1.0
    slow: str | None = None
    slow_rate: float = 1.0
    save_every_s: float = 180.0
    evaluate_every_s: float = 120.0
    log_every: int = 20


def fit(
    name: str,
    module: nn.Module,
    loss_of: LossOf,
    config: FitConfig,
    folder: Path,
    *,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    resume: bool = True,
    stop_after: int | None = None,
    processes: int = 1,
) -> bool:
    """Train ``module`` in place and keep its state in ``folder``/NAME.safetensors.

    loss_of: must depend on the step, the part and the weights only. evaluate: figures for the log, in eval mode.
    processes: 1, or 2 that halve every batch (the caller then sets one thread for each).
    stop_after: end this call after so many steps, as if interrupted (for tests).

    Returns whether the stage is complete. A complete stage is loaded and not trained again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path, log_path = folder / f"{name}.safetensors", folder / f"{name}.log.jsonl"
    optimiser = _optimiser(module, config)
    step, spent_s, done = 0, 0.0, False
    if resume and state_path.exists():
        step, spent_s, done = _load_state(state_path, module, optimiser)
    if not resume:
        log_path.unlink(missing_ok=True)
    first, started, last_save, last_eval = step, time.monotonic(), time.monotonic(), time.monotonic()

    def used_s() -> float:
        return spent_s + time.monotonic() - started

    def share() -> float:
        by_time = used_s() / (60 * config.minutes) if config.minutes else 0.0
        return max(step / config.steps, by_time)

    def log(figures: Mapping[str, float]) -> None:
        line = {"stage": name, "step": step, "minutes": round(used_s() / 60, 2)}
        line |= {k: round(float(v), 4) for k, v in figures.items()}
        with log_path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, transient=False) as bar, Gradients(module, loss_of, processes) as gradients:
        task = bar.add_task(name, total=1.0, note="")
        bar.update(task, completed=min(1.0, share()))
        module.train()
        while not done and share() < 1.0:
            if stop_after is not None and step - first >= stop_after:
                _save_state(state_path, module, optimiser, step, used_s(), False)
                return False
            _set_rate(optimiser, config, share())
            loss = gradients(step)
            nn.utils.clip_grad_norm_(module.parameters(), config.clip)
            optimiser.step()
            step += 1
            if step % config.log_every == 0:
                log({"loss": loss})
                bar.update(task, completed=min(1.0, share()), note=f"loss {loss:.3f}")
            if evaluate is not None and time.monotonic() - last_eval > config.evaluate_every_s:
                _evaluate(module, evaluate, log)
                last_eval = time.monotonic()
            if time.monotonic() - last_save > config.save_every_s:
                _save_state(state_path, module, optimiser, step, used_s(), False)
                last_save = time.monotonic()
        bar.update(task, completed=1.0)
    if not done:
        if evaluate is not None:
            _evaluate(module, evaluate, log)
        _save_state(state_path, module, optimiser, step, used_s(), True)
    module.eval()
    return True


def _evaluate(module: nn.Module, evaluate: Callable[[], Mapping[str, float]], log: Callable) -> None:
    module.eval()
    with torch.no_grad():
        log({f"held_out_{k}": v for k, v in evaluate().items()})
    module.train()


def _optimiser(module: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            rate = config.slow_rate if config.slow is not None and name.startswith(config.slow) else 1.0
            groups.setdefault((decay, rate), []).append(parameter)
    listed = [{"params": p, "weight_decay": decay, "rate": rate} for (decay, rate), p in groups.items()]
    return torch.optim.AdamW(listed, lr=config.peak_lr, betas=(0.9, 0.98), eps=1e-8)


def _set_rate(optimiser: torch.optim.Optimizer, config: FitConfig, share: float) -> None:
    if share < config.warmup:
        factor = (share + 1e-3) / (config.warmup + 1e-3)
    else:
        at = (share - config.warmup) / (1 - config.warmup)
        factor = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, at)))
    for group in optimiser.param_groups:
        group["lr"] = config.peak_lr * factor * group["rate"]


def _save_state(
    path: Path, module: nn.Module, optimiser: torch.optim.AdamW, step: int, spent_s: float, done: bool
) -> None:
    """Weights, both Adam moments, step and time: one safetensors file, replaced at once."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach().contiguous().clone()
        for key in ("exp_avg", "exp_avg_sq"):
            if key in optimiser.state.get(parameter, {}):
                tensors[f"{key}/{name}"] = optimiser.state[parameter][key].contiguous()
    partial = path.with_suffix(".part")
    save_file(tensors, str(partial), {"step": str(step), "spent_s": str(spent_s), "done": str(int(done))})
    partial.replace(path)


def _load_state(path: Path, module: nn.Module, optimiser: torch.optim.AdamW) -> tuple[int, float, bool]:
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
        keys = set(file.keys())
        step = int(about["step"])
        for name, parameter in module.named_parameters():
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"weight/{name}"))
            if f"exp_avg/{name}" in keys:
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": file.get_tensor(f"exp_avg/{name}").to(parameter.device),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq/{name}").to(parameter.device),
                }
    return step, float(about["spent_s"]), about["done"] == "1"


def load_weights(path: Path, module: nn.Module) -> None:
    """The weights of a saved state alone."""
    with safe_open(str(path), "pt") as file, torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(file.get_tensor(f"weight/{name}"))


def read_log(folder: Path, name: str) -> list[dict]:
    """The lines of a stage's log."""
    with suppress(FileNotFoundError), (folder / f"{name}.log.jsonl").open() as file:
        return [json.loads(line) for line in file]
    return []
