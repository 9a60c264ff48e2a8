"""What every pass of an engine keeps to, so that a row's bits do not depend on its company."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pins:
    """min_rows: a pass has at least so many rows (padding is dropped); bucket: its keys end at a multiple of it;
    max_rows: wider passes are cut into pieces of it."""

    min_rows: int = 1
    bucket: int = 64
    max_rows: int = 64
