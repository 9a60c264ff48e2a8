"""Where the largest number of each row is; the first of equal ones."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def argmax(rows: Float[Tensor, "S V"]) -> Int[Tensor, "S"]:
    """On the rows' device. On a CPU numpy's: torch's compares one number at a time, which for the 12 rows of a tree
    over 49,152 tokens takes 0.5 ms instead of 0.1."""
    if rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(rows.numpy(force=True).argmax(1))
    return rows.argmax(-1)
