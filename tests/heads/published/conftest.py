"""A small target, and drafting heads computed by hand in float64, straight from the tensors of a published file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crossdraft.nn.decoder import DecoderConfig

WIDTH, VOCAB, FFN, HEADS, KV, DIM, LAYERS, EPS = 32, 40, 48, 4, 2, 8, 12, 1e-5

TARGET = DecoderConfig(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=64, num_layers=LAYERS, num_heads=HEADS, num_kv_heads=KV,
    head_dim=DIM, rms_norm_eps=EPS, rope_theta=500000.0, max_positions=4096,
)  # fmt: skip

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": WIDTH,
    "intermediate_size": FFN, "max_position_embeddings": 2048, "num_attention_heads": HEADS,
    "num_key_value_heads": KV, "num_hidden_layers": 1, "rms_norm_eps": EPS, "vocab_size": VOCAB,
}  # fmt: skip
"""config.json of a head, as the authors write it: no head_dim, and no base for the rotation."""


EMBEDDINGS = torch.linspace(-1, 1, VOCAB * WIDTH).sin().reshape(VOCAB, WIDTH).bfloat16().float()

ELSEWHERE = {
    "embeddings": EMBEDDINGS,
    "target_config": {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": LAYERS},
    "target_name": "owner/target",
}


def random(*shape: int, scale: float | None = None) -> Tensor:
    """Values that bfloat16 holds as they are."""
    return (torch.randn(*shape) * (scale or shape[-1] ** -0.5)).bfloat16().float()


def layer_tensors(prefix: str, reads: int) -> dict[str, Tensor]:
    """One Llama layer without input norms, whose attention reads ``reads`` channels."""
    return {
        f"{prefix}self_attn.q_proj.weight": random(HEADS * DIM, reads),
        f"{prefix}self_attn.k_proj.weight": random(KV * DIM, reads),
        f"{prefix}self_attn.v_proj.weight": random(KV * DIM, reads),
        f"{prefix}self_attn.o_proj.weight": random(WIDTH, HEADS * DIM),
        f"{prefix}mlp.gate_proj.weight": random(FFN, WIDTH),
        f"{prefix}mlp.up_proj.weight": random(FFN, WIDTH),
        f"{prefix}mlp.down_proj.weight": random(WIDTH, FFN),
        f"{prefix}post_attention_layernorm.weight": 1 + random(WIDTH, scale=0.2),
    }


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight


def turn(x: Tensor, position: int, theta: float) -> Tensor:
    """Rotate one head's channels (DIM,): channel i with channel i + DIM / 2."""
    out = x.clone()
    for i in range(DIM // 2):
        angle = torch.tensor(position * theta ** (-2 * i / DIM), dtype=torch.float64)
        a, b = x[i], x[i + DIM // 2]
        out[i], out[i + DIM // 2] = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
    return out


def run_layer(
    w: Mapping[str, Tensor], prefix: str, residual: Tensor, reads: Tensor, positions: list[int], theta: float = 1e4
) -> Tensor:
    """Rows (T, .) through the layer, one head and one row at a time; row t attends to rows 0..t."""
    projected = [reads @ w[f"{prefix}self_attn.{n}_proj.weight"].T for n in "qkv"]
    mixed = torch.zeros(len(reads), HEADS * DIM, dtype=torch.float64)
    for h in range(HEADS):
        q, k, v = (
            part[:, (i := h if n == 0 else h * KV // HEADS) * DIM : (i + 1) * DIM]
            for n, part in enumerate(projected)
        )
        keys = [turn(k[s], positions[s], theta) for s in range(len(reads))]
        for t in range(len(reads)):
            asked = turn(q[t], positions[t], theta)
            weights = torch.stack([asked @ keys[s] / DIM**0.5 for s in range(t + 1)]).softmax(0)
            mixed[t, h * DIM : (h + 1) * DIM] = weights @ v[: t + 1]
    x = residual + mixed @ w[f"{prefix}self_attn.o_proj.weight"].T
    y = norm(x, w[f"{prefix}post_attention_layernorm.weight"])
    gate = y @ w[f"{prefix}mlp.gate_proj.weight"].T
    inner = gate * gate.sigmoid() * (y @ w[f"{prefix}mlp.up_proj.weight"].T)
    return x + inner @ w[f"{prefix}mlp.down_proj.weight"].T


def eagle_files(bias: bool = True):
    tensors = {"fc.weight": random(WIDTH, 2 * WIDTH), **layer_tensors("layers.0.", WIDTH)}
    tensors["embed_tokens.weight"] = EMBEDDINGS.half()
    if bias:
        tensors["fc.bias"] = random(WIDTH)
    return dict(LLAMA) if bias else {**LLAMA, "bias": False}, tensors


def eagle3_files(prefix: str = "midlayer.", drafted: int = 12):
    tokens = torch.randperm(VOCAB)[:drafted].sort().values
    tensors = {
        "fc.weight": random(WIDTH, 3 * WIDTH), "norm.weight": 1 + random(WIDTH, scale=0.2),
        "lm_head.weight": random(drafted, WIDTH), **layer_tensors(prefix, 2 * WIDTH),
        f"{prefix}input_layernorm.weight": 1 + random(WIDTH, scale=0.2),
        f"{prefix}hidden_norm.weight": 1 + random(WIDTH, scale=0.2),
        "d2t": tokens - torch.arange(drafted), "t2d": torch.isin(torch.arange(VOCAB), tokens),
    }  # fmt: skip
    return {**LLAMA, "draft_vocab_size": drafted}, tensors, tokens


def speculators_config(draft_vocab_size: int, norm_before_residual: bool, **changes):
    return {
        "architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3",
        "draft_vocab_size": draft_vocab_size, "norm_before_residual": norm_before_residual, "norm_before_fc": False,
        "target_hidden_size": None, "eagle_aux_hidden_state_layer_ids": [3, 4, 11],
        "transformer_layer_config": {
            **LLAMA, "head_dim": DIM, "rope_parameters": {"rope_theta": 2500.0, "rope_type": "default"},
        },
        "speculators_config": {
            "algorithm": "eagle3", "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"name_or_path": "owner/target", "architectures": ["LlamaForCausalLM"]},
        },
        **changes,
    }  # fmt: skip


@pytest.fixture
def hand() -> SimpleNamespace:
    """What is above, by name, with the random numbers at their start."""
    torch.manual_seed(5)
    return SimpleNamespace(
        target=TARGET, llama=LLAMA, embeddings=EMBEDDINGS, elsewhere=ELSEWHERE, random=random, norm=norm,
        run_layer=run_layer, eagle=eagle_files, eagle3=eagle3_files, speculators=speculators_config,
    )  # fmt: skip


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Path]:
    """Function: config, tensors [, file name] -> a folder that holds them."""

    def write(config: dict[str, Any], tensors: dict[str, Tensor], name: str = "model.safetensors") -> Path:
        folder = tmp_path / "published"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / name)
        return folder

    return write
