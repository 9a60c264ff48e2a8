"""From a store of paired states to padded batches: who is held out, who is in which batch, and the batch itself.

Answers of one batch are of similar length, so little of it is padding. A store may be larger than memory: its
shards are mapped, and an epoch goes through them window by window, so that what is read is read once and together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.seeds import seed_for
from crossdraft.data.store import Store

WINDOW_BYTES = 8 << 30
POOL = 16
_ITEM_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


def split_recordings(store: Store, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Recordings to train on and to hold out, whole: neighbouring clips of one are never on both sides.

    share: of the recordings that is held out; one at least, and one at least stays. Raises DataError for a store
    without samples or with one recording, SettingError for a share that makes no sense.
    """
    if not 0 < share < 1:
        raise SettingError(f"validation is {share}, must be above 0 and below 1: the share of recordings held out")
    names = sorted(store.recordings)
    if not names:
        raise DataError(f"{store.root}: has no samples yet; extract some before training on it")
    if len(names) == 1:
        raise DataError(
            f"{store.root}: all samples are of one recording ('{names[0]}'), so none can be held out to stop by; "
            "extract a second recording, or import with --dataset"
        )
    count = min(max(1, round(share * len(names))), len(names) - 1)
    order = np.random.default_rng(seed_for(seed, "validation")).permutation(len(names))
    held_out = {names[i] for i in order[:count]}
    return [name for name in names if name not in held_out], sorted(held_out)


@dataclass(frozen=True)
class Batch:
    """Padded pairs; row t of a sample predicts its token t. mask: False where a position is padding."""

    draft: Float[Tensor, "B K Dd"]
    target: Float[Tensor, "B K Dt"]
    tokens: Int[Tensor, "B K"] | None
    mask: Bool[Tensor, "B K"]


class Pairs:
    """The pairs of a store, each cut to its shorter side, as the study did with free-running ones.

    lengths: positions of each sample, by its place in the store. Samples stay mapped once they were read: what they
    cost is page cache, which the system takes back when it needs it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        entries = store.entries
        self.lengths = np.array([min(e.num_target_tokens, e.num_draft_tokens) for e in entries], np.int64)
        self._rows: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def take(self, places: Sequence[int] | np.ndarray, device: torch.device) -> Batch:
        """The samples at ``places``, states in float32. DataError for a damaged one."""
        rows = [self._row(int(place)) for place in places]
        lengths = torch.from_numpy(self.lengths[np.asarray(places)])
        tokens = [t for _, _, t in rows if t is not None]
        return Batch(
            pad_sequence([d for d, _, _ in rows], batch_first=True).to(device, torch.float32),
            pad_sequence([t for _, t, _ in rows], batch_first=True).to(device, torch.float32),
            pad_sequence(tokens, batch_first=True).to(device) if tokens else None,
            (torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
        )

    def _row(self, place: int) -> tuple[Tensor, Tensor, Tensor | None]:
        if place not in self._rows:
            sample, k = self.store[place], int(self.lengths[place])
            tokens = None if sample.target_tokens is None else sample.target_tokens[:k]
            self._rows[place] = (sample.draft_states[:k], sample.target_states[:k], tokens)
        return self._rows[place]


def pooled(
    order: Int[np.ndarray, "N"], lengths: Int[np.ndarray, "M"], count: int, rng: np.random.Generator
) -> list[Int[np.ndarray, "B"]]:
    """``order`` cut into ``count`` batches of similar lengths: the worth of ``POOL`` batches is sorted at once."""
    cut = np.array_split(order, count)
    batches: list[np.ndarray] = []
    for start in range(0, len(cut), POOL):
        sizes = [len(part) for part in cut[start : start + POOL]]
        pool = np.concatenate(cut[start : start + POOL])
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        parts = np.split(pool, np.cumsum(sizes)[:-1])
        batches += [parts[i] for i in rng.permutation(len(parts))]
    return batches


class Order:
    """Which samples make up which batch: every sample once an epoch, each epoch in an order that the seed decides.

    An epoch shuffles the shards, takes them in windows of ``window_bytes`` (a smaller store is one), shuffles the
    samples of a window, sorts the worth of ``POOL`` batches by length, cuts it, and shuffles its batches.

    places: of the samples to train on. Batches are of one size, up to one sample, and none is larger than ``size``;
    how many an epoch has can be divided by ``multiple``.
    """

    def __init__(
        self, pairs: Pairs, places: Sequence[int], size: int, seed: int, *, multiple: int = 1,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:  # fmt: skip
        self.places, self.lengths, self.seed = np.asarray(places, np.int64), pairs.lengths, seed
        self.window_bytes = window_bytes
        self.num_batches = multiple * -(-len(self.places) // (size * multiple))
        shards: dict[str, list[int]] = {}
        for place in self.places:
            shards.setdefault(pairs.store.entries[place].shard, []).append(int(place))
        identity = pairs.store.identity
        row_bytes = (identity.target_width + identity.draft_width) * _ITEM_BYTES[identity.dtype]
        self.shards = [np.array(shards[name]) for name in sorted(shards)]
        self.shard_bytes = [int(self.lengths[of].sum()) * row_bytes for of in self.shards]
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    def batch(self, number: int) -> Int[np.ndarray, "B"]:
        """The places of batch ``number``, counted through all epochs."""
        epoch, at = divmod(number, self.num_batches)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self.epoch(epoch))
        return self._epoch[1][at]

    def epoch(self, epoch: int) -> list[Int[np.ndarray, "B"]]:
        """The places of all batches of an epoch."""
        rng = np.random.default_rng(seed_for(self.seed, f"epoch/{epoch}"))
        order = np.concatenate([rng.permutation(window) for window in self._windows(rng)])
        return pooled(order, self.lengths, self.num_batches, rng)

    def _windows(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Shuffled shards, joined as long as a window holds them."""
        windows: list[list[np.ndarray]] = []
        room = 0
        for i in rng.permutation(len(self.shards)):
            if not windows or self.shard_bytes[i] > room:
                windows.append([])
                room = self.window_bytes
            windows[-1].append(self.shards[i])
            room -= self.shard_bytes[i]
        return [np.sort(np.concatenate(window)) for window in windows]
