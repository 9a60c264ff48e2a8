"""One request's keys and values, preallocated once: nothing is concatenated and nothing grows.

Both lie as (layers, kv_heads, slots, head_dim). Slot ``p`` belongs to position ``p``. A pass writes its rows behind
``length``; ``commit`` decides which of them stay.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from crossdraft.core.errors import SettingError


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
        self.pending_rows = 0

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

    def open_pass(self, rows: int) -> None:
        """Announce a pass of ``rows`` rows, row i into slot ``length + i``; what the last one left is dropped."""
        self.check_room(rows)
        self.pending_rows = rows

    def commit(self, rows: Sequence[int]) -> None:
        """Keep these rows of the last pass, in order, and advance ``length``; the others are dropped.

        A prefix of the pass is already in place and costs nothing. Raises SettingError when a row is not of the
        last pass, or out of order.
        """
        kept = list(rows)
        if any(b <= a for a, b in pairwise(kept)) or (kept and (kept[0] < 0 or kept[-1] >= self.pending_rows)):
            raise SettingError(
                f"cannot commit rows {kept}: the last pass left {self.pending_rows} rows, order must rise"
            )
        start, end = self.length, self.length + len(kept)
        if kept != list(range(len(kept))):
            index = torch.tensor(kept, device=self.keys.device) + start
            self.keys[:, :, start:end] = self.keys.index_select(2, index)
            self.values[:, :, start:end] = self.values.index_select(2, index)
        self.length = end
        self.pending_rows = 0

    def truncate(self, length: int) -> None:
        """Go back to ``length`` committed positions. SettingError when that is more than there are."""
        if not 0 <= length <= self.length:
            raise SettingError(f"cannot truncate the cache to {length}: it holds {self.length} positions")
        self.length = length
        self.pending_rows = 0
