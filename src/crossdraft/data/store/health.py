"""Is a store whole, what is in it, and how to go on when it is not."""

import contextlib
import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from crossdraft.data.store.durable import locked, prefix_lock, write_durably
from crossdraft.data.store.index import (
    SHARD,
    Entry,
    Failure,
    Index,
    Line,
    dump,
    gather,
    index_path,
    prefixes_of,
    read_index,
    read_indexes,
    remove_unnamed,
)
from crossdraft.data.store.sample import StoreIdentity, read_identity

Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """A progress that nobody looks at."""


@dataclass(frozen=True)
class Damage:
    """A shard or index that cannot be trusted, why, and the samples that have to be made again for it."""

    file: str
    reason: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    damages: what ``repair`` would drop. unfinished: files that no line names and half-written ends of indexes: left
    by a crash or by a worker that is writing now; its prefix removes or completes them.
    """

    shards: int
    samples: int
    failures: int
    damages: tuple[Damage, ...]
    unfinished: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every committed sample can be trusted."""
        return not self.damages

    @property
    def damaged_ids(self) -> tuple[str, ...]:
        """Samples that have to be made again."""
        return tuple(dict.fromkeys(name for damage in self.damages for name in damage.ids))


def check(root: str | Path, progress: Progress = silent) -> CheckReport:
    """Read every byte of the store and compare it with the checksums. DataError when it is no store."""
    root = Path(root)
    read_identity(root)
    indexes = read_indexes(root)
    return _report(root, indexes, _bad_shards(root, indexes, progress))


def _claims(indexes: list[Index]) -> dict[str, list[Entry]]:
    """Samples by the shard that is said to hold them, shards by name."""
    claims: dict[str, list[Entry]] = {}
    for entry in (e for index in indexes for e in index.entries):
        claims.setdefault(entry.shard, []).append(entry)
    return dict(sorted(claims.items()))


def _bad_shards(root: Path, indexes: list[Index], progress: Progress) -> dict[str, str]:
    """Which shards cannot be trusted, and why."""
    claims, bad = _claims(indexes), {}
    for number, (shard, entries) in enumerate(claims.items()):
        progress(f"checking {shard}", number, len(claims))
        if fault := _fault(root, shard, {entry.sha256 for entry in entries}):
            bad[shard] = fault
    return bad


def _fault(root: Path, shard: str, digests: set[str]) -> str | None:
    if not SHARD.fullmatch(shard):
        return "is no shard of this folder"
    try:
        with open(root / shard, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if digests == {digest} else "differs from its checksum"


def _report(root: Path, indexes: list[Index], bad: dict[str, str]) -> CheckReport:
    claims = _claims(indexes)
    damages = [Damage(shard, reason, tuple(e.id for e in claims[shard])) for shard, reason in bad.items()]
    owners: dict[str, str] = {}
    failed: set[str] = set()
    for index in indexes:
        failed |= {line.id for line in index.lines if isinstance(line, Failure)}
        damages += [
            Damage(entry.shard, f"repeats '{entry.id}' of {owners[entry.id]}", ())
            for entry in index.entries
            if entry.shard not in bad and owners.setdefault(entry.id, entry.shard) != entry.shard
        ]
        if index.damaged:
            lines = ", ".join(map(str, index.damaged))
            damages.append(
                Damage(index.path.name, f"line {lines} differs from its checksum; its sample is lost", ())
            )
    torn = [f"{index.path.name} (its end)" for index in indexes if index.torn]
    loose = sorted(p.name for p in root.iterdir() if p.name.endswith(".tmp") or _is_orphan(p, claims))
    samples = {entry.id for entries in claims.values() for entry in entries}
    return CheckReport(len(claims), len(samples), len(failed - samples), tuple(damages), (*torn, *loose))


def _is_orphan(path: Path, claims: Container[str]) -> bool:
    return SHARD.fullmatch(path.name) is not None and path.name not in claims


def repair(root: str | Path, progress: Progress = silent) -> CheckReport:
    """Forget what cannot be trusted, so that the next extraction makes exactly those samples again.

    Lines of damaged and missing shards, repeated samples and bad lines leave the indexes; then the damaged shards
    and what crashes left behind are deleted. Returns what was found. Raises DataError when it is no store,
    CrossdraftError when a worker is writing or the disk is full.
    """
    root = Path(root)
    read_identity(root)
    with contextlib.ExitStack() as locks:
        prefixes = prefixes_of(root)
        for prefix in prefixes:
            busy = f"{root}: a process is writing as '{prefix}'; repair when it has ended"
            locks.enter_context(locked(prefix_lock(root, prefix), busy))
        indexes = [read_index(index_path(root, prefix)) for prefix in prefixes]
        bad = _bad_shards(root, indexes, progress)
        report = _report(root, indexes, bad)
        seen: set[str] = set()
        for prefix, index in zip(prefixes, indexes, strict=True):
            lines = [line for line in index.lines if _keeps(line, bad, seen)]
            if len(lines) < len(index.lines) or index.damaged or index.torn:
                write_durably(index.path, b"".join(map(dump, lines)))
            # the lines first: a crash in between leaves files without lines, never lines without files
            remove_unnamed(root, prefix, {line.shard for line in lines if isinstance(line, Entry)})
    return report


def _keeps(line: Line, bad: Container[str], seen: set[str]) -> bool:
    if isinstance(line, Failure):
        return True
    if line.shard in bad or line.id in seen:
        return False
    seen.add(line.id)
    return True


@dataclass(frozen=True)
class StoreStats:
    """What is in a store. Lengths are (least, median, most) tokens of an answer; counts are of samples."""

    identity: StoreIdentity
    num_samples: int
    num_target_tokens: int
    num_draft_tokens: int
    target_lengths: tuple[int, float, int] | None
    draft_lengths: tuple[int, float, int] | None
    recordings: dict[str, int]
    questions: dict[str, int]
    num_shards: int
    size_bytes: int
    failures: dict[str, int]
    """Reason -> how many samples failed for it."""


def stats(root: str | Path) -> StoreStats:
    """Count what is in a store, from its indexes alone. DataError when it cannot be opened."""
    root = Path(root)
    identity = read_identity(root)
    entries, failures = gather(root)
    shards = {entry.shard for entry in entries.values()}
    target = [entry.num_target_tokens for entry in entries.values()]
    draft = [entry.num_draft_tokens for entry in entries.values()]
    return StoreStats(
        identity=identity,
        num_samples=len(entries),
        num_target_tokens=sum(target),
        num_draft_tokens=sum(draft),
        target_lengths=_spread(target),
        draft_lengths=_spread(draft),
        recordings=dict(sorted(Counter(e.recording for e in entries.values()).items())),
        questions=dict(Counter(e.question for e in entries.values()).most_common()),
        num_shards=len(shards),
        size_bytes=sum(os.path.getsize(root / shard) for shard in shards),
        failures=dict(Counter(failure.reason for failure in failures.values()).most_common()),
    )


def _spread(lengths: list[int]) -> tuple[int, float, int] | None:
    return (min(lengths), statistics.median(lengths), max(lengths)) if lengths else None
