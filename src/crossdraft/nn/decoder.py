"""A decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied or untied head.

The module holds the weights under the names of Hugging Face's ``LlamaForCausalLM`` (without "model.") and has the
differentiable pass that training uses. Inference goes through ``nn.engine.Engine``.
Source: Touvron et al., "LLaMA", arXiv 2302.13971.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossdraft.core.errors import CheckpointError
from crossdraft.nn.rope import inverse_frequencies, rope_table

MAX_LAYERS = 1000
"""Several times the deepest model there is: a damaged config must not build modules until memory ends."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder. rope_scaling: a Hugging Face mapping ("default", "linear", "llama3") or None."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    max_positions: int = 4096
    tie_embeddings: bool = False
    attention_bias: bool = False

    def __post_init__(self) -> None:
        sizes = {
            k: getattr(self, k) for k in self.__dataclass_fields__ if k.endswith(("_size", "_dim", "_positions"))
        }
        sizes |= {k: getattr(self, k) for k in ("num_layers", "num_heads", "num_kv_heads")}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise CheckpointError(f"decoder config: {name} is {value!r}, must be a whole number of 1 or more")
        if self.num_layers > MAX_LAYERS:
            raise CheckpointError(f"decoder config: num_layers is {self.num_layers}, must be at most {MAX_LAYERS}")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"decoder config: {self.num_heads} query heads cannot share {self.num_kv_heads} key/value heads"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"decoder config: head_dim is {self.head_dim}, rotary positions need an even one")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """Read a Hugging Face Llama text config, in the layout of transformers 4 (``rope_theta``, ``rope_scaling``)
        or 5 (``rope_parameters``). Raises CheckpointError for a missing entry or an unsupported activation."""
        needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        if missing := [k for k in needed if config.get(k) is None]:
            raise CheckpointError(f"decoder config lacks {', '.join(missing)}; is this a Llama-family config.json?")
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise CheckpointError(
                f"activation '{config['hidden_act']}' is not supported; Llama decoders use 'silu'"
            )
        if config.get("mlp_bias"):
            raise CheckpointError("mlp_bias is true, which this decoder does not have")
        rope = dict(config.get("rope_parameters") or {})
        scaling = config.get("rope_scaling") or ({k: v for k, v in rope.items() if k != "rope_theta"} or None)
        if scaling is not None and scaling.get("rope_type", scaling.get("type", "default")) == "default":
            scaling = None
        heads = int(config["num_attention_heads"])
        return cls(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            rope_scaling=scaling,
            max_positions=int(config.get("max_position_embeddings") or 2048),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
        )

    def to_hf(self) -> dict[str, Any]:
        """A Hugging Face Llama text config in the layout of transformers 4, which 5 reads too."""
        rope = {} if self.rope_scaling is None else {"rope_scaling": dict(self.rope_scaling)}
        return {
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            **rope,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
        }

    def frequencies(self) -> Float[Tensor, "half"]:
        """Rotary frequencies, float32."""
        return inverse_frequencies(self.head_dim, self.rope_theta, self.rope_scaling, self.max_positions)


