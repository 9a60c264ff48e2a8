"""Writing a store: buffer samples, commit them as a shard, acknowledge, go on after anything."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import TracebackType

from safetensors.torch import save
from torch import Tensor

from crossdraft.core.errors import CrossdraftError, DataError, SettingError
from crossdraft.core.records import write_record
from crossdraft.data.store.durable import (
    append_durably,
    cannot_write,
    lock,
    locked,
    prefix_lock,
    sync_folder,
    write_durably,
)
from crossdraft.data.store.index import (
    PREFIX,
    SHARD,
    Entry,
    Failure,
    dump,
    gather,
    index_path,
    read_index,
    read_indexes,
    remove_unnamed,
)
from crossdraft.data.store.sample import (
    KIND,
    STORE_FILE,
    PairedStates,
    StoreIdentity,
    encode,
    identity_body,
    read_identity,
)


def open_folder(root: Path, identity: StoreIdentity) -> None:
    """Make ``root`` a store of ``identity``, or check that it is one. DataError if it is a store of another."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".lock"):
            if not (root / STORE_FILE).exists():
                write_record(root / STORE_FILE, KIND, identity_body(identity))
                sync_folder(root)
                sync_folder(root.parent)
    except OSError as error:
        raise cannot_write(root, error) from error
    if difference := read_identity(root).difference(identity):
        what, cure = "a store of another kind", "choose another folder"
        if not any(index.lines for index in read_indexes(root)):
            what, cure = "an empty store of another kind", "delete it or choose another folder"
        raise DataError(f"{root}: is {what} ({difference}); {cure}")


