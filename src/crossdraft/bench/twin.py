"""transformers' own model over a decoder's weights: the reference that measurements run beside."""

from typing import Any

import torch

from crossdraft.nn.decoder import Decoder


def transformers_twin(decoder: Decoder, device: torch.device | str, dtype: torch.dtype) -> Any:
    """``LlamaForCausalLM`` in eval mode; weights are shared, not copied, where dtype and device agree.

    Plain rotary frequencies only (no ``rope_scaling``). Generation never ends early: there is no end token.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    cfg = decoder.config
    settings = LlamaConfig(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.intermediate_size,
        num_hidden_layers=cfg.num_layers,
        num_attention_heads=cfg.num_heads,
        num_key_value_heads=cfg.num_kv_heads,
        head_dim=cfg.head_dim,
        rms_norm_eps=cfg.rms_norm_eps,
        max_position_embeddings=cfg.max_positions,
        tie_word_embeddings=cfg.tie_embeddings,
        eos_token_id=None,
    )
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(settings)
    weights = {
        k if k.startswith("lm_head") else f"model.{k}": v.detach().to(device, dtype)
        for k, v in decoder.state_dict().items()
    }
    model.load_state_dict(weights, assign=True, strict=not cfg.tie_embeddings)
    if cfg.tie_embeddings:
        model.tie_weights()
    # the rotary table is no weight: it was made on "meta" and must be made again
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    return model.eval()
