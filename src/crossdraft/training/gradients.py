"""The gradient of one step: of several parts, one after the other, in forked processes, or on several devices."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor, nn

from crossdraft.core.errors import CrossdraftError, SettingError
from crossdraft.core.seeds import seed_for
from crossdraft.training.narrow import narrowed
from crossdraft.training.optim import FitConfig
from crossdraft.training.ranks import Ranks

LossOf = Callable[[int, int, int], Tensor]
"""(step, part, parts) -> loss of that part of the step's batch."""


def check_processes(processes: int, device: str, launched: int = 1) -> None:
    """SettingError for a number of processes that a training cannot run in."""
    if processes not in (1, 2):
        raise SettingError(f"{processes} processes were asked for; training runs in 1 or 2")
    if processes == 2 and (not device.startswith("cpu") or launched > 1):
        raise SettingError("two processes halve a CPU's work; on a GPU, or with several launched, ask for 1")


class Gradients:
    """Computes a step's gradients, alone or halved between two processes of one thread each.

    On a busy machine two threads that meet at every operation wait for each other a third of the time; two
    processes that meet once a step do not. The child is forked at the first step, after the data was loaded, and
    shares the weights; it must be closed (``with``).

    Every part starts torch's generator anew from seed, step and part: whatever is drawn in it (dropout) is a
    function of these alone. The gradient of a step is the mean of its parts'.
    """

    def __init__(
        self, module: nn.Module, loss_of: LossOf, config: FitConfig, ranks: Ranks, processes: int = 1
    ) -> None:
        self.module, self.loss_of, self.config, self.ranks = module, loss_of, config, ranks
        self.learning = [p for p in module.parameters() if p.requires_grad]
        self.device = next(module.parameters()).device.type
        check_processes(processes, self.device, ranks.count)
        self.processes = processes
        self.parts = config.accumulate * processes * ranks.count
        self._child: BaseProcess | None = None
        if processes == 2:
            module.share_memory()
            self._theirs = [torch.zeros_like(p).share_memory_() for p in self.learning]

    def __enter__(self) -> "Gradients":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(None)
            self._child.join(10)
            self._child = None

    def __call__(self, step: int) -> float:
        """Leave the gradients of ``step`` in the module; returns its loss.

        Raises CrossdraftError when the second process is gone.
        """
        if self.processes == 2:
            if self._child is None:
                context = multiprocessing.get_context("fork")
                self._pipe, end = context.Pipe()
                self._child = context.Process(target=self._serve, args=(end,), daemon=True)
                self._child.start()
                end.close()
            with contextlib.suppress(OSError):  # one that has died is found when it does not answer
                self._pipe.send(step)
        loss = self._sum(step, self.ranks.index)
        if self.processes == 2:
            loss += self._fetch()
        loss = self.ranks.add_up(self.module, loss)
        if self.parts > 1:
            for parameter in self.learning:
                if parameter.grad is not None:
                    parameter.grad.mul_(1 / self.parts)
        return loss / self.parts

    def _sum(self, step: int, first: int) -> float:
        """Leave the summed gradients of this process's parts in the module; returns their summed loss."""
        self.module.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(first, self.parts, self.processes * self.ranks.count):
            torch.manual_seed(seed_for(self.config.seed, f"step/{step}/{part}"))
            with narrowed(self.device, self.config.dtype):
                loss = self.loss_of(step, part, self.parts)
            loss.backward()
            total += float(loss.detach())
        return total

    def _fetch(self) -> float:
        try:
            loss = float(self._pipe.recv())
        except (EOFError, OSError):
            raise CrossdraftError(
                "the second training process has died (out of memory?); run it again to go on from its last state"
            ) from None
        for parameter, theirs in zip(self.learning, self._theirs, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(theirs)
        return loss

    def _serve(self, pipe: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
        while (step := pipe.recv()) is not None:
            loss = self._sum(step, 1)
            for parameter, theirs in zip(self.learning, self._theirs, strict=True):
                theirs.zero_() if parameter.grad is None else theirs.copy_(parameter.grad)
            pipe.send(loss)