class StoreWriter:
    """One worker's way into a store; a store that is not there is made, one that is there is continued.

    A sample is acknowledged, and only then in ``done_ids``, once its shard and its line in the index are on the
    disk. What was buffered but not committed when the process ended is simply not there.

    Args:
        root: the store's folder.
        identity: what all its samples have in common.
        prefix: letters, digits and underscores that no other worker uses at the same time.
        max_samples, max_bytes: a buffer that reaches either is committed by itself.

    Raises:
        DataError: a store of another identity, a damaged index, a missing shard.
        SettingError: a prefix or limit that cannot work.
        CrossdraftError: the prefix is in use, or the disk is full.
    """

    def __init__(
        self, root: str | Path, identity: StoreIdentity, *, prefix: str = "w0", max_samples: int = 256,
        max_bytes: int = 128 << 20,
    ) -> None:  # fmt: skip
        if not PREFIX.fullmatch(prefix):
            raise SettingError(f"prefix of a worker is {prefix!r:.40}, must be letters, digits and underscores")
        if max_samples < 1 or max_bytes < 1:
            raise SettingError(f"limits of a shard are {max_samples} samples, {max_bytes} bytes; must be 1 or more")
        self.root, self.identity, self.prefix = Path(root), identity, prefix
        self._max_samples, self._max_bytes = max_samples, max_bytes
        self._buffer: dict[str, tuple[PairedStates, dict[str, Tensor]]] = {}
        self._buffered_failures: dict[str, Failure] = {}
        self._buffered_bytes = 0
        self._broken, self._index, self._lock = False, -1, -1
        open_folder(self.root, identity)
        self._lock = lock(
            prefix_lock(self.root, prefix),
            busy=f"{self.root}: another process is writing as '{prefix}'; wait for it, or be another worker",
        )
        try:
            # first, so that a store that needs a repair is left as it is
            entries, failures = gather(self.root)
            self._index, self._next_shard = self._recover()
        except BaseException:
            self.close()
            raise
        self._done, self._failures = set(entries), dict(failures)

    def _recover(self) -> tuple[int, int]:
        """Undo what a crash of this prefix left; the index, ready to append, and the next shard's number."""
        index = read_index(index_path(self.root, self.prefix))
        named = {entry.shard for entry in index.entries}
        try:
            handle = os.open(index.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                if index.torn:
                    os.ftruncate(handle, index.whole_bytes)
                # also without a tear: lines that a killed process left in the page cache count from now on
                os.fsync(handle)
                remove_unnamed(self.root, self.prefix, named)
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise cannot_write(index.path, error) from error
        numbers = [int(match[2]) for name in named if (match := SHARD.fullmatch(name))]
        return handle, max(numbers, default=-1) + 1

    @property
    def done_ids(self) -> Set[str]:
        """Acknowledged samples: those of all workers when this one opened the store, and its own since."""
        return self._done

    @property
    def failures(self) -> Mapping[str, Failure]:
        """Samples recorded as failed, by id."""
        return self._failures

    def remaining(self, ids: Iterable[str], *, retry_failed: bool = False) -> list[str]:
        """Which of ``ids`` are still to do; failed ones count as done unless ``retry_failed``."""
        return [i for i in ids if i not in self._done and (retry_failed or i not in self._failures)]

    def put(self, sample: PairedStates) -> tuple[str, ...]:
        """Buffer a sample; the ids acknowledged by this call, which commits when the buffer is full.

        The tensors are copied. Raises DataError when the sample does not fit or its id is already there,
        CrossdraftError when a commit was due and failed (the buffer is kept; commit again).
        """
        if sample.id in self._done or sample.id in self._buffer:
            raise DataError(f"{self.root}: sample '{sample.id}' is there already; ids must differ")
        tensors = encode(sample, self.identity)
        self._buffer[sample.id] = (sample, tensors)
        self._buffered_failures.pop(sample.id, None)
        self._buffered_bytes += sum(tensor.nbytes for tensor in tensors.values())
        full = len(self._buffer) >= self._max_samples or self._buffered_bytes >= self._max_bytes
        return self.commit() if full else ()

    def fail(self, failure: Failure) -> None:
        """Record, with the next commit, that a sample could not be made."""
        if failure.id in self._done or failure.id in self._buffer:
            raise DataError(f"{self.root}: sample '{failure.id}' is there already, it cannot have failed")
        self._buffered_failures[failure.id] = failure

    def commit(self) -> tuple[str, ...]:
        """Write what is buffered and return the ids of the samples that are now safe.

        Raises CrossdraftError when the disk is full or not writable: nothing acknowledged is lost, the buffer is
        kept, and commit may be called again.
        """
        if self._broken or self._index < 0:
            raise CrossdraftError(
                f"{self.root}: closed, or a failed write could not be undone; open the store again"
            )
        if not (self._buffer or self._buffered_failures):
            return ()
        shard = self.root / f"{self.prefix}-{self._next_shard:06d}.safetensors"
        before = os.fstat(self._index).st_size
        try:
            lines = [dump(failure) for failure in self._buffered_failures.values()]
            if self._buffer:
                lines += self._write_shard(shard)
            append_durably(self._index, b"".join(lines))
        except BaseException as error:
            self._undo(before, shard)
            if isinstance(error, OSError):
                raise cannot_write(shard, error) from error
            raise
        ids = tuple(self._buffer)
        self._done.update(ids)
        self._failures |= self._buffered_failures
        for name in ids:
            self._failures.pop(name, None)
        self._next_shard += bool(ids)
        self._buffer, self._buffered_failures, self._buffered_bytes = {}, {}, 0
        return ids

    def _write_shard(self, path: Path) -> list[bytes]:
        """Write the buffer as a shard; its lines for the index."""
        samples = [sample for sample, _ in self._buffer.values()]
        data = save(
            {f"{row}.{name}": t for row, (_, ts) in enumerate(self._buffer.values()) for name, t in ts.items()}
        )
        digest = hashlib.sha256(data).hexdigest()
        write_durably(path, data)
        return [
            dump(
                Entry(
                    id=s.id, recording=s.recording, clip_index=s.clip_index, question=s.question,
                    target_text=s.target_text, draft_text=s.draft_text,
                    num_target_tokens=len(s.target_states), num_draft_tokens=len(s.draft_states),
                    shard=path.name, row=row, sha256=digest,
                )
            )
            for row, s in enumerate(samples)
        ]  # fmt: skip

    def _undo(self, index_bytes: int, shard: Path) -> None:
        """Back to the state before a commit: first the lines durably gone, only then what they name."""
        try:
            os.ftruncate(self._index, index_bytes)
            os.fsync(self._index)
            shard.unlink(missing_ok=True)
        except OSError:
            self._broken = True

    def close(self) -> None:
        """Let go of the store. What is buffered is dropped: commit first, or leave a ``with`` block."""
        for handle in (self._index, self._lock):
            if handle >= 0:
                os.close(handle)
        self._index = self._lock = -1

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, unless the block failed; close."""
        try:
            if kind is None:
                self.commit()
        finally:
            self.close()
