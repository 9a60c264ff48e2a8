"""Reading a store: by place or id, shards mapped when they are first needed."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from crossdraft.core.errors import DataError
from crossdraft.data.store.index import Entry, Failure, gather
from crossdraft.data.store.sample import PairedStates, StoreIdentity, check_tensors, decode, read_identity

# a mapped shard costs address space and a file handle, no memory of its own
_OPEN_SHARDS = 16


@dataclass(frozen=True, eq=False)
class Store:
    """The committed samples of a store, as they were when it was opened.

    entries: sorted by recording, clip and id, so that the order does not depend on who wrote what when.
    failures: samples recorded as failed, by id.
    """

    root: Path
    identity: StoreIdentity
    entries: tuple[Entry, ...]
    failures: Mapping[str, Failure]
    _open: OrderedDict[str, Any] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def open(cls, root: str | Path) -> "Store":
        """Open a store; workers may go on writing to it.

        DataError when it is no store, an index is damaged, or a shard that an index names is missing.
        """
        root = Path(root)
        identity = read_identity(root)
        entries, failures = gather(root)
        ordered = sorted(entries.values(), key=lambda e: (e.recording, e.clip_index, e.id))
        return cls(root, identity, tuple(ordered), failures)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[PairedStates]:
        return (self._load(entry) for entry in self.entries)

    def __getitem__(self, key: int | str) -> PairedStates:
        """The sample at a place, or with an id. Its tensors are views of the mapped shard: do not write to them.

        DataError for an id that is not there, a damaged shard, and states that are not finite.
        """
        return self._load(self.entries[self.place(key) if isinstance(key, str) else key])

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._by_id

    def place(self, sample_id: str) -> int:
        """Where the sample with this id is. DataError when there is none."""
        if sample_id not in self._by_id:
            raise DataError(f"{self.root}: has no sample '{sample_id}'")
        return self._by_id[sample_id]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {entry.id: place for place, entry in enumerate(self.entries)}

    @cached_property
    def recordings(self) -> dict[str, tuple[int, ...]]:
        """Places of each recording's samples: the groups by which data are split and intervals drawn."""
        groups: dict[str, list[int]] = {}
        for place, entry in enumerate(self.entries):
            groups.setdefault(entry.recording, []).append(place)
        return {name: tuple(places) for name, places in groups.items()}

    @cached_property
    def digest(self) -> str:
        """How many samples, and a SHA-256 of which: what a training that goes on must find again."""
        return (
            f"{len(self)}, sha256 "
            + hashlib.sha256("".join(f"{e.id} {e.sha256}\n" for e in self.entries).encode()).hexdigest()
        )

    def _load(self, entry: Entry) -> PairedStates:
        path = self.root / entry.shard
        where = f"sample '{entry.id}' in {path}"
        mend = f"run: crossdraft store check {self.root}"
        try:
            shard = self._shard(entry.shard)
            tensors = {name: shard.get_tensor(f"{entry.row}.{name}") for name in self.identity.tensor_names}
        except (SafetensorError, OSError) as error:
            raise DataError(f"{where}: cannot be read ({error}); {mend}") from error
        check_tensors(tensors, entry.num_target_tokens, entry.num_draft_tokens, self.identity, where)
        return decode(tensors, self.identity, entry.about())

    def _shard(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self.root / name, framework="pt")
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]
