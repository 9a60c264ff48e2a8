"""Linear layers as the engine runs them: weights packed once in the layout that the kernel likes best.

On the CPU, oneDNN's reordered weights make a bfloat16 linear of few rows 1.2-2x faster than ``F.linear``. The two
operators are private to torch, so they are tried once; where they are missing or wrong, ``F.linear`` is used. Where
our own kernel can be had (``nn.kernels``), it is a further 1.4-1.9x faster. The engine's ``exactness.detail`` says
which it is.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossdraft.nn import kernels

# the row count that a weight is packed for; on x86 the layout so chosen serves 1 to 64 rows alike
_PACK_ROWS = 16


def can_prepack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether linears of ``dtype`` can be packed here, by our own kernels or by oneDNN."""
    own = dtype == torch.bfloat16 and kernels.status().library is not None
    return device.type == "cpu" and (own or _library_packs(dtype))


@lru_cache
def _library_packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed linears exist here for ``dtype`` and agree with ``F.linear`` on a small example."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():
        return False
    # small whole numbers: every sum is exact, so the two must agree to the bit
    weight = (torch.arange(32 * 32, dtype=torch.float32).view(32, 32) % 5 - 2).to(dtype)
    rows = (torch.arange(3 * 32, dtype=torch.float32).view(3, 32) % 3 - 1).to(dtype)
    try:
        got = _library_product(rows, _library_packed(weight), None)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool(torch.equal(got, F.linear(rows, weight)))


def _library_packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)


def _library_product(rows: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")


class PackedLinear:
    """A frozen ``y = x W' + b`` over rows (S, in); see the module's docstring.

    weight (out, in) and bias (out,) have their final dtype and device. prepack: pack the weight where that can be
    done for its shape. Fewer than ``min_rows`` rows are padded, which the self-test asks for where the library
    computes few rows in another order than many. rough: round weights and rows to bytes where our kernels can, for
    what need not be exact.
    """

    def __init__(
        self, weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"] | None, prepack: bool, min_rows: int = 1,
        rough: bool = False,
    ) -> None:  # fmt: skip
        self.out_features, self.in_features = weight.shape
        self.bias, self.min_rows = bias, min_rows
        library = kernels.status().library if prepack else None
        self._kernels = library if library is not None and kernels.fits(library, weight) else None
        self.prepacked = self._kernels is not None or (prepack and _library_packs(weight.dtype))
        if self._kernels is not None:
            wide_bias = None if bias is None else F.pad(bias.float(), (0, -self.out_features % kernels.BLOCK))
            pack = kernels.pack_bytes if rough and kernels.has_bytes(self._kernels, weight) else kernels.pack
            self._packed = pack(self._kernels, weight, wide_bias)
            self.weight = self._packed.weight
        else:
            self.weight = _library_packed(weight) if self.prepacked else weight

    @property
    def is_own(self) -> bool:
        """Whether our own kernels compute it."""
        return self._kernels is not None

    @property
    def is_rough(self) -> bool:
        """Whether weights and rows are rounded to bytes."""
        return self.is_own and self._packed.scales is not None

    @property
    def kind(self) -> str:
        """Whose product it is, in words."""
        if self.is_own:
            return "our own packed linears" + (" of bytes" if self.is_rough else "")
        return "oneDNN packed linears" if self.prepacked else "F.linear"

    @property
    def own(self) -> kernels.Packed | None:
        """As our own kernels read it, where no outputs are padded."""
        return None if self.padded is None or self.weight.shape[0] != self.out_features else self.padded

    @property
    def padded(self) -> kernels.Packed | None:
        """As our own kernels read it, outputs of zeros included."""
        return None if self._kernels is None else self._packed

    def __call__(self, rows: Float[Tensor, "S in"]) -> Float[Tensor, "S out"]:
        """Rows through the layer."""
        count = rows.shape[0]
        if count < self.min_rows:
            padded = rows.new_zeros(self.min_rows, self.in_features)
            padded[:count] = rows
            return self._apply(padded)[:count]
        return self._apply(rows)

    def _apply(self, rows: Tensor) -> Tensor:
        if self._kernels is not None:
            return kernels.product(self._kernels, rows, self._packed)[:, : self.out_features]
        if self.prepacked:
            return _library_product(rows, self.weight, self.bias)
        return F.linear(rows, self.weight, self.bias)
