"""RMSNorm over rows at inference. Source: Zhang and Sennrich, arXiv 1910.07467."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossdraft.nn import kernels


class RowNorm:
    """``x / sqrt(mean(x^2) + eps) * weight`` over rows (S, D), in float32 (float64 for float64 rows).

    On the CPU, torch's own is ten small operators; this is five, or one of our own (``nn.kernels``), with the same
    result up to rounding.
    """

    def __init__(self, weight: Float[Tensor, "D"], eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.eps, self.fused = dtype, eps, device.type == "cuda"
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        size = weight.shape[0]
        weight = weight.detach().to(device, dtype, copy=True)
        # x w sqrt(D) / hypot(|x|, sqrt(D eps)) is the same thing
        self.weight = weight if self.fused else weight.to(self.wide) * size**0.5
        own = dtype == torch.bfloat16 and device.type == "cpu" and size % 16 == 0
        self._kernels = kernels.status().library if own else None
        self.least = (size * eps) ** 0.5
        self.floor = torch.tensor(self.least, dtype=self.wide, device=device)

    @property
    def is_own(self) -> bool:
        """Whether our own kernels compute it."""
        return self._kernels is not None

    def __call__(self, rows: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """Normalised rows, of the dtype given at the start."""
        if self.fused:
            return F.rms_norm(rows, self.weight.shape, self.weight, self.eps)
        if self._kernels is not None:
            return kernels.norm(self._kernels, rows.to(self.dtype), self.weight, self.least)
        length = torch.linalg.vector_norm(rows, 2, -1, True, dtype=self.wide)
        return torch.mul(rows, self.weight).div_(torch.hypot(length, self.floor)).to(self.dtype)
