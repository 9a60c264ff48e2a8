"""What every pass of an engine keeps to, so that a row's bits do not depend on its company."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pins:
    """query_rows: the matrix products of attention have at least so many rows per key/value head (padding is
    dropped); bucket: a row's keys end at the next multiple of it; max_rows: wider passes are cut into pieces of it.

    Linears carry their own least row count (``PackedLinear.min_rows``), as it depends on their shape.
    """

    query_rows: int = 1
    bucket: int = 128
    max_rows: int = 64
