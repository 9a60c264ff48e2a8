"""Blocks that adapters and drafting heads are made of: bottleneck, pre-norm attention layer, blended output.

Sizes, order and initialisation are those of the cross-modal study (EventGPT to Video-LLaVA, levels L1-L5F), so that
parameter counts can be compared with it. States are (B, K, D); K positions of an answer, in order.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossdraft.core.errors import SettingError

# share of a block's own output that is mixed in before training
START_SCALE = 0.1


class BottleneckBlock(nn.Module):
    """``x + scale * up(gelu(down(x)))``, with one norm: of the input, or of the hidden values.

    ``up`` starts at zero, so the block starts as the identity. norm "hidden" also drops out after ``up``, as the
    study's wide block does.
    """

    def __init__(self, width: int, hidden: int, *, norm: Literal["input", "hidden"], dropout: float) -> None:
        super().__init__()
        self.norms_input = norm == "input"
        self.norm = nn.LayerNorm(width if self.norms_input else hidden)
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        nn.init.kaiming_normal_(self.down.weight, nonlinearity="linear" if self.norms_input else "relu")
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """Each position by itself."""
        if self.norms_input:
            return x + self.scale * self.up(self.dropout(F.gelu(self.down(self.norm(x)))))
        return x + self.scale * self.dropout(self.up(self.dropout(F.gelu(self.norm(self.down(x))))))


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; weights and their start as in ``nn.MultiheadAttention``.

    Raises SettingError when the heads do not divide the width.
    """

    def __init__(self, width: int, num_heads: int, *, causal: bool, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise SettingError(f"{num_heads} attention heads do not divide a width of {width}; choose num_heads")
        self.num_heads, self.causal, self.dropout = num_heads, causal, dropout
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B K D"]:
        """x: normalised states; mask: False where a position is padding, which nobody else then looks at."""
        # (B, K, 3 D) -> three of (B, H, K, D / H)
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else self._may_attend(mask),
            is_causal=self.causal and mask is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _may_attend(self, mask: Bool[Tensor, "B K"]) -> Bool[Tensor, "B 1 K K"]:
        # a padded row looks at itself: a softmax over nothing would be NaN
        oneself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        allowed = mask[:, None, None, :] | oneself
        return allowed.tril() if self.causal else allowed


class AttentionLayer(nn.Module):
    """Self-attention, then a GELU feed-forward, each behind a LayerNorm and added to the residual."""

    def __init__(self, width: int, num_heads: int, ffn: int, *, causal: bool, dropout: float) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(width)
        self.attn = SelfAttention(width, num_heads, causal=causal, dropout=dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn, width), nn.Dropout(dropout)
        )

    def forward(self, x: Float[Tensor, "B K D"], mask: Bool[Tensor, "B K"] | None) -> Float[Tensor, "B K D"]:
        """x: residual states; mask as in ``SelfAttention``."""
        x = x + self.attn(self.attn_norm(x), mask)
        return x + self.ffn(self.ffn_norm(x))


class BlendedOutput(nn.Module):
    """``base + scale * (Linear(LayerNorm(x)) - base)``; the linear starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(START_SCALE))
        nn.init.eye_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "B K D"], base: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        """base: the states that are to be changed a little."""
        return base + self.scale * (self.proj(self.norm(x)) - base)