def _rotate(x: Float[Tensor, "B T H d"], cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions; cos and sin are (B or 1, T, 1, d / 2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@contextmanager
def many_lengths(device: torch.device | str) -> Iterator[None]:
    """Keep torch from cuDNN's attention, for work in which nearly every call has another length.

    It makes a plan for each new shape, which takes the host many times longer than the GPU needs for the attention
    itself. Nothing on a CPU. The switch is the process's: nobody else should be attending meanwhile.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        if on_gpu:
            torch.backends.cuda.enable_cudnn_sdp(before)


def spread_heads(x: Float[Tensor, "B K h d"], heads: int) -> Float[Tensor, "B K H d"]:
    """Keys or values of shared heads, once for each of the query heads that share them."""
    return x.repeat_interleave(heads // x.shape[2], dim=2)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions. Source: Ainslie et al., "GQA", arXiv 2305.13245.

    input_size: width of what q, k and v are made of, where it is not the residual's.
    """

    def __init__(self, cfg: DecoderConfig, input_size: int | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        width, kv_width = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
        input_size = input_size or cfg.hidden_size
        self.q_proj = nn.Linear(input_size, width, bias=cfg.attention_bias)
        self.k_proj = nn.Linear(input_size, kv_width, bias=cfg.attention_bias)
        self.v_proj = nn.Linear(input_size, kv_width, bias=cfg.attention_bias)
        self.o_proj = nn.Linear(width, cfg.hidden_size, bias=cfg.attention_bias)

    def project(self, x: Float[Tensor, "B T W"], cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q (B, T, heads, d), rotated k and plain v (B, T, kv_heads, d) of the input ``x``.

        cos, sin: (B or 1, T, 1, d / 2).
        """
        return self.queries(x, cos, sin), *self.remembered(x, cos, sin)

    def queries(self, x: Float[Tensor, "B T W"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B T H d"]:
        """Rotated q of the input; as ``project``."""
        return self._turned(self.q_proj(x), cos, sin)

    def remembered(
        self, x: Float[Tensor, "B T W"], cos: Tensor, sin: Tensor
    ) -> tuple[Float[Tensor, "B T h d"], Float[Tensor, "B T h d"]]:
        """Rotated k and plain v of the input; as ``project``."""
        return self._turned(self.k_proj(x), cos, sin), self.v_proj(x).unflatten(-1, (-1, self.cfg.head_dim))

    def _turned(self, x: Float[Tensor, "B T Hd"], cos: Tensor, sin: Tensor) -> Float[Tensor, "B T H d"]:
        # under autocast, a projection is narrower than what it is made of
        return _rotate(x.unflatten(-1, (-1, self.cfg.head_dim)), cos.to(x.dtype), sin.to(x.dtype))

    def attend(
        self,
        q: Float[Tensor, "B T H d"],
        k: Float[Tensor, "B K h d"],
        v: Float[Tensor, "B K h d"],
        mask: Tensor | None,
        own: Sequence[tuple[Float[Tensor, "B T h d"], Float[Tensor, "B T h d"]]] = (),
    ) -> Float[Tensor, "B T H*d"]:
        """What each row sees. mask: bool, broadcastable to (B, H, T, K), True = may attend; None for causal.

        own: further keys and values, each row's own: (keys, values) hold one for every row, which nobody else sees.
        With them the mask is (B or 1, 1, T, K).
        """
        if own:
            assert mask is not None and mask.ndim == 4, (
                "nothing is taken for granted of rows with keys of their own"
            )
            return self._attend_with(q, k, v, mask, own)
        grouped = self.cfg.num_heads != self.cfg.num_kv_heads
        if grouped and mask is not None and q.is_cuda:
            # the fused kernel that takes a mask takes no groups, and what takes both writes every score to memory
            k, v = (spread_heads(x, self.cfg.num_heads) for x in (k, v))
            grouped = False
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=grouped,
        )
        return out.transpose(1, 2).flatten(2)

    def _attend_with(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, own: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Written out: as columns of a fused kernel's matrix a row's own keys would be computed for all rows."""
        batch, rows, heads, size = q.shape
        groups, keys = k.shape[2:0:-1]
        each = heads // groups
        q = (q * size**-0.5).view(batch, rows, groups, each, size)
        many = q.permute(0, 2, 3, 1, 4).reshape(batch * groups, each * rows, size)
        scores = many @ k.permute(0, 2, 3, 1).reshape(batch * groups, size, keys)
        fine = torch.promote_types(q.dtype, torch.float32)
        scores = scores.view(batch, groups, each, rows, keys).to(fine)
        scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
        near = torch.stack([(q * key[:, :, :, None]).sum(-1) for key, _ in own], dim=-1)
        parts = torch.cat((scores, near.permute(0, 2, 3, 1, 4).to(fine)), dim=-1).softmax(-1).to(v.dtype)
        far, near = parts.split((keys, len(own)), dim=-1)
        common = v.transpose(1, 2).reshape(batch * groups, keys, size)
        mixed = far.reshape(batch * groups, each * rows, keys) @ common
        out = mixed.view(batch, groups, each, rows, size).permute(0, 3, 1, 2, 4)
        near = near.permute(4, 0, 3, 1, 2)[..., None]
        for share, (_, value) in zip(near, own, strict=True):
            out = out + share * value[:, :, :, None]
        return out.reshape(batch, rows, heads * size)

    def forward(self, x: Float[Tensor, "B T W"], cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and project out. x: the input, normalised; mask: as ``attend``, over the rows' own keys."""
        out: Tensor = self.o_proj(self.attend(*self.project(x, cos, sin), mask))
        return out


class FeedForward(nn.Module):
    """SwiGLU. Source: Shazeer, arXiv 2002.05202."""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.up_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.down_proj = nn.Linear(cfg.intermediate_size, cfg.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """x: normalised states."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention, then feed-forward, each behind a norm and added to the residual.

    input_size: as ``Attention``. input_norm: False where attention reads its input as given (EAGLE's one layer, and
    EAGLE-3's, whose caller normalises the parts of a wider input).
    """

    def __init__(self, cfg: DecoderConfig, input_size: int | None = None, input_norm: bool = True) -> None:
        super().__init__()
        self.self_attn = Attention(cfg, input_size)
        self.mlp = FeedForward(cfg)
        self.input_layernorm = nn.RMSNorm(cfg.hidden_size, eps=cfg.rms_norm_eps) if input_norm else None
        self.post_attention_layernorm = nn.RMSNorm(cfg.hidden_size, eps=cfg.rms_norm_eps)

    def forward(
        self, x: Float[Tensor, "B T D"], cos: Tensor, sin: Tensor, mask: Tensor | None, reads: Tensor | None = None
    ) -> Tensor:
        """x: residual states. reads (B, T, input_size): attention's input, by default x behind the input norm."""
        if reads is None:
            reads = x if self.input_layernorm is None else self.input_layernorm(x)
        return self.feed(x + self.self_attn(reads, cos, sin, mask))

    def feed(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The second half, for residual states to which attention's output has been added."""
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Weights and the differentiable pass; parameter names as in Hugging Face's Llama without "model."."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def frequencies(self) -> Float[Tensor, "half"]:
        """Rotary frequencies, float32 (made anew: a buffer would follow ``.to(bfloat16)`` and lose its digits)."""
        return self.config.frequencies()

    def forward(
        self,
        embeds: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        capture: Sequence[int] = (),
    ) -> tuple[Float[Tensor, "B T D"], dict[int, Tensor]]:
        """States after the final norm, and those of the captured layers {layer: (B, T, D)}.

        mask: True = may attend, broadcastable to (B, 1, T, T); None = causal.
        positions: (T,) or (B, T); None = 0..T-1. capture: i = output of layer i, -1 = after the final norm.
        """
        if positions is None:
            positions = torch.arange(embeds.shape[1], device=embeds.device)
        cos, sin = rope_table(self.frequencies(), positions if positions.ndim == 2 else positions[None])
        # (B or 1, T, 1, d / 2): one angle for all heads
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        taps: dict[int, Tensor] = {}
        x = embeds
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask)
            if i in capture:
                taps[i] = x
        x = self.norm(x)
        if -1 in capture:
            taps[-1] = x
        return x, taps

    def unembed(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of states after the final norm."""
        return self.lm_head(states)
