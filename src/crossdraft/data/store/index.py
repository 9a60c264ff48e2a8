"""The index of a store: one checked line for each sample, appended by one worker and read by everybody.

A line is a JSON object whose last key is the CRC-32 of what stands before it, so that a torn or altered line is
known as such. Every line of a sample carries the SHA-256 of its whole shard: one digest covers header and padding
as well, is made of bytes that are in memory anyway, and ``sha256sum`` can check it without us.
"""

import dataclasses
import json
import re
import zlib
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossdraft.core.errors import DataError
from crossdraft.data.store.durable import cannot_write, sync_folder

PREFIX = re.compile(r"\w+", re.ASCII)
SHARD = re.compile(r"(\w+)-(\d{6,})\.safetensors", re.ASCII)
_CRC = re.compile(rb'(\{.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A committed sample: what it is, and row ``row`` of which shard holds its tensors."""

    id: str
    recording: str
    clip_index: int
    question: str
    target_text: str
    draft_text: str
    num_target_tokens: int
    num_draft_tokens: int
    shard: str
    row: int
    sha256: str

    def about(self) -> dict[str, Any]:
        """The fields of the sample that are no tensors."""
        names = ("id", "recording", "clip_index", "question", "target_text", "draft_text")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A sample that could not be made, and why."""

    id: str
    recording: str
    clip_index: int
    question: str
    reason: str


Line = Entry | Failure
_KINDS: dict[str, type[Entry] | type[Failure]] = {"ok": Entry, "failed": Failure}


def index_path(root: Path, prefix: str) -> Path:
    """Where the worker ``prefix`` keeps its index."""
    return root / f"index-{prefix}.jsonl"


def dump(line: Line) -> bytes:
    """``line`` with its checksum and a newline."""
    status = "ok" if isinstance(line, Entry) else "failed"
    body = json.dumps({"status": status, **asdict(line)})[:-1].encode()
    return body + f', "crc32": "{zlib.crc32(body):08x}"}}\n'.encode()


def parse(raw: bytes) -> Line:
    """The line in ``raw`` (without its newline). ValueError for anything that ``dump`` did not write."""
    match = _CRC.fullmatch(raw)
    if match is None or zlib.crc32(match[1]) != int(match[2], 16):
        raise ValueError("checksum")
    body = json.loads(match[1] + b"}")
    kind = _KINDS[body.pop("status")]
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    if body.keys() != types.keys() or any(type(body[name]) is not wanted for name, wanted in types.items()):
        raise ValueError("fields")
    return kind(**body)


@dataclass(frozen=True)
class Index:
    """What one index file holds.

    lines: those that are whole; whole_bytes: where the last of them ends; torn: whether anything follows it, which
    only an append that did not finish leaves. damaged: numbers, from 1, of bad lines *before* that place.
    """

    path: Path
    lines: tuple[Line, ...]
    whole_bytes: int
    torn: bool
    damaged: tuple[int, ...]

    @property
    def entries(self) -> list[Entry]:
        """The committed samples."""
        return [line for line in self.lines if isinstance(line, Entry)]


def read_index(path: Path) -> Index:
    """Read an index, however it looks; one that is not there is an empty one. DataError if the file is not read."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); copy the store again") from error
    lines: list[Line] = []
    bad: list[int] = []
    damaged: tuple[int, ...] = ()
    end = whole = 0
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        end += len(raw)
        try:
            if not raw.endswith(b"\n"):
                raise ValueError("no newline")
            lines.append(parse(raw[:-1]))
        except (ValueError, KeyError, TypeError, RecursionError):
            bad.append(number)
        else:
            whole, damaged = end, tuple(bad)
    return Index(path, tuple(lines), whole, whole < len(data), damaged)


def read_indexes(root: Path) -> list[Index]:
    """All indexes of a store, by name."""
    return [read_index(path) for path in sorted(root.glob("index-*.jsonl"))]


def gather(root: Path) -> tuple[dict[str, Entry], dict[str, Failure]]:
    """Samples and failures by id; a failure that was made good later is none.

    DataError for a damaged line, for an id that two shards claim, and for a shard that is not there or not the
    folder's own.
    """
    entries: dict[str, Entry] = {}
    failures: dict[str, Failure] = {}
    mend = f"run: crossdraft store check {root} --repair"
    for index in read_indexes(root):
        if index.damaged:
            raise DataError(f"{index.path}: line {index.damaged[0]} is damaged; {mend}")
        for line in index.lines:
            if isinstance(line, Failure):
                failures[line.id] = line
            elif line.id in entries:
                raise DataError(
                    f"{root}: sample '{line.id}' is in {entries[line.id].shard} and in {line.shard}; {mend}"
                )
            else:
                entries[line.id] = line
    for shard in sorted({entry.shard for entry in entries.values()}):
        if not SHARD.fullmatch(shard):
            raise DataError(f"{root}: an index names {shard!r:.60}, which is no shard of this folder; {mend}")
        if not (root / shard).is_file():
            raise DataError(f"{root / shard}: missing, though an index names it; {mend}, then extract again")
    return entries, {name: failure for name, failure in failures.items() if name not in entries}


def prefixes_of(root: Path) -> list[str]:
    """Every worker that has been at a store, whatever it left there."""
    names = re.compile(r"index-(\w+)\.jsonl|(\w+)-\d{6,}\.safetensors|\.(\w+)\.lock", re.ASCII)
    matches = (names.fullmatch(path.name) for path in root.iterdir())
    return sorted({next(filter(None, match.groups())) for match in matches if match})


def remove_unnamed(root: Path, prefix: str, named: Container[str]) -> None:
    """Delete what a crash of ``prefix`` left: temporary files, and shards that no line names. Holds its lock.

    Only of this prefix: an unnamed file of another may be another process's commit under way.
    CrossdraftError when the folder cannot be written.
    """
    temporary = re.compile(rf"\.({prefix}-\d+\.safetensors|index-{prefix}\.jsonl)\.\d+\.tmp")
    try:
        for path in root.iterdir():
            shard = SHARD.fullmatch(path.name)
            orphan = shard is not None and shard[1] == prefix and path.name not in named
            if orphan or temporary.fullmatch(path.name):
                path.unlink()
        sync_folder(root)
    except OSError as error:
        raise cannot_write(root, error) from error
