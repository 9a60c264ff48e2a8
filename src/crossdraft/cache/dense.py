"""One request's keys and values, preallocated once: nothing is concatenated and nothing grows.

Both lie as (layers, kv_heads, slots, head_dim). Slot ``p`` belongs to position ``p``. A pass writes its rows behind
``length``; ``commit`` decides which of them stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from crossdraft.core.errors import SettingError


@dataclass
class PendingPass:
    """What the last pass left behind ``length``: its number of rows and, for a tree, the rows' values.

    is_tree: values lie in ``values`` (layers, kv_heads, rows, head_dim) and not in their slots.
    """

    rows: int = 0
    is_tree: bool = False
    values: Tensor | None = field(default=None, repr=False)


class DenseCache:
    """Keys and values of up to ``capacity`` positions.

    bucket: the number of slots is a multiple of it, and more than ``capacity``, so that the last slot never holds a
    position. storage: (keys, values) of a dropped cache to use again.

    Raises SettingError for a capacity below 1.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        bucket: int = 128,
        storage: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if capacity < 1:
            raise SettingError(f"cache capacity is {capacity}, must be 1 or more positions")
        self.capacity = capacity
        self.length = 0
        if storage is None:
            # zeros, not empty: a masked slot has weight 0, and 0 x NaN is NaN
            shape = (num_layers, num_kv_heads, (capacity // bucket + 1) * bucket, head_dim)
            keys = torch.zeros(shape, dtype=dtype, device=device)
            storage = keys, torch.zeros_like(keys)
        self.keys, self.values = storage
        self.slots = self.keys.shape[2]
        self.pending = PendingPass()

    @property
    def room(self) -> int:
        """Positions left."""
        return self.capacity - self.length

    @property
    def size_bytes(self) -> int:
        """Memory of keys and values."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def check_room(self, rows: int) -> None:
        """SettingError unless ``rows`` more positions fit."""
        if rows > self.room:
            raise SettingError(
                f"the cache holds {self.length} of {self.capacity} positions and cannot take {rows} more; "
                "give prefill a larger room"
            )

    def open_pass(self, rows: int, is_tree: bool = False) -> None:
        """Announce a pass of ``rows`` rows behind ``length``; what the last one left uncommitted is dropped.

        A tree's values are kept aside, in a buffer that is allocated by the first tree and grows only when a wider
        tree comes.
        """
        self.check_room(rows)
        self.pending.rows, self.pending.is_tree = rows, is_tree
        held = self.pending.values
        if is_tree and (held is None or held.shape[2] < rows):
            layers, heads, _, head_dim = self.values.shape
            shape = (layers, heads, max(64, rows), head_dim)
            self.pending.values = torch.zeros(shape, dtype=self.values.dtype, device=self.values.device)

    def commit(self, rows: Sequence[int]) -> None:
        """Keep these rows of the last pass, in order, and advance ``length``; the others are dropped.

        A prefix of a chain is already in place and costs nothing. Raises SettingError when a row is not of the last
        pass, or out of order.
        """
        kept, pending = list(rows), self.pending
        if any(b <= a for a, b in pairwise(kept)) or (kept and (kept[0] < 0 or kept[-1] >= pending.rows)):
            raise SettingError(
                f"cannot commit rows {kept}: the last pass left {pending.rows} rows, order must rise"
            )
        start, end = self.length, self.length + len(kept)
        in_place = kept == list(range(len(kept)))
        if kept and (pending.is_tree or not in_place):
            index = torch.tensor(kept, device=self.keys.device)
            if not in_place:
                self.keys[:, :, start:end] = self.keys.index_select(2, index + start)
            if pending.is_tree:
                assert pending.values is not None
                self.values[:, :, start:end] = pending.values.index_select(2, index)
            else:
                self.values[:, :, start:end] = self.values.index_select(2, index + start)
        self.length = end
        self.pending.rows = 0

    def truncate(self, length: int) -> None:
        """Go back to ``length`` committed positions. SettingError when that is more than there are."""
        if not 0 <= length <= self.length:
            raise SettingError(f"cannot truncate the cache to {length}: it holds {self.length} positions")
        self.length = length
        self.pending.rows = 0
