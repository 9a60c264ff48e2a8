"""One decoder layer at inference: fused, packed, and told by its caller how to attend.

The engine stacks them over a target's layers; a drafting head is a single one with weights of its own.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from crossdraft.nn import kernels
from crossdraft.nn.attention import Attend
from crossdraft.nn.decoder import DecoderConfig, DecoderLayer
from crossdraft.nn.linear import PackedLinear
from crossdraft.nn.norm import RowNorm
from crossdraft.nn.rope import rope_table


def attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What attention is computed in, and the cache's dtype: float32 for bfloat16 on the CPU.

    oneDNN's bfloat16 batched products copy the cache and cost twice the time.
    """
    return torch.float32 if dtype == torch.bfloat16 and device.type == "cpu" else dtype


def rotations(
    config: DecoderConfig, count: int, dtype: torch.dtype, device: torch.device
) -> Complex[Tensor, "count 1 half"]:
    """Rotary turns of positions 0..count - 1 as complex numbers; complex128 for float64. One turns all heads."""
    cos, sin = rope_table(config.frequencies(), torch.arange(count))
    turns = torch.complex(cos, sin).unsqueeze(1)
    return turns.to(device, torch.complex128 if dtype == torch.float64 else torch.complex64)


class PackedLayer:
    """One decoder layer, fused and packed: q, k and v in one linear, gate and up in another.

    It may lack its input norm, and its attention may read an input wider than the residual (``DecoderLayer``).
    rough: as ``PackedLinear``.
    """

    def __init__(
        self, layer: DecoderLayer, dtype: torch.dtype, device: torch.device, prepack: bool, rough: bool = False
    ) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.config = cfg = attn.cfg
        half = cfg.head_dim // 2
        # a power of two scales q's weights without rounding; any other factor multiplies q
        scale = cfg.head_dim**-0.5
        exact = math.log2(scale).is_integer()
        self._q_scale = None if exact else scale
        folded = scale if exact else 1.0
        self._dtype = dtype
        self._wide = torch.float64 if dtype == torch.float64 else torch.float32
        self._attention_dtype = attention_dtype(dtype, device)

        def fused(*parts: Tensor) -> Tensor:
            return torch.cat([p.detach().to(device, dtype) for p in parts])

        def turning(p: Tensor) -> Tensor:
            """Put the two channels that rotate together side by side, so that they are one complex number."""
            return p.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2)

        q, k, v, out = attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj
        bias = None if q.bias is None else fused(turning(q.bias) * folded, turning(k.bias), v.bias)
        pack = partial(PackedLinear, prepack=prepack, rough=rough)
        self.qkv = pack(fused(turning(q.weight) * folded, turning(k.weight), v.weight), bias)
        self.out = pack(fused(out.weight), None if out.bias is None else fused(out.bias))
        self.gate_up = pack(fused(mlp.gate_proj.weight, mlp.up_proj.weight), None)
        self.down = pack(fused(mlp.down_proj.weight), None)
        before, eps = layer.input_layernorm, cfg.rms_norm_eps
        self.norm_in = None if before is None else RowNorm(before.weight, eps, dtype, device)
        self.norm_mid = RowNorm(layer.post_attention_layernorm.weight, eps, dtype, device)
        self.own = self._in_kernels()
        """The layer by our own kernels, where they have its shapes."""

    def _in_kernels(self) -> kernels.Layer | None:
        cfg, library = self.config, kernels.status().library
        linears = {name: getattr(self, name).own for name in ("qkv", "out", "gate_up", "down")}
        if library is None or None in linears.values() or cfg.head_dim % 16 or cfg.intermediate_size % 16:
            return None
        return kernels.Layer(
            library, linears, (None if self.norm_in is None else self.norm_in.weight, self.norm_mid.weight),
            heads=cfg.num_heads, kv_heads=cfg.num_kv_heads, dim=cfg.head_dim, floor=self.norm_mid.least,
            scale=self._q_scale or 1.0,
        )  # fmt: skip

    def __call__(
        self,
        x: Float[Tensor, "S D"],
        turns: Complex[Tensor, "S 1 half"],
        attend: Attend,
        index: int,
        reads: Float[Tensor, "S W"] | None = None,
    ) -> Float[Tensor, "S D"]:
        """Residual rows ``x`` through the layer; ``x`` itself stays as it is. Arguments as ``mix``."""
        return self.feed(self.mix(x, turns, attend, index, reads))

    def mix(
        self,
        x: Float[Tensor, "S D"],
        turns: Complex[Tensor, "S 1 half"],
        attend: Attend,
        index: int,
        reads: Float[Tensor, "S W"] | None = None,
    ) -> Float[Tensor, "S D"]:
        """The first half: attention's output added to the residual rows, in a new tensor.

        turns: rotations of the rows' positions. index: the layer's number, handed to ``attend``.
        reads: what attention takes as its input, as given (EAGLE-3); by default x, behind the input norm if any.
        """
        if self.own is None:
            q, k, v = self.project(self.read(x) if reads is None else reads, turns)
            return self.out(attend(q, k, v, index).to(self._dtype)).add_(x)
        normed = reads is None and self.norm_in is not None
        q, k, v = self.own.project(x if reads is None else reads, turns, normed)
        return self.own.join(attend(q, k, v, index), x)

    def read(self, x: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """What attention reads of residual rows: these behind the input norm, if there is one."""
        return x if self.norm_in is None else self.norm_in(x)

    def feed(self, x: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """The second half, in place: the feed-forward's output added to ``x``."""
        if self.own is not None:
            self.own.feed(x)
            return x
        gate, up = self.gate_up(self.norm_mid(x)).chunk(2, dim=-1)
        return x.add_(self.down(F.silu(gate).mul_(up)))

    def project(
        self, reads: Float[Tensor, "S W"], turns: Complex[Tensor, "S 1 half"]
    ) -> tuple[Float[Tensor, "S H G d"], Float[Tensor, "S H d"], Float[Tensor, "S H d"]]:
        """Rotated and scaled q, rotated k and plain v, in the attention's dtype."""
        cfg, rows = self.config, reads.shape[0]
        heads, kv_heads, dim = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
        if self.own is not None:
            return self.own.project(reads, turns, normed=False)
        rotated = heads + kv_heads
        # rotated in float32 (or 64), then attended in the attention's dtype
        qkv = self.qkv(reads).to(self._wide)
        pairs = torch.view_as_complex(qkv[:, : rotated * dim].view(rows, rotated, dim // 2, 2))
        turned = torch.view_as_real(pairs * turns)
        if self._q_scale is not None:
            turned[:, :heads].mul_(self._q_scale)
        turned = turned.to(self._attention_dtype)
        q = turned[:, :heads].view(rows, kv_heads, heads // kv_heads, dim)
        k = turned[:, heads:].view(rows, kv_heads, dim)
        v = qkv[:, rotated * dim :].view(rows, kv_heads, dim).to(self._attention_dtype)
        return q, k, v
