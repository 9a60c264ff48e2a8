"""EAGLE-3 as the package ``speculators`` writes it and vLLM serves it.

config.json: ``speculators_model_type`` "eagle3"; ``transformer_layer_config``, the one Llama layer;
``draft_vocab_size``; ``norm_before_residual``, whether the residual is the feature behind ``hidden_norm`` (the
package trains that way by default, the original EAGLE-3 does not); ``eagle_aux_hidden_state_layer_ids``, numbered
by the layer that the states enter, None for 2, L // 2 and L - 3; ``speculators_config``, which names the target and
how to draft. Weights are the original layout's with ``layers.0.`` for ``midlayer.``; the package stores the
embeddings too, and neither ``d2t`` nor ``t2d`` where all tokens can be drafted.

Read in: speculators 0.9.0, models/eagle3 (config.py, core.py, model_definitions.py), model.py, models/utils.py,
convert/eagle/eagle3_converter.py, train/config/schema.py; vLLM, transformers_utils/configs/speculators (algos.py,
base.py: what must be there). Where ``norm_before_residual`` is not said, the package takes false and vLLM true:
such a folder is refused. Not verified: serving what is written here with vLLM itself.
"""

from collections.abc import Mapping
from typing import Any

from crossdraft.heads.feature import FeatureHead
from crossdraft.heads.published.eagle3 import IDS, check_fused, fused_state, read_fused, taps
from crossdraft.heads.published.files import Files, Target, Written, layer_shape
from crossdraft.heads.recipes import Head
from crossdraft.nn.decoder import DecoderConfig

_PREFIX = "layers.0."
_CHAIN = 3
"""Tokens of a draft that a server takes unless it is told otherwise; the package's converter writes the same."""


def read(files: Files, target: DecoderConfig) -> FeatureHead:
    """See ``read_published``."""
    config = files.config
    kind, inner = config["speculators_model_type"], config.get("transformer_layer_config")
    if kind != "eagle3":
        raise files.wrong(f"speculators_model_type is {kind!r}; only 'eagle3' is supported")
    if not isinstance(inner, Mapping):
        raise files.wrong("config.json has no transformer_layer_config; fetch or convert it again")
    if not isinstance(config.get("norm_before_residual"), bool):
        raise files.wrong(
            "config.json does not say norm_before_residual, for which the package takes false and vLLM true; add "
            "it as it was trained"
        )
    outer = {k: v for k, v in config.items() if k not in ("transformer_layer_config", "model_type")}
    layer = layer_shape(files, {**outer, **inner}, target)
    return read_fused(files, config, layer, taps(files, config.get(IDS), target.num_layers), _PREFIX)


def write(head: Head, target: Target) -> Written:
    """Tensors, config.json and file name. CheckpointError for a head that is not EAGLE-3's."""
    fused = check_fused(head, "speculators")
    shape = fused.config
    state, draft_vocab = fused_state(fused, _PREFIX)
    proposal = {
        "proposal_type": "greedy", "speculative_tokens": _CHAIN, "verifier_accept_k": 1, "accept_tolerance": 0.0,
    }  # fmt: skip
    config: dict[str, Any] = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": draft_vocab,
        "norm_before_residual": shape.norm_residual,
        "target_hidden_size": shape.layer.hidden_size,
        IDS: [tap + 1 for tap in shape.taps],
        "tie_word_embeddings": False,
        "transformer_layer_config": {**shape.layer.to_hf(), "tie_word_embeddings": False},
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {
                "name_or_path": target["name"],
                "architectures": list(target["config"].get("architectures") or []),
            },
        },
    }
    return {**state, Files.EMBEDDINGS: target["embeddings"]}, config, "model.safetensors"
