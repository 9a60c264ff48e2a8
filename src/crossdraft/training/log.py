"""What a training tells: one JSON line after the other, and the same for TensorBoard where that is installed."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crossdraft.core.records import cannot_write, write_atomically

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
NO_TENSORBOARD = (
    "TensorBoard is not installed, so figures go to log.jsonl alone; for both: pip install 'crossdraft[train]'"
)


class Log:
    """FOLDER/log.jsonl and FOLDER/tensorboard. step: lines of later steps are forgotten, as they come again."""

    def __init__(self, folder: Path, stage: str, step: int) -> None:
        self.path, self.stage = folder / LOG, stage
        self._board: Any = None
        self.writes_board = find_spec("tensorboard") is not None
        self._folder, self._step = folder / TENSORBOARD, step
        folder.mkdir(parents=True, exist_ok=True)
        lines = read_log(folder)
        if kept := [line for line in lines if line["step"] <= step]:
            if len(kept) < len(lines):
                write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        else:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def write(self, step: int, minutes: float, figures: Mapping[str, float]) -> None:
        """One line; a figure that is no finite number becomes null. CrossdraftError when it cannot be written."""
        line: dict[str, Any] = {"stage": self.stage, "step": step, "minutes": round(minutes, 2)}
        finite = {k: v if isinstance(v, int) else float(f"{v:.6g}") for k, v in figures.items() if math.isfinite(v)}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line | {k: finite.get(k) for k in figures}) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self.writes_board:
            for name, value in finite.items():
                self._open_board().add_scalar(name, value, step)

    def _open_board(self) -> Any:
        # not before the first line: its thread must not be there when a gradient process is forked
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self._folder), purge_step=self._step + 1)
        return self._board


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the training in ``folder``; a line that a crash cut off is none."""
    lines = []
    with suppress(FileNotFoundError):
        for text in (folder / LOG).read_text().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(text))
    return lines
