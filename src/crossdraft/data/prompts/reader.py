"""Text prompts: what a target is asked when no video is needed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossdraft.core.errors import DataError

KINDS = ("summarise", "rewrite", "code-edit", "question-answering", "story", "list")
FREE = "free"
"""Kind of a prompt that is of none of these, or of nobody knows which."""
PARTS = ("tune", "held-out", "training")
LEAGUE = "league"
"""The name of the prompts that come with the package."""

_NEEDED, _FREE = ("id", "kind", "question"), ("part", "group")


@dataclass(frozen=True)
class PromptRecord:
    """One prompt. part: "tune" (settings may be chosen on it), "held-out" (figures are reported on it) or
    "training"; group: prompts of one group are held out together."""

    id: str
    kind: str
    question: str
    part: str = "held-out"
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.id)


def read_prompts(source: str | Path, part: str | None = None) -> list[PromptRecord]:
    """The prompts of a JSON-lines file, or of the package's own set "league"; part: only those of this part.

    A line is {"id", "kind", "question"} and, if need be, "part" (default: held-out) and "group" (default: the id).
    Raises DataError that names the line, or when no prompt is of this part.
    """
    path = Path(__file__).with_name("league.jsonl") if str(source) == LEAGUE else Path(source)
    try:
        # by line ends alone: a question may hold what else Python takes for one
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file of prompts, or '{LEAGUE}'") from None
    found: list[PromptRecord] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parse(line, f"{path}, line {number}")
        for what, value in (("id", record.id), ("question", record.question)):
            if (first := seen.setdefault(f"{what} {value}", number)) != number:
                raise DataError(f"{path}, line {number}: has the {what} of line {first}; every prompt comes once")
        found.append(record)
    if not found:
        raise DataError(f"{path}: holds no prompt")
    chosen = [record for record in found if part in (None, record.part)]
    if not chosen:
        raise DataError(f"{path}: has no prompt of the part '{part}'; known parts are {', '.join(PARTS)}")
    return chosen


def _parse(line: str, where: str) -> PromptRecord:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not valid JSON ({error})") from None
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is no object; a prompt is {{'id', 'kind', 'question'}}")
    if unknown := set(entry) - {*_NEEDED, *_FREE}:
        raise DataError(
            f"{where}: has unknown keys {', '.join(sorted(unknown))}; known are {', '.join((*_NEEDED, *_FREE))}"
        )
    for key in (*_NEEDED, *(key for key in _FREE if key in entry)):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(f"{where}: {key} is {entry.get(key)!r:.40}, must be a non-empty string")
    for key, known in (("kind", (*KINDS, FREE)), ("part", PARTS)):
        if key in entry and entry[key] not in known:
            raise DataError(f"{where}: {key} is '{entry[key]:.40}', must be one of {', '.join(known)}")
    return PromptRecord(**entry)
