"""Which records a report is made of: files and folders in, one checked body for each record out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossdraft.core.errors import DataError
from crossdraft.core.records import read_record

LOG = "log.jsonl"
TRAINING = "training.json"
SHUFFLED = " (shuffled clip)"
"""What the name of a method ends in when it is run as its own control, see ``bench.demo``."""

# what commands print with --json carries no kind; these keys tell it
_PRINTED = {
    "verdict": {"tokens", "times", "acceptance", "verdicts"},
    "latency-profile": {"target_encode_ms", "target_prefill_ms", "target_pass_ms"},
    "demo": {"clips", "rows"},
}


@dataclass(frozen=True)
class Found:
    """One record: where it is, what to call it (its place within the folder given), what it is, what it says."""

    path: str
    name: str
    kind: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Gathered:
    """All records, in the order given; others: JSON files of folders that are no records."""

    records: tuple[Found, ...] = ()
    others: tuple[str, ...] = ()
    tones: dict[str, int] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Found]:
        """The records of some kinds; a kind that ends in "*" stands for all that begin so."""
        return [found for found in self.records if any(_is(found.kind, kind) for kind in kinds)]

    def tone(self, method: str) -> int:
        """A method's colour, the same in every section and for its shuffled clip."""
        return self.tones.setdefault(method.removesuffix(SHUFFLED), len(self.tones))


@contextmanager
def reading(found: Found) -> Iterator[None]:
    """Inside, a record that lacks something, or has something else in its place, is a DataError with its path."""
    try:
        yield
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{found.path} is a damaged '{found.kind}' record: {what}; run the command that wrote it again"
        ) from error


def gather(runs: Sequence[str | Path]) -> Gathered:
    """Read every record of ``runs``: files, or folders with all \\*.json below them.

    Raises DataError for what is missing, cannot be read, is of a newer schema, or is given by name and no record.
    """
    records: list[Found] = []
    others: list[str] = []
    seen: set[Path] = set()
    for run in map(Path, runs):
        if not run.exists():
            raise DataError(f"no such record or folder: {run}")
        for path in _files(run):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            name = str(path.relative_to(run) if run.is_dir() else Path(path.name)).removesuffix(".json")
            read = _read(path)
            if read is not None:
                records.append(Found(str(path), name, *read))
            elif run.is_file():
                raise DataError(f"{path} is not a record of crossdraft")
            else:
                others.append(f"{name}.json")
    return Gathered(tuple(records), tuple(others))


def _files(run: Path) -> Iterable[Path]:
    if run.is_file():
        return [run]
    inside = (path for path in sorted(run.rglob("*.json")) if path.is_file())
    return [path for path in inside if not any(part.startswith(".") for part in path.relative_to(run).parts)]


def _read(path: Path) -> tuple[str, dict[str, Any]] | None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a readable record: {error}") from error
    if not isinstance(body, dict):
        return None
    if isinstance(body.get("kind"), str) and "schema" in body:
        return body["kind"], _with_log(path, read_record(path, body["kind"]))
    printed = [kind for kind, keys in _PRINTED.items() if keys <= set(body)]
    return (printed[0], body) if printed else None


def _with_log(path: Path, body: dict[str, Any]) -> dict[str, Any]:
    """A training record without epochs has them in the log beside it, one JSON object a line."""
    log = path.with_name(LOG)
    if path.name != TRAINING or "epochs" in body or not log.is_file():
        return body
    try:
        return {**body, "epochs": [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]}
    except (OSError, ValueError) as error:
        raise DataError(f"{log} is not a readable log of epochs: {error}") from error


def _is(kind: str, pattern: str) -> bool:
    return kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern
